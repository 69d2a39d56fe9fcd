"""The six endpoints under ``/api/v1/mcp`` about upstream servers."""

from __future__ import annotations

import base64
import binascii
import json
import re
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from agentapi.errors import (
    EgressRefusedError,
    FieldError,
    InvalidRequestError,
    NotFoundError,
    UnsupportedMediaTypeError,
    UpstreamError,
)
from agentapi.principal import UpstreamId
from agentapi.request_body import read_body
from agentapi.upstreams.models import Scope, Upstream
from agentapi.upstreams.probe import probe
from agentapi.upstreams.requests import ConnectionTest, UpstreamInput, check_input, parse
from agentapi.upstreams.secrets import seal_secret

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from starlette.requests import Request

    from agentapi._core import Keyring
    from agentapi.principal import Principal
    from agentapi.upstreams.registry import UpstreamRegistry
    from agentapi.upstreams.transports import TransportFactory

__all__ = ["UpstreamRoutes"]

_MAX_BODY_BYTES = 64 * 1024
_DEFAULT_LIMIT = 50
_MAX_LIMIT = 200
_NAME = re.compile(r"[a-z0-9-]{1,32}")
"""What a name in a cursor may be at most: a stranger's cursor must not reach the database as it came."""


class UpstreamRoutes:
    """Create, read, list, replace, delete and test upstream servers.

    Args:
        authorize: Gives the principal of a request.
        registry: The stored upstreams.
        transports: Opens connections for the test.
        keyring: Seals secrets.
        check_url: Raises ``EgressRefusedError`` for a URL that the gateway must not call.
        commands: Names of the allowed stdio commands.
        test_timeout_s: Bound on a connection test.
    """

    def __init__(
        self,
        *,
        authorize: Callable[[Request], Awaitable[Principal]],
        registry: UpstreamRegistry,
        transports: TransportFactory,
        keyring: Keyring,
        check_url: Callable[[str], Awaitable[None]],
        commands: Iterable[str],
        test_timeout_s: float,
    ) -> None:
        self._authorize = authorize
        self._registry = registry
        self._transports = transports
        self._keyring = keyring
        self._check_url = check_url
        self._commands = tuple(commands)
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
        given = parse(UpstreamInput, await _body(request))
        self._registry.require_write(principal, given.scope)
        await self._check(given, None)
        upstream = await self._new(principal, given)
        await self._registry.create(principal, upstream)
        location = f"/api/v1/mcp/configurations/{upstream.id}"
        return JSONResponse(_document(upstream, given.workspace), status_code=201, headers={"Location": location})

    async def page(self, request: Request) -> Response:
        """``GET /api/v1/mcp/configurations?workspace=&limit=&cursor=``."""
        principal = await self._authorize(request)
        limit = _limit(request.query_params.get("limit"))
        after = _after(request.query_params.get("cursor"))
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
                "next_cursor": _cursor(shown[-1]) if more else None,
            }
        )

    async def read(self, request: Request) -> Response:
        """``GET /api/v1/mcp/configurations/{id}``."""
        principal = await self._authorize(request)
        upstream = await self._registry.get(principal, _id(request.path_params["id"]))
        slugs = await self._registry.workspace_slugs(principal)
        return JSONResponse(_document(upstream, slugs[upstream.workspace_id]))

    async def replace(self, request: Request) -> Response:
        """``PUT /api/v1/mcp/configurations/{id}``; a body without ``secret`` keeps the stored one."""
        principal = await self._authorize(request)
        stored = await self._registry.get(principal, _id(request.path_params["id"]))
        self._registry.require_write(principal, stored.scope)
        given = parse(UpstreamInput, await _body(request))
        await self._check(given, stored)
        workspace = await self._registry.workspace(principal, given.workspace)
        if workspace.id != stored.workspace_id:
            raise InvalidRequestError(
                "The request body is not valid.",
                (FieldError("/workspace", "A configuration stays in its workspace; create another one."),),
            )
        changed = replace(
            stored,
            name=given.name,
            transport=given.transport,
            endpoint=given.endpoint,
            command=given.command,
            auth=given.auth,
            auth_header=given.auth_header,
            secret=self._secret(given, stored),
            enabled=given.enabled,
            description=given.description,
        )
        updated = await self._registry.update(principal, changed)
        return JSONResponse(_document(updated, given.workspace))

    async def delete(self, request: Request) -> Response:
        """``DELETE /api/v1/mcp/configurations/{id}``."""
        principal = await self._authorize(request)
        await self._registry.delete(principal, _id(request.path_params["id"]))
        return Response(status_code=204)

    async def test(self, request: Request) -> Response:
        """``POST /api/v1/mcp/test``: connect for real and say what is there, or why not in words."""
        principal = await self._authorize(request)
        given = parse(ConnectionTest, await _body(request))
        if (given.id is None) == (given.configuration is None):
            raise InvalidRequestError(
                "The request body is not valid.",
                (FieldError("", "Give either 'id', of a stored configuration, or 'configuration'."),),
            )
        if given.configuration is not None:
            self._registry.require_write(principal, given.configuration.scope)
            await self._check(given.configuration, None)
            upstream = await self._new(principal, given.configuration)
        else:
            upstream = await self._registry.get(principal, _id(given.id or ""))
            self._registry.require_write(principal, upstream.scope)
        result = await probe(self._transports.open(upstream), timeout_s=self._test_timeout_s)
        return JSONResponse(asdict(result))

    async def _check(self, given: UpstreamInput, stored: Upstream | None) -> None:
        refusal = None
        if given.endpoint is not None:
            try:
                await self._check_url(given.endpoint)
            except EgressRefusedError as error:
                refusal = error.message
            except UpstreamError:
                # A name that does not resolve now may resolve later; the guard looks again at every connection.
                refusal = None
        check_input(given, stored=stored, refusal=refusal, commands=self._commands)

    def _secret(self, given: UpstreamInput, stored: Upstream) -> bytes | None:
        if given.secret is not None:
            return seal_secret(self._keyring, stored.org_id, stored.id, given.secret.get_secret_value())
        return stored.secret if given.auth is stored.auth else None

    async def _new(self, principal: Principal, given: UpstreamInput) -> Upstream:
        workspace = await self._registry.workspace(principal, given.workspace)
        now = datetime.now(UTC)
        upstream = Upstream(
            id=UpstreamId(uuid4()),
            org_id=principal.org_id,
            workspace_id=workspace.id,
            name=given.name,
            transport=given.transport,
            endpoint=given.endpoint,
            command=given.command,
            auth=given.auth,
            auth_header=given.auth_header,
            secret=None,
            scope=given.scope,
            owner_id=principal.user_id if given.scope is Scope.USER else None,
            enabled=given.enabled,
            description=given.description,
            version=1,
            created_at=now,
            updated_at=now,
            created_by=principal.user_id,
        )
        return replace(upstream, secret=self._secret(given, upstream))


