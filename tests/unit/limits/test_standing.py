"""What a client is told: the fields of draft-ietf-httpapi-ratelimit-headers, and only what is safe to act on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from agentapi.limits.local import LocalLimits, per_minute

if TYPE_CHECKING:
    from agentapi.limits.standing import Standing

SECOND = 1_000_000_000
DEFAULT = per_minute(60, 10)


def told(standing: Standing) -> tuple[str, str]:
    (policy, policy_value), (field, value) = standing.fields
    assert (policy, field) == (b"ratelimit-policy", b"ratelimit")
    return policy_value.decode(), value.decode()


def test_the_policy_is_a_burst_in_the_time_in_which_it_comes_back() -> None:
    standing = LocalLimits().take([("user/1", DEFAULT, 4)], 0)
    assert told(standing) == ('"user";q=10;w=10', '"user";r=6;t=1')
    slow = LocalLimits().take([("plan/1", per_minute(7), 7)], 0)
    assert told(slow) == ('"plan";q=7;w=61', '"plan";r=0;t=9')


def test_a_refusal_is_told_with_the_time_of_the_next_token() -> None:
    limits = LocalLimits()
    limits.take([("user/1", per_minute(6, 3), 3)], 0)
    refused = limits.take([("user/1", per_minute(6, 3), 2)], 4 * SECOND)
    assert (refused.retry_after_s, told(refused)) == (16, ('"user";q=3;w=30', '"user";r=0;t=6'))


def test_a_client_is_told_once_less_than_half_is_left() -> None:
    limits = LocalLimits()
    shown = [limits.take([("user/1", DEFAULT, 1)], 0).is_short for _ in range(11)]
    assert shown == [False] * 5 + [True] * 6


@given(taken=st.integers(0, 10), waited_ns=st.integers(0, 12 * SECOND))
def test_until_the_time_that_is_told_no_more_can_be_had(taken: int, waited_ns: int) -> None:
    limits = LocalLimits()
    limits.take([("user/1", DEFAULT, taken)], 0)
    standing = limits.take([("user/1", DEFAULT, 0)], waited_ns)
    remaining, until_s = (int(part.partition("=")[2]) for part in told(standing)[1].split(";")[1:])
    assert remaining == standing.remaining
    # Whole seconds are rounded up, so it is the second before that is sure to be too early.
    early_ns = waited_ns + max(until_s - 1, 0) * SECOND
    assert (until_s == 0) == (remaining == 10)
    assert not limits.take([("user/1", DEFAULT, remaining + 1)], early_ns).allowed


@given(pauses=st.lists(st.integers(0, SECOND), max_size=40))
def test_whoever_keeps_to_the_policy_is_never_refused(pauses: list[int]) -> None:
    """A burst, and then nothing until the window is over, as often as one likes."""
    limits, now = LocalLimits(), 0
    for pause in pauses:
        assert all(limits.take([("user/1", DEFAULT, 1)], now).allowed for _ in range(10))
        now += 10 * SECOND + pause
