"""Which permission each route needs: one table, deny by default, checked in one place before the route is entered.

Invariants:

* A route that stands in no row is answered to nobody, whatever its own code would do.
* A route whose row names a permission is entered only by a verified token of a role that carries it. What also
  depends on the thing that is asked for (whose it is, what a body says) is for the route to check beyond that.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final

import structlog
from starlette.requests import Request
from starlette.routing import Mount, Route

from agentapi.errors import ForbiddenError
from agentapi.identity.permissions import Permission, require

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp, Receive, Scope, Send

    from agentapi.principal import Principal

    Authorize = Callable[[Request], Awaitable[Principal]]

__all__ = ["ROUTES", "Access", "Open", "guard_routes", "names_of"]

_log = structlog.get_logger(__name__)


class Open(StrEnum):
    """How a route is guarded that no single permission stands for."""

    ANYBODY = "anybody"
    """It tells nothing of any tenant and changes nothing of one."""
    BROWSER = "browser"
    """A person's browser, known by a sealed link, state or cookie that the route itself opens."""
    BY_TOKEN = "by_token"  # noqa: S105 - a kind of guard
    """A verified token is enough: its owner may be nobody here yet."""
    BY_MESSAGE = "by_message"
    """It authenticates by itself, and the permission depends on the message."""


Access = Permission | Open
_P = Permission

