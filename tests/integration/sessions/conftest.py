from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentapi._core import Keyring
from integration.own_server import database, postgres
from integration.sessions.bench import Process
from support.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agentapi.storage.database import Database
    from agentapi.storage.embedded import EmbeddedPostgres

__all__ = ["another", "beside", "clock", "database", "postgres", "process", "sessions_keyring"]


@pytest.fixture(scope="session")
def sessions_keyring() -> str:
    return Keyring.generate("k1")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def another(
    database: Database,
    postgres: EmbeddedPostgres,
    tmp_path: Path,
    sessions_keyring: str,
    clock: Clock,
) -> Callable[[], Process]:
    """Makes processes of one gateway."""
    return lambda: Process(database, postgres, tmp_path / "sessions", sessions_keyring, clock)


@pytest.fixture
async def process(another: Callable[[], Process]) -> Process:
    made = another()
    await made.ring.replace()
    return made


@pytest.fixture
def beside(process: Process, another: Callable[[], Process]) -> Process:
    """Another process, started later."""
    del process
    return another()
