"""From a verified token to a principal of one organisation.

The organisation and the role come from the token's claims by the issuer's rules; the organisation must exist. The
member's row appears at the first token and is refreshed now and then; it grants nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from agentapi.errors import ForbiddenError, NotFoundError
from agentapi.principal import Principal, Role
from agentapi.tenancy import store
from agentapi.tenancy.models import user_id_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentapi._core import VerifiedToken
    from agentapi.storage.database import Database

__all__ = ["Admission"]


class Admission:
    """Admits verified tokens to organisations, remembering each for a while.

    Args:
        database: Where organisations and members are.
        ttl_s: How long a principal is remembered; a deleted organisation ends at most this much later.
        clock: Monotonic seconds.
    """

    def __init__(self, database: Database, *, clock: Callable[[], float], ttl_s: float = 30.0) -> None:
        self._database = database
        self._clock = clock
        self._ttl_s = ttl_s
        # The core hands back the same object for the same live token and drops it when the token is forgotten, so
        # identity is the cheapest sound key and this needs no bound of its own.
        self._principals: WeakKeyDictionary[VerifiedToken, tuple[float, Principal]] = WeakKeyDictionary()

    async def admit(self, token: VerifiedToken) -> Principal:
        """Return the principal that ``token`` stands for.

        Raises:
            ForbiddenError: The token names no organisation or no role.
            NotFoundError: Its organisation does not exist.
            StorageUnavailableError: The database cannot be asked.
        """
        remembered = self._principals.get(token)
        if remembered is not None and remembered[0] > self._clock():
            return remembered[1]
        principal = await self._look_up(token)
        self._principals[token] = (self._clock() + self._ttl_s, principal)
        return principal

    async def _look_up(self, token: VerifiedToken) -> Principal:
        if token.organization is None:
            raise ForbiddenError("The access token names no organisation.")
        if token.role is None:
            raise ForbiddenError("The access token gives no role in the organisation.")
        async with self._database.directory_transaction(token.organization) as connection:
            organization = await store.find_organization(connection, token.organization)
        if organization is None:
            raise NotFoundError("There is no such organization.")
        principal = Principal(
            user_id=user_id_of(token.issuer, token.subject),
            org_id=organization.id,
            org_slug=organization.slug,
            role=Role(token.role),
            issuer=token.issuer,
            subject=token.subject,
            scopes=frozenset(token.scopes),
        )
        async with self._database.tenant_transaction(principal) as connection:
            await store.upsert_member(connection, principal, email=token.email)
        return principal
