"""Seal and open what users bring.

Invariants:

* A sealed value opens for the table, organisation, user, upstream and set of values that it was sealed for, and nowhere
  else: not in another row, and not in this one once other values have been stored.
* The destination is sealed beside the values, so that who can write the table or the upstream's row, and has no key,
  cannot have them sent elsewhere.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

from pydantic import SecretStr

from agentapi.oauth.brought.models import Brought
from agentapi.storage.resealing import SealedColumn

if TYPE_CHECKING:
    from agentapi._core import Keyring
    from agentapi.oauth.brought.models import BroughtId, Stored
    from agentapi.principal import OrgId, UpstreamId, UserId

__all__ = ["SEALED", "BroughtVault"]

SEALED: Final = (
    SealedColumn(
        table="brought_credentials",
        column="sealed",
        key=("org_id", "user_id", "upstream_id"),
        context=("id",),
        aad=lambda row: _aad(row["id"], row["org_id"], row["user_id"], row["upstream_id"]),
    ),
)
"""What is kept sealed here, for the rotation of keys."""


class BroughtVault:
    """Seals under the deployment's keyring."""

    def __init__(self, keyring: Keyring) -> None:
        self._keyring = keyring

    def seal(
        self, brought: Brought, *, id_: BroughtId, org_id: OrgId, user_id: UserId, upstream_id: UpstreamId
    ) -> bytes:
        """Seal values for their row."""
        values = {name: value.get_secret_value() for name, value in brought.values.items()}
        document = {"values": values, "destination": brought.destination}
        plain = json.dumps(document, separators=(",", ":")).encode()
        return self._keyring.seal(plain, _aad(id_, org_id, user_id, upstream_id))

    def open(self, stored: Stored) -> Brought:
        """Open what ``seal`` sealed.

        Raises:
            SealError: It was changed or moved, or sealed by a key that is gone.
        """
        aad = _aad(stored.id, stored.org_id, stored.user_id, stored.upstream_id)
        found = json.loads(self._keyring.open(stored.sealed, aad))
        return Brought({name: SecretStr(value) for name, value in found["values"].items()}, found["destination"])


def _aad(id_: BroughtId, org_id: OrgId, user_id: UserId, upstream_id: UpstreamId) -> bytes:
    return f"brought_credentials.sealed/{org_id}/{user_id}/{upstream_id}/{id_}".encode()
