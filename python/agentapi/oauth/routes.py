"""The endpoints under ``/api/v1/mcp/oauth``: connections of users, and what administrators set up for them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from agentapi.api_input import decode_cursor, encode_cursor, known_id, page_limit, parse, read_json
from agentapi.errors import AgentAPIError, NotFoundError
from agentapi.oauth import pages
from agentapi.oauth.clients.registry import CALLBACK_PATH, METADATA_PATH
from agentapi.oauth.flow import TTL_S, Answer
from agentapi.oauth.models import Client, ClientAuth, Registration
from agentapi.oauth.requests import ClientInput, InitInput, ProviderInput, WhichUpstream
from agentapi.preconditions import entity_tag, if_match
from agentapi.principal import UpstreamId
from agentapi.problems import status_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from agentapi.oauth.book import ConnectionBook
    from agentapi.oauth.clients.registry import ClientRegistry
    from agentapi.oauth.connect.tickets import Tickets
    from agentapi.oauth.documents import (
        BegunDocument,
        ClientDocument,
        ClientPage,
        ConnectionDocument,
        ProviderDocument,
        RevokedDocument,
    )
    from agentapi.oauth.flow import Flows
    from agentapi.oauth.models import Connection
    from agentapi.oauth.outcome import Outcomes
    from agentapi.oauth.revoke import Revoker
    from agentapi.principal import Principal
    from agentapi.upstreams.registry import UpstreamRegistry

__all__ = ["COOKIE", "OAuthRoutes"]

COOKIE: Final = "__Host-agentapi-oauth"
_BASE: Final = "/api/v1/mcp/oauth"
_CURSOR: Final = "connection"
_ISSUER: Final = re.compile(r"[\x21-\x7e]{1,2048}")
_NO_UPSTREAM: Final = "There is no such upstream."


class OAuthRoutes:
    """Connect, refresh, revoke and list; register clients and choose providers.

    Args:
        authorize: Gives the principal of a request.
        upstreams: The stored upstreams.
        flows: Begins and ends authorizations.
        book: The users' connections.
        revoker: Takes them back.
        clients: The organisation's clients and providers.
        tickets: Make links that can be followed in another browser.
        outcomes: Show what came of it.
    """

    def __init__(
        self,
        *,
        authorize: Callable[[Request], Awaitable[Principal]],
        upstreams: UpstreamRegistry,
        flows: Flows,
        book: ConnectionBook,
        revoker: Revoker,
        clients: ClientRegistry,
        tickets: Tickets,
        outcomes: Outcomes,
    ) -> None:
        self._authorize = authorize
        self._upstreams = upstreams
        self._flows = flows
        self._book = book
        self._revoker = revoker
        self._clients = clients
        self._tickets = tickets
        self._outcomes = outcomes

    def routes(self) -> list[Route]:
        """Return the routes, for the application to mount."""
        return [
            Route(f"{_BASE}/init", self.init, methods=["POST"]),
            Route(CALLBACK_PATH, self.callback, methods=["GET"]),
            Route(f"{_BASE}/refresh", self.refresh, methods=["POST"]),
            Route(f"{_BASE}/revoke", self.revoke, methods=["POST"]),
            Route(f"{_BASE}/connections", self.connections, methods=["GET"]),
            Route(f"{_BASE}/clients", self.put_client, methods=["PUT"]),
            Route(f"{_BASE}/clients", self.list_clients, methods=["GET"]),
            Route(f"{_BASE}/clients", self.delete_client, methods=["DELETE"]),
            Route(f"{_BASE}/providers/{{id}}", self.put_provider, methods=["PUT"]),
            Route(f"{_BASE}/providers/{{id}}", self.read_provider, methods=["GET"]),
            Route(f"{_BASE}/providers/{{id}}", self.delete_provider, methods=["DELETE"]),
            Route(METADATA_PATH, self.metadata, methods=["GET"]),
            *self._outcomes.routes(),
        ]

    async def init(self, request: Request) -> Response:
        """``POST /api/v1/mcp/oauth/init``: where to send the browser, and the cookie that it has to bring back."""
        principal = await self._authorize(request)
        given = parse(InitInput, await read_json(request))
        upstream = await self._upstreams.get(principal, _id(given.upstream))
        begun = await self._flows.init(
            principal,
            upstream,
            browser=request.cookies.get(COOKIE),
            return_to=given.return_to,
            more_scopes=given.scopes,
        )
        connect_url = self._tickets.url(principal, upstream.id, scopes=given.scopes)
        document: BegunDocument = {
            "authorization_url": begun.url,
            "expires_at": begun.expires_at.isoformat(),
            "connect_url": connect_url,
        }
        response = JSONResponse(document, headers={"Cache-Control": "no-store"})
        response.set_cookie(COOKIE, begun.browser, max_age=TTL_S, path="/", secure=True, httponly=True, samesite="lax")
        return response

    async def callback(self, request: Request) -> Response:
        """``GET /api/v1/mcp/oauth/callback``: where the provider sends the browser back to."""
        query = request.query_params
        # A parameter that comes twice could be read differently by two parties (RFC 6749, section 3.1).
        once = {name: values[0] for name in query if len(values := query.getlist(name)) == 1}
        answer = Answer(state=once.get("state"), code=once.get("code"), error=once.get("error"), issuer=once.get("iss"))
        try:
            if len(once) != len(query):
                answer = Answer(state=None)
            finished = await self._flows.finish(answer, browser=request.cookies.get(COOKIE))
        except AgentAPIError as error:
            return pages.not_connected(status_of(error), error.message)
        if finished.return_to is not None:
            return RedirectResponse(finished.return_to, 303, {"Referrer-Policy": "no-referrer"})
        return self._outcomes.redirect(finished.connection)

    async def refresh(self, request: Request) -> Response:
        """``POST /api/v1/mcp/oauth/refresh``: renew the caller's token now."""
        principal = await self._authorize(request)
        given = parse(WhichUpstream, await read_json(request))
        return JSONResponse(_document(await self._book.refresh(principal, _id(given.upstream))))

    async def revoke(self, request: Request) -> Response:
        """``POST /api/v1/mcp/oauth/revoke``: end the caller's connection, and say what the provider said to it."""
        principal = await self._authorize(request)
        given = parse(WhichUpstream, await read_json(request))
        document: RevokedDocument = {"at_provider": await self._revoker.revoke(principal, _id(given.upstream))}
        return JSONResponse(document)

    async def connections(self, request: Request) -> Response:
        """``GET /api/v1/mcp/oauth/connections?limit=&cursor=``: the caller's own."""
        principal = await self._authorize(request)
        limit = page_limit(request)
        cursor = decode_cursor(request, re.compile(_CURSOR))
        after = None if cursor is None else UpstreamId(cursor[1])
        found = await self._book.page(principal, limit=limit + 1, after=after)
        shown = found[:limit]
        more = len(found) > limit
        return JSONResponse(
            {
                "items": [_document(connection) for connection in shown],
                "next_cursor": encode_cursor(_CURSOR, shown[-1].upstream_id) if more else None,
            }
        )

    async def put_client(self, request: Request) -> Response:
        """``PUT /api/v1/mcp/oauth/clients``: the organisation's client of one issuer."""
        principal = await self._authorize(request)
        given = parse(ClientInput, await read_json(request))
        client = Client(
            issuer=given.issuer,
            client_id=given.client_id,
            secret=given.client_secret,
            auth_method=ClientAuth.NONE if given.client_secret is None else given.auth_method,
            registration=Registration.MANUAL,
        )
        await self._book.put_client(principal, client)
        return Response(status_code=204)

    async def list_clients(self, request: Request) -> Response:
        """``GET /api/v1/mcp/oauth/clients?limit=&cursor=``: the organisation's, without their secrets."""
        principal = await self._authorize(request)
        limit, cursor = page_limit(request), decode_cursor(request, _ISSUER)
        found = await self._book.clients(principal, limit=limit + 1, after="" if cursor is None else cursor[0])
        items: list[ClientDocument] = [
            {
                "issuer": client.issuer,
                "client_id": client.client_id,
                "has_secret": client.secret is not None,
                "auth_method": client.auth_method,
                "registration": client.registration,
            }
            for client in found[:limit]
        ]
        following = encode_cursor(items[-1]["issuer"], principal.org_id) if len(found) > limit else None
        document: ClientPage = {
            "items": items,
            "next_cursor": following,
            "redirect_uri": self._clients.redirect_uri,
        }
        return JSONResponse(document)

    async def delete_client(self, request: Request) -> Response:
        """``DELETE /api/v1/mcp/oauth/clients?issuer=``."""
        principal = await self._authorize(request)
        await self._book.delete_client(principal, request.query_params.get("issuer", ""))
        return Response(status_code=204)

    async def put_provider(self, request: Request) -> Response:
        """``PUT /api/v1/mcp/oauth/providers/{id}``: which provider the upstream of that id uses."""
        principal = await self._authorize(request)
        upstream = await self._upstreams.get(principal, _id(request.path_params["id"]))
        self._upstreams.require_write(principal, upstream.scope)
        given = parse(ProviderInput, await read_json(request))
        version = await self._book.choose(principal, upstream.id, given, expected=if_match(request))
        return Response(status_code=204, headers={"ETag": entity_tag(version)})

    async def read_provider(self, request: Request) -> Response:
        """``GET /api/v1/mcp/oauth/providers/{id}``."""
        principal = await self._authorize(request)
        upstream = await self._upstreams.get(principal, _id(request.path_params["id"]))
        binding = await self._book.chosen(principal, upstream.id)
        if binding is None:
            raise NotFoundError("The upstream has no provider of its own.")
        document: ProviderDocument = {
            "provider": binding.provider,
            "parameters": binding.parameters,
            "scopes": list(binding.scopes),
        }
        return JSONResponse(document, headers={"ETag": entity_tag(binding.version)})

    async def delete_provider(self, request: Request) -> Response:
        """``DELETE /api/v1/mcp/oauth/providers/{id}``: the upstream's own metadata decides again."""
        principal = await self._authorize(request)
        upstream = await self._upstreams.get(principal, _id(request.path_params["id"]))
        self._upstreams.require_write(principal, upstream.scope)
        await self._book.leave_to_metadata(principal, upstream.id, expected=if_match(request))
        return Response(status_code=204)

    async def metadata(self, _: Request) -> Response:
        """``GET /.well-known/oauth-client.json``: the gateway as a client, for servers that read its id as a URL."""
        return JSONResponse(self._clients.document(), headers={"Cache-Control": "public, max-age=3600"})


def _document(connection: Connection) -> ConnectionDocument:
    """Return what its owner may see of a connection: everything but the tokens."""
    expires_at = connection.expires_at
    return {
        "upstream": str(connection.upstream_id),
        "provider": connection.provider,
        "status": connection.status,
        "status_reason": connection.status_reason,
        "scopes": list(connection.scopes),
        "expires_at": None if expires_at is None else expires_at.isoformat(),
        "created_at": connection.created_at.isoformat(),
        "updated_at": connection.updated_at.isoformat(),
    }


def _id(text: str) -> UpstreamId:
    return UpstreamId(known_id(text, _NO_UPSTREAM))
