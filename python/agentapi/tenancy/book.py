"""Changes of organisations, workspaces, members and invitations, each with its row in the audit log.

Invariants:

* Who may enter at all is the routes' table of permissions; here stands what depends on the thing itself.
* No role that is given here is a platform admin's.
* An organisation that has an admin keeps one, and its owner stays until the ownership is transferred. Both are decided
  while the organisation's row is locked, so no two changes at once get around them.
* An invitation's token is nowhere but in the answer to whoever made it; of any number who show it, one gets in.
"""

from __future__ import annotations

import hashlib
import secrets
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, TypeVar
from uuid import uuid4

from agentapi.audit.models import Actor, Entry, Outcome
from agentapi.errors import ConflictError, ForbiddenError, NotFoundError
from agentapi.principal import OrgId, Role, UserId, WorkspaceId
from agentapi.tenancy import store
from agentapi.tenancy.models import Invitation, InvitationId, Plan, user_id_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from uuid import UUID

    from agentapi._core import VerifiedToken
    from agentapi.audit.log import AuditLog
    from agentapi.principal import Principal
    from agentapi.storage.database import Connection, Database
    from agentapi.tenancy.admission import Admission
    from agentapi.tenancy.models import Member, Organization, Workspace
    from agentapi.tenancy.requests import (
        InvitationInput,
        NewOrganizationInput,
        OrganizationInput,
        PlatformInput,
        WorkspaceInput,
    )

    Step = Callable[[OrgId], Awaitable[object]]
    MemberStep = Callable[[OrgId, UserId], Awaitable[object]]

__all__ = ["Tenancy"]

_T = TypeVar("_T")

_PREFIX: Final = "agi_"
"""By which a leak scanner knows an invitation."""
_TOKEN_BYTES: Final = 32
_NO_ORGANIZATION: Final = "There is no such organization."
_NO_WORKSPACE: Final = "There is no such workspace."
_NO_MEMBER: Final = "There is no such member."
_NO_INVITATION: Final = "There is no such invitation."
_NOT_GOOD: Final = "The invitation is not good, not any more, or not for you."


