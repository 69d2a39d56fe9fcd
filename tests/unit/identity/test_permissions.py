from __future__ import annotations

from uuid import UUID

import pytest

from agentapi.errors import ForbiddenError
from agentapi.identity.permissions import Permission, permits, require
from agentapi.principal import OrgId, Principal, Role, UserId

P = Permission
R = Role

TABLE: dict[Permission, set[Role]] = {
    P.TOOLS_LIST: {R.PLATFORM_ADMIN, R.ORG_ADMIN, R.MEMBER, R.VIEWER, R.AGENT},
    P.TOOLS_CALL: {R.PLATFORM_ADMIN, R.ORG_ADMIN, R.MEMBER, R.AGENT},
    P.RESOURCES_LIST: {R.PLATFORM_ADMIN, R.ORG_ADMIN, R.MEMBER, R.VIEWER, R.AGENT},
    P.RESOURCES_READ: {R.PLATFORM_ADMIN, R.ORG_ADMIN, R.MEMBER, R.AGENT},
    P.PROMPTS_LIST: {R.PLATFORM_ADMIN, R.ORG_ADMIN, R.MEMBER, R.VIEWER, R.AGENT},
    P.PROMPTS_GET: {R.PLATFORM_ADMIN, R.ORG_ADMIN, R.MEMBER, R.AGENT},
    P.PROMPTS_READ: {R.PLATFORM_ADMIN, R.ORG_ADMIN, R.MEMBER, R.VIEWER},
    P.PROMPTS_WRITE_OWN: {R.PLATFORM_ADMIN, R.ORG_ADMIN, R.MEMBER},
    P.PROMPTS_WRITE_ORGANIZATION: {R.PLATFORM_ADMIN, R.ORG_ADMIN},
    P.PROMPTS_WRITE_GLOBAL: {R.PLATFORM_ADMIN},
    P.UPSTREAMS_READ: {R.PLATFORM_ADMIN, R.ORG_ADMIN, R.MEMBER, R.VIEWER},
    P.UPSTREAMS_WRITE_ORGANIZATION: {R.PLATFORM_ADMIN, R.ORG_ADMIN},
    P.UPSTREAMS_WRITE_OWN: {R.PLATFORM_ADMIN, R.ORG_ADMIN, R.MEMBER},
    P.TOOLSETS_READ: {R.PLATFORM_ADMIN, R.ORG_ADMIN, R.MEMBER, R.VIEWER},
    P.POLICY_READ: {R.PLATFORM_ADMIN, R.ORG_ADMIN},
    P.POLICY_WRITE: {R.PLATFORM_ADMIN, R.ORG_ADMIN},
    P.EXPLAIN_OTHERS: {R.PLATFORM_ADMIN, R.ORG_ADMIN},
    P.CONNECTIONS_OWN: {R.PLATFORM_ADMIN, R.ORG_ADMIN, R.MEMBER, R.VIEWER, R.AGENT},
    P.ORGANIZATION_READ: {R.PLATFORM_ADMIN, R.ORG_ADMIN, R.MEMBER, R.VIEWER, R.AGENT},
    P.ORGANIZATION_WRITE: {R.PLATFORM_ADMIN, R.ORG_ADMIN},
    P.WORKSPACES_READ: {R.PLATFORM_ADMIN, R.ORG_ADMIN, R.MEMBER, R.VIEWER, R.AGENT},
    P.WORKSPACES_WRITE: {R.PLATFORM_ADMIN, R.ORG_ADMIN},
    P.MEMBERS_READ: {R.PLATFORM_ADMIN, R.ORG_ADMIN},
    P.MEMBERS_WRITE: {R.PLATFORM_ADMIN, R.ORG_ADMIN},
    P.MEMBERS_LEAVE: {R.PLATFORM_ADMIN, R.ORG_ADMIN, R.MEMBER, R.VIEWER},
    P.PLATFORM_ORGANIZATIONS: {R.PLATFORM_ADMIN},
    P.AUDIT_READ: {R.PLATFORM_ADMIN, R.ORG_ADMIN},
    P.AUDIT_READ_DEPLOYMENT: {R.PLATFORM_ADMIN},
    P.API_KEYS_OWN: {R.PLATFORM_ADMIN, R.ORG_ADMIN, R.MEMBER, R.VIEWER},
    P.API_KEYS_ALL: {R.PLATFORM_ADMIN, R.ORG_ADMIN},
    P.SESSIONS_OWN: {R.PLATFORM_ADMIN, R.ORG_ADMIN, R.MEMBER},
    P.SESSIONS_ALL: {R.PLATFORM_ADMIN, R.ORG_ADMIN},
    P.TOKENS_REVOKE_OWN: {R.PLATFORM_ADMIN, R.ORG_ADMIN, R.MEMBER, R.VIEWER},
    P.TOKENS_REVOKE_ALL: {R.PLATFORM_ADMIN, R.ORG_ADMIN},
}
"""Whoever adds a role or a permission decides here, once more, who may."""


def principal(role: Role) -> Principal:
    return Principal(UserId(UUID(int=1)), OrgId(UUID(int=2)), "acme", role, "https://issuer.example", "alice")


def test_the_table_names_every_permission() -> None:
    assert set(TABLE) == set(Permission)


@pytest.mark.parametrize(
    ("role", "permission", "allowed"),
    [(role, permission, role in roles) for permission, roles in TABLE.items() for role in Role],
)
def test_a_role_may_what_the_table_says(role: Role, permission: Permission, allowed: bool) -> None:
    assert permits(principal(role), permission) is allowed
    if allowed:
        require(principal(role), permission)
    else:
        with pytest.raises(ForbiddenError, match=f"'{role}' lacks the permission '{permission}'"):
            require(principal(role), permission)


def test_a_role_that_is_not_in_the_table_may_nothing() -> None:
    stranger = principal("stranger")  # type: ignore[arg-type] # what a defect elsewhere might hand in
    assert not any(permits(stranger, permission) for permission in Permission)
