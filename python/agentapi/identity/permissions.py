"""Permission by role: one table, deny by default, checked in one place; ``access.py`` says which a route needs."""

from __future__ import annotations

from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING

from agentapi.errors import ForbiddenError
from agentapi.principal import Role

if TYPE_CHECKING:
    from agentapi.principal import Principal

__all__ = ["Permission", "permits", "require", "role_permits", "within"]


class Permission(StrEnum):
    """One thing that a principal may be allowed to do."""

    TOOLS_LIST = "tools:list"
    TOOLS_CALL = "tools:call"
    RESOURCES_LIST = "resources:list"
    RESOURCES_READ = "resources:read"
    PROMPTS_LIST = "prompts:list"
    PROMPTS_GET = "prompts:get"
    PROMPTS_READ = "prompts:read"
    PROMPTS_WRITE_OWN = "prompts:write:own"
    PROMPTS_WRITE_ORGANIZATION = "prompts:write:organization"
    PROMPTS_WRITE_GLOBAL = "prompts:write:global"
    UPSTREAMS_READ = "upstreams:read"
    UPSTREAMS_WRITE_ORGANIZATION = "upstreams:write:organization"
    UPSTREAMS_WRITE_OWN = "upstreams:write:own"
    TOOLSETS_READ = "toolsets:read"
    POLICY_READ = "policy:read"
    POLICY_WRITE = "policy:write"
    EXPLAIN_OTHERS = "explain:others"
    AUDIT_READ = "audit:read"
    AUDIT_READ_DEPLOYMENT = "audit:read:deployment"
    CONNECTIONS_OWN = "connections:own"
    API_KEYS_OWN = "api_keys:own"
    API_KEYS_ALL = "api_keys:all"
    SESSIONS_OWN = "sessions:own"
    SESSIONS_ALL = "sessions:all"
    TOKENS_REVOKE_OWN = "tokens:revoke:own"
    TOKENS_REVOKE_ALL = "tokens:revoke:all"
    ORGANIZATION_READ = "organization:read"
    ORGANIZATION_WRITE = "organization:write"
    WORKSPACES_READ = "workspaces:read"
    WORKSPACES_WRITE = "workspaces:write"
    MEMBERS_READ = "members:read"
    MEMBERS_WRITE = "members:write"
    MEMBERS_LEAVE = "members:leave"
    PLATFORM_ORGANIZATIONS = "platform:organizations"


_P = Permission

_R = Role

_PLATFORM = frozenset({_R.PLATFORM_ADMIN})
_ADMINS = _PLATFORM | {_R.ORG_ADMIN}
_MEMBERS = _ADMINS | {_R.MEMBER}
_PEOPLE = _MEMBERS | {_R.VIEWER}
_USERS = _MEMBERS | {_R.AGENT}
_ALL = _PEOPLE | {_R.AGENT}

_TABLE: dict[Permission, frozenset[Role]] = {
    _P.TOOLS_LIST: _ALL,
    _P.TOOLS_CALL: _USERS,
    _P.RESOURCES_LIST: _ALL,
    _P.RESOURCES_READ: _USERS,
    _P.PROMPTS_LIST: _ALL,
    _P.PROMPTS_GET: _USERS,
    _P.PROMPTS_READ: _PEOPLE,
    _P.PROMPTS_WRITE_OWN: _MEMBERS,
    _P.PROMPTS_WRITE_ORGANIZATION: _ADMINS,
    _P.PROMPTS_WRITE_GLOBAL: _PLATFORM,
    _P.UPSTREAMS_READ: _PEOPLE,
    _P.UPSTREAMS_WRITE_ORGANIZATION: _ADMINS,
    _P.UPSTREAMS_WRITE_OWN: _MEMBERS,
    _P.TOOLSETS_READ: _PEOPLE,
    _P.POLICY_READ: _ADMINS,
    _P.POLICY_WRITE: _ADMINS,
    _P.EXPLAIN_OTHERS: _ADMINS,
    _P.CONNECTIONS_OWN: _ALL,
    _P.ORGANIZATION_READ: _ALL,
    _P.ORGANIZATION_WRITE: _ADMINS,
    _P.WORKSPACES_READ: _ALL,
    _P.WORKSPACES_WRITE: _ADMINS,
    _P.MEMBERS_READ: _ADMINS,
    _P.MEMBERS_WRITE: _ADMINS,
    _P.MEMBERS_LEAVE: _PEOPLE,
    _P.PLATFORM_ORGANIZATIONS: _PLATFORM,
    _P.AUDIT_READ: _ADMINS,
    _P.AUDIT_READ_DEPLOYMENT: _PLATFORM,
    _P.API_KEYS_OWN: _PEOPLE,
    _P.API_KEYS_ALL: _ADMINS,
    _P.SESSIONS_OWN: _MEMBERS,
    _P.SESSIONS_ALL: _ADMINS,
    _P.TOKENS_REVOKE_OWN: _PEOPLE,
    _P.TOKENS_REVOKE_ALL: _ADMINS,
}
"""Who may do it; what stands in no row, nobody may."""
_NOBODY: frozenset[Role] = frozenset()


def role_permits(role: Role, permission: Permission) -> bool:
    """Return whether ``role`` carries ``permission``."""
    return role in _TABLE.get(permission, _NOBODY)


@cache
def within(role: Role, other: Role) -> bool:
    """Return whether ``role`` carries no permission that ``other`` lacks."""
    return all(role_permits(other, each) for each in Permission if role_permits(role, each))


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
