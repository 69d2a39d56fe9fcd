"""A gateway as in the API's tests, and a server of its own: what other modules sealed is under another keyring."""

from __future__ import annotations

from collections.abc import AsyncIterator  # noqa: TC003 - pytest-asyncio reads it

import pytest

from agentapi.storage.embedded import EmbeddedPostgres  # noqa: TC001 - pytest-asyncio reads it
from integration.api.conftest import gateway, issuer, keyring, state_dir
from integration.conftest import migrated_postgres

__all__ = ["gateway", "issuer", "keyring", "state_dir"]


@pytest.fixture(scope="session")
async def postgres() -> AsyncIterator[EmbeddedPostgres]:
    async with migrated_postgres() as server:
        yield server
