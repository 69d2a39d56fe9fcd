"""Prompts as principals read, change and compose them, from a short-lived view of the database."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from agentapi.audit.models import DEPLOYMENT, Actor, Entry, Outcome
from agentapi.errors import ConflictError, NotFoundError
from agentapi.identity.permissions import Permission, require
from agentapi.preconditions import ANY, IfMatch
from agentapi.prompts import store
from agentapi.prompts.compose import compose
from agentapi.prompts.detector import findings_in
from agentapi.prompts.models import Scope
from agentapi.storage.notifier import DEAF
from agentapi.tenancy import store as tenancy_store
from agentapi.tenancy.views import TenantViews

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from uuid import UUID

    from agentapi.audit.log import AuditLog
    from agentapi.audit.models import Doer
    from agentapi.principal import Principal
    from agentapi.prompts.compose import Composition
    from agentapi.prompts.models import Content, Prompt, PromptId, PromptVersion, Value
    from agentapi.storage.database import Connection, Database
    from agentapi.storage.notifier import ChangeFeed
    from agentapi.tenancy.models import Workspace

__all__ = ["PromptRegistry"]

_MAX_PROMPTS = 500
"""Of an organisation as one user sees it, and of the deployment: a composition reads them all."""
_MAX_WORKSPACES = 1000
_WRITE = {
    Scope.GLOBAL: Permission.PROMPTS_WRITE_GLOBAL,
    Scope.ORGANIZATION: Permission.PROMPTS_WRITE_ORGANIZATION,
    Scope.WORKSPACE: Permission.PROMPTS_WRITE_ORGANIZATION,
    Scope.USER: Permission.PROMPTS_WRITE_OWN,
}
_NO_WORKSPACE = "There is no such workspace."


class PromptRegistry:
    """Reads, changes and composes prompts, always as a principal.

    Args:
        database: Where they are kept.
        audit: Where changes are recorded: those of global prompts in the log of the deployment.
        clock: Monotonic seconds.
        feed: Tells what other processes change.
        view_ttl_s: How long a composition reads what was read before, for as long as nothing is said to have changed.
    """

    def __init__(
        self,
        database: Database,
        *,
        audit: AuditLog,
        clock: Callable[[], float],
        feed: ChangeFeed = DEAF,
        view_ttl_s: float = 5.0,
    ) -> None:
        self._database = database
        self._audit = audit
        self._views: TenantViews[tuple[Prompt, ...]] = TenantViews(
            clock=clock, ttl_s=view_ttl_s, feed=feed, topics=("prompts", "workspaces")
        )
        self._on_change: list[Callable[[Prompt], None]] = []

    def on_change(self, callback: Callable[[Prompt], None]) -> None:
        """Call ``callback`` with every prompt that this process creates, changes or deletes, once it is done."""
        self._on_change.append(callback)

    def require_write(self, principal: Principal, scope: Scope) -> None:
        """Refuse unless ``principal`` may change prompts of ``scope``.

        Raises:
            ForbiddenError: It may not.
        """
        require(principal, _WRITE[scope])

    async def workspace(self, principal: Principal, slug: str) -> Workspace:
        """Return a workspace of the principal's organisation.

        Raises:
            NotFoundError: There is none of that slug.
        """
        async with self._database.tenant_transaction(principal) as connection:
            return await _workspace(connection, slug)

    async def workspace_slugs(self, principal: Principal) -> dict[UUID, str]:
        """Return the slugs of the organisation's workspaces by id."""
        async with self._database.tenant_transaction(principal) as connection:
            found = await tenancy_store.list_workspaces(connection, limit=_MAX_WORKSPACES)
        return {workspace.id: workspace.slug for workspace in found}

    async def prompt(self, principal: Principal, prompt_id: PromptId) -> Prompt:
        """Return one prompt.

        Raises:
            NotFoundError: There is none that the principal may know of.
        """
        require(principal, Permission.PROMPTS_READ)
        async with self._database.tenant_transaction(principal) as connection:
            return await store.get(connection, principal.org_id, prompt_id)

    async def page(self, principal: Principal, *, after: tuple[str, UUID] | None, limit: int) -> list[Prompt]:
        """Return up to ``limit`` prompts by name, from behind ``after``: global, the organisation's and the own."""
        require(principal, Permission.PROMPTS_READ)
        async with self._database.tenant_transaction(principal) as connection:
            return await store.page(connection, principal.org_id, after=after, limit=limit)

    async def versions(
        self, principal: Principal, prompt: Prompt, *, before: int | None, limit: int
    ) -> list[PromptVersion]:
        """Return up to ``limit`` versions of a prompt, the newest first."""
        require(principal, Permission.PROMPTS_READ)
        async with self._database.tenant_transaction(principal) as connection:
            return await store.page_of_versions(connection, prompt, before=before, limit=limit)

    async def create(self, principal: Principal, prompt: Prompt) -> None:
        """Store a new prompt.

        Raises:
            ForbiddenError: The role may not.
            ConflictError: The name is taken, or there are as many prompts as there may be.
        """
        self.require_write(principal, prompt.scope)
        async with self._writing(principal, prompt.scope) as (connection, doer):
            if await store.count(connection, prompt.org_id) >= _MAX_PROMPTS:
                raise ConflictError(f"There are at most {_MAX_PROMPTS} prompts.")
            await store.insert(connection, prompt)
            await self._audit.record(connection, doer, _entry("prompt.created", prompt))
        self._database.when_committed(lambda: self._changed(principal, prompt))

    async def update(
        self, principal: Principal, stored: Prompt, content: Content, *, expected: IfMatch = ANY
    ) -> Prompt:
        """Store ``content`` as the next version of ``stored``.

        Raises:
            ForbiddenError: The role may not.
            ConflictError: It changed meanwhile.
        """
        self.require_write(principal, stored.scope)
        async with self._writing(principal, stored.scope) as (connection, doer):
            expected.check(await store.hold(connection, stored))
            updated = await store.update(connection, stored, content, principal.user_id)
            await self._audit.record(connection, doer, _entry("prompt.updated", updated))
        self._changed(principal, stored)
        return updated

    async def roll_back(self, principal: Principal, stored: Prompt, version: int, *, expected: IfMatch = ANY) -> Prompt:
        """Store what an earlier version held as the next one, so that nothing of the history is lost.

        Raises:
            ForbiddenError: The role may not.
            NotFoundError: There is no such version.
            ConflictError: It changed meanwhile.
        """
        self.require_write(principal, stored.scope)
        async with self._writing(principal, stored.scope) as (connection, doer):
            expected.check(await store.hold(connection, stored))
            earlier = await store.get_version(connection, stored, version)
            updated = await store.update(connection, stored, earlier.content, principal.user_id)
            entry = _entry("prompt.rolled_back", updated, to_version=version)
            await self._audit.record(connection, doer, entry)
        self._changed(principal, stored)
        return updated

    async def delete(self, principal: Principal, stored: Prompt, *, expected: IfMatch = ANY) -> None:
        """Delete a prompt with all its versions.

        Raises:
            ForbiddenError: The role may not.
            NotFoundError: It is gone.
        """
        self.require_write(principal, stored.scope)
        async with self._writing(principal, stored.scope) as (connection, doer):
            expected.check(await store.hold(connection, stored))
            await store.delete(connection, stored)
            await self._audit.record(connection, doer, _entry("prompt.deleted", stored))
        self._changed(principal, stored)

    async def compose(self, principal: Principal, workspace: str, values: Mapping[str, Value]) -> Composition:
        """Return one text of all prompts that hold for the principal in a workspace, by slug.

        Raises:
            NotFoundError: There is no such workspace.
            InvalidRequestError: The values do not fit the declared variables.
        """
        require(principal, Permission.PROMPTS_GET)
        return compose(await self.holding(principal, workspace), values)

    async def holding(self, principal: Principal, workspace: str) -> tuple[Prompt, ...]:
        """Return the prompts that hold for the principal in a workspace, by slug.

        Raises:
            NotFoundError: There is no such workspace.
        """

        async def everywhere() -> tuple[Prompt, ...]:
            async with self._database.organization_transaction(DEPLOYMENT) as connection:
                return tuple(await store.list_global(connection))

        async def here() -> tuple[Prompt, ...]:
            async with self._database.tenant_transaction(principal) as connection:
                found = await _workspace(connection, workspace)
                return tuple(await store.list_tenant(connection, principal.org_id, found.id))

        own = await self._views.get(principal.org_id, (principal.user_id, workspace), here)
        return (*await self._views.get(DEPLOYMENT, None, everywhere), *own)

    @asynccontextmanager
    async def _writing(self, principal: Principal, scope: Scope) -> AsyncIterator[tuple[Connection, Doer]]:
        """Open the transaction in which prompts of ``scope`` can be written, and say in whose log that is recorded."""
        if scope is Scope.GLOBAL:
            async with self._database.organization_transaction(DEPLOYMENT) as connection:
                yield connection, Actor(DEPLOYMENT, principal.user_id)
        else:
            async with self._database.tenant_transaction(principal) as connection:
                yield connection, principal

    def _changed(self, principal: Principal, prompt: Prompt) -> None:
        self._views.forget(DEPLOYMENT if prompt.scope is Scope.GLOBAL else principal.org_id)
        for callback in self._on_change:
            callback(prompt)


async def _workspace(connection: Connection, slug: str) -> Workspace:
    found = await tenancy_store.find_workspace(connection, slug)
    if found is None:
        raise NotFoundError(_NO_WORKSPACE)
    return found


def _entry(action: str, prompt: Prompt, **details: int) -> Entry:
    given: dict[str, str | int | bool | None] = {
        "name": prompt.name,
        "scope": str(prompt.scope),
        "version": prompt.version,
        "findings": len(findings_in(prompt.content.text)),
        **details,
    }
    return Entry(action, Outcome.SUCCESS, f"prompt:{prompt.id}", given)
