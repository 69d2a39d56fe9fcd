"""Runs the benchmarks in turns, so that a machine that grows slower does so for ours and for the peers."""

from __future__ import annotations

import pytest

TURNS = 5


@pytest.fixture(scope="session", autouse=True, params=range(TURNS))
def turn() -> None:
    """Order the benchmarks: pytest runs all that share a value of a session's fixture before the next value."""
