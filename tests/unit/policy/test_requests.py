from __future__ import annotations

import json
from typing import Any

import pytest

from agentapi.api_input import parse
from agentapi.errors import InvalidRequestError
from agentapi.policy.requests import PolicyInput, ToolsetInput


def refused(model: Any, document: dict[str, Any]) -> set[str]:
    with pytest.raises(InvalidRequestError) as caught:
        parse(model, json.dumps(document).encode())
    return {field.pointer for field in caught.value.fields}


@pytest.mark.parametrize(
    ("document", "pointer"),
    [
        ({"defualt": "deny"}, "/defualt"),
        ({"default": "maybe"}, "/default"),
        ({"rules": [{"tools": ["*"]}]}, "/rules/0/effect"),
        ({"rules": [{"effect": "deny", "tools": []}]}, "/rules/0/tools"),
        ({"rules": [{"effect": "deny", "tools": [""]}]}, "/rules/0/tools/0"),
        ({"rules": [{"effect": "deny", "tools": ["x" * 129]}]}, "/rules/0/tools/0"),
        ({"rules": [{"effect": "deny", "tools": ["a\x00"]}]}, "/rules/0/tools/0"),
        ({"rules": [{"effect": "deny", "roles": ["king"]}]}, "/rules/0/roles/0"),
        ({"rules": [{"effect": "deny", "annotations": {"readOnly": True}}]}, "/rules/0/annotations/readOnly"),
        ({"rules": [{"effect": "deny", "annotations": {"read_only": "true"}}]}, "/rules/0/annotations/read_only"),
        ({"rules": [{"effect": "deny"}] * 101}, "/rules"),
        ({"rules": [{"effect": "deny", "tools": ["x"] * 100}] * 6}, "/rules"),
        ({"requires_scope": [{"scopes": ["a"], "upstreams": ["x"] * 100}] * 6}, "/requires_scope"),
        ({"requires_scope": [{"scopes": []}]}, "/requires_scope/0/scopes"),
        ({"requires_scope": [{"scopes": ['a"b']}]}, "/requires_scope/0/scopes/0"),
        ({"renames": {"a": "c", "b": "c"}}, "/renames"),
        ({"renames": {"a": "find_tools"}}, "/renames"),
        ({"renames": {"a": "call_tool"}}, "/renames"),
        ({"renames": {"a": "no spaces"}}, "/renames/a"),
        ({"renames": {"a": "x" * 61}}, "/renames/a"),
        ({"hold_changed_tools": 1}, "/hold_changed_tools"),
    ],
)
def test_a_wrong_policy_is_refused_at_its_field(document: dict[str, Any], pointer: str) -> None:
    assert pointer in refused(PolicyInput, document)


def test_a_wrong_toolset_is_refused_at_its_field() -> None:
    assert refused(ToolsetInput, {"name": "Not a slug", "extra": 1}) == {"/name", "/tools", "/extra"}


def test_a_policy_reads_as_it_was_written() -> None:
    document = {
        "default": "deny",
        "rules": [{"effect": "allow", "tools": ["github__*"], "roles": ["member"], "annotations": {"read_only": True}}],
        "requires_scope": [{"scopes": ["a"], "upstreams": ["mail"]}],
        "renames": {"github__search": "search"},
        "require_approval": True,
    }
    made = parse(PolicyInput, json.dumps(document).encode())
    again = PolicyInput.model_validate_json(made.model_dump_json(exclude_defaults=True))
    assert again == made
