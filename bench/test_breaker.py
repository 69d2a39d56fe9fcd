"""A call through a circuit, beside purgatory and pybreaker; the call itself does nothing.

By key, as code does that guards many upstreams, and with the circuit at hand, which was looked up before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pybreaker
from purgatory import SyncCircuitBreakerFactory

from agentapi._core import CircuitBreakers, CircuitRules
from measure import OURS, measure, measure_code

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

KEY = "org:0190f7a2/upstream:github/call_tool"
BY_KEY, BY_NEW_KEY = "Circuit breaker by key, allow and record", "Circuit breaker by a key just built"
AT_HAND, OPEN = "Circuit breaker at hand, allow and record", "Circuit breaker at hand, refused"


def nothing() -> None:
    pass


def test_by_key(benchmark: BenchmarkFixture) -> None:
    breakers = CircuitBreakers()
    code = "if ticket := breakers[KEY].allow(): ticket.success()"
    measure_code(benchmark, BY_KEY, OURS, code, breakers=breakers, KEY=KEY)
    assert breakers.snapshot(KEY).calls > 0


def test_by_key_purgatory(benchmark: BenchmarkFixture) -> None:
    code = "with factory.get_breaker(KEY): pass"
    measure_code(benchmark, BY_KEY, "purgatory", code, factory=SyncCircuitBreakerFactory(), KEY=KEY)


def test_by_a_key_just_built(benchmark: BenchmarkFixture) -> None:
    code = "if ticket := breakers[f'org:{org}/upstream:github/call_tool'].allow(): ticket.success()"
    measure_code(benchmark, BY_NEW_KEY, OURS, code, breakers=CircuitBreakers(), org="0190f7a2")


def test_by_a_key_just_built_purgatory(benchmark: BenchmarkFixture) -> None:
    code = "with factory.get_breaker(f'org:{org}/upstream:github/call_tool'): pass"
    measure_code(benchmark, BY_NEW_KEY, "purgatory", code, factory=SyncCircuitBreakerFactory(), org="0190f7a2")


def test_at_hand(benchmark: BenchmarkFixture) -> None:
    breakers = CircuitBreakers()
    code = "if ticket := circuit.allow(): ticket.success()"
    measure_code(benchmark, AT_HAND, OURS, code, circuit=breakers[KEY])
    assert breakers.snapshot(KEY).calls > 0


def test_at_hand_failures(benchmark: BenchmarkFixture) -> None:
    """Every second call fails, which takes the lock, and never opens the circuit."""
    code = "circuit.allow().failure(); circuit.allow().success()"
    measure_code(benchmark, "Circuit breaker at hand, a failure and a success", OURS, code, circuit=never()[KEY])


def never() -> CircuitBreakers:
    return CircuitBreakers(CircuitRules(failure_rate_percent=101))


def test_at_hand_purgatory(benchmark: BenchmarkFixture) -> None:
    breaker = SyncCircuitBreakerFactory().get_breaker(KEY)
    measure_code(benchmark, AT_HAND, "purgatory", "with breaker: pass", breaker=breaker)


def test_at_hand_pybreaker(benchmark: BenchmarkFixture) -> None:
    measure(benchmark, AT_HAND, "pybreaker", pybreaker.CircuitBreaker().call, nothing)


def test_refused(benchmark: BenchmarkFixture) -> None:
    breakers = CircuitBreakers()
    breakers.force_open(KEY)
    circuit = breakers[KEY]
    assert not circuit.allow()
    measure_code(benchmark, OPEN, OURS, "if ticket := circuit.allow(): ticket.success()", circuit=circuit)


def test_refused_pybreaker(benchmark: BenchmarkFixture) -> None:
    breaker = pybreaker.CircuitBreaker()
    breaker.open()
    code = "try: breaker.call(nothing)\nexcept CircuitBreakerError: pass"
    names = {"nothing": nothing, "CircuitBreakerError": pybreaker.CircuitBreakerError}
    measure_code(benchmark, OPEN, "pybreaker", code, breaker=breaker, **names)
