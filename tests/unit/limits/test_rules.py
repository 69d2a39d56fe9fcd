from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from pydantic import ValidationError

from agentapi.errors import StartupError
from agentapi.limits.local import per_minute
from agentapi.limits.rules import Rules, ToolRule, ToolUse
from agentapi.principal import OrgId, UserId
from agentapi.settings import Settings, ToolRate, load_settings
from unit.upstreams.doubles import PRINCIPAL

if TYPE_CHECKING:
    from agentapi.limits.standing import Asked

KEYED = replace(PRINCIPAL, key_id=UUID(int=5))
LIMIT = per_minute(60, 10)
EVERY = Rules(
    user=LIMIT,
    organization=LIMIT,
    key=LIMIT,
    workspace=LIMIT,
    address=LIMIT,
    tools=(ToolRule("x", 3, LIMIT),),
    plan=lambda _: 600,
)
USE = ToolUse("x", EVERY.tools[0])


def kinds(asked: list[Asked]) -> list[str]:
    return [key.partition("/")[0] for key, _, _ in asked]


def test_a_request_has_to_pass_all_limits_that_concern_it() -> None:
    everything = EVERY.of_principal(KEYED, workspace="main", tool=USE, address="192.0.2.1")
    assert kinds(everything) == ["user", "organization", "plan", "key", "workspace", "tool", "address"]
    assert kinds(EVERY.of_principal(PRINCIPAL)) == ["user", "organization", "plan"]
    # Without any other limit a tool still has its own.
    assert Rules().of_principal(KEYED, workspace="main", tool=USE, address="192.0.2.1") == [everything[5]]
    assert Rules().of_principal(KEYED, workspace="main", address="192.0.2.1") == []


def test_nobody_shares_a_bucket_by_having_the_same_name_elsewhere() -> None:
    elsewhere = replace(KEYED, org_id=OrgId(UUID(int=99)))
    bob = replace(KEYED, user_id=UserId(UUID(int=77)))
    mine, theirs, bobs = (
        {key for key, _, _ in EVERY.of_principal(who, workspace="main", tool=USE)} for who in (KEYED, elsewhere, bob)
    )
    assert not mine & theirs
    assert {key.partition("/")[0] for key in mine - bobs} == {"user"}


def test_a_tool_costs_what_its_rule_says_under_every_limit_and_a_whole_burst_at_most() -> None:
    dear = ToolUse("x", ToolRule("x", 25))
    asked = EVERY.of_principal(KEYED, workspace="main", tool=dear)
    assert {key.partition("/")[0]: cost for key, _, cost in asked} == {
        "user": 10,
        "organization": 10,
        "plan": 25,
        "key": 10,
        "workspace": 10,
    }


def test_production_has_sixty_a_minute_and_ten_at_once_for_a_user_and_nothing_else() -> None:
    rules = Rules.from_settings(load_settings())
    assert rules == Rules(user=per_minute(60, 10))
    assert Rules.from_settings(load_settings(rate_limit_burst=5)).user == per_minute(60, 5)
    assert Rules.from_settings(load_settings(rate_limit_per_minute=600)).user == per_minute(600)
    assert Rules.from_settings(load_settings(rate_limit_per_minute=0)).user is None


def test_development_has_no_limit_unless_one_is_set() -> None:
    assert Rules.from_settings(load_settings(environment="development")) == Rules()
    limited = load_settings(environment="development", rate_limit_per_minute=5)
    assert Rules.from_settings(limited).user == per_minute(5)


def test_every_limit_has_its_setting() -> None:
    names = ("org", "key", "workspace", "address")
    given = {f"rate_limit_{name}_per_minute": 30 for name in names} | {f"rate_limit_{name}_burst": 3 for name in names}
    tools = ({"tools": "github__*", "cost": 2, "per_minute": 6, "burst": 1}, {"tools": "*"})
    rules = Rules.from_settings(load_settings(**given, rate_limit_tools=tools))
    limit = per_minute(30, 3)
    assert (rules.organization, rules.key, rules.workspace, rules.address) == (limit,) * 4
    assert rules.tools == (ToolRule("github__*", 2, per_minute(6, 1)), ToolRule("*"))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("rate_limit_per_minute", -1),
        ("rate_limit_burst", 0),
        ("rate_limit_tools", [{"tools": "x", "cost": 0}]),
        ("rate_limit_tools", [{"tools": "x", "costs": 1}]),
        ("trusted_proxies", ["10.0.0.1/8"]),
        ("redis_timeout_ms", 0),
        ("redis_prefix", "{a}"),
    ],
)
def test_what_cannot_be_is_told_at_the_start(name: str, value: object) -> None:
    with pytest.raises(StartupError, match=f"AGENTAPI_{name.upper()}"):
        load_settings(**{name: value})


def test_a_tool_rate_does_not_change() -> None:
    with pytest.raises(ValidationError):
        ToolRate(tools="x").cost = 2  # type: ignore[misc] # which is the point
    assert Settings().rate_limit_tools == ()
