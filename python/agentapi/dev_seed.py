"""The demo organisation of ``agentapi dev``: its rows, and what the audit log says of them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from agentapi._core import Keyring, KeyringError
from agentapi.audit.log import AuditLog
from agentapi.audit.models import Entry, Outcome, Source
from agentapi.errors import StartupError
from agentapi.principal import OrgId, Principal, Role, UpstreamId, WorkspaceId
from agentapi.storage.database import Database
from agentapi.tenancy import store as tenancy_store
from agentapi.tenancy.models import user_id_of
from agentapi.upstreams import store as upstream_store
from agentapi.upstreams.models import Scope, Upstream
from agentapi.upstreams.registry import upstream_entry
from agentapi.upstreams.secrets import seal_secret

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentapi.identity.token_issuer import TokenIssuer
    from agentapi.settings import Settings
    from agentapi.tenancy.models import Workspace
    from agentapi.upstreams.mcp_servers import DeclaredServer

__all__ = ["ORGANIZATION", "SUBJECT", "WORKSPACE", "seed"]

ORGANIZATION: Final = "demo"
WORKSPACE: Final = "main"
SUBJECT: Final = "developer"

_MAX_SERVERS: Final = 1000
_SOURCE: Final = Source(agent="agentapi dev")


async def seed(settings: Settings, issuer: TokenIssuer, servers: Sequence[DeclaredServer]) -> None:
    """Bring the demo organisation to what was declared; what a person added stays.

    Raises:
        StartupError: The keyring of the data directory cannot be used.
    """
    if settings.database_url is None or settings.keyring is None:
        raise AssertionError
    try:
        keyring = Keyring.parse(settings.keyring.get_secret_value())
    except KeyringError as error:
        raise StartupError(f"The keyring in {settings.data_dir} cannot be used: {error}; move it away.") from None
    database = await Database.connect(
        settings.database_url.get_secret_value(),
        pool_min=1,
        pool_max=1,
        timeout_s=settings.database_timeout_s,
    )
    try:
        audit = AuditLog(database)
        principal = await _demo_principal(database, audit, issuer)
        async with database.tenant_transaction(principal) as connection:

            async def record(entry: Entry) -> None:
                await audit.record(connection, principal, entry, _SOURCE)

            workspace = await tenancy_store.find_workspace(connection, WORKSPACE)
            if workspace is None:
                workspace = await tenancy_store.create_workspace(
                    connection,
                    workspace_id=WorkspaceId(uuid4()),
                    org_id=principal.org_id,
                    slug=WORKSPACE,
                    name="Main",
                )
                made = Entry("workspace.created", Outcome.SUCCESS, f"workspace:{workspace.id}", {"slug": WORKSPACE})
                await record(made)
            stored = await upstream_store.list_upstreams(connection, workspace_id=workspace.id, limit=_MAX_SERVERS)
            existing = {upstream.name: upstream for upstream in stored}
            for upstream in stored:
                if (
                    upstream.command is not None
                    and upstream.command not in settings.stdio_commands
                    and upstream.enabled
                ):
                    # Declared in an earlier run and not in this one, so there is nothing to run.
                    disabled = replace(upstream, enabled=False)
                    disabled = await upstream_store.update_upstream(connection, disabled, now=datetime.now(UTC))
                    existing[upstream.name] = disabled
                    await record(upstream_entry("upstream.updated", disabled))
            for server in servers:
                upstream = _as_upstream(server, principal, workspace, keyring, existing.get(server.name))
                if server.name in existing:
                    changed = await upstream_store.update_upstream(connection, upstream, now=upstream.updated_at)
                    await record(upstream_entry("upstream.updated", changed))
                else:
                    await upstream_store.insert_upstream(connection, upstream)
                    await record(upstream_entry("upstream.created", upstream))
    finally:
        await database.close()


async def _demo_principal(database: Database, audit: AuditLog, issuer: TokenIssuer) -> Principal:
    async with database.directory_transaction(ORGANIZATION) as connection:
        found = await tenancy_store.find_organization(connection, ORGANIZATION)
    org_id = found.id if found is not None else OrgId(uuid4())
    principal = Principal(
        user_id=user_id_of(issuer.issuer, SUBJECT),
        org_id=org_id,
        org_slug=ORGANIZATION,
        role=Role.ORG_ADMIN,
        issuer=issuer.issuer,
        subject=SUBJECT,
    )
    if found is None:
        async with database.tenant_transaction(principal) as connection:
            await tenancy_store.create_organization(connection, org_id=org_id, slug=ORGANIZATION, name="Demo")
            entry = Entry("organization.created", Outcome.SUCCESS, f"organization:{org_id}", {"slug": ORGANIZATION})
            await audit.record(connection, principal, entry, _SOURCE)
    return principal


def _as_upstream(
    server: DeclaredServer,
    principal: Principal,
    workspace: Workspace,
    keyring: Keyring,
    existing: Upstream | None,
) -> Upstream:
    now = datetime.now(UTC)
    upstream = existing or Upstream(
        id=UpstreamId(uuid4()),
        org_id=principal.org_id,
        workspace_id=workspace.id,
        name=server.name,
        transport=server.transport,
        endpoint=None,
        command=None,
        auth=server.auth,
        auth_header=None,
        secret=None,
        scope=Scope.ORGANIZATION,
        owner_id=None,
        enabled=True,
        description="",
        version=1,
        created_at=now,
        updated_at=now,
        created_by=principal.user_id,
    )
    return replace(
        upstream,
        updated_at=now,
        transport=server.transport,
        endpoint=server.endpoint,
        command=server.name if server.command is not None else None,
        auth=server.auth,
        auth_header=server.auth_header,
        credential_form=server.form,
        secret=None if server.secret is None else seal_secret(keyring, upstream.org_id, upstream.id, server.secret),
        enabled=True,
    )
