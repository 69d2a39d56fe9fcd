"""The six endpoints under ``/api/v1/mcp`` about upstream servers."""

from __future__ import annotations

import contextlib
import re
from dataclasses import asdict
from typing import TYPE_CHECKING

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentapi.api_input import INVALID_BODY, decode_cursor, encode_cursor, known_id, page_limit, parse, read_json
from agentapi.errors import FieldError, InvalidRequestError, UpstreamNeedsConnectionError
from agentapi.preconditions import entity_tag, if_match
from agentapi.principal import UpstreamId
from agentapi.upstreams.breakers import UNGUARDED, Operation
from agentapi.upstreams.link import Caller
from agentapi.upstreams.models import Auth
from agentapi.upstreams.probe import probe
from agentapi.upstreams.requests import ConnectionTest, UpstreamInput

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from starlette.requests import Request

    from agentapi.principal import Principal
    from agentapi.upstreams.breakers import UpstreamBreakers
    from agentapi.upstreams.channel import Channel
    from agentapi.upstreams.credentials import Credentials
    from agentapi.upstreams.documents import ConfigurationDocument
    from agentapi.upstreams.models import Upstream
    from agentapi.upstreams.registration import Registration
    from agentapi.upstreams.registry import UpstreamRegistry
    from agentapi.upstreams.transports import TransportFactory

__all__ = ["UpstreamRoutes"]

_NAME = re.compile(r"[a-z0-9-]{1,32}")
_NO_CONFIGURATION = "There is no such configuration."


class UpstreamRoutes:
    """Create, read, list, replace, delete and test upstream servers.

    Args:
        authorize: Gives the principal of a request.
        registry: The stored upstreams.
        transports: Opens connections for the test.
        credentials: With which.
        registration: Checks and builds upstreams.
        breakers: The circuits in front of them.
        test_timeout_s: Bound on a connection test.
    """

    def __init__(
        self,
        *,
        authorize: Callable[[Request], Awaitable[Principal]],
        registry: UpstreamRegistry,
        transports: TransportFactory,
        credentials: Credentials,
        registration: Registration,
        breakers: UpstreamBreakers,
        test_timeout_s: float,
    ) -> None:
        self._authorize = authorize
        self._registry = registry
        self._transports = transports
        self._credentials = credentials
        self._registration = registration
        self._breakers = breakers
        self._test_timeout_s = test_timeout_s

    def routes(self) -> list[Route]:
        """Return the routes, for the application to mount."""
        base = "/api/v1/mcp/configurations"
        return [
            Route(base, self.create, methods=["POST"]),
            Route(base, self.page, methods=["GET"]),
            Route(base + "/{id}", self.read, methods=["GET"]),
            Route(base + "/{id}", self.replace, methods=["PUT"]),
            Route(base + "/{id}", self.delete, methods=["DELETE"]),
            Route("/api/v1/mcp/test", self.test, methods=["POST"]),
        ]

    async def create(self, request: Request) -> Response:
        """``POST /api/v1/mcp/configurations``."""
        principal = await self._authorize(request)
        given = parse(UpstreamInput, await read_json(request))
        self._registry.require_write(principal, given.scope)
        await self._registration.check(given)
        workspace = await self._registry.workspace(principal, given.workspace)
        upstream = self._registration.new(principal, workspace, given)
        await self._registry.create(principal, upstream)
        location = {"Location": f"/api/v1/mcp/configurations/{upstream.id}"}
        return _answer(upstream, given.workspace, status=201, headers=location)

    async def page(self, request: Request) -> Response:
        """``GET /api/v1/mcp/configurations?workspace=&limit=&cursor=``."""
        principal = await self._authorize(request)
        limit = page_limit(request)
        cursor = decode_cursor(request, _NAME)
        after = None if cursor is None else (cursor[0], UpstreamId(cursor[1]))
        wanted = request.query_params.get("workspace")
        workspace_id = None if wanted is None else (await self._registry.workspace(principal, wanted)).id
        found = await self._registry.page(principal, workspace_id=workspace_id, after=after, limit=limit + 1)
        # Read behind the page, so that every workspace of the page is among them.
        slugs = await self._registry.workspace_slugs(principal)
        shown = found[:limit]
        more = len(found) > limit
        return JSONResponse(
            {
                "items": [_document(upstream, slugs[upstream.workspace_id]) for upstream in shown],
                "next_cursor": encode_cursor(shown[-1].name, shown[-1].id) if more else None,
            }
        )

    async def read(self, request: Request) -> Response:
        """``GET /api/v1/mcp/configurations/{id}``."""
        principal = await self._authorize(request)
        upstream = await self._registry.get(principal, _id(request.path_params["id"]))
        slugs = await self._registry.workspace_slugs(principal)
        return _answer(upstream, slugs[upstream.workspace_id])

    async def replace(self, request: Request) -> Response:
        """``PUT /api/v1/mcp/configurations/{id}``; a body without ``secret`` keeps the stored one."""
        principal = await self._authorize(request)
        stored = await self._registry.get(principal, _id(request.path_params["id"]))
        self._registry.require_write(principal, stored.scope)
        given = parse(UpstreamInput, await read_json(request))
        await self._registration.check(given, stored)
        workspace = await self._registry.workspace(principal, given.workspace)
        if workspace.id != stored.workspace_id:
            raise InvalidRequestError(
                INVALID_BODY,
                (FieldError("/workspace", "A configuration stays in its workspace; create another one."),),
            )
        changed = self._registration.changed(stored, given)
        updated = await self._registry.update(principal, changed, expected=if_match(request))
        return _answer(updated, given.workspace)

    async def delete(self, request: Request) -> Response:
        """``DELETE /api/v1/mcp/configurations/{id}``."""
        principal = await self._authorize(request)
        await self._registry.delete(principal, _id(request.path_params["id"]), expected=if_match(request))
        return Response(status_code=204)

    async def test(self, request: Request) -> Response:
        """``POST /api/v1/mcp/test``: connect for real and say what is there, or why not in words."""
        principal = await self._authorize(request)
        given = parse(ConnectionTest, await read_json(request))
        if (given.id is None) == (given.configuration is None):
            raise InvalidRequestError(
                INVALID_BODY,
                (FieldError("", "Give either 'id', of a stored configuration, or 'configuration'."),),
            )
        if given.configuration is not None:
            self._registry.require_write(principal, given.configuration.scope)
            await self._registration.check(given.configuration)
            workspace = await self._registry.workspace(principal, given.configuration.workspace)
            upstream = self._registration.new(principal, workspace, given.configuration)
        else:
            upstream = await self._registry.get(principal, _id(given.id or ""))
            self._registry.require_write(principal, upstream.scope)
        caller = Caller(principal.org_id, principal.user_id)

        @contextlib.asynccontextmanager
        async def opened() -> AsyncIterator[Channel]:
            try:
                credential = await self._credentials.credential(upstream, caller)
            except UpstreamNeedsConnectionError as error:
                how = _how_to_connect(upstream, is_stored=given.id is not None)
                raise UpstreamNeedsConnectionError(f"{error.message} {how}", upstream_id=upstream.id) from error
            async with self._transports.open(upstream, credential)() as channel:
                yield channel

        # What is not stored is another upstream each time, and has no past.
        guarded = self._breakers.guard(upstream, principal.user_id, Operation.TEST_CONNECTION)
        with guarded if given.id is not None else UNGUARDED as guard:
            result = await probe(opened, timeout_s=self._test_timeout_s, era=upstream.pinned_era)
            guard.record("success" if result.ok else "failure")
        return JSONResponse(asdict(result))


