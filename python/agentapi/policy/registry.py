"""Policies, toolsets and approvals of an organisation: changes go to the database, calls read a short-lived view."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import structlog

from agentapi.audit.models import Entry, Outcome
from agentapi.errors import AgentAPIError, ConflictError, NotFoundError
from agentapi.identity.permissions import Permission, permits, require
from agentapi.policy import store
from agentapi.policy.fingerprints import described, stored_name
from agentapi.policy.models import ApprovalState, ToolPolicy
from agentapi.policy.requests import compiled
from agentapi.preconditions import ANY, IfMatch
from agentapi.storage.notifier import DEAF
from agentapi.tenancy.views import TenantViews

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any
    from uuid import UUID

    from agentapi.audit.log import AuditLog
    from agentapi.policy.models import Approval, ApprovalId, StoredPolicy, Toolset, ToolsetId
    from agentapi.policy.requests import PolicyInput
    from agentapi.principal import Principal, UpstreamId, UserId, WorkspaceId
    from agentapi.storage.database import Connection, Database
    from agentapi.storage.notifier import ChangeFeed
    from agentapi.tenancy.models import Workspace
    from agentapi.upstreams.models import Upstream

    _Known = Mapping[tuple[UpstreamId, str], Mapping[bytes, ApprovalState]]
    """How the definitions of each tool stand, by upstream and stored name."""

__all__ = ["PolicyRegistry", "WorkspacePolicy"]

_K = TypeVar("_K")
_V = TypeVar("_V")

_log = structlog.get_logger(__name__)

_MAX_TOOLSETS = 1000
_MAX_DEFINITION = 64 * 1024
"""Characters of a definition that is kept for an admin to look at."""
_MAX_REMEMBERED = 1000
_NO_TOOLSET = "There is no such workspace."
"""An unknown toolset reads like an unknown workspace."""


@dataclass(frozen=True, slots=True)
class WorkspacePolicy:
    """What holds in a workspace, as one principal sees it."""

    workspace_id: WorkspaceId
    version: int
    policy: ToolPolicy
    toolsets: Mapping[str, Toolset]
    shared: _Known
    private: _Known

    def toolset(self, name: str | None) -> Toolset | None:
        """Return the toolset of that name; none was asked for where it is None.

        Raises:
            NotFoundError: The workspace has no such toolset.
        """
        if name is None:
            return None
        found = self.toolsets.get(name)
        if found is None:
            raise NotFoundError(_NO_TOOLSET)
        return found

    def known(self, upstream: Upstream, tool: str) -> Mapping[bytes, ApprovalState]:
        """Return how the definitions of a tool stand that somebody has met."""
        key = (upstream.id, stored_name(tool))
        return (self.shared if upstream.owner_id is None else self.private).get(key, {})

    def state(self, upstream: Upstream, tool: str, fingerprint: bytes) -> ApprovalState:
        """Return how a definition stands; what nobody has met stands as it will when it is recorded."""
        known = self.known(upstream, tool)
        state = known.get(fingerprint)
        if state is not None:
            return state
        if not known:
            return self.first
        return ApprovalState.HELD if ApprovalState.HELD in known.values() else ApprovalState.CHANGED

    @property
    def first(self) -> ApprovalState:
        """The state of the first definition of a tool."""
        return ApprovalState.HELD if self.policy.require_approval else ApprovalState.APPROVED


class PolicyRegistry:
    """Reads and changes what holds in workspaces, always as a principal.

    Args:
        database: Where it is kept.
        audit: Where changes are recorded.
        clock: Monotonic seconds.
        feed: Tells what other processes change.
        view_ttl_s: How long a view is served without asking again, for as long as nothing is said to have changed.
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
        topics = ("tool_policies", "toolsets", "tool_approvals", "tool_approval_revisions")
        self._views: TenantViews[WorkspacePolicy] = TenantViews(clock=clock, ttl_s=view_ttl_s, feed=feed, topics=topics)
        self._compiled: OrderedDict[WorkspaceId, tuple[int, ToolPolicy]] = OrderedDict()
        self._known: OrderedDict[tuple[WorkspaceId, UserId | None], tuple[int, _Known]] = OrderedDict()
        self._on_change: list[Callable[[WorkspaceId], None]] = []

    def on_change(self, callback: Callable[[WorkspaceId], None]) -> None:
        """Call ``callback`` with every workspace whose lists may be others once somebody has changed what holds."""
        self._on_change.append(callback)

    async def view(self, principal: Principal, workspace_id: WorkspaceId) -> WorkspacePolicy:
        """Return what holds in a workspace of the principal's organisation."""
        key = (principal.user_id.int, workspace_id)
        at_hand = self._views.at_hand(principal.org_id, key)
        if at_hand is not None:
            return at_hand

        async def load() -> WorkspacePolicy:
            async with self._database.tenant_transaction(principal) as connection:
                # The number first: a change that comes between the two reads is then read twice, not never.
                revision = await store.approval_revision(connection, workspace_id)
                stored = await store.get_policy(connection, workspace_id)
                toolsets = await store.list_toolsets(connection, workspace_id, limit=_MAX_TOOLSETS)
                shared = await self._definitions(connection, workspace_id, None, revision)
                private = await self._definitions(connection, workspace_id, principal.user_id, revision)
            return WorkspacePolicy(
                workspace_id,
                stored.version,
                self._compile(workspace_id, stored),
                {toolset.name: toolset for toolset in toolsets},
                shared,
                private,
            )

        return await self._views.get(principal.org_id, key, load)

    async def record(
        self,
        principal: Principal,
        view: WorkspacePolicy,
        upstream: Upstream,
        definitions: Mapping[str, tuple[bytes, dict[str, Any]]],
    ) -> bool:
        """Record definitions that ``view`` does not know, by tool, and return whether that succeeded.

        Of any number of processes that meet a definition one tells the log.

        It is no part of the request in which they were met: where it fails, the next list tries again, and until then
        they stand as if it had succeeded.
        """
        texts = {tool: described(definition) for tool, (_, definition) in definitions.items()}
        met = [
            (stored_name(tool), digest, texts[tool] if len(texts[tool]) <= _MAX_DEFINITION else None)
            for tool, (digest, _) in definitions.items()
        ]
        try:
            async with self._database.tenant_transaction(principal) as connection:
                recorded = await store.record_definitions(connection, upstream, met, first=view.first)
        except AgentAPIError as error:
            _log.warning("tool_definitions_not_recorded", upstream=upstream.name, reason=error.message)
            return False
        self._views.forget(principal.org_id)
        for tool, state in recorded:
            if state is not ApprovalState.APPROVED:
                _log.warning("tool_definition_unapproved", upstream=upstream.name, tool=tool, state=state)
        return True

    async def policy(self, principal: Principal, workspace: Workspace) -> StoredPolicy:
        """Return the policy of a workspace as it was put."""
        require(principal, Permission.POLICY_READ)
        async with self._database.tenant_transaction(principal) as connection:
            return await store.get_policy(connection, workspace.id)

    async def put_policy(
        self,
        principal: Principal,
        workspace: Workspace,
        document: PolicyInput,
        *,
        over: int | None = None,
        expected: IfMatch = ANY,
    ) -> StoredPolicy:
        """Store the policy of a workspace over its version ``over``, or over the one that is there.

        Raises:
            ForbiddenError: The role may not.
            PreconditionFailedError: The stored version is not ``expected``.
            ConflictError: It was changed meanwhile.
        """
        require(principal, Permission.POLICY_WRITE)
        async with self._database.tenant_transaction(principal) as connection:
            version = (await store.get_policy(connection, workspace.id, hold=True)).version
            expected.check(version)
            try:
                stored = await store.put_policy(
                    connection, principal, workspace.id, document, over=version if over is None else over
                )
            except ConflictError:
                # The first policy of a workspace has no row that could be held.
                expected.check((await store.get_policy(connection, workspace.id)).version)
                raise
            entry = Entry("policy.updated", Outcome.SUCCESS, f"workspace:{workspace.id}", {"version": stored.version})
            await self._audit.record(connection, principal, entry)
        self._changed(principal, workspace.id)
        return stored

    async def toolset(self, principal: Principal, toolset_id: ToolsetId) -> Toolset:
        """Return one toolset.

        Raises:
            NotFoundError: The organisation has none of that id.
        """
        require(principal, Permission.TOOLSETS_READ)
        async with self._database.tenant_transaction(principal) as connection:
            return await store.get_toolset(connection, toolset_id)

    async def page_of_toolsets(
        self, principal: Principal, workspace: Workspace, *, after: tuple[str, UUID] | None, limit: int
    ) -> list[Toolset]:
        """Return up to ``limit`` toolsets in order of name, from behind ``after``."""
        require(principal, Permission.TOOLSETS_READ)
        async with self._database.tenant_transaction(principal) as connection:
            return await store.list_toolsets(connection, workspace.id, after=after, limit=limit)

    async def create_toolset(self, principal: Principal, toolset: Toolset) -> None:
        """Store a new toolset.

        Raises:
            ForbiddenError: The role may not.
            ConflictError: The name is taken, or the workspace has as many as it may have.
        """
        require(principal, Permission.POLICY_WRITE)
        async with self._database.tenant_transaction(principal) as connection:
            there = await store.list_toolsets(connection, toolset.workspace_id, limit=_MAX_TOOLSETS)
            if len(there) >= _MAX_TOOLSETS:
                raise ConflictError(f"A workspace has at most {_MAX_TOOLSETS} toolsets.")
            await store.insert_toolset(connection, toolset)
            await self._audit.record(connection, principal, _entry("toolset.created", toolset))
        self._database.when_committed(lambda: self._changed(principal, toolset.workspace_id))

    async def update_toolset(self, principal: Principal, toolset: Toolset, *, expected: IfMatch = ANY) -> Toolset:
        """Replace a stored toolset whose version is still ``toolset.version``.

        Raises:
            ForbiddenError: The role may not.
            ConflictError: It changed meanwhile, or the name is taken.
        """
        require(principal, Permission.POLICY_WRITE)
        async with self._database.tenant_transaction(principal) as connection:
            expected.check((await store.get_toolset(connection, toolset.id, hold=True)).version)
            updated = await store.update_toolset(connection, toolset)
            await self._audit.record(connection, principal, _entry("toolset.updated", updated))
        self._changed(principal, toolset.workspace_id)
        return updated

    async def delete_toolset(self, principal: Principal, toolset_id: ToolsetId, *, expected: IfMatch = ANY) -> None:
        """Delete a toolset.

        Raises:
            ForbiddenError: The role may not.
            NotFoundError: The organisation has none of that id.
        """
        require(principal, Permission.POLICY_WRITE)
        async with self._database.tenant_transaction(principal) as connection:
            toolset = await store.get_toolset(connection, toolset_id, hold=True)
            expected.check(toolset.version)
            await store.delete_toolset(connection, toolset_id)
            await self._audit.record(connection, principal, _entry("toolset.deleted", toolset))
        # Streams of the toolset's own address may still be open.
        self._changed(principal, toolset.workspace_id)

    async def page_of_approvals(
        self,
        principal: Principal,
        workspace: Workspace,
        *,
        state: ApprovalState | None,
        after: tuple[str, UUID] | None,
        limit: int,
    ) -> list[Approval]:
        """Return up to ``limit`` definitions of tools by name, from behind ``after``.

        Who may not read policies sees those of the own private upstreams.
        """
        require(principal, Permission.UPSTREAMS_READ)
        private_only = not permits(principal, Permission.POLICY_READ)
        async with self._database.tenant_transaction(principal) as connection:
            return await store.list_approvals(
                connection, workspace.id, state=state, private_only=private_only, after=after, limit=limit
            )

    async def decide(self, principal: Principal, approval_id: ApprovalId, state: ApprovalState) -> Approval:
        """Approve or hold one definition of a tool: an admin any of the organisation, an owner those of the own.

        Raises:
            ForbiddenError: The role may not.
            NotFoundError: There is none that the principal may see.
        """
        async with self._database.tenant_transaction(principal) as connection:
            approval = await store.get_approval(connection, approval_id)
            own = approval.owner_id is not None
            require(principal, Permission.UPSTREAMS_WRITE_OWN if own else Permission.POLICY_WRITE)
            await store.decide_approval(connection, principal, approval, state)
            decided = await store.get_approval(connection, approval_id)
            details = {"tool": approval.tool, "state": str(state), "before": str(approval.state)}
            entry = Entry("approval.decided", Outcome.SUCCESS, f"upstream:{approval.upstream_id}", details)
            await self._audit.record(connection, principal, entry)
        self._changed(principal, approval.workspace_id)
        return decided

    def _changed(self, principal: Principal, workspace_id: WorkspaceId) -> None:
        self._views.forget(principal.org_id)
        for callback in self._on_change:
            callback(workspace_id)

    async def _definitions(
        self, connection: Connection, workspace_id: WorkspaceId, owner_id: UserId | None, revision: int
    ) -> _Known:
        key = (workspace_id, owner_id)
        remembered = self._known.get(key)
        if remembered is not None and remembered[0] == revision:
            self._known.move_to_end(key)
            return remembered[1]
        known = await store.known_definitions(connection, workspace_id, owner_id)
        _remember(self._known, key, (revision, known))
        return known

    def _compile(self, workspace_id: WorkspaceId, stored: StoredPolicy) -> ToolPolicy:
        remembered = self._compiled.get(workspace_id)
        if remembered is not None and remembered[0] == stored.version:
            return remembered[1]
        policy = compiled(stored.document)
        _remember(self._compiled, workspace_id, (stored.version, policy))
        return policy


def _entry(action: str, toolset: Toolset) -> Entry:
    return Entry(
        action,
        Outcome.SUCCESS,
        f"toolset:{toolset.id}",
        {"name": toolset.name, "workspace_id": str(toolset.workspace_id), "version": toolset.version},
    )


def _remember(memory: OrderedDict[_K, _V], key: _K, value: _V) -> None:
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > _MAX_REMEMBERED:
        memory.popitem(last=False)
