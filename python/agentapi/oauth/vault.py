"""Seal and open what only the gateway may know: client secrets, flows and grants.

Invariants:

* A sealed value opens for the table, row, organisation, user and provider it was sealed for, and nowhere else.
* A grant seals the endpoints beside the tokens: who can write the table, and has no key, can neither read a token nor
  have it sent to another address.
* An opened secret is a ``SecretStr``, which neither prints nor formats; it is unwrapped where it is attached.
"""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid5

from pydantic import SecretStr

from agentapi.oauth.models import (
    AuthorizationServer,
    ConnectionId,
    Flow,
    FlowId,
    Grant,
    ProviderName,
    Revocation,
)
from agentapi.storage.resealing import SealedColumn

if TYPE_CHECKING:
    from datetime import datetime

    from agentapi._core import Keyring
    from agentapi.oauth.models import Connection
    from agentapi.principal import OrgId, UpstreamId, UserId

__all__ = ["SEALED", "Vault", "connection_id"]

_CONNECTIONS = UUID("5c9d1d5e-6b0f-4d52-9a2e-0f6d1f4a8f0b")

SEALED: Final = (
    SealedColumn(
        table="oauth_clients",
        column="secret",
        key=("org_id", "issuer"),
        aad=lambda row: _client_aad(row["org_id"], row["issuer"]),
    ),
    SealedColumn(
        table="oauth_flows",
        column="sealed",
        key=("org_id", "id"),
        context=("user_id",),
        aad=lambda row: _flow_aad(row["org_id"], row["user_id"], row["id"]),
    ),
    SealedColumn(
        table="oauth_connections",
        column="sealed",
        key=("org_id", "id"),
        context=("user_id", "provider"),
        aad=lambda row: _grant_aad(row["id"], row["org_id"], row["user_id"], row["provider"]),
    ),
)
"""What this room keeps sealed, for the rotation of keys."""


def connection_id(org_id: OrgId, user_id: UserId, upstream_id: UpstreamId) -> ConnectionId:
    """Return the one id that a user's connection to an upstream has, whenever it is made."""
    return ConnectionId(uuid5(_CONNECTIONS, f"{org_id}/{user_id}/{upstream_id}"))


class Vault:
    """Seals under the deployment's keyring.

    Every method that opens raises ``SealError`` for a value that was changed, moved or sealed by a key that is gone.
    """

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def seal_client_secret(self, org_id: OrgId, issuer: str, secret: SecretStr) -> bytes:
        """Seal a client's secret for its row."""
        return self._keyring.seal(secret.get_secret_value().encode(), _client_aad(org_id, issuer))

    def open_client_secret(self, org_id: OrgId, issuer: str, sealed: bytes) -> SecretStr:
        """Open what ``seal_client_secret`` sealed."""
        return SecretStr(self._keyring.open(sealed, _client_aad(org_id, issuer)).decode())

    def seal_flow(self, flow: Flow) -> bytes:
        """Seal what a flow needs to end, for its row."""
        document = {
            "endpoint": flow.endpoint,
            "provider": flow.provider.value,
            "server": asdict(flow.server),
            "client_id": flow.client_id,
            "verifier": flow.verifier.get_secret_value(),
            "resource": flow.resource,
            "scopes": flow.scopes,
            "return_to": flow.return_to,
        }
        return self._keyring.seal(_json(document), _flow_aad(flow.org_id, flow.user_id, flow.id))

    def open_flow(
        self,
        sealed: bytes,
        *,
        flow_id: FlowId,
        org_id: OrgId,
        user_id: UserId,
        upstream_id: UpstreamId,
        expires_at: datetime,
    ) -> Flow:
        """Open what ``seal_flow`` sealed, given the plain columns of its row."""
        found = json.loads(self._keyring.open(sealed, _flow_aad(org_id, user_id, flow_id)))
        return Flow(
            id=flow_id,
            org_id=org_id,
            user_id=user_id,
            upstream_id=upstream_id,
            endpoint=found["endpoint"],
            provider=ProviderName(found["provider"]),
            server=_server(found["server"]),
            client_id=found["client_id"],
            verifier=SecretStr(found["verifier"]),
            resource=found["resource"],
            scopes=tuple(found["scopes"]),
            return_to=found["return_to"],
            expires_at=expires_at,
        )

    def seal_grant(
        self, grant: Grant, *, id_: ConnectionId, org_id: OrgId, user_id: UserId, provider: ProviderName
    ) -> bytes:
        """Seal the tokens of a connection for its row."""
        refresh_token = grant.refresh_token
        document = {
            "access_token": grant.access_token.get_secret_value(),
            "refresh_token": None if refresh_token is None else refresh_token.get_secret_value(),
            "client_id": grant.client_id,
            "server": asdict(grant.server),
            "endpoint": grant.endpoint,
            "resource": grant.resource,
        }
        return self._keyring.seal(_json(document), _grant_aad(id_, org_id, user_id, provider))

    def open_grant(self, connection: Connection) -> Grant:
        """Open the tokens of ``connection``."""
        aad = _grant_aad(connection.id, connection.org_id, connection.user_id, connection.provider)
        found = json.loads(self._keyring.open(connection.sealed, aad))
        refresh_token = found["refresh_token"]
        return Grant(
            access_token=SecretStr(found["access_token"]),
            refresh_token=None if refresh_token is None else SecretStr(refresh_token),
            client_id=found["client_id"],
            server=_server(found["server"]),
            endpoint=found["endpoint"],
            resource=found["resource"],
        )


def _client_aad(org_id: OrgId, issuer: str) -> bytes:
    return f"oauth_clients.secret/{org_id}/{issuer}".encode()


def _flow_aad(org_id: OrgId, user_id: UserId, flow_id: FlowId) -> bytes:
    return f"oauth_flows.sealed/{org_id}/{user_id}/{flow_id}".encode()


def _grant_aad(id_: ConnectionId, org_id: OrgId, user_id: UserId, provider: ProviderName | str) -> bytes:
    return f"oauth_connections.sealed/{org_id}/{user_id}/{provider}/{id_}".encode()


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _server(document: dict[str, Any]) -> AuthorizationServer:
    """Return the server that was sealed; a member that a later version dropped is passed over."""
    known = {field.name for field in fields(AuthorizationServer)}
    given = {name: value for name, value in document.items() if name in known}
    return AuthorizationServer(
        **{
            **given,
            "revocation": Revocation(given["revocation"]),
            "auth_methods": tuple(given["auth_methods"]),
            "scopes": tuple(given["scopes"]),
            "authorize_parameters": tuple((name, value) for name, value in given["authorize_parameters"]),
        }
    )