def _answer(
    upstream: Upstream, workspace: str, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    tagged = {"ETag": entity_tag(upstream.version), **(headers or {})}
    return JSONResponse(_document(upstream, workspace), status_code=status, headers=tagged)


def _document(upstream: Upstream, workspace: str) -> ConfigurationDocument:
    """Return what a client may see of ``upstream``: everything but the secret."""
    form = upstream.credential_form
    return {
        "id": str(upstream.id),
        "workspace": workspace,
        "name": upstream.name,
        "transport": upstream.transport,
        "endpoint": upstream.endpoint,
        "command": upstream.command,
        "protocol": upstream.protocol,
        "auth": upstream.auth,
        "auth_header": upstream.auth_header,
        "credential_form": None if form is None else form.model_dump(mode="json"),
        "has_secret": upstream.secret is not None,
        "scope": upstream.scope,
        "enabled": upstream.enabled,
        "description": upstream.description,
        "version": upstream.version,
        "created_at": upstream.created_at.isoformat(),
        "updated_at": upstream.updated_at.isoformat(),
    }


def _how_to_connect(upstream: Upstream, *, is_stored: bool) -> str:
    """Return what whoever tests an upstream of users' own credentials does first."""
    if not is_stored:
        return "Register the upstream and connect; then test it by its 'id'."
    if upstream.auth is Auth.USER:
        return f"PUT /api/v1/mcp/credentials/{upstream.id} takes one; then test again."
    return "POST /api/v1/mcp/oauth/init answers where to connect; then test again."


def _id(text: str) -> UpstreamId:
    return UpstreamId(known_id(text, _NO_CONFIGURATION))
