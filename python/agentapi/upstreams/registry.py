"""The registered upstream servers of an organisation: changes go to the database, calls read a short-lived view."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from agentapi.audit.models import Entry, Outcome
from agentapi.errors import NotFoundError
from agentapi.identity.permissions import Permission, require
from agentapi.preconditions import ANY, IfMatch
from agentapi.storage.notifier import DEAF
from agentapi.tenancy import store as tenancy_store
from agentapi.tenancy.models import is_slug
from agentapi.tenancy.views import TenantViews
from agentapi.upstreams import store
from agentapi.upstreams.models import Scope

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from agentapi.audit.log import AuditLog
    from agentapi.principal import OrgId, Principal, UpstreamId, WorkspaceId
    from agentapi.storage.database import Connection, Database
    from agentapi.storage.notifier import ChangeFeed
    from agentapi.tenancy.models import Workspace
    from agentapi.upstreams.models import Upstream

    DeletionStep = Callable[[Upstream], Awaitable[Callable[[], Awaitable[object]]]]

__all__ = ["UpstreamRegistry", "WorkspaceView", "upstream_entry"]

_NO_WORKSPACE = "There is no such workspace."
_MAX_WORKSPACES = 10_000


@dataclass(frozen=True, slots=True)
class WorkspaceView:
    """What one principal sees of a workspace: its enabled upstreams."""

    workspace: Workspace
    upstreams: tuple[Upstream, ...]


class UpstreamRegistry:
    """Reads and changes the upstreams of organisations, always as a principal.

    Args:
        database: Where they are.
        audit: Where changes are recorded.
        feed: Tells what other processes change.
        view_ttl_s: How long a view is served without asking again, for as long as nothing is said to have changed.
        clock: Monotonic seconds.
        max_views: Bound on remembered views.
    """

    def __init__(
        self,
        database: Database,
        *,
        audit: AuditLog,
        clock: Callable[[], float],
        feed: ChangeFeed = DEAF,
        view_ttl_s: float = 5.0,
        max_views: int = 10_000,
    ) -> None:
        self._database = database
        self._audit = audit
        self._views: TenantViews[WorkspaceView] = TenantViews(
            clock=clock, ttl_s=view_ttl_s, feed=feed, topics=("upstreams", "workspaces"), max_views=max_views
        )
        self._on_change: list[Callable[[Upstream], None]] = []
        self._on_end: list[Callable[[UpstreamId, int], None]] = []
        self._with_deletion: list[DeletionStep] = []

    def on_change(self, callback: Callable[[Upstream], None]) -> None:
        """Call ``callback`` with every upstream that this process creates, changes or deletes, once it is done."""
        self._on_change.append(callback)

    def on_end(self, callback: Callable[[UpstreamId, int], None]) -> None:
        """Call ``callback`` with the id and the version of what this process replaces or deletes, once it is done."""
        self._on_end.append(callback)

    def with_deletion(self, step: DeletionStep) -> None:
        """Run ``step`` in the transaction that deletes an upstream, and what it returns once that is committed."""
        self._with_deletion.append(step)

    def forget(self, org_id: OrgId) -> None:
        """Read an organisation's workspaces anew from the next request on."""
        self._views.forget(org_id)

    async def view(self, principal: Principal, workspace_slug: str) -> WorkspaceView:
        """Return the workspace and its enabled upstreams as ``principal`` sees them.

        Raises:
            NotFoundError: The organisation has no such workspace.
        """
        # By the number, since Python hashes an id by a function written in Python, and this is asked for each request.
        key = (principal.user_id.int, workspace_slug)
        at_hand = self._views.at_hand(principal.org_id, key)
        if at_hand is not None:
            return at_hand
        if not is_slug(workspace_slug):
            raise NotFoundError(_NO_WORKSPACE)

        async def load() -> WorkspaceView:
            async with self._database.tenant_transaction(principal) as connection:
                workspace = await tenancy_store.find_workspace(connection, workspace_slug)
                if workspace is None:
                    raise NotFoundError(_NO_WORKSPACE)
                upstreams = await store.list_for_workspace(connection, workspace.id)
            return WorkspaceView(workspace, tuple(upstreams))

        return await self._views.get(principal.org_id, key, load)

    async def workspace(self, principal: Principal, slug: str) -> Workspace:
        """Return a workspace of the principal's organisation.

        Raises:
            NotFoundError: There is none of that slug.
        """
        if not is_slug(slug):
            raise NotFoundError(_NO_WORKSPACE)
        async with self._database.tenant_transaction(principal) as connection:
            workspace = await tenancy_store.find_workspace(connection, slug)
        if workspace is None:
            raise NotFoundError(_NO_WORKSPACE)
        return workspace

    async def workspace_slugs(self, principal: Principal) -> dict[WorkspaceId, str]:
        """Return the slugs of the organisation's workspaces by id."""
        async with self._database.tenant_transaction(principal) as connection:
            workspaces = await tenancy_store.list_workspaces(connection, limit=_MAX_WORKSPACES)
        return {workspace.id: workspace.slug for workspace in workspaces}

    def require_write(self, principal: Principal, scope: Scope) -> None:
        """Refuse unless ``principal`` may change upstreams of ``scope``.

        Raises:
            ForbiddenError: It may not.
        """
        own = scope is Scope.USER
        require(principal, Permission.UPSTREAMS_WRITE_OWN if own else Permission.UPSTREAMS_WRITE_ORGANIZATION)

    async def get(self, principal: Principal, upstream_id: UpstreamId) -> Upstream:
        """Return one upstream.

        Raises:
            NotFoundError: There is none that the principal may see.
        """
        require(principal, Permission.UPSTREAMS_READ)
        async with self._database.tenant_transaction(principal) as connection:
            return await store.get_upstream(connection, upstream_id)

    async def named(self, principal: Principal, workspace_id: WorkspaceId, name: str) -> Upstream | None:
        """Return the upstream of that name in a workspace, enabled or not, if ``principal`` sees one."""
        if not is_slug(name):
            return None
        async with self._database.tenant_transaction(principal) as connection:
            return await store.find_upstream(connection, workspace_id, name)

    async def page(
        self,
        principal: Principal,
        *,
        workspace_id: WorkspaceId | None,
        after: tuple[str, UpstreamId] | None,
        limit: int,
    ) -> list[Upstream]:
        """Return up to ``limit`` upstreams in order of name and id, from behind ``after``."""
        require(principal, Permission.UPSTREAMS_READ)
        async with self._database.tenant_transaction(principal) as connection:
            return await store.list_upstreams(connection, workspace_id=workspace_id, after=after, limit=limit)

    async def create(self, principal: Principal, upstream: Upstream) -> None:
        """Store a new upstream.

        Raises:
            ForbiddenError: The role may not create one of this scope.
            ConflictError: The name is taken.
        """
        self.require_write(principal, upstream.scope)
        async with self._database.tenant_transaction(principal) as connection:
            await store.insert_upstream(connection, upstream)
            await self._audit.record(connection, principal, upstream_entry("upstream.created", upstream))
        self._database.when_committed(lambda: self._changed(upstream))

    async def update(self, principal: Principal, upstream: Upstream, *, expected: IfMatch = ANY) -> Upstream:
        """Replace a stored upstream whose version is still ``upstream.version``.

        Raises:
            ForbiddenError: The role may not change it.
            PreconditionFailedError: The stored version is not ``expected``.
            ConflictError: It changed meanwhile, or the name is taken.
        """
        self.require_write(principal, upstream.scope)
        async with self._database.tenant_transaction(principal) as connection:
            expected.check((await store.hold_upstream(connection, upstream.id)).version)
            updated = await store.update_upstream(connection, upstream, now=datetime.now(UTC))
            await self._audit.record(connection, principal, upstream_entry("upstream.updated", updated))
        self._changed(updated, ended=updated.version - 1)
        return updated

    async def delete(self, principal: Principal, upstream_id: UpstreamId, *, expected: IfMatch = ANY) -> None:
        """Delete an upstream.

        Raises:
            NotFoundError: There is none that the principal may see.
            ForbiddenError: The role may not delete it.
            PreconditionFailedError: The stored version is not ``expected``.
        """
        upstream = await self.get(principal, upstream_id)
        self.require_write(principal, upstream.scope)
        expected.check(upstream.version)
        async with self._database.together(_nothing_first) as together:
            async with self._database.tenant_transaction(principal) as connection:
                upstream = await store.hold_upstream(connection, upstream_id)
            expected.check(upstream.version)
            afterwards = [await step(upstream) for step in self._with_deletion]
            async with self._database.tenant_transaction(principal) as connection:
                await store.delete_upstream(connection, upstream_id)
                await self._audit.record(connection, principal, upstream_entry("upstream.deleted", upstream))
            await together.commit()
        self._changed(upstream, ended=upstream.version)
        for afterward in afterwards:
            await afterward()

    def _changed(self, upstream: Upstream, *, ended: int = 0) -> None:
        """Tell of a change, and of the version that it ended, if any."""
        self._views.forget(upstream.org_id)
        if ended:
            for end in self._on_end:
                end(upstream.id, ended)
        for callback in self._on_change:
            callback(upstream)


async def _nothing_first(_: Connection) -> None:
    """Begin with nothing of its own."""


def upstream_entry(action: str, upstream: Upstream) -> Entry:
    """Return a change as the audit log has it; of the address only where it is, since the rest may be a secret."""
    return Entry(
        action,
        Outcome.SUCCESS,
        f"upstream:{upstream.id}",
        {
            "name": upstream.name,
            "workspace_id": str(upstream.workspace_id),
            "transport": upstream.transport,
            "host": urlsplit(upstream.endpoint or "").hostname,
            "auth": upstream.auth,
            "scope": upstream.scope,
            "enabled": upstream.enabled,
            "version": upstream.version,
        },
    )
