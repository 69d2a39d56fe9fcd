"""Who is invited, and what comes of it; each change with its row in the audit log.

Invariants:

* An invitation's token is nowhere but in the answer to whoever made it; of any number who show it, one gets in.
* No role that an invitation gives is a platform admin's.
* To look at an invitation changes nothing. One that is over, was taken, taken back or never made, and one of an
  organisation that is suspended or gone, cannot be told from each other.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from agentapi.audit.models import Actor
from agentapi.errors import ForbiddenError
from agentapi.principal import Role
from agentapi.tenancy import store as tenancy_store
from agentapi.tenancy.invitations import store
from agentapi.tenancy.invitations.text import hash_of, organization_of, write_token
from agentapi.tenancy.models import Invitation, InvitationId, Joined
from agentapi.tenancy.offices import keep_an_admin
from agentapi.tenancy.platform import audit_entry, found

if TYPE_CHECKING:
    from uuid import UUID

    from agentapi.audit.log import AuditLog
    from agentapi.audit.models import Entry
    from agentapi.principal import Principal
    from agentapi.storage.database import Connection, Database
    from agentapi.tenancy.admission import Admission
    from agentapi.tenancy.models import Claimant, Member, Offer, Organization
    from agentapi.tenancy.requests import InvitationInput

__all__ = ["Invitations"]

_NOT_GOOD: Final = "The invitation is not good, not any more, or not for you."
_MAX_WORKSPACES: Final = 20
"""Most workspaces that somebody is told of who has joined."""


class Invitations:
    """Makes invitations, shows them and takes them back, and lets in who was invited.

    Args:
        database: Where they are.
        audit: Is told of each change.
        admission: Forgets who has joined.
    """

    def __init__(self, database: Database, *, audit: AuditLog, admission: Admission) -> None:
        self._database = database
        self._audit = audit
        self._admission = admission

    async def make(self, principal: Principal, given: InvitationInput) -> tuple[Invitation, str]:
        """Return a new invitation and its token."""
        token = write_token(principal.org_id)
        now = datetime.now(UTC)
        invitation = Invitation(
            id=InvitationId(uuid4()),
            org_id=principal.org_id,
            role=given.role,
            email=given.email,
            subject=given.subject,
            created_by=principal.user_id,
            created_at=now,
            expires_at=now + timedelta(seconds=given.expires_in_s),
        )
        async with self._database.tenant_transaction(principal) as connection:
            stored = await store.create_invitation(connection, invitation, hash_of(token))
            bound = given.email is not None or given.subject is not None
            entry = _entry("created", stored.id, role=given.role, bound=bound)
            await self._audit.record(connection, principal, entry)
        return stored, token

    async def page(self, principal: Principal, *, after: UUID, limit: int) -> list[Invitation]:
        """Return the invitations that may still be taken, in the order of their ids."""
        async with self._database.tenant_transaction(principal) as connection:
            return await store.list_invitations(connection, after=after, limit=limit)

    async def withdraw(self, principal: Principal, invitation_id: UUID) -> None:
        """Take an invitation back.

        Raises:
            NotFoundError: There is none.
        """
        async with self._database.tenant_transaction(principal) as connection:
            found(await store.delete_invitation(connection, invitation_id), "There is no such invitation.")
            await self._audit.record(connection, principal, _entry("withdrawn", invitation_id))

    async def offer(self, token: str) -> Offer | None:
        """Return what the invitation of that token offers, or None if it is not good, for whatever reason."""
        org_id = organization_of(token)
        if org_id is None:
            return None
        async with self._database.organization_transaction(org_id) as connection:
            return await store.find_offer(connection, hash_of(token))

    async def accept(self, claimant: Claimant, token: str) -> Member:
        """Make somebody a member of the organisation that their issuer names.

        Raises:
            NotFoundError: The invitation is not good for that.
            ForbiddenError: Their issuer names no organisation, or one that is suspended.
            ConflictError: It would take the role of an admin from the owner or the last one.
            LimitReachedError: The organisation has as many members as its plan allows; the invitation stays good.
        """
        if claimant.organization is None:
            raise ForbiddenError("The access token names no organisation.")
        async with self._database.directory_transaction(claimant.organization) as connection:
            named = found(await tenancy_store.find_organization(connection, claimant.organization), _NOT_GOOD)
        user_id = claimant.user_id
        async with self._database.user_transaction(named.id, user_id) as connection:
            # Locked first, as every change of members does, so that none of them waits for another in a circle.
            organization = found(await tenancy_store.lock_organization(connection, named.id), _NOT_GOOD)
            if organization.suspended_at is not None:
                raise ForbiddenError("The organisation is suspended.")
            member, invitation = await self._take(connection, organization, claimant, token)
            entry = _entry("accepted", invitation.id, role=invitation.role)
            await self._audit.record(connection, Actor(organization.id, user_id), entry)
        self._admission.forget(organization.id, user_id)
        return member

    async def joined(self, claimant: Claimant, token: str) -> Joined | None:
        """Return the place that somebody has in the organisation of a token, whatever has become of its invitation."""
        org_id = organization_of(token)
        if org_id is None or claimant.organization is None:
            return None
        async with self._database.user_transaction(org_id, claimant.user_id) as connection:
            organization = await tenancy_store.find_organization(connection, claimant.organization)
            member = await tenancy_store.get_member(connection, claimant.user_id)
            workspaces = await tenancy_store.list_workspaces(connection, limit=_MAX_WORKSPACES)
        if organization is None or organization.suspended_at is not None:
            return None
        if member is None or member.removed_at is not None:
            return None
        return Joined(organization, member.assigned_role or member.role, workspaces)

    async def _take(
        self, connection: Connection, organization: Organization, claimant: Claimant, token: str
    ) -> tuple[Member, Invitation]:
        invitation = found(await store.take_invitation(connection, hash_of(token), claimant), _NOT_GOOD)
        if invitation.role is not Role.ORG_ADMIN:
            await keep_an_admin(connection, organization, claimant.user_id)
        return await tenancy_store.join(connection, organization.id, claimant, invitation.role), invitation


def _entry(what: str, invitation_id: UUID, **details: str | bool | None) -> Entry:
    return audit_entry(f"invitation.{what}", f"invitation:{invitation_id}", **details)
