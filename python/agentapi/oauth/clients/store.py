"""SQL of clients, and of the providers that upstreams use.

Each function takes a connection inside a transaction of ``Database``; row-level security picks the organisation.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import asyncpg

from agentapi.errors import NotFoundError
from agentapi.oauth.models import Binding, ClientAuth, ProviderName, Registration
from agentapi.principal import OrgId, UpstreamId, UserId

if TYPE_CHECKING:
    from datetime import datetime

    from agentapi.storage.database import Connection as Database

__all__ = [
    "StoredClient",
    "delete_binding",
    "delete_client",
    "find_binding",
    "find_client",
    "list_clients",
    "put_binding",
    "put_client",
]

_CLIENT = (
    "org_id, issuer, client_id, secret, auth_method, registration, redirect_uri, secret_expires_at, updated_by,"
    " updated_at"
)
_PUT_CLIENT = f"""
INSERT INTO oauth_clients ({_CLIENT}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
ON CONFLICT (org_id, issuer) DO UPDATE SET
    client_id = excluded.client_id, secret = excluded.secret, auth_method = excluded.auth_method,
    registration = excluded.registration, redirect_uri = excluded.redirect_uri,
    secret_expires_at = excluded.secret_expires_at, updated_by = excluded.updated_by, updated_at = excluded.updated_at
    -- A dynamic registration takes the place of the one that its maker found wanting, and of no other.
    WHERE excluded.registration = 'manual'
       OR oauth_clients.registration = 'dynamic' AND oauth_clients.client_id = $11
"""  # noqa: S608 - the columns are the constant above
_FIND_CLIENT = f"SELECT {_CLIENT} FROM oauth_clients WHERE issuer = $1"  # noqa: S608
_LIST_CLIENTS = f"SELECT {_CLIENT} FROM oauth_clients WHERE issuer > $2 ORDER BY issuer LIMIT $1"  # noqa: S608
_DELETE_CLIENT = "DELETE FROM oauth_clients WHERE issuer = $1 RETURNING issuer"

_BINDING = "upstream_id, provider, parameters, scopes"
_PUT_BINDING = f"""
INSERT INTO oauth_upstreams (org_id, {_BINDING}, updated_by, updated_at) VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (org_id, upstream_id) DO UPDATE SET
    provider = excluded.provider, parameters = excluded.parameters, scopes = excluded.scopes,
    updated_by = excluded.updated_by, updated_at = excluded.updated_at
RETURNING version
"""  # noqa: S608
_FIND_BINDING = f"SELECT {_BINDING}, version FROM oauth_upstreams WHERE upstream_id = $1"  # noqa: S608
_HOLD_BINDING = f"{_FIND_BINDING} FOR NO KEY UPDATE"
_DELETE_BINDING = "DELETE FROM oauth_upstreams WHERE upstream_id = $1 RETURNING upstream_id"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredClient:
    """A client as its row has it, the secret still sealed."""

    org_id: OrgId
    issuer: str
    client_id: str
    secret: bytes | None = field(repr=False)
    auth_method: ClientAuth
    registration: Registration
    redirect_uri: str | None
    secret_expires_at: datetime | None
    updated_by: UserId
    updated_at: datetime


async def put_client(connection: Database, client: StoredClient, *, replacing: str | None = None) -> None:
    """Store the organisation's client of an issuer.

    One that was made by hand takes the place of any. One that registered dynamically takes that of the client whose id
    is ``replacing``, or none: of two registrations at once the first stands.
    """
    await connection.execute(
        _PUT_CLIENT,
        client.org_id,
        client.issuer,
        client.client_id,
        client.secret,
        client.auth_method,
        client.registration,
        client.redirect_uri,
        client.secret_expires_at,
        client.updated_by,
        client.updated_at,
        replacing,
    )


async def find_client(connection: Database, issuer: str) -> StoredClient | None:
    """Return the organisation's client of an issuer."""
    row = await connection.fetchrow(_FIND_CLIENT, issuer)
    return None if row is None else _client(row)


async def list_clients(connection: Database, *, limit: int, after: str = "") -> list[StoredClient]:
    """Return clients of the organisation in order of issuer, from behind ``after``."""
    return [_client(row) for row in await connection.fetch(_LIST_CLIENTS, limit, after)]


async def delete_client(connection: Database, issuer: str) -> None:
    """Remove a client.

    Raises:
        NotFoundError: There is none of that issuer.
    """
    if await connection.fetchval(_DELETE_CLIENT, issuer) is None:
        raise NotFoundError("There is no such client.")


async def put_binding(
    connection: Database, binding: Binding, *, org_id: OrgId, updated_by: UserId, now: datetime
) -> int:
    """Store which provider an upstream uses, and return the version of that.

    Raises:
        NotFoundError: There is no such upstream that the caller may see.
    """
    try:
        return int(
            await connection.fetchval(
                _PUT_BINDING,
                org_id,
                binding.upstream_id,
                binding.provider,
                json.dumps(binding.parameters),
                list(binding.scopes),
                updated_by,
                now,
            )
        )
    except (asyncpg.ForeignKeyViolationError, asyncpg.InsufficientPrivilegeError) as error:
        raise NotFoundError("There is no such upstream.") from error


async def find_binding(connection: Database, upstream_id: UpstreamId, *, hold: bool = False) -> Binding | None:
    """Return which provider an upstream uses, if somebody chose one; ``hold`` keeps others from changing that."""
    row = await connection.fetchrow(_HOLD_BINDING if hold else _FIND_BINDING, upstream_id)
    if row is None:
        return None
    return Binding(
        upstream_id=UpstreamId(row["upstream_id"]),
        provider=ProviderName(row["provider"]),
        parameters=json.loads(row["parameters"]),
        scopes=tuple(row["scopes"]),
        version=row["version"],
    )


async def delete_binding(connection: Database, upstream_id: UpstreamId) -> None:
    """Leave an upstream to its own metadata again.

    Raises:
        NotFoundError: Nobody chose a provider for it.
    """
    if await connection.fetchval(_DELETE_BINDING, upstream_id) is None:
        raise NotFoundError("The upstream has no provider of its own.")


def _client(row: asyncpg.Record) -> StoredClient:
    return StoredClient(
        org_id=OrgId(row["org_id"]),
        issuer=row["issuer"],
        client_id=row["client_id"],
        secret=row["secret"],
        auth_method=ClientAuth(row["auth_method"]),
        registration=Registration(row["registration"]),
        redirect_uri=row["redirect_uri"],
        secret_expires_at=row["secret_expires_at"],
        updated_by=UserId(row["updated_by"]),
        updated_at=row["updated_at"],
    )
