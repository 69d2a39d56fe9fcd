"""Which requests pass a rate limit: the shared vectors and a model in exact fractions."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentapi._core import Decision, Limit, TokenBuckets
from core.gcra import US, Ask, Json, Model, Plan

if TYPE_CHECKING:
    from agentapi._core import Decisions

SECOND = 10**9
MINUTE = 60 * SECOND
VECTORS = Path(__file__).parents[1] / "vectors" / "token_bucket.json"
CASES: list[Json] = json.loads(VECTORS.read_text(encoding="utf-8"))["cases"]
LIMIT = Limit(count=60, period_ns=MINUTE, burst=10)


def outcome(of: Decision | Decisions) -> str:
    assert not (of.allowed and of.never_fits)
    return "allowed" if of.allowed else "never_fits" if of.never_fits else "refused"


def shown(decision: Decision) -> Json:
    return {
        "outcome": outcome(decision),
        "retry_after_ns": decision.retry_after_ns,
        "remaining": decision.remaining,
        "reset_ns": decision.reset_ns,
    }


def all_shown(decisions: Decisions) -> Json:
    return {
        "outcome": outcome(decisions),
        "retry_after_ns": decisions.retry_after_ns,
        "each": [shown(decision) for decision in decisions.each],
    }


def request(of: Json) -> tuple[str, Limit, int]:
    return of["key"], Limit(count=of["count"], period_ns=of["period_ns"], burst=of["burst"]), of["cost"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_decides_as_the_vectors_say(case: Json) -> None:
    singly, together = TokenBuckets(), TokenBuckets()
    for step in case["steps"]:
        requests = [request(of) for of in step["requests"]]
        now = step["now_ns"]
        wanted = {name: step[name] for name in ("outcome", "retry_after_ns", "each")}
        assert all_shown(together.acquire_many(requests, now)) == wanted
        if len(requests) == 1:
            assert shown(singly.acquire(*requests[0], now)) == wanted["each"][0]
        else:
            singly.acquire_many(requests, now)


def test_the_vectors_are_those_of_the_model() -> None:
    assert all(step["now_ns"] % US == 0 and step["now_ns"] < 2**53 for case in CASES for step in case["steps"])
    for case in CASES:
        model = Model()
        for step in case["steps"]:
            asks = [
                Ask(of["key"], Plan(of["count"], of["period_ns"], of["burst"]), of["cost"]) for of in step["requests"]
            ]
            assert model.acquire_many(asks, step["now_ns"]) == {
                name: step[name] for name in ("outcome", "retry_after_ns", "each")
            }


plans = st.builds(Plan, st.integers(1, 1000), st.integers(10**6, 10**10), st.integers(1, 20))
asks = st.builds(Ask, st.sampled_from("abc"), plans, st.integers(0, 25))
steps = st.lists(st.tuples(st.integers(-(10**8), 10**9), st.lists(asks, max_size=4)), max_size=40)


@given(steps=steps)
def test_decides_as_the_model(steps: list[tuple[int, list[Ask]]]) -> None:
    buckets, model, now = TokenBuckets(), Model(), 10**12
    for step, wanted in steps:
        now += step
        requests = [
            (ask.key, Limit(count=ask.plan.count, period_ns=ask.plan.period_ns, burst=ask.plan.burst), ask.cost)
            for ask in wanted
        ]
        assert all_shown(buckets.acquire_many(requests, now)) == model.acquire_many(wanted, now)


@given(plan=plans, gaps=st.lists(st.integers(0, 10**8), max_size=100))
def test_never_admits_more_than_the_theory(plan: Plan, gaps: list[int]) -> None:
    limit = Limit(count=plan.count, period_ns=plan.period_ns, burst=plan.burst)
    buckets, now, admitted = TokenBuckets(), 0, 0
    for gap in gaps:
        now += gap
        admitted += buckets.acquire("key", limit, 1, now).allowed
        assert admitted <= plan.burst + now * Fraction(plan.count, plan.period_ns)


def test_says_how_long_to_wait_in_whole_seconds() -> None:
    buckets = TokenBuckets()
    buckets.acquire("key", LIMIT, 10, SECOND)
    refused = buckets.acquire("key", LIMIT, 2, SECOND + 1)
    assert (refused.allowed, refused.retry_after_ns, refused.retry_after_s) == (False, 2 * SECOND - 1, 2)
    assert (refused.reset_ns, refused.reset_s) == (10 * SECOND - 1, 10)
    many = buckets.acquire_many([("key", LIMIT, 2), ("other", LIMIT, 1)], SECOND + 1)
    assert (many.allowed, many.retry_after_s) == (False, 2)
    assert [decision.allowed for decision in many.each] == [False, True]
    assert len(buckets) == 1


def test_without_a_time_the_clock_runs() -> None:
    buckets = TokenBuckets()
    fast = Limit(count=1000, period_ns=SECOND, burst=1)
    assert buckets.acquire("key", fast).allowed
    deadline = time.monotonic() + 5
    while not buckets.acquire("key", fast).allowed:
        assert time.monotonic() < deadline
    slow = Limit(count=1, period_ns=3600 * SECOND, burst=1)
    assert buckets.acquire_many([("slow", slow, 1)]).allowed
    assert not buckets.acquire("slow", slow).allowed


@pytest.mark.parametrize(
    "arguments",
    [
        {"count": 0, "period_ns": MINUTE, "burst": 1},
        {"count": 1, "period_ns": MINUTE, "burst": 0},
        {"count": 1, "period_ns": 0, "burst": 1},
        {"count": 2, "period_ns": 1, "burst": 1},
        {"count": 1, "period_ns": 367 * 86400 * SECOND, "burst": 1},
    ],
)
def test_limits_have_bounds(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"limit|bucket"):
        Limit(**arguments)


@pytest.mark.parametrize("arguments", [(b"key", LIMIT), ("key", 10), ("key", LIMIT, "1"), ("key", LIMIT, 1, 0.5)])
def test_wrong_types_are_refused(arguments: Any) -> None:
    with pytest.raises(TypeError):
        TokenBuckets().acquire(*arguments)


@pytest.mark.parametrize("arguments", [("key", LIMIT, -1), ("key", LIMIT, 1, -1), ("key", LIMIT, 2**32)])
def test_numbers_out_of_range_are_refused(arguments: Any) -> None:
    with pytest.raises(OverflowError):
        TokenBuckets().acquire(*arguments)


def test_keys_are_text() -> None:
    buckets = TokenBuckets()
    with pytest.raises(UnicodeEncodeError):
        buckets.acquire("\ud800", LIMIT)
    with pytest.raises(UnicodeEncodeError):
        buckets.acquire_many([("\ud800", LIMIT, 1)])
    assert buckets.acquire("", LIMIT, 10).allowed
    assert buckets.acquire("\0", LIMIT, 10).allowed


def test_a_request_has_at_most_32_limits() -> None:
    with pytest.raises(ValueError, match="32"):
        TokenBuckets().acquire_many([("key", LIMIT, 0)] * 33)


def test_memory_is_bounded() -> None:
    buckets = TokenBuckets(capacity=10)
    for number in range(100):
        assert buckets.acquire(str(number), LIMIT, 1, 0).allowed
    assert (len(buckets), buckets.evicted) == (10, 90)
    assert repr(buckets) == "TokenBuckets(len=10, evicted=90)"


def test_values_are_frozen_and_compare() -> None:
    assert Limit(count=1, period_ns=SECOND, burst=10) == LIMIT
    assert len({LIMIT, Limit(count=1, period_ns=SECOND, burst=10)}) == 1
    assert (LIMIT.interval_ns, LIMIT.burst) == (SECOND, 10)
    assert repr(LIMIT) == "Limit(interval_ns=1000000000, burst=10)"
    one, other = (TokenBuckets().acquire("key", LIMIT, 1, 0) for _ in range(2))
    assert one == other
    with pytest.raises(AttributeError):
        one.remaining = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        Decision()
    assert repr(one) == "Decision(Allowed, remaining=9, retry_after_ns=0, reset_ns=1000000000)"
    assert repr(TokenBuckets().acquire_many([])) == "Decisions(Allowed, retry_after_ns=0, 0 limits)"


def test_threads_take_each_token_once() -> None:
    buckets = TokenBuckets()
    limit = Limit(count=1, period_ns=3600 * SECOND, burst=5000)
    start = threading.Barrier(8)

    def take(_: int) -> int:
        start.wait()
        return sum(buckets.acquire("key", limit, 1, 0).allowed for _ in range(1000))

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(take, range(8))) == 5000


def test_a_fast_limit_is_decided_by_the_time_and_not_by_the_last_tick() -> None:
    subject, limit = TokenBuckets(), Limit(count=1000, period_ns=10**6 * 100, burst=1)
    for _ in range(50):
        assert subject.acquire("key", limit).allowed
        full_at = time.perf_counter_ns() + 2 * limit.interval_ns
        while time.perf_counter_ns() < full_at:
            pass