class Tenancy:
    """Changes what organisations are made of.

    Args:
        database: Where they are.
        audit: Is told of each change.
        admission: Forgets who is changed.
        before_deletion: Run with every organisation that is about to be deleted: what no row can do by going.
        after_removal: Run with every member whose membership has ended, who can do nothing any more by then.
        on_change: Called with every organisation whose row or workspaces changed through this process.
    """

    def __init__(
        self,
        database: Database,
        *,
        audit: AuditLog,
        admission: Admission,
        before_deletion: Sequence[Step] = (),
        after_removal: Sequence[MemberStep] = (),
        on_change: Sequence[Callable[[OrgId], None]] = (),
    ) -> None:
        self._database = database
        self._audit = audit
        self._admission = admission
        self._before_deletion = before_deletion
        self._after_removal = after_removal
        self._on_change = on_change

    async def organization(self, principal: Principal) -> Organization:
        """Return the principal's organisation."""
        async with self._database.tenant_transaction(principal) as connection:
            return _found(await store.find_organization(connection, principal.org_slug), _NO_ORGANIZATION)

    async def change_organization(self, principal: Principal, given: OrganizationInput) -> Organization:
        """Rename the principal's organisation, or change how one joins it.

        Raises:
            ConflictError: The slug is taken.
        """
        async with self._locked(principal) as (connection, stored):
            changed = replace(stored, slug=given.slug, name=given.name, join_rule=given.join_rule)
            changed = await store.update_organization(connection, changed)
            entry = _entry("organization.changed", f"organization:{stored.id}", slug=given.slug, was=stored.slug)
            await self._audit.record(connection, principal, entry)
        self._changed(principal.org_id)
        return changed

    async def transfer(self, principal: Principal, to: UserId) -> Organization:
        """Make an admin of the organisation its owner.

        Raises:
            ForbiddenError: The principal is neither the owner nor a platform admin.
            ConflictError: The other one is no admin of the organisation.
        """
        async with self._locked(principal) as (connection, stored):
            _require_owner(principal, stored)
            member = await store.get_member(connection, to)
            if member is None or member.removed_at is not None:
                raise NotFoundError(_NO_MEMBER)
            if (member.assigned_role or member.role) is not Role.ORG_ADMIN:
                raise ConflictError("The new owner has to be an admin of the organisation.")
            changed = await store.update_organization(connection, replace(stored, owner_id=to))
            entry = _entry("organization.transferred", f"organization:{stored.id}", to=str(to))
            await self._audit.record(connection, principal, entry)
        return changed

    async def delete_organization(self, principal: Principal) -> None:
        """Delete the principal's organisation, of which it is the owner, with all that is in it.

        Raises:
            ForbiddenError: It is neither the owner nor a platform admin.
        """
        _require_owner(principal, await self.organization(principal))
        await self._delete(principal, principal.org_id)

    async def workspaces(self, principal: Principal, *, after: str, limit: int) -> list[Workspace]:
        """Return workspaces in the order of their slugs."""
        async with self._database.tenant_transaction(principal) as connection:
            return await store.list_workspaces(connection, after=after, limit=limit)

    async def create_workspace(self, principal: Principal, given: WorkspaceInput) -> Workspace:
        """Create a workspace.

        Raises:
            ConflictError: The slug is taken.
        """
        async with self._database.tenant_transaction(principal) as connection:
            workspace = await store.create_workspace(
                connection,
                workspace_id=WorkspaceId(uuid4()),
                org_id=principal.org_id,
                slug=given.slug,
                name=given.name,
            )
            entry = _entry("workspace.created", f"workspace:{workspace.id}", slug=given.slug)
            await self._audit.record(connection, principal, entry)
        self._changed(principal.org_id)
        return workspace

    async def change_workspace(self, principal: Principal, slug: str, given: WorkspaceInput) -> Workspace:
        """Rename a workspace.

        Raises:
            NotFoundError: There is none.
            ConflictError: The slug is taken.
        """
        async with self._database.tenant_transaction(principal) as connection:
            changed = await store.change_workspace(connection, slug, to=given.slug, name=given.name)
            workspace = _found(changed, _NO_WORKSPACE)
            entry = _entry("workspace.changed", f"workspace:{workspace.id}", slug=given.slug, was=slug)
            await self._audit.record(connection, principal, entry)
        self._changed(principal.org_id)
        return workspace

    async def delete_workspace(self, principal: Principal, slug: str) -> None:
        """Delete a workspace.

        Raises:
            NotFoundError: There is none.
            ConflictError: It has upstream servers.
        """
        async with self._database.tenant_transaction(principal) as connection:
            id_ = _found(await store.delete_workspace(connection, slug), _NO_WORKSPACE)
            entry = _entry("workspace.deleted", f"workspace:{id_}", slug=slug)
            await self._audit.record(connection, principal, entry)
        self._changed(principal.org_id)

    async def members(self, principal: Principal, *, after: UUID, limit: int) -> list[Member]:
        """Return members in the order of their ids."""
        async with self._database.tenant_transaction(principal) as connection:
            return await store.list_members(connection, after=after, limit=limit)

    async def assign_role(self, principal: Principal, user_id: UserId, role: Role | None) -> Member:
        """Give a member a role over what their token says, or take that back.

        Raises:
            NotFoundError: There is no such member.
            ConflictError: It is the owner, or the last admin.
        """
        async with self._locked(principal) as (connection, organization):
            if role is not Role.ORG_ADMIN:
                await self._keep_an_admin(connection, organization, user_id)
            member = _found(await store.assign_role(connection, user_id, role), _NO_MEMBER)
            await self._audit.record(connection, principal, _entry("member.role_changed", f"user:{user_id}", role=role))
        self._admission.forget(principal.org_id, user_id)
        return member

    async def remove_member(self, principal: Principal, user_id: UserId) -> None:
        """End a membership, one's own too, and all that the user could do by it; a repetition does what failed at last.

        Raises:
            NotFoundError: There is no such member.
            ConflictError: It is the owner, or the last admin.
        """
        async with self._locked(principal) as (connection, organization):
            await self._keep_an_admin(connection, organization, user_id)
            _found(await store.get_member(connection, user_id), _NO_MEMBER)
            if await store.remove_member(connection, user_id) is not None:
                await self._audit.record(connection, principal, _entry("member.removed", f"user:{user_id}"))
        self._admission.forget(principal.org_id, user_id)
        for step in self._after_removal:
            await step(principal.org_id, user_id)

    async def invite(self, principal: Principal, given: InvitationInput) -> tuple[Invitation, str]:
        """Return a new invitation and its token."""
        token = _PREFIX + secrets.token_urlsafe(_TOKEN_BYTES)
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
            stored = await store.create_invitation(connection, invitation, _hash(token))
            bound = given.email is not None or given.subject is not None
            entry = _entry("invitation.created", f"invitation:{stored.id}", role=given.role, bound=bound)
            await self._audit.record(connection, principal, entry)
        return stored, token

    async def invitations(self, principal: Principal, *, after: UUID, limit: int) -> list[Invitation]:
        """Return the invitations that may still be taken, in the order of their ids."""
        async with self._database.tenant_transaction(principal) as connection:
            return await store.list_invitations(connection, after=after, limit=limit)

    async def withdraw(self, principal: Principal, invitation_id: UUID) -> None:
        """Take an invitation back.

        Raises:
            NotFoundError: There is none.
        """
        async with self._database.tenant_transaction(principal) as connection:
            _found(await store.delete_invitation(connection, invitation_id), _NO_INVITATION)
            entry = _entry("invitation.withdrawn", f"invitation:{invitation_id}")
            await self._audit.record(connection, principal, entry)

    async def accept(self, token: VerifiedToken, invitation: str) -> Member:
        """Make the owner of a token a member of the organisation that it names.

        Raises:
            NotFoundError: The invitation is not good for that.
            LimitReachedError: The organisation has as many members as its plan allows; the invitation stays good.
        """
        try:
            organization = await self._admission.organization(token)
        except NotFoundError:
            raise NotFoundError(_NOT_GOOD) from None
        user_id = user_id_of(token.issuer, token.subject)
        async with self._database.user_transaction(organization.id, user_id) as connection:
            # Locked first, as every change of members does, so that none of them waits for another in a circle.
            await store.lock_organization(connection, organization.id)
            taken = _found(await store.take_invitation(connection, _hash(invitation), token), _NOT_GOOD)
            if taken.role is not Role.ORG_ADMIN:
                await self._keep_an_admin(connection, organization, user_id)
            member = await store.join(connection, organization.id, token, taken.role)
            entry = _entry("invitation.accepted", f"invitation:{taken.id}", role=taken.role)
            await self._audit.record(connection, Actor(organization.id, user_id), entry)
        self._admission.forget(organization.id, user_id)
        return member

    async def all_organizations(self, *, after: str, limit: int) -> list[Organization]:
        """Return the organisations of the deployment in the order of their slugs."""
        async with self._database.platform_transaction() as connection:
            return await store.list_organizations(connection, after=after, limit=limit)

    async def create_organization(self, principal: Principal, given: NewOrganizationInput) -> Organization:
        """Create an organisation.

        Raises:
            ConflictError: The slug is taken.
        """
        org_id = OrgId(uuid4())
        async with self._database.organization_transaction(org_id) as connection:
            created = await store.create_organization(connection, org_id=org_id, slug=given.slug, name=given.name)
            created = await store.update_organization(connection, _decided(created, given))
            entry = _entry("organization.created", f"organization:{org_id}", slug=given.slug)
            await self._audit.record(connection, Actor(org_id, principal.user_id), entry)
        return created

    async def decide(self, principal: Principal, slug: str, given: PlatformInput) -> Organization:
        """Suspend an organisation or let it go on, and set its plan and owner.

        Raises:
            NotFoundError: There is none.
        """
        org_id = await self._named(slug)
        async with self._database.organization_transaction(org_id) as connection:
            stored = _found(await store.lock_organization(connection, org_id), _NO_ORGANIZATION)
            changed = await store.update_organization(connection, _decided(stored, given))
            entry = _entry("organization.decided", f"organization:{org_id}", suspended=given.suspended)
            await self._audit.record(connection, Actor(org_id, principal.user_id), entry)
        self._changed(org_id)
        return changed

    async def delete_any(self, principal: Principal, slug: str) -> None:
        """Delete an organisation as the platform admin.

        Raises:
            NotFoundError: There is none.
        """
        await self._delete(principal, await self._named(slug))

    async def _delete(self, principal: Principal, org_id: OrgId) -> None:
        """Suspend, run the steps, delete: what fails half-way leaves an organisation that nobody can use."""
        actor = Actor(org_id, principal.user_id)
        async with self._database.organization_transaction(org_id) as connection:
            stored = _found(await store.lock_organization(connection, org_id), _NO_ORGANIZATION)
            await store.update_organization(connection, replace(stored, suspended_at=datetime.now(UTC)))
            begun = _entry("organization.deletion_begun", f"organization:{org_id}", slug=stored.slug)
            await self._audit.record(connection, actor, begun)
        self._changed(org_id)
        for step in self._before_deletion:
            await step(org_id)
        async with self._database.organization_transaction(org_id) as connection:
            await store.delete_organization(connection, org_id)
            entry = _entry("organization.deleted", f"organization:{org_id}", slug=stored.slug)
            await self._audit.record(connection, actor, entry)
        self._changed(org_id)

    async def _named(self, slug: str) -> OrgId:
        async with self._database.directory_transaction(slug) as connection:
            return _found(await store.find_organization(connection, slug), _NO_ORGANIZATION).id

    @asynccontextmanager
    async def _locked(self, principal: Principal) -> AsyncIterator[tuple[Connection, Organization]]:
        async with self._database.tenant_transaction(principal) as connection:
            yield connection, _found(await store.lock_organization(connection, principal.org_id), _NO_ORGANIZATION)

    async def _keep_an_admin(self, connection: Connection, organization: Organization, user_id: UserId) -> None:
        """Refuse to take the role of an admin from the owner or the last one."""
        member = await store.get_member(connection, user_id)
        if member is None or member.removed_at is not None:
            return
        if organization.owner_id == user_id:
            raise ConflictError("The owner stays an admin; transfer the organisation first.")
        is_admin = (member.assigned_role or member.role) is Role.ORG_ADMIN
        if is_admin and not await store.has_other_admins(connection, user_id):
            raise ConflictError("The organisation would have no admin.")

    def _changed(self, org_id: OrgId) -> None:
        self._admission.forget(org_id)
        for callback in self._on_change:
            callback(org_id)


def _require_owner(principal: Principal, organization: Organization) -> None:
    if principal.role is not Role.PLATFORM_ADMIN and organization.owner_id != principal.user_id:
        raise ForbiddenError("Only the owner of the organisation may do this.")


def _decided(organization: Organization, given: PlatformInput) -> Organization:
    suspended_at = (organization.suspended_at or datetime.now(UTC)) if given.suspended else None
    plan = Plan(
        requests_per_minute=given.requests_per_minute,
        max_members=given.max_members,
        max_upstreams=given.max_upstreams,
    )
    owner_id = None if given.owner_id is None else UserId(given.owner_id)
    return replace(organization, suspended_at=suspended_at, plan=plan, owner_id=owner_id)


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _entry(action: str, resource: str, **details: str | bool | None) -> Entry:
    return Entry(action, Outcome.SUCCESS, resource, details)


def _found(thing: _T | None, missing: str) -> _T:
    if thing is None:
        raise NotFoundError(missing)
    return thing
