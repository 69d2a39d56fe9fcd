"""A connection as the owner of the schema, for what the application's role must not do: commands of the operator."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg

from agentapi.errors import StartupError, StorageUnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentapi.storage.database import Connection

__all__ = ["owner_connection"]

_CONNECT_TIMEOUT_S = 10.0


@asynccontextmanager
async def owner_connection(dsn: str) -> AsyncIterator[Connection]:
    """Open one connection, outside any transaction, for the length of the context.

    Raises:
        StartupError: The address is none.
        StorageUnavailableError: The database cannot be reached.
    """
    try:
        connection = await asyncpg.connect(dsn, timeout=_CONNECT_TIMEOUT_S)
    except ValueError as error:  # The driver's own words may repeat a part of the address.
        raise StartupError(
            "AGENTAPI_MIGRATION_DATABASE_URL is not an address like postgresql://user@host/name."
        ) from error
    except (OSError, asyncpg.PostgresError) as error:
        raise StorageUnavailableError("The database cannot be reached.", reason=str(error)) from error
    try:
        yield connection
    finally:
        await connection.close()
