"""A call through a closed circuit, beside purgatory and pybreaker; the call itself does nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pybreaker
from purgatory import SyncCircuitBreakerFactory

from agentapi._core import CircuitBreakers, Refusal, Ticket
from measure import OURS, measure

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

KEY = "org:0190f7a2/upstream:github/call_tool"
CLOSED, OPEN = "Circuit breaker, allow and record", "Circuit breaker, refused"


def nothing() -> None:
    pass


def test_closed(benchmark: BenchmarkFixture) -> None:
    breakers = CircuitBreakers()
    allow, record = breakers.allow, breakers.record

    def call() -> None:
        ticket = allow(KEY)
        if isinstance(ticket, Ticket):
            record(ticket, "success")

    measure(benchmark, CLOSED, OURS, call)
    assert breakers.snapshot(KEY).calls > 0


def test_closed_purgatory(benchmark: BenchmarkFixture) -> None:
    factory = SyncCircuitBreakerFactory()

    def call() -> None:
        with factory.get_breaker(KEY):
            pass

    measure(benchmark, CLOSED, "purgatory", call)


def test_closed_purgatory_breaker_at_hand(benchmark: BenchmarkFixture) -> None:
    breaker = SyncCircuitBreakerFactory().get_breaker(KEY)

    def call() -> None:
        with breaker:
            pass

    measure(benchmark, CLOSED, "purgatory, breaker at hand", call)


def test_closed_pybreaker(benchmark: BenchmarkFixture) -> None:
    measure(benchmark, CLOSED, "pybreaker", pybreaker.CircuitBreaker().call, nothing)


def test_open(benchmark: BenchmarkFixture) -> None:
    breakers = CircuitBreakers()
    breakers.force_open(KEY)
    assert isinstance(measure(benchmark, OPEN, OURS, breakers.allow, KEY), Refusal)


def test_open_pybreaker(benchmark: BenchmarkFixture) -> None:
    breaker = pybreaker.CircuitBreaker()
    breaker.open()

    def call() -> bool:
        try:
            breaker.call(nothing)
        except pybreaker.CircuitBreakerError:
            return True
        return False

    assert measure(benchmark, OPEN, "pybreaker", call)
