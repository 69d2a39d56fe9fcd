from __future__ import annotations

import pytest

from agentapi.errors import UpstreamError
from agentapi.upstreams.backoff import Backoff
from unit.upstreams.doubles import Clock, key


def pauses(backoff: Backoff, clock: Clock, crashes: int) -> list[float]:
    """Crash again and again as soon as it may be started, and return how long that took each time."""
    waited: list[float] = []
    for _ in range(crashes):
        backoff.crashed(key(), ran_s=0.1)
        waited.append(0.0)
        while not may_start(backoff):
            clock.advance(0.5)
            waited[-1] += 0.5
    return waited


def may_start(backoff: Backoff, **whose: int) -> bool:
    try:
        backoff.check(key(**whose), "up")
    except UpstreamError:
        return False
    return True


def test_the_first_crash_is_forgiven_and_then_the_pause_doubles_to_a_minute() -> None:
    clock = Clock()
    assert pauses(Backoff(clock), clock, 10) == [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_words_say_how_long() -> None:
    clock = Clock()
    backoff = Backoff(clock)
    for _ in range(4):
        backoff.crashed(key(), ran_s=1)
    clock.advance(1)
    with pytest.raises(UpstreamError, match=r"'up' crashed 4 times in a row; it is started again in 3 s"):
        backoff.check(key(), "up")


def test_one_that_ran_for_a_while_begins_anew() -> None:
    clock = Clock()
    backoff = Backoff(clock)
    for _ in range(5):
        backoff.crashed(key(), ran_s=1)
    backoff.crashed(key(), ran_s=61)
    assert may_start(backoff)


def test_others_are_not_held_back() -> None:
    clock = Clock()
    backoff = Backoff(clock)
    for _ in range(5):
        backoff.crashed(key(), ran_s=1)
    assert not may_start(backoff)
    assert all(may_start(backoff, **{what: 9}) for what in ("number", "version", "user", "org"))


def test_what_is_remembered_is_bounded() -> None:
    backoff = Backoff(Clock())
    for number in range(10_050):
        backoff.crashed(key(number), ran_s=1)
    assert len(backoff._loops) == 10_000