ROUTES: Final[Mapping[str, Access]] = {
    "GET /live": Open.ANYBODY,
    "GET /ready": Open.ANYBODY,
    "GET /health": Open.ANYBODY,
    "GET /openapi.json": Open.ANYBODY,
    "GET /docs": Open.ANYBODY,
    "GET /.well-known/jwks.json": Open.ANYBODY,
    "GET /.well-known/oauth-client.json": Open.ANYBODY,
    "GET /.well-known/oauth-protected-resource/mcp/{org}/{workspace}": Open.ANYBODY,
    "GET /.well-known/oauth-protected-resource/mcp/{org}/{workspace}/{toolset}": Open.ANYBODY,
    "* /mcp/{org}/{workspace}": Open.BY_MESSAGE,
    "* /mcp/{org}/{workspace}/{toolset}": Open.BY_MESSAGE,
    "* /demo/notes": Open.BY_MESSAGE,
    # Upstream servers.
    "GET /api/v1/mcp/configurations": _P.UPSTREAMS_READ,
    "POST /api/v1/mcp/configurations": _P.UPSTREAMS_WRITE_OWN,
    "GET /api/v1/mcp/configurations/{id}": _P.UPSTREAMS_READ,
    "PUT /api/v1/mcp/configurations/{id}": _P.UPSTREAMS_WRITE_OWN,
    "DELETE /api/v1/mcp/configurations/{id}": _P.UPSTREAMS_WRITE_OWN,
    "POST /api/v1/mcp/test": _P.UPSTREAMS_WRITE_OWN,
    "POST /api/v1/mcp/import": _P.UPSTREAMS_WRITE_OWN,
    # API keys. Whose they are is for the routes.
    "POST /api/v1/api-keys": _P.API_KEYS_OWN,
    "GET /api/v1/api-keys": _P.API_KEYS_OWN,
    "GET /api/v1/api-keys/{id}": _P.API_KEYS_OWN,
    "DELETE /api/v1/api-keys/{id}": _P.API_KEYS_OWN,
    "POST /api/v1/api-keys/{id}/rotate": _P.API_KEYS_OWN,
    # Sessions and tokens. Whose they are is for the routes.
    "POST /api/v1/sessions": _P.SESSIONS_OWN,
    "GET /api/v1/sessions": _P.SESSIONS_OWN,
    "GET /api/v1/sessions/{id}": _P.SESSIONS_OWN,
    "DELETE /api/v1/sessions/{id}": _P.SESSIONS_OWN,
    "POST /api/v1/sessions/{id}/touch": _P.SESSIONS_OWN,
    "POST /api/v1/sessions/{id}/tokens": _P.SESSIONS_OWN,
    "POST /api/v1/tokens/revoke": _P.TOKENS_REVOKE_OWN,
    # Which tools a principal sees.
    "GET /api/v1/mcp/policy": _P.POLICY_READ,
    "PUT /api/v1/mcp/policy": _P.POLICY_WRITE,
    "GET /api/v1/mcp/toolsets": _P.TOOLSETS_READ,
    "POST /api/v1/mcp/toolsets": _P.POLICY_WRITE,
    "GET /api/v1/mcp/toolsets/{id}": _P.TOOLSETS_READ,
    "PUT /api/v1/mcp/toolsets/{id}": _P.POLICY_WRITE,
    "DELETE /api/v1/mcp/toolsets/{id}": _P.POLICY_WRITE,
    "GET /api/v1/mcp/approvals": _P.UPSTREAMS_READ,
    "POST /api/v1/mcp/approvals/{id}/approve": _P.UPSTREAMS_WRITE_OWN,
    "POST /api/v1/mcp/approvals/{id}/hold": _P.UPSTREAMS_WRITE_OWN,
    "GET /api/v1/mcp/explain": _P.TOOLS_LIST,
    # Users' own connections and credentials, and how the organisation lets them be made.
    "POST /api/v1/mcp/oauth/init": _P.UPSTREAMS_READ,
    "GET /api/v1/mcp/oauth/callback": Open.BROWSER,
    "POST /api/v1/mcp/oauth/refresh": _P.CONNECTIONS_OWN,
    "POST /api/v1/mcp/oauth/revoke": _P.CONNECTIONS_OWN,
    "GET /api/v1/mcp/oauth/connections": _P.CONNECTIONS_OWN,
    "GET /api/v1/mcp/oauth/clients": _P.UPSTREAMS_WRITE_ORGANIZATION,
    "PUT /api/v1/mcp/oauth/clients": _P.UPSTREAMS_WRITE_ORGANIZATION,
    "DELETE /api/v1/mcp/oauth/clients": _P.UPSTREAMS_WRITE_ORGANIZATION,
    "GET /api/v1/mcp/oauth/providers/{id}": _P.UPSTREAMS_READ,
    "PUT /api/v1/mcp/oauth/providers/{id}": _P.UPSTREAMS_WRITE_OWN,
    "DELETE /api/v1/mcp/oauth/providers/{id}": _P.UPSTREAMS_WRITE_OWN,
    "GET /api/v1/mcp/credentials/{upstream}": _P.UPSTREAMS_READ,
    "PUT /api/v1/mcp/credentials/{upstream}": _P.UPSTREAMS_READ,
    "DELETE /api/v1/mcp/credentials/{upstream}": _P.UPSTREAMS_READ,
    # Prompts; whose they are decides the route.
    "GET /api/v1/prompts": _P.PROMPTS_READ,
    "POST /api/v1/prompts": _P.PROMPTS_WRITE_OWN,
    "POST /api/v1/prompts/compose": _P.PROMPTS_GET,
    "GET /api/v1/prompts/{id}": _P.PROMPTS_READ,
    "PUT /api/v1/prompts/{id}": _P.PROMPTS_WRITE_OWN,
    "DELETE /api/v1/prompts/{id}": _P.PROMPTS_WRITE_OWN,
    "GET /api/v1/prompts/{id}/versions": _P.PROMPTS_READ,
    "POST /api/v1/prompts/{id}/rollback": _P.PROMPTS_WRITE_OWN,
    # Organisations and who is in them.
    "GET /api/v1/organizations": _P.ORGANIZATION_READ,
    "GET /api/v1/organizations/{id}": _P.ORGANIZATION_READ,
    "PUT /api/v1/organizations/{id}": _P.ORGANIZATION_WRITE,
    "DELETE /api/v1/organizations/{id}": _P.ORGANIZATION_WRITE,
    "POST /api/v1/organizations/{id}/transfer": _P.ORGANIZATION_WRITE,
    "GET /api/v1/workspaces": _P.WORKSPACES_READ,
    "POST /api/v1/workspaces": _P.WORKSPACES_WRITE,
    "GET /api/v1/workspaces/{slug}": _P.WORKSPACES_READ,
    "PUT /api/v1/workspaces/{slug}": _P.WORKSPACES_WRITE,
    "DELETE /api/v1/workspaces/{slug}": _P.WORKSPACES_WRITE,
    "GET /api/v1/members": _P.MEMBERS_READ,
    "DELETE /api/v1/members/me": _P.MEMBERS_LEAVE,
    "GET /api/v1/members/{id}": _P.MEMBERS_READ,
    "PUT /api/v1/members/{id}": _P.MEMBERS_WRITE,
    "DELETE /api/v1/members/{id}": _P.MEMBERS_WRITE,
    "GET /api/v1/invitations": _P.MEMBERS_WRITE,
    "POST /api/v1/invitations": _P.MEMBERS_WRITE,
    "POST /api/v1/invitations/accept": Open.BY_TOKEN,
    "DELETE /api/v1/invitations/{id}": _P.MEMBERS_WRITE,
    "GET /api/v1/platform/organizations": _P.PLATFORM_ORGANIZATIONS,
    "POST /api/v1/platform/organizations": _P.PLATFORM_ORGANIZATIONS,
    "GET /api/v1/platform/organizations/{slug}": _P.PLATFORM_ORGANIZATIONS,
    "PUT /api/v1/platform/organizations/{slug}": _P.PLATFORM_ORGANIZATIONS,
    "DELETE /api/v1/platform/organizations/{slug}": _P.PLATFORM_ORGANIZATIONS,
    # The audit log.
    "GET /api/v1/audit": _P.AUDIT_READ,
    "GET /api/v1/audit/export": _P.AUDIT_READ,
    # The page in a browser.
    "GET /connected/{id}": Open.BROWSER,
    "GET /connect/signed-in": Open.BROWSER,
    "GET /connect/{id}": Open.BROWSER,
    "POST /connect/{id}": Open.BROWSER,
    "POST /connect/{id}/sign-in": Open.BROWSER,
    "POST /connect/{id}/sign-out": Open.BROWSER,
    "GET /join/{token}": Open.BROWSER,
    "POST /join/{token}": Open.BROWSER,
    "POST /join/{token}/sign-in": Open.BROWSER,
    "POST /join/{token}/sign-out": Open.BROWSER,
}
"""``METHOD path`` as the route declares them; ``*`` stands for a route that takes every method."""


