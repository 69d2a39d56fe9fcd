"""Permission by role: one table, deny by default, checked in one place."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from agentapi.errors import ForbiddenError
from agentapi.principal import Role

if TYPE_CHECKING:
    from agentapi.principal import Principal

__all__ = ["Permission", "permits", "require", "role_permits"]


class Permission(StrEnum):
    """One thing that a principal may be allowed to do."""

    TOOLS_LIST = "tools:list"
    TOOLS_CALL = "tools:call"
    RESOURCES_LIST = "resources:list"
    RESOURCES_READ = "resources:read"
    PROMPTS_LIST = "prompts:list"
    PROMPTS_GET = "prompts:get"
    UPSTREAMS_READ = "upstreams:read"
    UPSTREAMS_WRITE_ORGANIZATION = "upstreams:write:organization"
    UPSTREAMS_WRITE_OWN = "upstreams:write:own"
    TOOLSETS_READ = "toolsets:read"
    POLICY_READ = "policy:read"
    POLICY_WRITE = "policy:write"
    EXPLAIN_OTHERS = "explain:others"
    AUDIT_READ = "audit:read"
    AUDIT_READ_DEPLOYMENT = "audit:read:deployment"


_P = Permission

_LOOK = frozenset({_P.TOOLS_LIST, _P.RESOURCES_LIST, _P.PROMPTS_LIST})
_USE = _LOOK | {_P.TOOLS_CALL, _P.RESOURCES_READ, _P.PROMPTS_GET}

_TABLE: dict[Role, frozenset[Permission]] = {
    Role.PLATFORM_ADMIN: frozenset(Permission),
    Role.ORG_ADMIN: frozenset(Permission) - {_P.AUDIT_READ_DEPLOYMENT},
    Role.MEMBER: _USE | {_P.UPSTREAMS_READ, _P.UPSTREAMS_WRITE_OWN, _P.TOOLSETS_READ},
    Role.VIEWER: _LOOK | {_P.UPSTREAMS_READ, _P.TOOLSETS_READ},
    Role.AGENT: _USE,
}


def role_permits(role: Role, permission: Permission) -> bool:
    """Return whether ``role`` carries ``permission``."""
    return permission in _TABLE.get(role, frozenset())


def permits(principal: Principal, permission: Permission) -> bool:
    """Return whether the principal's role carries ``permission``."""
    return role_permits(principal.role, permission)


def require(principal: Principal, permission: Permission) -> None:
    """Refuse unless the principal's role carries ``permission``.

    Raises:
        ForbiddenError: It does not.
    """
    if not permits(principal, permission):
        raise ForbiddenError(f"The role '{principal.role}' lacks the permission '{permission}'.")
