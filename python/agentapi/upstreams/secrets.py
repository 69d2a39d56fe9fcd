"""The secret of an upstream: sealed under an AAD that names its row, opened only to be attached."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from agentapi.storage.resealing import SealedColumn
from agentapi.upstreams.models import Auth, secret_aad

if TYPE_CHECKING:
    from agentapi._core import Keyring
    from agentapi.principal import OrgId, UpstreamId
    from agentapi.upstreams.models import Upstream

__all__ = ["SEALED", "credential_headers", "seal_secret"]

SEALED: Final = (
    SealedColumn(
        table="upstreams",
        column="secret",
        key=("org_id", "id"),
        aad=lambda row: secret_aad(row["org_id"], row["id"]),
    ),
)
"""What this room keeps sealed, for the rotation of keys."""


def seal_secret(keyring: Keyring, org_id: OrgId, upstream_id: UpstreamId, secret: str) -> bytes:
    """Seal ``secret`` for the row of that upstream."""
    return keyring.seal(secret.encode(), secret_aad(org_id, upstream_id))


def credential_headers(keyring: Keyring, upstream: Upstream) -> dict[str, str]:
    """Return the headers that authenticate the gateway to ``upstream``.

    Raises:
        SealError: The sealed secret does not belong to this row or its key is gone.
    """
    if upstream.secret is None:
        return {}
    secret = keyring.open(upstream.secret, secret_aad(upstream.org_id, upstream.id)).decode()
    if upstream.auth is Auth.BEARER:
        return {"Authorization": f"Bearer {secret}"}
    if upstream.auth is Auth.API_KEY:
        return {upstream.auth_header or "X-API-Key": secret}
    return {}
