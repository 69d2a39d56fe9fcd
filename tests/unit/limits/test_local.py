from __future__ import annotations

from agentapi.limits.local import LocalLimits, per_minute

SECOND = 1_000_000_000


def allowed(limits: LocalLimits, times: int, *keys: str, now_ns: int = 0) -> int:
    asked = [(key, per_minute(60, 10), 1) for key in keys]
    return sum(limits.take(asked, now_ns).allowed for _ in range(times))


def test_a_user_has_a_burst_and_then_a_rate() -> None:
    limits = LocalLimits()
    assert allowed(limits, 20, "user/1") == 10
    assert allowed(limits, 20, "user/1", now_ns=3 * SECOND) == 3
    assert allowed(limits, 20, "user/2") == 10


def test_a_request_that_one_limit_refuses_takes_nothing_of_the_others() -> None:
    limits = LocalLimits()
    tight = ("organization/1", per_minute(1, 1), 1)
    assert limits.take([("user/1", per_minute(60, 10), 1), tight], 0).allowed
    refused = limits.take([("user/1", per_minute(60, 10), 1), tight], 0)
    assert (refused.allowed, refused.name, refused.retry_after_s) == (False, "organization", 60)
    assert allowed(limits, 20, "user/1") == 9


def test_what_is_told_is_the_limit_with_least_left_or_the_longest_wait() -> None:
    limits = LocalLimits()
    asked = [("user/1", per_minute(60, 10), 1), ("key/1", per_minute(60, 3), 1), ("address/1", per_minute(60, 5), 1)]
    assert limits.take(asked, 0).name == "key"
    slow = [("user/1", per_minute(60, 10), 10), ("tool/1", per_minute(1, 1), 1)]
    assert limits.take(slow, 0).name == "user"
    assert limits.take([("tool/1", per_minute(1, 1), 1)], 0).allowed
    assert limits.take(slow, 0).name == "tool"


def test_to_look_takes_nothing() -> None:
    limits = LocalLimits()
    asked = ("address/1", per_minute(60, 2), 1)
    assert [limits.look(asked, 0).allowed for _ in range(9)] == [True] * 9
    limits.take([asked], 0)
    limits.take([asked], 0)
    looked, refused = limits.look(asked, 0), limits.take([asked], 0)
    assert looked == refused
    assert (looked.allowed, looked.retry_after_ns) == (False, SECOND)
    assert limits.has([asked], SECOND - 1) is False
    assert limits.has([asked], SECOND) is True
    assert limits.has([("address/1", per_minute(60, 2), 2)], SECOND) is False
