"""How a benchmark says what it measured: a row of the report, and whose code ran.

The code stands in the loop of ``timeit``, so that nothing is called but what it calls itself: pytest-benchmark alone
would add a call of some 25 ns to each, which is no part of what a caller pays.
"""

from __future__ import annotations

from timeit import Timer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_benchmark.fixture import BenchmarkFixture

OURS = "agentapi"
# One round takes at least this, so that reading the clock and collecting the rounds do not count.
ROUND_S = 0.001
# In each turn.
ROUNDS = 25


def measure(benchmark: BenchmarkFixture, row: str, subject: str, call: Callable[..., Any], *arguments: Any) -> Any:
    """Measure a call, and give what it returns."""
    names = {f"argument_{number}": argument for number, argument in enumerate(arguments)}
    measure_code(benchmark, row, subject, f"call({', '.join(names)})", call=call, **names)
    return call(*arguments)


def measure_code(benchmark: BenchmarkFixture, row: str, subject: str, code: str, **names: Any) -> None:
    """Measure some lines of code that use these names."""
    timer = Timer(code, globals=names)
    calls = 1
    while timer.timeit(calls) < ROUND_S:
        calls *= 2
    benchmark.group = row
    benchmark.extra_info.update(subject=subject, calls=calls)
    pedantic: Callable[..., object] = benchmark.pedantic
    pedantic(timer.timeit, args=(calls,), rounds=ROUNDS, warmup_rounds=3)
