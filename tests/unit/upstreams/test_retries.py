"""What is tried again, when, how often, and in which time."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mcp import MCPError

from agentapi._core import CircuitBreakers, CircuitRules
from agentapi.egress.http1 import ConnectionEndedError
from agentapi.errors import UpstreamError, UpstreamNeedsConnectionError, UpstreamRestsError, UpstreamTimeoutError
from agentapi.upstreams.breakers import Operation, UpstreamBreakers
from agentapi.upstreams.failures import BrokenError, ClosedError, WrongAnswerError, failed_with
from agentapi.upstreams.retries import Retries, may_pass, retry_after_of
from unit.upstreams.doubles import USER, upstream

if TYPE_CHECKING:
    from collections.abc import Callable

TO = upstream()
NOW = datetime(2026, 12, 1, 12, 0, tzinfo=UTC)


@dataclass
class Upstream:
    """Fails as it is told, and writes down when it was asked and how long was waited in between."""

    failures: list[Exception]
    left: list[float] = field(default_factory=list)
    slept: list[float] = field(default_factory=list)

    async def attempt(self, within_s: float) -> str:
        self.left.append(within_s)
        if self.failures:
            raise self.failures.pop(0)
        return "answer"

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    async def ask(
        self, retries: Retries | None = None, *, within_s: float = 30.0, unless: Callable[[], bool] = lambda: False
    ) -> str:
        retries = retries or Retries(sleep=self.sleep)
        return await retries.run(TO, self.attempt, within_s=within_s, unless=unless)


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (ClosedError("closed"), True),
        (BrokenError("broke off"), True),
        (ConnectionEndedError(), True),
        (failed_with(429, "too often"), True),
        (failed_with(502, "bad gateway"), True),
        (failed_with(503, "away"), True),
        (failed_with(504, "late"), True),
        (failed_with(500, "broken"), False),
        (failed_with(404, "not here"), False),
        (UpstreamTimeoutError("late"), False),
        (UpstreamRestsError("resting", retry_after_s=30), False),
        (UpstreamNeedsConnectionError("connect"), False),
        (WrongAnswerError("nonsense"), False),
        (UpstreamError("refused"), False),
    ],
    ids=lambda value: str(value) if isinstance(value, bool) else f"{type(value).__name__}: {value}",
)
async def test_what_may_pass_is_tried_again_and_nothing_else(error: UpstreamError, passes: bool) -> None:
    assert may_pass(error) is passes
    of = Upstream([error])
    if passes:
        assert await of.ask() == "answer"
    else:
        with pytest.raises(type(error)):
            await of.ask()
    assert len(of.left) == (2 if passes else 1)


async def test_an_error_of_the_protocol_is_an_answer() -> None:
    of = Upstream([MCPError(-32603, "the tool broke")])
    with pytest.raises(MCPError):
        await of.ask()
    assert len(of.left) == 1


async def test_it_is_tried_three_times_and_the_last_error_is_told() -> None:
    of = Upstream([ClosedError("first"), ClosedError("second"), ClosedError("third"), ClosedError("fourth")])
    with pytest.raises(ClosedError, match="third"):
        await of.ask()
    assert (len(of.left), len(of.slept)) == (3, 2)


async def test_waits_are_drawn_anew_from_a_range_that_doubles() -> None:
    waits: list[list[float]] = []
    for _ in range(40):
        of = Upstream([ClosedError("first"), ClosedError("second")])
        await of.ask()
        waits.append(of.slept)
    first, second = zip(*waits, strict=True)
    assert 0.0 <= min(first) < 0.05 < max(first) <= 0.1
    assert 0.0 <= min(second) < 0.1 < max(second) <= 0.2
    assert len(set(first)) > 30


async def test_a_server_is_left_alone_for_as_long_as_it_asks() -> None:
    of = Upstream([failed_with(503, "away", 7.0)])
    assert await of.ask() == "answer"
    assert of.slept == [7.0]


async def test_who_asks_for_more_time_than_there_is_is_not_waited_for() -> None:
    of = Upstream([failed_with(429, "too often", 31.0)])
    with pytest.raises(UpstreamError, match="too often"):
        await of.ask(within_s=30.0)
    assert (of.slept, len(of.left)) == ([], 1)


async def test_later_tries_have_the_time_that_is_left() -> None:
    of = Upstream([ClosedError("closed")])

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds)

    await of.ask(Retries(sleep=sleep), within_s=5.0)
    assert of.left[0] == 5.0
    assert of.left[1] < 5.0


async def test_what_the_client_has_heard_of_is_not_tried_again() -> None:
    of = Upstream([ClosedError("closed")])
    with pytest.raises(ClosedError):
        await of.ask(unless=lambda: True)
    assert len(of.left) == 1


async def test_a_brown_out_does_not_grow_by_more_than_a_tenth() -> None:
    requests, asked = 1000, 0

    async def attempt(_: float) -> str:
        nonlocal asked
        asked += 1
        raise failed_with(503, "away")

    retries = Retries(sleep=Upstream([]).sleep)
    for _ in range(requests):
        with pytest.raises(UpstreamError):
            await retries.run(TO, attempt, within_s=30.0)
    assert requests * 1.05 < asked <= requests * 1.1 + 10


async def test_one_upstream_spends_nothing_of_another() -> None:
    async def fails(_: float) -> str:
        raise failed_with(503, "away")

    retries = Retries(sleep=Upstream([]).sleep)
    for _ in range(100):
        with pytest.raises(UpstreamError):
            await retries.run(TO, fails, within_s=30.0)
    of = Upstream([failed_with(503, "away")])
    assert await retries.run(upstream("two", 2), of.attempt, within_s=30.0) == "answer"


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0.0),
        ("120", 120.0),
        ("Tue, 01 Dec 2026 12:00:05 GMT", 5.0),
        ("Tue, 01 Dec 2026 11:00:00 GMT", 0.0),
        ("Tue, 01 Dec 2026 12:00:05 -0000", 5.0),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("", None),
        ("9" * 65, None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert retry_after_of(value, lambda: NOW) == seconds


def modelled(script: list[list[str]]) -> list[list[str]]:
    """Return what is asked: three tries at most, within the budget, and none while the circuit is open."""
    budget, in_a_row = 10.1, 0
    asked: list[list[str]] = []
    for request in script:
        tries: list[str] = []
        budget = min(10.0, budget + 0.1)
        for outcome in request:
            if in_a_row >= 5:
                break
            tries.append(outcome)
            in_a_row = in_a_row + 1 if outcome in {"closed", "away", "late"} else 0
            if outcome not in {"closed", "away"} or len(tries) == 3 or budget < 1.0:
                break
            budget -= 1.0
        asked.append(tries)
    return asked


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.sampled_from(["answer", "closed", "away", "error", "late"]), min_size=3, max_size=3)))
async def test_retries_under_a_circuit_ask_no_more_than_either_allows(script: list[list[str]]) -> None:
    outcomes = {
        "closed": ClosedError("closed"),
        "away": failed_with(503, "away"),
        "error": MCPError(-32603, "broke"),
        "late": UpstreamTimeoutError("late"),
    }
    rules = CircuitRules(failure_rate_percent=101, jitter_percent=0)
    breakers = UpstreamBreakers(CircuitBreakers(rules, seed=1), now_ns=lambda: 10**12)
    retries = Retries(sleep=Upstream([]).sleep)
    asked: list[list[str]] = []

    async def attempt(_: float) -> str:
        with breakers.guard(TO, USER, Operation.CALL_TOOL):
            outcome = script[len(asked) - 1][len(asked[-1])]
            asked[-1].append(outcome)
            if outcome in outcomes:
                raise outcomes[outcome]
            return outcome

    for _ in script:
        asked.append([])
        with contextlib.suppress(UpstreamError, MCPError):
            await retries.run(TO, attempt, within_s=30.0)
    assert asked == modelled(script)
