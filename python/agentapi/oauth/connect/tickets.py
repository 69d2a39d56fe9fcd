"""The id in ``/connect/{id}``: who asked for which connection, sealed.

A ticket is no credential. It says for whom a connection is to be made, and whoever opens it has to show that this is
who they are. It is good for half an hour and for any number of tries, since what it leads to is decided anew each
time: once the connection is there, it leads nowhere.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from uuid import UUID

from agentapi._core import SealError
from agentapi.errors import NotFoundError
from agentapi.principal import OrgId, Principal, Role, UpstreamId, UserId

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from agentapi._core import Keyring

__all__ = ["CONNECT_PATH", "Ticket", "Tickets"]

CONNECT_PATH: Final = "/connect"
_AAD: Final = b"connect.ticket"
_TTL_S: Final = 1800
_MAX_LENGTH: Final = 4096
_MAX_SCOPES: Final = 1024
"""Most characters of scopes, since an upstream names them and they go into an address."""
_UNKNOWN: Final = "This link is not one that the gateway made, or it is too old. Make the call again for a new one."


@dataclass(frozen=True, slots=True, kw_only=True)
class Ticket:
    """Who asked for a connection to what."""

    principal: Principal
    workspace: str
    """Where the call was made; empty if it was none."""
    upstream_id: UpstreamId
    scopes: tuple[str, ...] = ()
    """Needed besides those that a connection has already."""


class Tickets:
    """Seals and opens tickets.

    Args:
        keyring: The deployment's.
        public_url: Where the gateway is, without a slash at its end.
        clock: The time, with its zone.
    """

    def __init__(self, keyring: Keyring, *, public_url: str, clock: Callable[[], datetime]) -> None:
        self._keyring = keyring
        self._public_url = public_url
        self._clock = clock

    def url(
        self, principal: Principal, upstream_id: UpstreamId, *, workspace: str = "", scopes: tuple[str, ...] = ()
    ) -> str:
        """Return the address at which ``principal`` can connect, in any browser that it signs in with."""
        kept: list[str] = []
        for scope in scopes:
            if len(" ".join((*kept, scope))) <= _MAX_SCOPES:
                kept.append(scope)
        document = {
            "user": str(principal.user_id),
            "org": str(principal.org_id),
            "slug": principal.org_slug,
            "role": principal.role.value,
            "issuer": principal.issuer,
            "subject": principal.subject,
            "workspace": workspace,
            "upstream": str(upstream_id),
            "scopes": kept,
        }
        plaintext = json.dumps(document, separators=(",", ":")).encode()
        expires_at = int(self._clock().timestamp()) + _TTL_S
        return f"{self._public_url}{CONNECT_PATH}/{self._keyring.seal_text_until(plaintext, _AAD, expires_at)}"

    def open(self, sealed: str) -> Ticket:
        """Return the ticket of that id.

        Raises:
            NotFoundError: There is none, or it is too old; both read alike.
        """
        if len(sealed) > _MAX_LENGTH or not sealed.isascii():
            raise NotFoundError(_UNKNOWN)
        try:
            found = json.loads(self._keyring.open_text_unexpired(sealed, _AAD, int(self._clock().timestamp())))
        except SealError:
            raise NotFoundError(_UNKNOWN) from None
        principal = Principal(
            user_id=UserId(UUID(found["user"])),
            org_id=OrgId(UUID(found["org"])),
            org_slug=found["slug"],
            role=Role(found["role"]),
            issuer=found["issuer"],
            subject=found["subject"],
        )
        return Ticket(
            principal=principal,
            workspace=found["workspace"],
            upstream_id=UpstreamId(UUID(found["upstream"])),
            scopes=tuple(found["scopes"]),
        )
