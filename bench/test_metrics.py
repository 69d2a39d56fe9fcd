"""One update of a metric of prometheus-client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram

from measure import measure, measure_code

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

ROW = "One metric update"


def test_counter(benchmark: BenchmarkFixture) -> None:
    counter = Counter("requests", "Requests.", ["route", "status"], registry=CollectorRegistry())
    measure(benchmark, ROW, "prometheus-client, counter at hand", counter.labels("mcp", "200").inc)


def test_counter_by_labels(benchmark: BenchmarkFixture) -> None:
    counter = Counter("requests", "Requests.", ["route", "status"], registry=CollectorRegistry())
    code = "counter.labels('mcp', '200').inc()"
    measure_code(benchmark, ROW, "prometheus-client, counter by labels", code, counter=counter)


def test_histogram(benchmark: BenchmarkFixture) -> None:
    histogram = Histogram("latency", "Latency.", ["route"], registry=CollectorRegistry())
    measure(benchmark, ROW, "prometheus-client, histogram at hand", histogram.labels("mcp").observe, 0.012)
