from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest

from agentapi.errors import RateLimitedError
from agentapi.limits.local import LocalRateLimit, per_minute
from agentapi.principal import OrgId, Principal, UserId
from agentapi.settings import Settings
from unit.upstreams.doubles import PRINCIPAL

SECOND = 1_000_000_000
ELSEWHERE = replace(PRINCIPAL, org_id=OrgId(UUID(int=99)))
BOB = replace(PRINCIPAL, user_id=UserId(UUID(int=77)))


def allowed(limit: LocalRateLimit, times: int, now_ns: int = 0, principal: Principal = PRINCIPAL) -> int:
    count = 0
    for _ in range(times):
        try:
            limit.take(principal, now_ns)
        except RateLimitedError:
            continue
        count += 1
    return count


def test_a_user_has_a_burst_and_then_a_rate() -> None:
    limit = LocalRateLimit(user=per_minute(60, 10), organization=None)
    assert allowed(limit, 20) == 10
    assert allowed(limit, 20, 3 * SECOND) == 3


def test_the_refusal_says_how_long_to_wait() -> None:
    limit = LocalRateLimit(user=per_minute(6, 1), organization=None)
    limit.take(PRINCIPAL, 0)
    with pytest.raises(RateLimitedError) as caught:
        limit.take(PRINCIPAL, SECOND)
    assert caught.value.retry_after_s == 9


def test_users_and_organisations_do_not_take_from_each_other() -> None:
    limit = LocalRateLimit(user=per_minute(60, 2), organization=None)
    assert allowed(limit, 5) == 2
    assert allowed(limit, 5, principal=BOB) == 2
    assert allowed(limit, 5, principal=ELSEWHERE) == 2


def test_an_organisation_bounds_its_users_together() -> None:
    limit = LocalRateLimit(user=per_minute(60, 3), organization=per_minute(60, 4))
    assert allowed(limit, 5) == 3
    assert allowed(limit, 5, principal=BOB) == 1
    assert allowed(limit, 5, principal=ELSEWHERE) == 3


def test_a_request_that_one_limit_refuses_takes_nothing_of_the_other() -> None:
    limit = LocalRateLimit(user=per_minute(60, 1), organization=per_minute(60, 2))
    assert allowed(limit, 5) == 1
    assert allowed(limit, 5, principal=BOB) == 1


def test_there_is_no_limit_unless_it_is_set() -> None:
    assert allowed(LocalRateLimit.from_settings(Settings()), 1000) == 1000
    limit = LocalRateLimit.from_settings(Settings(rate_limit_per_minute=5))
    assert allowed(limit, 20) == 5
