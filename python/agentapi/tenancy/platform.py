"""What the platform admin decides of organisations, and the deletion of one, each with its row in the audit log."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeVar
from uuid import uuid4

from agentapi.audit.models import Actor, Entry, Outcome
from agentapi.errors import FieldError, InvalidRequestError, NotFoundError
from agentapi.preconditions import ANY, IfMatch
from agentapi.principal import OrgId, Role, UserId
from agentapi.tenancy import store

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from agentapi.audit.log import AuditLog
    from agentapi.principal import Principal
    from agentapi.storage.database import Connection, Database
    from agentapi.tenancy.models import Organization
    from agentapi.tenancy.requests import NewOrganizationInput, PlatformInput

__all__ = ["NO_ORGANIZATION", "Platform", "audit_entry", "changed_entry", "found"]

_T = TypeVar("_T")

_AT_ONCE: Final = 200
NO_ORGANIZATION: Final = "There is no such organization."


class Platform:
    """Makes, judges and deletes organisations.

    Args:
        database: Where they are.
        audit: Is told of each change.
        before_deletion: Run with every organisation that is about to be deleted: what no row can do by going.
        changed: Called with every organisation whose row changed.
    """

    def __init__(
        self,
        database: Database,
        *,
        audit: AuditLog,
        before_deletion: Sequence[Callable[[OrgId], Awaitable[object]]],
        changed: Callable[[OrgId], None],
    ) -> None:
        self._database = database
        self._audit = audit
        self._before_deletion = before_deletion
        self._changed = changed

    async def page(self, *, after: str, limit: int) -> list[Organization]:
        """Return the organisations of the deployment in the order of their slugs."""
        async with self._database.platform_transaction() as connection:
            return await store.list_organizations(connection, after=after, limit=limit)

    async def for_each(self, step: Callable[[OrgId], Awaitable[object]]) -> None:
        """Do ``step`` for every organisation, one after the other."""
        after = ""
        while found := await self.page(after=after, limit=_AT_ONCE):
            for organization in found:
                await step(organization.id)
            after = found[-1].slug

    async def named(self, slug: str) -> Organization:
        """Return an organisation of the deployment.

        Raises:
            NotFoundError: There is none.
        """
        async with self._database.directory_transaction(slug) as connection:
            return found(await store.find_organization(connection, slug), NO_ORGANIZATION)

    async def create(self, principal: Principal, given: NewOrganizationInput) -> Organization:
        """Create an organisation.

        Raises:
            ConflictError: The slug is taken.
        """
        org_id = OrgId(uuid4())
        async with self._database.organization_transaction(org_id) as connection:
            created = await store.create_organization(connection, org_id=org_id, slug=given.slug, name=given.name)
            created = await store.update_organization(connection, _decided(created, given))
            entry = audit_entry("organization.created", f"organization:{org_id}", slug=given.slug)
            await self._audit.record(connection, Actor(org_id, principal.user_id), entry)
        return created

    async def decide(
        self, principal: Principal, slug: str, given: PlatformInput, *, expected: IfMatch = ANY
    ) -> Organization:
        """Suspend an organisation or let it go on, set its plan, and its owner where one is given.

        Raises:
            NotFoundError: There is none.
            InvalidRequestError: The new owner is no admin of it.
        """
        org_id = (await self.named(slug)).id
        async with self._database.organization_transaction(org_id) as connection:
            stored = found(await store.lock_organization(connection, org_id), NO_ORGANIZATION)
            expected.check(stored.version, stored.id)
            decided = _decided(stored, given)
            if decided.owner_id is not None and decided.owner_id != stored.owner_id:
                await _require_admin(connection, decided.owner_id)
            changed = await store.update_organization(connection, decided)
            entry = changed_entry("organization.decided", stored, changed)
            await self._audit.record(connection, Actor(org_id, principal.user_id), entry)
        self._changed(org_id)
        return changed

    async def delete_named(self, principal: Principal, slug: str, *, expected: IfMatch = ANY) -> None:
        """Delete an organisation as the platform admin.

        Raises:
            NotFoundError: There is none.
        """
        await self.delete(principal, (await self.named(slug)).id, expected=expected)

    async def delete(self, principal: Principal, org_id: OrgId, *, expected: IfMatch = ANY) -> None:
        """Suspend, run the steps, delete: what fails half-way leaves an organisation that nobody can use.

        Raises:
            NotFoundError: There is none.
        """
        actor = Actor(org_id, principal.user_id)
        async with self._database.organization_transaction(org_id) as connection:
            stored = found(await store.lock_organization(connection, org_id), NO_ORGANIZATION)
            expected.check(stored.version, stored.id)
            await store.update_organization(connection, replace(stored, suspended_at=datetime.now(UTC)))
            begun = audit_entry("organization.deletion_begun", f"organization:{org_id}", slug=stored.slug)
            await self._audit.record(connection, actor, begun)
        self._changed(org_id)
        for step in self._before_deletion:
            await step(org_id)
        async with self._database.organization_transaction(org_id) as connection:
            await store.delete_organization(connection, org_id)
            entry = audit_entry("organization.deleted", f"organization:{org_id}", slug=stored.slug)
            await self._audit.record(connection, actor, entry)
        self._changed(org_id)


def _decided(organization: Organization, given: PlatformInput) -> Organization:
    suspended_at = (organization.suspended_at or datetime.now(UTC)) if given.suspended else None
    owner_id = organization.owner_id
    if "owner_id" in given.model_fields_set:
        owner_id = None if given.owner_id is None else UserId(given.owner_id)
    return replace(organization, suspended_at=suspended_at, plan=given.plan(), owner_id=owner_id)


async def _require_admin(connection: Connection, user_id: UserId) -> None:
    member = await store.get_member(connection, user_id)
    if member is None or member.removed_at is not None or (member.assigned_role or member.role) is not Role.ORG_ADMIN:
        detail = "The owner has to be an admin of the organisation."
        raise InvalidRequestError(detail, (FieldError("/owner_id", detail),))


def changed_entry(action: str, stored: Organization, changed: Organization) -> Entry:
    """Return a change of an organisation as the audit log has it: what each field that differs is, and was."""
    before, after = _plain(stored), _plain(changed)
    differing = [name for name, value in after.items() if before[name] != value]
    details = {name: after[name] for name in differing} | {f"{name}_was": before[name] for name in differing}
    return audit_entry(action, f"organization:{stored.id}", **details)


def _plain(organization: Organization) -> dict[str, str | int | None]:
    return {
        "slug": organization.slug,
        "name": organization.name,
        "join_rule": str(organization.join_rule),
        "suspended": organization.suspended_at is not None,
        "owner_id": None if organization.owner_id is None else str(organization.owner_id),
        **asdict(organization.plan),
    }


def audit_entry(action: str, resource: str, **details: str | int | None) -> Entry:
    """Return a change as the audit log has it."""
    return Entry(action, Outcome.SUCCESS, resource, details)


def found(thing: _T | None, missing: str) -> _T:
    """Return what was looked for.

    Raises:
        NotFoundError: It was not found, which is told in the words ``missing``.
    """
    if thing is None:
        raise NotFoundError(missing)
    return thing
