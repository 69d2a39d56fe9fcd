from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentapi.policy.decisions import Outcome, Verdict, decide
from agentapi.policy.models import Actor, ApprovalState, Hints, Subject, Toolset, ToolsetId
from agentapi.policy.patterns import Patterns
from agentapi.policy.requests import PolicyInput, compiled
from agentapi.principal import OrgId, Role, UserId, WorkspaceId
from tenants import NOW

if TYPE_CHECKING:
    from collections.abc import Mapping

MEMBER = Actor(Role.MEMBER)


def policy(**document: Any) -> Any:
    return compiled(
        PolicyInput.model_validate_json(PolicyInput.model_validate(document, strict=False).model_dump_json())
    )


def tool(
    name: str = "search",
    *,
    upstream: str = "github",
    annotations: Mapping[str, Any] | None = None,
    approval: ApprovalState = ApprovalState.APPROVED,
    also: tuple[str, ...] = (),
) -> Subject:
    hints = Hints.of({} if annotations is None else {"annotations": annotations})
    return Subject(upstream, (f"{upstream}__{name}", *also), hints, approval)


def toolset(*tools: str) -> Toolset:
    return Toolset(
        id=ToolsetId(UUID(int=1)),
        org_id=OrgId(UUID(int=2)),
        workspace_id=WorkspaceId(UUID(int=3)),
        name="reading",
        description="",
        tools=Patterns(tools),
        prompts=Patterns(()),
        resources=Patterns(()),
        search_mode=False,
        version=1,
        created_by=UserId(UUID(int=4)),
        created_at=NOW,
        updated_at=NOW,
    )


def may(verdict: Verdict) -> tuple[bool, bool]:
    return verdict.visible, verdict.callable


DENY_DELETE = {"effect": "deny", "tools": ["*delete*"]}
HIDDEN, SEEN, BOTH = (False, False), (True, False), (True, True)


@pytest.mark.parametrize(
    ("document", "actor", "subject", "expected"),
    [
        ({}, MEMBER, tool(), BOTH),
        ({}, Actor(Role.VIEWER), tool(), SEEN),
        ({}, Actor("stranger"), tool(), HIDDEN),  # type: ignore[arg-type] # what a defect elsewhere might hand in
        ({"default": "deny"}, MEMBER, tool(), HIDDEN),
        ({"default": "deny", "rules": [{"effect": "allow", "tools": ["github__*"]}]}, MEMBER, tool(), BOTH),
        ({"default": "deny", "rules": [{"effect": "allow", "tools": ["mail__*"]}]}, MEMBER, tool(), HIDDEN),
        ({"rules": [DENY_DELETE]}, MEMBER, tool("delete_repo"), HIDDEN),
        ({"rules": [DENY_DELETE]}, MEMBER, tool(), BOTH),
        ({"rules": [DENY_DELETE, {"effect": "allow"}]}, MEMBER, tool("delete_repo"), HIDDEN),
        ({"rules": [{"effect": "deny", "upstreams": ["github"]}]}, MEMBER, tool(), HIDDEN),
        ({"rules": [{"effect": "deny", "upstreams": ["git"]}]}, MEMBER, tool(), BOTH),
        ({"rules": [{"effect": "deny", "roles": ["agent"]}]}, Actor(Role.AGENT), tool(), HIDDEN),
        ({"rules": [{"effect": "deny", "roles": ["agent"]}]}, MEMBER, tool(), BOTH),
        # Conditions of one rule all hold, or it is about other tools.
        ({"rules": [{**DENY_DELETE, "roles": ["agent"]}]}, MEMBER, tool("delete_repo"), BOTH),
        # Missing annotations have the specification's defaults: destructive, open-world, not read-only.
        ({"rules": [{"effect": "deny", "annotations": {"destructive": True}}]}, MEMBER, tool(), HIDDEN),
        ({"rules": [{"effect": "deny", "annotations": {"open_world": True}}]}, MEMBER, tool(), HIDDEN),
        ({"rules": [{"effect": "deny", "annotations": {"read_only": False}}]}, MEMBER, tool(), HIDDEN),
        ({"rules": [{"effect": "deny", "annotations": {"idempotent": False}}]}, MEMBER, tool(), HIDDEN),
        (
            {"rules": [{"effect": "deny", "annotations": {"destructive": True}}]},
            MEMBER,
            tool(annotations={"readOnlyHint": True}),
            BOTH,
        ),
        (
            {"rules": [{"effect": "deny", "annotations": {"destructive": True}}]},
            MEMBER,
            tool(annotations={"destructiveHint": False}),
            BOTH,
        ),
        # Whichever name a tool goes by.
        ({"rules": [{"effect": "deny", "tools": ["issues"]}]}, MEMBER, tool(also=("search", "issues")), HIDDEN),
        ({"requires_scope": [{"scopes": ["repo:write"]}]}, MEMBER, tool(), SEEN),
        ({"requires_scope": [{"scopes": ["repo:write"]}]}, Actor(Role.MEMBER, frozenset({"repo:write"})), tool(), BOTH),
        ({"requires_scope": [{"scopes": ["x"], "tools": ["mail__*"]}]}, MEMBER, tool(), BOTH),
        ({}, MEMBER, tool(approval=ApprovalState.CHANGED), BOTH),
        ({"hold_changed_tools": True}, MEMBER, tool(approval=ApprovalState.CHANGED), HIDDEN),
        ({}, MEMBER, tool(approval=ApprovalState.HELD), HIDDEN),
    ],
)
def test_a_policy_decides(
    document: dict[str, Any], actor: Actor, subject: Subject, expected: tuple[bool, bool]
) -> None:
    assert may(decide(policy(**document), actor, subject)) == expected


