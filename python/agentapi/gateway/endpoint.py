"""``/mcp/{org}/{workspace}``: one way through, step by step, to the front of the client's era.

authentication -> tenancy -> message -> scopes -> admission -> rate limits -> front. Whatever a caller may not know of
reads like what does not exist: another organisation's workspace and none at all give the same answer, found without
asking the database.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, Protocol

import structlog
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.routing import Match, Route

from agentapi.errors import (
    AgentAPIError,
    InsufficientScopeError,
    MethodNotAllowedError,
    NotFoundError,
    RateLimitedError,
    RedisUnavailableError,
    UnauthenticatedError,
    UnsupportedMediaTypeError,
)
from agentapi.gateway.call import Call, read_message
from agentapi.gateway.refusals import ForeignOrganizationError
from agentapi.gateway.resource import NO_WORKSPACE, Place
from agentapi.gateway.rpc import RpcRefusalError, refusal_response
from agentapi.gateway.scopes import scopes_of
from agentapi.identity.api_keys.models import STREAM_S, KeyGrant
from agentapi.identity.api_keys.text import PREFIX
from agentapi.identity.authentication import presented_token, verified_token
from agentapi.problems import rpc_error_response
from agentapi.request_body import ClientGoneError, read_body

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from starlette.responses import Response
    from starlette.routing import BaseRoute
    from starlette.types import ASGIApp, Receive, Scope, Send

    from agentapi._core import VerifiedToken
    from agentapi.gateway.browser_guard import BrowserGuard
    from agentapi.gateway.incoming import Incoming
    from agentapi.gateway.rates import Rates
    from agentapi.gateway.refusals import Refusals
    from agentapi.gateway.resource import ProtectedResource
    from agentapi.identity.api_keys.directory import KeyDirectory
    from agentapi.identity.issuers import IssuerDirectory
    from agentapi.principal import Principal
    from agentapi.tenancy.admission import Admission
    from agentapi.upstreams.registry import UpstreamRegistry, WorkspaceView

__all__ = ["LegacyDoor", "McpEndpoint", "ModernDoor", "StraightToMcp"]

_log = structlog.get_logger(__name__)

_MCP: Final = "/mcp/"
_MAX_PATH: Final = 256
_MAX_PATHS: Final = 1024
_VERSION_HEADER = MCP_PROTOCOL_VERSION_HEADER.encode()
_HANDSHAKE_HEADERS = frozenset(version.encode() for version in HANDSHAKE_PROTOCOL_VERSIONS)


class ModernDoor(Protocol):
    """Serves the messages of modern clients."""

    async def serve(self, call: Call, incoming: Incoming, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one message."""


