"""Shared limits decide what the core decides: the same vectors, replayed against a real Valkey."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentapi._core import Limit, TokenBuckets
from agentapi.limits.shared import SharedLimits
from core.gcra import US, Ask, Json, Model
from core.test_token_bucket import plans
from integration.limits.conftest import opened

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentapi.limits.standing import Asked
    from agentapi.storage.redis import RedisStore
    from support.valkey import Valkey

VECTORS = Path(__file__).parents[2] / "vectors" / "token_bucket.json"
CASES: list[Json] = json.loads(VECTORS.read_text(encoding="utf-8"))["cases"]
OUTCOMES = ("allowed", "refused", "never_fits")
SECOND = 10**9


@pytest.fixture
async def store(valkey: Valkey) -> AsyncIterator[RedisStore]:
    async with opened(valkey.url, redis_prefix=f"test-{uuid4().hex}") as store:
        yield store


async def decided(shared: SharedLimits, asked: list[Asked], now_ns: int) -> Json:
    outcome, wait, each = await shared.decide(asked, now_ns // US)
    return {
        "outcome": OUTCOMES[outcome],
        "retry_after_ns": wait * US,
        "each": [
            {
                "outcome": OUTCOMES[of.outcome],
                "retry_after_ns": of.retry_after_us * US,
                "remaining": of.remaining,
                "reset_ns": of.reset_us * US,
            }
            for of in each
        ],
    }


def asked_of(request: Json) -> Asked:
    limit = Limit(count=request["count"], period_ns=request["period_ns"], burst=request["burst"])
    return f"user/{request['key']}", limit, request["cost"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
# What the time of day is now, and the last one whose microseconds a double can count.
@pytest.mark.parametrize("offset_us", [0, 1_800_000_000_000_000, 2**53 - 2**46])
async def test_decides_as_the_vectors_say(store: RedisStore, case: Json, offset_us: int) -> None:
    shared = SharedLimits(store)
    for step in case["steps"]:
        wanted = {name: step[name] for name in ("outcome", "retry_after_ns", "each")}
        asked = [asked_of(request) for request in step["requests"]]
        assert await decided(shared, asked, step["now_ns"] + offset_us * US) == wanted


asks = st.builds(Ask, st.sampled_from("abc"), plans, st.integers(0, 25))
steps = st.lists(st.tuples(st.integers(-(10**5), 10**6), st.lists(asks, min_size=1, max_size=4)), max_size=20)


@given(steps=steps)
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_decides_as_the_model(store: RedisStore, steps: list[tuple[int, list[Ask]]]) -> None:
    shared, model, now, run = SharedLimits(store), Model(), 10**15, uuid4().hex
    for step_us, wanted in steps:
        now += step_us * US
        asked: list[Asked] = [
            (
                f"{run}/{ask.key}",
                Limit(count=ask.plan.count, period_ns=ask.plan.period_ns, burst=ask.plan.burst),
                ask.cost,
            )
            for ask in wanted
        ]
        assert await decided(shared, asked, now) == model.acquire_many(wanted, now)


async def test_takes_from_all_or_from_none_and_says_what_matters_most(store: RedisStore) -> None:
    shared = SharedLimits(store)
    user, tool = (
        ("user/1", Limit(count=60, period_ns=60 * SECOND, burst=10), 4),
        ("tool/1", Limit(count=1, period_ns=3600 * SECOND, burst=1), 1),
    )
    first = await shared.take([user, tool])
    assert (first.allowed, first.name, first.remaining) == (True, "tool", 0)
    second = await shared.take([user, tool])
    assert (second.allowed, second.name) == (False, "tool")
    assert 3590 < second.retry_after_s <= 3600
    # The refused one took nothing from the other.
    assert (await shared.take([("user/1", user[1], 0)])).remaining == 6


async def test_many_at_once_are_decided_one_after_the_other(store: RedisStore) -> None:
    shared = SharedLimits(store)
    slow = ("user/1", Limit(count=1, period_ns=3600 * SECOND, burst=50), 1)
    standings = await asyncio.gather(*(shared.take([slow]) for _ in range(200)))
    assert sum(standing.allowed for standing in standings) == 50


async def test_a_bucket_is_kept_until_it_is_full_and_no_longer(store: RedisStore) -> None:
    shared = SharedLimits(store)
    await shared.take([("user/1", Limit(count=60, period_ns=60 * SECOND, burst=10), 10)])
    keys: list[bytes] = await store._execute("KEYS", store._prefix + b"*")
    assert keys == [store._prefix + b"limit:user/1"]
    assert 15_000 < await store._execute("PTTL", keys[0]) <= 20_000
    # One hash tag for all that one script touches, whoever asks.
    assert keys[0].startswith(b"{test-")


async def test_what_somebody_else_wrote_there_counts_as_a_full_bucket(store: RedisStore) -> None:
    shared = SharedLimits(store)
    await store._execute("SET", store._prefix + b"limit:user/1", "not a bucket")
    standing = await shared.take([("user/1", Limit(count=60, period_ns=60 * SECOND, burst=10), 1)])
    assert (standing.allowed, standing.remaining) == (True, 9)


async def test_one_process_alone_and_all_together_agree(store: RedisStore) -> None:
    """The times that matter are differences, so the clocks need not agree."""
    shared, local = SharedLimits(store), TokenBuckets()
    limit = Limit(count=7, period_ns=SECOND, burst=3)
    for step in range(40):
        now = step * 61_000 * US
        here = local.acquire("user/1", limit, 1, now)
        there = (await decided(shared, [("user/1", limit, 1)], now + 10**18))["each"][0]
        assert there == {
            "outcome": "allowed" if here.allowed else "refused",
            "retry_after_ns": here.retry_after_ns,
            "remaining": here.remaining,
            "reset_ns": here.reset_ns,
        }
