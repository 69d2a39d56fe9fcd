"""The counterparts themselves, without the gateway: a failure here is not the product's."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from support.clients import canonical, list_tools, outcome
from support.kinds import CALLS, KINDS
from support.node import REPOSITORY

if TYPE_CHECKING:
    from support.clients import Mode
    from support.kinds import Upstream

ALL_PAIRS = [
    *[(name, "legacy") for name in KINDS],
    ("timestdio", "2026-07-28"),
    ("modern", "2026-07-28"),
    ("modern", "auto"),
]


@pytest.mark.parametrize(("name", "mode"), ALL_PAIRS)
async def test_answers_the_same_twice(upstreams: dict[str, Upstream], name: str, mode: Mode) -> None:
    """What the comparison with the gateway rests on."""
    answers: list[list[str]] = []
    for _ in range(2):
        async with upstreams[name].connect(mode) as client:
            tools = {tool.name for tool in await list_tools(client)}
            assert {tool for tool, _ in CALLS[name]} <= tools
            answers.append([canonical(await outcome(client, tool, args)) for tool, args in CALLS[name]])
    assert answers[0] == answers[1]
    assert any('"isError": true' in answer for answer in answers[0])
    assert any('"isError": false' in answer for answer in answers[0])


def test_lock_file_names_no_registry() -> None:
    lock = json.loads((REPOSITORY / "tests" / "e2e" / "package-lock.json").read_bytes())
    packages = {name: entry for name, entry in lock["packages"].items() if name}
    assert packages["node_modules/@modelcontextprotocol/server-everything"]["version"] == "2026.8.31"
    assert [name for name, entry in packages.items() if "resolved" in entry] == []
    assert [name for name, entry in packages.items() if not entry["integrity"].startswith("sha512-")] == []