def test_a_toolset_shows_what_it_selects_and_allows_nothing_that_the_policy_denies() -> None:
    assert may(decide(policy(), MEMBER, tool(), toolset("github__*"))) == BOTH
    assert may(decide(policy(), MEMBER, tool(), toolset("mail__*"))) == HIDDEN
    assert may(decide(policy(rules=[DENY_DELETE]), MEMBER, tool("delete"), toolset("*"))) == HIDDEN


@pytest.mark.parametrize("value", ["false", 0, None, [], {}])
def test_an_annotation_that_is_no_boolean_counts_as_missing(value: object) -> None:
    names = ("readOnlyHint", "destructiveHint", "idempotentHint", "openWorldHint")
    assert Hints.of({"annotations": dict.fromkeys(names, value)}) == Hints()
    assert Hints.of({"annotations": value}) == Hints()


def test_every_scope_that_is_needed_is_named() -> None:
    rules = [{"scopes": ["a", "b"]}, {"scopes": ["c"], "tools": ["github__*"]}, {"scopes": ["d"], "tools": ["mail__*"]}]
    verdict = decide(policy(requires_scope=rules), Actor(Role.MEMBER, frozenset({"a"})), tool())
    assert verdict.required_scopes == {"a", "b", "c"}
    assert verdict.missing_scopes == {"b", "c"}


def test_the_reasons_tell_every_rule_in_words() -> None:
    rules = [
        {"effect": "deny", "tools": ["*delete*"], "description": "No accidents"},
        {"effect": "allow", "upstreams": ["github"], "roles": ["member"], "annotations": {"read_only": False}},
    ]
    told = [
        (reason.check, reason.outcome, reason.detail) for reason in decide(policy(rules=rules), MEMBER, tool()).reasons
    ]
    assert ("rule", Outcome.IGNORED, "Rule 1, deny: tools *delete* (No accidents).") in told
    expected = "Rule 2, allow: upstreams github, roles member, read_only false."
    assert ("rule", Outcome.PASSES, expected) in told
    assert told[-1] == ("decision", Outcome.PASSES, "The tool is visible and callable.")