def _document(upstream: Upstream, workspace: str) -> dict[str, Any]:
    """Return what a client may see of ``upstream``: everything but the secret."""
    return {
        "id": str(upstream.id),
        "workspace": workspace,
        "name": upstream.name,
        "transport": upstream.transport,
        "endpoint": upstream.endpoint,
        "command": upstream.command,
        "auth": upstream.auth,
        "auth_header": upstream.auth_header,
        "has_secret": upstream.secret is not None,
        "scope": upstream.scope,
        "enabled": upstream.enabled,
        "description": upstream.description,
        "version": upstream.version,
        "created_at": upstream.created_at.isoformat(),
        "updated_at": upstream.updated_at.isoformat(),
    }


async def _body(request: Request) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise UnsupportedMediaTypeError("The request body must be application/json.")
    return await read_body(request.scope, request.receive, max_bytes=_MAX_BODY_BYTES)


def _id(value: str) -> UpstreamId:
    try:
        return UpstreamId(UUID(value))
    except ValueError:
        raise NotFoundError("There is no such configuration.") from None


def _limit(value: str | None) -> int:
    if value is None:
        return _DEFAULT_LIMIT
    if not (value.isascii() and value.isdigit() and len(value) < 5 and 1 <= int(value) <= _MAX_LIMIT):  # noqa: PLR2004
        raise InvalidRequestError(f"The parameter 'limit' is a number from 1 to {_MAX_LIMIT}.")
    return int(value)


def _cursor(upstream: Upstream) -> str:
    return base64.urlsafe_b64encode(json.dumps([upstream.name, str(upstream.id)]).encode()).decode()


def _after(cursor: str | None) -> tuple[str, UpstreamId] | None:
    if cursor is None:
        return None
    try:
        name, id_ = json.loads(base64.b64decode(cursor.encode(), altchars=b"-_", validate=True))
        if _NAME.fullmatch(name) is not None:
            return name, UpstreamId(UUID(id_))
    except (ValueError, TypeError, AttributeError, RecursionError, binascii.Error):
        pass
    raise InvalidRequestError("The parameter 'cursor' is not one that a list gave.")
