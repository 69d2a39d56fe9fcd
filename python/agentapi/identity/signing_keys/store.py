"""SQL of signing keys; every function takes a connection in the context of the deployment."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from agentapi.identity.signing_keys.models import SigningKey

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentapi.storage.database import Connection

__all__ = ["delete", "find_all", "insert", "lock"]

_LOCK: Final = 0x7369676E6B657973
"""``signkeys`` in ASCII."""
_TAKE_LOCK = "SELECT pg_advisory_xact_lock($1)"
_FIND_ALL = "SELECT id, public, private, created_at, signs_from FROM signing_keys ORDER BY signs_from, created_at, id"
_INSERT = "INSERT INTO signing_keys (id, public, private, created_at, signs_from) VALUES ($1, $2, $3, $4, $5)"
_DELETE = "DELETE FROM signing_keys WHERE id = ANY ($1)"


async def lock(connection: Connection) -> None:
    """Wait until this transaction alone may add or remove keys."""
    await connection.fetchrow(_TAKE_LOCK, _LOCK)


async def find_all(connection: Connection) -> list[SigningKey]:
    """Return the keys in the order in which they sign."""
    return [
        SigningKey(row["id"], json.loads(row["public"]), row["private"], row["created_at"], row["signs_from"])
        for row in await connection.fetch(_FIND_ALL)
    ]


async def insert(connection: Connection, key: SigningKey) -> None:
    """Store a new key."""
    await connection.execute(_INSERT, key.id, json.dumps(key.public), key.private, key.created_at, key.signs_from)


async def delete(connection: Connection, key_ids: Sequence[str]) -> None:
    """Remove keys; nothing that they signed is believed any more."""
    await connection.execute(_DELETE, key_ids)
