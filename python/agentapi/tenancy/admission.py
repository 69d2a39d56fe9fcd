"""From a verified token to a principal of one organisation.

The organisation and the role come from the token's claims by the issuer's rules; the organisation must exist and not be
suspended. The member's row appears at the first token and is refreshed now and then. It grants nothing but the role
that an admin or an invitation assigned, which stands over the token's, and it says whose membership has ended.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from agentapi.audit.models import Actor
from agentapi.errors import ForbiddenError, NotFoundError
from agentapi.principal import Principal, Role
from agentapi.storage.notifier import DEAF, WITHIN_S
from agentapi.tenancy import store
from agentapi.tenancy.models import JoinRule, user_id_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentapi._core import VerifiedToken
    from agentapi.principal import Bearer, OrgId, UserId
    from agentapi.storage.database import Database
    from agentapi.storage.notifier import ChangeFeed
    from agentapi.tenancy.models import Member, Organization

__all__ = ["Admission"]

_ENDED: Final = "The membership in the organisation has ended."


class Admission:
    """Admits verified tokens to organisations, remembering each for a while.

    Args:
        database: Where organisations and members are.
        ttl_s: How long a principal is remembered, for as long as nothing is said to have changed: where changes are not
            heard, for ``WITHIN_S``. One that is made through this process shows at once (``forget``).
        clock: Monotonic seconds.
        feed: Tells what other processes change.
    """

    def __init__(
        self, database: Database, *, clock: Callable[[], float], feed: ChangeFeed = DEAF, ttl_s: float = 10.0
    ) -> None:
        self._database = database
        self._clock = clock
        self._feed = feed
        self._ttl_s = ttl_s
        feed.listen(
            ("organizations", "members"), lambda change: self.forget(change.org_id, change.user_id), self.forget_all
        )
        # The core hands back the same object for the same live token and drops it when the token is forgotten, so
        # identity is the cheapest sound key and this needs no bound of its own.
        self._generation = 0
        """Grows with every change, so that what was read before one is not remembered after it."""
        self._requests_per_minute: dict[OrgId, int] = {}
        self._elsewhere: dict[str, Callable[[VerifiedToken], Awaitable[Principal]]] = {}
        self._owners: dict[str, Callable[[OrgId, str], Awaitable[UserId | None]]] = {}
        self._principals: WeakKeyDictionary[VerifiedToken, tuple[float, Principal]] = WeakKeyDictionary()
        """When it began to be read, and what was."""

    async def admit(self, token: VerifiedToken) -> Principal:
        """Return the principal that ``token`` stands for.

        Raises:
            UnauthenticatedError: Whatever it stood for has ended.
            ForbiddenError: The token names no organisation or no role.
            NotFoundError: Its organisation does not exist.
            StorageUnavailableError: The database cannot be asked.
        """
        elsewhere = self._elsewhere.get(token.issuer)
        if elsewhere is not None:
            return await elsewhere(token)
        remembered = self._principals.get(token)
        now = self._clock()
        if remembered is not None:
            age_s = now - remembered[0]
            if age_s < self._ttl_s and (age_s < WITHIN_S or self._feed.hears):
                return remembered[1]
        generation = self._generation
        principal = await self._look_up(token)
        if generation == self._generation:
            self._principals[token] = (now, principal)
        return principal

    def leave_to(
        self,
        issuer: str,
        admit: Callable[[VerifiedToken], Awaitable[Principal]],
        *,
        owner: Callable[[OrgId, str], Awaitable[UserId | None]],
    ) -> None:
        """Have ``admit`` say, every time, whom tokens of an issuer stand for: by these nobody becomes a member.

        ``owner`` says whose a session is or was, by its organisation and id.
        """
        self._elsewhere[issuer] = admit
        self._owners[issuer] = owner

    async def owner(self, bearer: Bearer) -> Actor | None:
        """Return whose a token of a session was that is good no more, or None if nobody knows the session.

        Raises:
            StorageUnavailableError: The database cannot be asked.
        """
        ask = self._owners.get(bearer.issuer)
        if ask is None:
            return None
        async with self._database.directory_transaction(bearer.organization) as connection:
            organization = await store.find_organization(connection, bearer.organization)
        # The slug may be another organisation's by now, which has no such session.
        user_id = None if organization is None else await ask(organization.id, bearer.session_id)
        return None if organization is None or user_id is None else Actor(organization.id, user_id)

    def forget(self, org_id: OrgId, user_id: UserId | None = None) -> None:
        """Ask anew about an organisation's members, or about one, from the next request on."""
        for token, (_, principal) in list(self._principals.items()):
            if principal.org_id == org_id and user_id in (None, principal.user_id):
                del self._principals[token]
        self._generation += 1

    def forget_all(self) -> None:
        """Ask anew about everybody."""
        self._principals.clear()
        self._generation += 1

    def requests_per_minute(self, org_id: OrgId) -> int | None:
        """Return how many requests a minute the plan of an organisation allows, as far as it was asked about."""
        return self._requests_per_minute.get(org_id)

    def note_plan(self, org_id: OrgId, requests_per_minute: int | None) -> None:
        """Remember what the plan of an organisation allows, as whoever reads it says."""
        if requests_per_minute is None:
            self._requests_per_minute.pop(org_id, None)
        else:
            self._requests_per_minute[org_id] = requests_per_minute

    async def again(self, principal: Principal) -> Principal:
        """Return a principal as it is now, for what a request of its began and a browser goes on with.

        Raises:
            ForbiddenError: The membership has ended, or the organisation is suspended.
            NotFoundError: There is no such organisation any more.
        """
        async with self._database.tenant_transaction(principal) as connection:
            organization = await store.find_organization(connection, principal.org_slug)
            member = await store.get_member(connection, principal.user_id)
        if organization is None:
            raise NotFoundError("There is no such organization.")
        if member is None:
            raise ForbiddenError(_ENDED)
        if member.role is Role.PLATFORM_ADMIN:
            return replace(principal, role=member.role)
        if organization.suspended_at is not None:
            raise ForbiddenError("The organisation is suspended.")
        if member.removed_at is not None:
            raise ForbiddenError(_ENDED)
        return replace(principal, role=member.assigned_role or member.role)

    async def _look_up(self, token: VerifiedToken) -> Principal:
        organization = await self.organization(token)
        user_id = user_id_of(token.issuer, token.subject)
        async with self._database.user_transaction(organization.id, user_id) as connection:
            member = await store.get_member(connection, user_id)
            principal = Principal(
                user_id=user_id,
                org_id=organization.id,
                org_slug=organization.slug,
                role=_role(organization, token, member),
                issuer=token.issuer,
                subject=token.subject,
                scopes=frozenset(token.scopes),
            )
            given = principal if token.role is None else replace(principal, role=Role(token.role))
            await store.upsert_member(connection, given, email=token.email)
        return principal

    async def organization(self, token: VerifiedToken) -> Organization:
        """Return the organisation that a token names.

        Raises:
            ForbiddenError: It names none, or one that is suspended.
            NotFoundError: It does not exist.
        """
        if token.organization is None:
            raise ForbiddenError("The access token names no organisation.")
        async with self._database.directory_transaction(token.organization) as connection:
            organization = await store.find_organization(connection, token.organization)
        if organization is None:
            raise NotFoundError("There is no such organization.")
        self.note_plan(organization.id, organization.plan.requests_per_minute)
        if organization.suspended_at is not None and token.role != Role.PLATFORM_ADMIN.value:
            raise ForbiddenError("The organisation is suspended.")
        return organization


def _role(organization: Organization, token: VerifiedToken, member: Member | None) -> Role:
    """Return the role of a token's owner: what an admin assigned, otherwise what the issuer's rules give."""
    if token.role == Role.PLATFORM_ADMIN.value:
        return Role.PLATFORM_ADMIN
    if member is not None and member.removed_at is not None:
        raise ForbiddenError(_ENDED)
    if member is not None and member.assigned_role is not None:
        return member.assigned_role
    if token.role is None:
        raise ForbiddenError("The access token gives no role in the organisation.")
    if member is None and organization.join_rule is JoinRule.INVITATION:
        raise ForbiddenError("The organisation takes new members by invitation alone.")
    return Role(token.role)
