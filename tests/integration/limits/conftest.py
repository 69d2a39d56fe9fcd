from __future__ import annotations

import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from agentapi.settings import load_settings
from agentapi.storage.redis import RedisStore
from support.valkey import Valkey

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


@pytest.fixture(scope="session")
def valkey() -> Iterator[Valkey]:
    """A server that no test stops."""
    with Valkey.running() as server:
        yield server


@pytest.fixture
def mortal() -> Iterator[Valkey]:
    """A server for one test, which may do with it what it likes."""
    with Valkey.running() as server:
        yield server


class Clock:
    """Nanoseconds that stand still until they are moved."""

    def __init__(self) -> None:
        self.now = 10**12

    def __call__(self) -> int:
        return self.now

    def pass_s(self, seconds: float) -> None:
        self.now += int(seconds * 10**9)


@asynccontextmanager
async def opened(url: str, clock: Clock | None = None, **settings: Any) -> AsyncIterator[RedisStore]:
    """A store as the settings make it; a long timeout, so that a slow machine is not taken for a slow server."""
    loaded = load_settings(redis_url=url, **{"redis_timeout_ms": 2000, **settings})
    store = RedisStore.from_settings(loaded, now_ns=clock or time.monotonic_ns)
    try:
        yield store
    finally:
        await store.aclose()
