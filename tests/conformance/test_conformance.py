"""The conformance suite passes through the gateway as it does directly, and against it as a client."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from conformance.comparison import TABLE, Comparison, measure, render
from conformance.suite import REVISIONS, required
from conformance.upstream_side import UpstreamSide, measure_upstream_side
from support.directories import open_directory

if TYPE_CHECKING:
    from collections.abc import Mapping

COUNTS = {"2025-11-25": 30, "2026-07-28": 37}
AUTHORIZATION_COUNTS = {"2025-11-25": 14, "2026-07-28": 25}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def comparisons() -> Mapping[str, Comparison]:
    return {comparison.revision: comparison for comparison in await measure()}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def sides() -> Mapping[str, UpstreamSide]:
    with open_directory() as directory:
        return {side.revision: side for side in await measure_upstream_side(directory)}


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


@pytest.mark.parametrize("revision", REVISIONS)
def test_every_scenario_of_authorization_passes_at_the_upstream_side(
    sides: Mapping[str, UpstreamSide], revision: str
) -> None:
    side = sides[revision]
    assert len(side.scored) == AUTHORIZATION_COUNTS[revision]
    faults = {scenario: side.faults(scenario) for scenario in side.scored}
    assert {scenario: found for scenario, found in faults.items() if found} == {}, side.run.output[-3000:]


def test_table_is_up_to_date(comparisons: Mapping[str, Comparison], sides: Mapping[str, UpstreamSide]) -> None:
    """`make conformance` writes it."""
    assert TABLE.read_text() == render(list(comparisons.values()), list(sides.values()))
