from __future__ import annotations

from uuid import UUID

import pytest

from agentapi.errors import ForbiddenError
from agentapi.identity.permissions import Permission, permits, require
from agentapi.principal import OrgId, Principal, Role, UserId

P = Permission
TABLE: dict[Role, dict[Permission, bool]] = {
    Role.PLATFORM_ADMIN: {
        P.TOOLS_LIST: True,
        P.TOOLS_CALL: True,
        P.RESOURCES_LIST: True,
        P.RESOURCES_READ: True,
        P.PROMPTS_LIST: True,
        P.PROMPTS_GET: True,
        P.UPSTREAMS_READ: True,
        P.UPSTREAMS_WRITE_ORGANIZATION: True,
        P.UPSTREAMS_WRITE_OWN: True,
        P.TOOLSETS_READ: True,
        P.POLICY_READ: True,
        P.POLICY_WRITE: True,
        P.EXPLAIN_OTHERS: True,
        P.AUDIT_READ: True,
        P.AUDIT_READ_DEPLOYMENT: True,
    },
    Role.ORG_ADMIN: {
        P.TOOLS_LIST: True,
        P.TOOLS_CALL: True,
        P.RESOURCES_LIST: True,
        P.RESOURCES_READ: True,
        P.PROMPTS_LIST: True,
        P.PROMPTS_GET: True,
        P.UPSTREAMS_READ: True,
        P.UPSTREAMS_WRITE_ORGANIZATION: True,
        P.UPSTREAMS_WRITE_OWN: True,
        P.TOOLSETS_READ: True,
        P.POLICY_READ: True,
        P.POLICY_WRITE: True,
        P.EXPLAIN_OTHERS: True,
        P.AUDIT_READ: True,
        P.AUDIT_READ_DEPLOYMENT: False,
    },
    Role.MEMBER: {
        P.TOOLS_LIST: True,
        P.TOOLS_CALL: True,
        P.RESOURCES_LIST: True,
        P.RESOURCES_READ: True,
        P.PROMPTS_LIST: True,
        P.PROMPTS_GET: True,
        P.UPSTREAMS_READ: True,
        P.UPSTREAMS_WRITE_ORGANIZATION: False,
        P.UPSTREAMS_WRITE_OWN: True,
        P.TOOLSETS_READ: True,
        P.POLICY_READ: False,
        P.POLICY_WRITE: False,
        P.EXPLAIN_OTHERS: False,
        P.AUDIT_READ: False,
        P.AUDIT_READ_DEPLOYMENT: False,
    },
    Role.VIEWER: {
        P.TOOLS_LIST: True,
        P.TOOLS_CALL: False,
        P.RESOURCES_LIST: True,
        P.RESOURCES_READ: False,
        P.PROMPTS_LIST: True,
        P.PROMPTS_GET: False,
        P.UPSTREAMS_READ: True,
        P.UPSTREAMS_WRITE_ORGANIZATION: False,
        P.UPSTREAMS_WRITE_OWN: False,
        P.TOOLSETS_READ: True,
        P.POLICY_READ: False,
        P.POLICY_WRITE: False,
        P.EXPLAIN_OTHERS: False,
        P.AUDIT_READ: False,
        P.AUDIT_READ_DEPLOYMENT: False,
    },
    Role.AGENT: {
        P.TOOLS_LIST: True,
        P.TOOLS_CALL: True,
        P.RESOURCES_LIST: True,
        P.RESOURCES_READ: True,
        P.PROMPTS_LIST: True,
        P.PROMPTS_GET: True,
        P.UPSTREAMS_READ: False,
        P.UPSTREAMS_WRITE_ORGANIZATION: False,
        P.UPSTREAMS_WRITE_OWN: False,
        P.TOOLSETS_READ: False,
        P.POLICY_READ: False,
        P.POLICY_WRITE: False,
        P.EXPLAIN_OTHERS: False,
        P.AUDIT_READ: False,
        P.AUDIT_READ_DEPLOYMENT: False,
    },
}
"""Whoever adds a role or a permission decides here, once more, what it may."""


def principal(role: Role) -> Principal:
    return Principal(UserId(UUID(int=1)), OrgId(UUID(int=2)), "acme", role, "https://issuer.example", "alice")


def test_the_table_names_every_role_and_every_permission() -> None:
    assert set(TABLE) == set(Role)
    assert all(set(row) == set(Permission) for row in TABLE.values())


@pytest.mark.parametrize(
    ("role", "permission", "allowed"),
    [(role, permission, allowed) for role, row in TABLE.items() for permission, allowed in row.items()],
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
