"""How a benchmark says what it measured: a row of the report, and whose code ran."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_benchmark.fixture import BenchmarkFixture

OURS = "agentapi"


def measure(benchmark: BenchmarkFixture, row: str, subject: str, call: Callable[..., Any], *arguments: Any) -> Any:
    """Measure ``call``. It is called directly, since a lambda around it would cost as much as the fastest ones."""
    benchmark.group = row
    benchmark.extra_info["subject"] = subject
    return benchmark(call, *arguments)
