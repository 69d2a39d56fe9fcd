"""Rate-limit decisions, beside ``limits`` with its storage in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter, SlidingWindowCounterRateLimiter

from agentapi._core import Limit, TokenBuckets
from measure import OURS, measure, measure_code

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

KEY = "org:0190f7a2/user:0190f7a3/tool:search"
MINUTE_NS = 60 * 10**9
# So high that it is never reached, and the limit that is set by default, which the loop reaches at once.
HIGH = Limit(count=60_000_000, period_ns=MINUTE_NS, burst=60_000_000)
DEFAULT = Limit(count=60, period_ns=MINUTE_NS, burst=10)
ALLOWED, REFUSED = "Rate limit, allowed", "Rate limit, refused"


def test_allowed(benchmark: BenchmarkFixture) -> None:
    assert measure(benchmark, ALLOWED, OURS, TokenBuckets().acquire, KEY, HIGH).allowed


def test_allowed_fixed_window(benchmark: BenchmarkFixture) -> None:
    hit = FixedWindowRateLimiter(MemoryStorage()).hit
    assert measure(benchmark, ALLOWED, "limits, fixed window", hit, RateLimitItemPerMinute(60_000_000), KEY)


def test_allowed_sliding_window(benchmark: BenchmarkFixture) -> None:
    hit = SlidingWindowCounterRateLimiter(MemoryStorage()).hit
    assert measure(benchmark, ALLOWED, "limits, sliding window", hit, RateLimitItemPerMinute(60_000_000), KEY)


def test_refused(benchmark: BenchmarkFixture) -> None:
    assert not measure(benchmark, REFUSED, OURS, TokenBuckets().acquire, KEY, DEFAULT).allowed


def test_refused_moving_window(benchmark: BenchmarkFixture) -> None:
    hit = MovingWindowRateLimiter(MemoryStorage()).hit
    assert not measure(benchmark, REFUSED, "limits, moving window", hit, RateLimitItemPerMinute(60), KEY)


def test_three_limits(benchmark: BenchmarkFixture) -> None:
    requests = [(KEY, HIGH, 1), ("org:0190f7a2", HIGH, 1), ("address:192.0.2.7", HIGH, 1)]
    assert measure(benchmark, "Three rate limits at once", OURS, TokenBuckets().acquire_many, requests).allowed


def test_three_limits_fixed_window(benchmark: BenchmarkFixture) -> None:
    code = "hit(item, KEY) and hit(item, 'org:0190f7a2') and hit(item, 'address:192.0.2.7')"
    names = {"hit": FixedWindowRateLimiter(MemoryStorage()).hit, "item": RateLimitItemPerMinute(60_000_000)}
    measure_code(benchmark, "Three rate limits at once", "limits, fixed window", code, KEY=KEY, **names)
