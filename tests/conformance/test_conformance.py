"""The conformance suite passes through the gateway as it does directly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from conformance.comparison import TABLE, Comparison, measure, render
from conformance.suite import REVISIONS, required

if TYPE_CHECKING:
    from collections.abc import Mapping

COUNTS = {"2025-11-25": 30, "2026-07-28": 37}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def comparisons() -> Mapping[str, Comparison]:
    return {comparison.revision: comparison for comparison in await measure()}


@pytest.mark.parametrize("revision", REVISIONS)
def test_suite_requires_as_many_scenarios_as_it_did(revision: str) -> None:
    assert len(required(revision)) == COUNTS[revision]


@pytest.mark.parametrize("revision", REVISIONS)
def test_suite_itself_reports_success(comparisons: Mapping[str, Comparison], revision: str) -> None:
    for way in (comparisons[revision].direct, comparisons[revision].through):
        assert way.exit_code == 0, way.output[-3000:]


@pytest.mark.parametrize("revision", REVISIONS)
def test_every_scenario_passes_both_ways_with_the_same_checks(
    comparisons: Mapping[str, Comparison], revision: str
) -> None:
    faults = {scenario: comparisons[revision].faults(scenario) for scenario in required(revision)}
    assert {scenario: found for scenario, found in faults.items() if found} == {}


def test_table_is_up_to_date(comparisons: Mapping[str, Comparison]) -> None:
    """`make conformance` writes it."""
    assert TABLE.read_text() == render(list(comparisons.values()))