class _Guarded:
    """One route behind its row of the table."""

    def __init__(self, app: ASGIApp, rows: Mapping[str, Access | None], authorize: Authorize) -> None:
        self._app = app
        self._rows = rows
        self._authorize = authorize

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it."""
        access = self._rows.get(scope["method"])
        if access is None:
            raise ForbiddenError("The route stands in no table of permissions, so nobody may use it.")
        if isinstance(access, Permission):
            require(await self._authorize(Request(scope)), access)
        await self._app(scope, receive, send)


def names_of(route: BaseRoute) -> tuple[str, ...]:
    """Return the rows that a route needs, ``HEAD`` being part of ``GET``."""
    if isinstance(route, Route):
        return tuple(f"{method} {route.path}" for method in sorted((route.methods or {"*"}) - {"HEAD"}))
    return (f"* {route.path if isinstance(route, Mount) else route}",)


def guard_routes(routes: Iterable[BaseRoute], authorize: Authorize) -> None:
    """Put each route behind its row of the table.

    Args:
        routes: The routes of the application; they are changed in place.
        authorize: Gives the principal of a request, the same one however often it is asked.
    """
    for route in routes:
        rows = {name.partition(" ")[0]: ROUTES.get(name) for name in names_of(route)}
        if all(isinstance(access, Open) for access in rows.values()):
            continue
        for method, access in rows.items():
            if access is None:
                _log.error("route_without_permission", method=method, path=getattr(route, "path", None))
        if "GET" in rows:
            rows["HEAD"] = rows["GET"]
        if isinstance(route, Route | Mount):
            route.app = _Guarded(route.app, rows, authorize)
        else:  # pragma: no cover - there are no others
            raise TypeError(f"A route of the kind {type(route).__name__} cannot be guarded.")