def test_the_scopes_of_other_tools_are_not_told() -> None:
    rules = [{"scopes": ["a"], "tools": ["github__*"]}, {"scopes": ["d"], "tools": ["mail__*"]}]
    told = [
        reason for reason in decide(policy(requires_scope=rules), MEMBER, tool()).reasons if reason.check == "scopes"
    ]
    assert [(reason.outcome, "github__*" in reason.detail) for reason in told] == [(Outcome.REFUSES_CALL, True)]


PATTERN = st.sampled_from(["*", "github__*", "*search", "mail__send", "issues", "*e*"])
SELECTOR = {
    "tools": st.lists(PATTERN, min_size=1, max_size=2),
    "upstreams": st.lists(st.sampled_from(["github", "mail", "*"]), min_size=1, max_size=2),
    "roles": st.lists(st.sampled_from(list(Role)), min_size=1, max_size=2),
    "annotations": st.fixed_dictionaries(
        {}, optional={name: st.booleans() for name in ("read_only", "destructive", "idempotent", "open_world")}
    ),
}
RULE = st.fixed_dictionaries({"effect": st.sampled_from(["allow", "deny"])}, optional=SELECTOR)
SCOPE_RULE = st.fixed_dictionaries(
    {"scopes": st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=2)}, optional=SELECTOR
)
DOCUMENT = st.fixed_dictionaries(
    {
        "default": st.sampled_from(["allow", "deny"]),
        "rules": st.lists(RULE, max_size=5),
        "requires_scope": st.lists(SCOPE_RULE, max_size=3),
        "hold_changed_tools": st.booleans(),
    }
)
ACTOR = st.builds(Actor, st.sampled_from(list(Role)), st.frozensets(st.sampled_from(["a", "b", "c"])))
SUBJECT = st.builds(
    tool,
    st.sampled_from(["search", "send", "delete"]),
    upstream=st.sampled_from(["github", "mail"]),
    annotations=st.none() | st.dictionaries(st.sampled_from(["readOnlyHint", "destructiveHint"]), st.booleans()),
    approval=st.sampled_from(list(ApprovalState)),
    also=st.sampled_from([(), ("issues",)]),
)


@given(DOCUMENT, ACTOR, SUBJECT)
def test_deny_wins(document: dict[str, Any], actor: Actor, subject: Subject) -> None:
    made = policy(**document)
    denied = any(rule.effect == "deny" and rule.selector.selects(subject, actor.role) for rule in made.rules)
    verdict = decide(made, actor, subject)
    assert not (denied and (verdict.visible or verdict.callable))
    assert not (verdict.callable and not verdict.visible)
    assert not (verdict.callable and verdict.missing_scopes)


@given(DOCUMENT, ACTOR, SUBJECT, st.randoms())
def test_the_order_of_rules_does_not_matter(
    document: dict[str, Any], actor: Actor, subject: Subject, random: Any
) -> None:
    shuffled = {**document, "rules": list(document["rules"]), "requires_scope": list(document["requires_scope"])}
    random.shuffle(shuffled["rules"])
    random.shuffle(shuffled["requires_scope"])
    one, two = (decide(policy(**given_), actor, subject) for given_ in (document, shuffled))
    assert (may(one), one.required_scopes, one.missing_scopes) == (may(two), two.required_scopes, two.missing_scopes)


@given(DOCUMENT, ACTOR, SUBJECT)
def test_the_reasons_lead_to_the_decision(document: dict[str, Any], actor: Actor, subject: Subject) -> None:
    verdict = decide(policy(**document), actor, subject)
    *checks, decision = verdict.reasons
    assert decision.check == "decision"
    assert sum(reason.check == "rule" for reason in checks) == len(document["rules"])
    expected = {BOTH: Outcome.PASSES, SEEN: Outcome.REFUSES_CALL, HIDDEN: Outcome.HIDES}[may(verdict)]
    assert decision.outcome is expected
    outcomes = {reason.outcome for reason in checks}
    assert verdict.visible is (Outcome.HIDES not in outcomes)
    assert verdict.callable is (not outcomes & {Outcome.HIDES, Outcome.REFUSES_CALL})