class LegacyDoor(Protocol):
    """Serves the requests of older clients."""

    async def serve(self, call: Call, incoming: Incoming | None, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; only a POST has a message."""


class McpEndpoint:
    """The ASGI application behind ``/mcp/{org}/{workspace}`` and ``/mcp/{org}/{workspace}/{toolset}``.

    Args:
        resource: The endpoint as an OAuth protected resource.
        issuers: Verifies tokens.
        keys: Verifies API keys; without it there are none.
        admission: Admits their owners.
        registry: Has the workspaces.
        guard: Refuses what pages of others send.
        modern: Serves modern clients.
        legacy: Serves older clients.
        rates: Counts requests.
        refusals: Told of credentials that are refused.
        has_toolset: Tells whether a workspace has a toolset that the principal may know of; without it, none has any.
        max_body_bytes: Bound on a message.
        max_json_depth: Bound on how deep it nests.
        body_timeout_s: Time in which it has to arrive.
    """

    def __init__(
        self,
        *,
        resource: ProtectedResource,
        issuers: IssuerDirectory,
        admission: Admission,
        registry: UpstreamRegistry,
        guard: BrowserGuard,
        modern: ModernDoor,
        legacy: LegacyDoor,
        max_body_bytes: int,
        max_json_depth: int,
        body_timeout_s: float,
        keys: KeyDirectory | None = None,
        has_toolset: Callable[[Principal, WorkspaceView, str], Awaitable[bool]] | None = None,
        rates: Rates | None = None,
        refusals: Refusals | None = None,
    ) -> None:
        self._resource = resource
        self._issuers = issuers
        self._keys = keys
        self._admission = admission
        self._registry = registry
        self._guard = guard
        self._modern = modern
        self._legacy = legacy
        self._has_toolset = has_toolset
        self._rates = rates
        self._refusals = refusals
        self._max_body_bytes = max_body_bytes
        self._max_json_depth = max_json_depth
        self._body_timeout_s = body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; see the module's description for the order of steps."""
        place: Place | None = None
        incoming: Incoming | None = None
        token: VerifiedToken | KeyGrant | None = None
        counted = self._rates is None
        try:
            place = Place.of(scope)
            if self._rates is not None:
                self._rates.look(scope)
            token = await self._authenticate(scope, place)
            incoming = await self._read(scope, receive) if scope["method"] == "POST" else None
            needed = self._needed_scopes(token, incoming)
            if not token.scopes >= needed:
                raise InsufficientScopeError(tuple(sorted(needed)))
            call = await self._admit(scope, token, place, needed)
            if self._rates is not None:
                counted = True
                await self._rates.count_call(call, incoming, scope)
            if _is_modern(scope, incoming):
                if incoming is None:
                    raise MethodNotAllowedError("The endpoint answers POST only.")
                await self._modern.serve(call, incoming, scope, receive, send)
            elif incoming is None and scope["method"] not in {"GET", "DELETE"}:
                raise MethodNotAllowedError("The endpoint answers POST, and GET and DELETE with a session.")
            else:
                await self._legacy.serve(call, incoming, scope, receive, send)
        except (AgentAPIError, RpcRefusalError, ClientGoneError) as error:
            instead = None if counted or self._rates is None else await self._rates.count_failed(scope)
            if isinstance(error, AgentAPIError):
                await self._tell(error, token)
            if not isinstance(error, ClientGoneError):
                await self._refusal(instead or error, place, incoming)(scope, receive, send)

    async def _authenticate(self, scope: Scope, place: Place) -> VerifiedToken | KeyGrant:
        self._guard.check(scope["headers"])
        presented = presented_token(scope)
        if self._keys is not None and presented.startswith(PREFIX):
            grant = await self._keys.grant(presented)
            if grant.organization != place.org or grant.workspace not in {None, place.workspace}:
                raise ForeignOrganizationError(grant)
            return grant
        audiences = self._resource.audiences(place)
        token = await verified_token(self._issuers, presented, audiences=audiences)
        if token.organization != place.org:
            raise ForeignOrganizationError(token)
        return token

    async def _read(self, scope: Scope, receive: Receive) -> Incoming:
        types = [value for name, value in scope["headers"] if name == b"content-type"]
        if len(types) != 1 or types[0].split(b";", 1)[0].strip().lower() != b"application/json":
            raise UnsupportedMediaTypeError("The request body must be application/json.")
        limit = self._max_body_bytes
        body = await read_body(scope, receive, max_bytes=limit, timeout_s=self._body_timeout_s)
        return read_message(body, max_bytes=limit, max_depth=self._max_json_depth)

    def _needed_scopes(self, token: VerifiedToken | KeyGrant, incoming: Incoming | None) -> frozenset[str]:
        """Return all scopes that the operation needs; a challenge names them all (RFC 6750, section 3.1)."""
        needed = frozenset(self._issuers.required_scopes(token.issuer))
        if incoming is not None and self._issuers.asks_operation_scopes(token.issuer):
            needed |= scopes_of(incoming.method, incoming.params)
        return needed

    async def _admit(self, scope: Scope, token: VerifiedToken | KeyGrant, place: Place, needed: frozenset[str]) -> Call:
        try:
            principal = token.principal if isinstance(token, KeyGrant) else await self._admission.admit(token)
        except NotFoundError:
            raise NotFoundError(NO_WORKSPACE) from None
        state = scope.setdefault("state", {})
        state["principal"] = principal
        view = await self._registry.view(principal, place.workspace)
        if principal.workspace_id not in {None, view.workspace.id}:
            # Its token names the slug, which another workspace has by now.
            raise ForeignOrganizationError(token)
        if place.toolset is not None and (
            self._has_toolset is None or not await self._has_toolset(principal, view, place.toolset)
        ):
            raise NotFoundError(NO_WORKSPACE)
        state["workspace"] = place.workspace

        def challenge(error: InsufficientScopeError) -> str:
            return self._resource.challenge(InsufficientScopeError(tuple(sorted(needed.union(error.scopes)))), place)

        return Call(
            principal=principal,
            view=view,
            toolset=place.toolset,
            expires_at=_stream_end(token, principal),
            operation_scopes=self._issuers.asks_operation_scopes(token.issuer),
            challenge=challenge,
        )

    async def _tell(self, error: AgentAPIError, token: VerifiedToken | KeyGrant | None) -> None:
        """Tell the operator's logs why a request is refused."""
        if error.log_context:
            _log.info("request_refused", code=error.code, **error.log_context)
        if self._refusals is not None:
            await self._refusals.note(error, token)

    def _refusal(
        self, error: AgentAPIError | RpcRefusalError, place: Place | None, incoming: Incoming | None
    ) -> Response:
        if isinstance(error, RpcRefusalError):
            return refusal_response(error)
        headers: dict[str, str] = {}
        if isinstance(error, UnauthenticatedError | InsufficientScopeError) and place is not None:
            headers["WWW-Authenticate"] = self._resource.challenge(error, place)
        if isinstance(error, MethodNotAllowedError):
            headers["Allow"] = "POST"
        id_json = None
        if isinstance(error, RateLimitedError | RedisUnavailableError):
            # The caller is known; other refusals must not tell a workspace from none by what they repeat.
            id_json = None if incoming is None else incoming.envelope.id_json
        return rpc_error_response(error, id_json=id_json, headers=headers)


class StraightToMcp:
    """Hands MCP requests to their endpoint, past what Starlette would wrap around it and match before it.

    The endpoint answers for the errors that Starlette would be told of. What is not foreseen ends at the crash guard
    either way. All other requests take Starlette's way.

    Args:
        app: Serves all others.
        routes: Gives the application's routes, of which there are none before it has started.
    """

    def __init__(self, app: ASGIApp, routes: Callable[[], Sequence[BaseRoute]]) -> None:
        self._app = app
        self._routes = routes
        self._own: list[Route] = []
        self._matched: dict[tuple[str, str], tuple[Route, Scope]] = {}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Serve one connection (ASGI 3)."""
        if scope["type"] == "http" and scope["path"].startswith(_MCP):
            found = self._matching(scope)
            if found is not None:
                route, matched = found
                scope.update(matched, route=route, path_params=dict(matched["path_params"]))
                return route.app(scope, receive, send)
        return self._app(scope, receive, send)

    def _matching(self, scope: Scope) -> tuple[Route, Scope] | None:
        """Return the route of a request and what it says of it, found once for each address in use."""
        place = (scope["method"], scope["path"])
        found = self._matched.get(place)
        if found is None:
            for route in self._mcp_routes():
                match, matched = route.matches(scope)
                if match is Match.FULL:
                    found = (route, matched)
                    break
            if found is not None and len(scope["path"]) <= _MAX_PATH:
                if len(self._matched) >= _MAX_PATHS:
                    self._matched.clear()
                self._matched[place] = found
        return found

    def _mcp_routes(self) -> list[Route]:
        if not self._own:
            self._own = [
                route
                for route in self._routes()
                if isinstance(route, Route) and isinstance(route.endpoint, McpEndpoint)
            ]
        return self._own


def _stream_end(token: VerifiedToken | KeyGrant, principal: Principal) -> int:
    """Return when the streams of a request end: with its token, and earlier where that may not be good for as long."""
    if principal.session_id is None:
        return token.expires_at
    return min(token.expires_at, int(time.time()) + STREAM_S)


def _is_modern(scope: Scope, incoming: Incoming | None) -> bool:
    """Return whether the client speaks a revision without sessions: by what its message says, or else its header.

    A header that nobody knows is modern, since there it is told which revisions there are.
    """
    if incoming is not None and incoming.envelope.protocol_version is not None:
        return True
    versions = [value for name, value in scope["headers"] if name == _VERSION_HEADER]
    return any(version not in _HANDSHAKE_HEADERS for version in versions)
