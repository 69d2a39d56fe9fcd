"""Tenants for tests: an organisation with a workspace, and people in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import uuid4

from agentapi.principal import OrgId, Principal, Role, UpstreamId, WorkspaceId
from agentapi.tenancy.models import user_id_of
from agentapi.tenancy.store import create_organization, create_workspace
from agentapi.upstreams.models import Scope, Transport, Upstream

if TYPE_CHECKING:
    from agentapi.storage.database import Database

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
ISSUER = "https://issuer.example"


@dataclass(frozen=True, slots=True)
class Tenant:
    principal: Principal
    workspace_id: WorkspaceId

    def colleague(self, subject: str) -> Tenant:
        principal = replace(self.principal, subject=subject, user_id=user_id_of(ISSUER, subject))
        return replace(self, principal=principal)

    def upstream(self, name: str, *, private: bool = False) -> Upstream:
        return Upstream(
            id=UpstreamId(uuid4()),
            org_id=self.principal.org_id,
            workspace_id=self.workspace_id,
            name=name,
            transport=Transport.HTTP,
            endpoint="https://upstream.example/mcp",
            scope=Scope.USER if private else Scope.ORGANIZATION,
            owner_id=self.principal.user_id if private else None,
            created_by=self.principal.user_id,
            created_at=NOW,
            updated_at=NOW,
        )


async def make_tenant(database: Database, subject: str = "alice") -> Tenant:
    org_id = OrgId(uuid4())
    slug = f"org-{org_id.hex}"
    workspace_id = WorkspaceId(uuid4())
    async with database.organization_transaction(org_id) as connection:
        await create_organization(connection, org_id=org_id, slug=slug, name="Test")
        await create_workspace(connection, workspace_id=workspace_id, org_id=org_id, slug="main", name="Main")
    principal = Principal(
        user_id=user_id_of(ISSUER, subject),
        org_id=org_id,
        org_slug=slug,
        role=Role.ORG_ADMIN,
        issuer=ISSUER,
        subject=subject,
    )
    return Tenant(principal, workspace_id)
