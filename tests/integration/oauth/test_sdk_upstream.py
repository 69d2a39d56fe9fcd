"""An MCP server of the SDK that protects itself with the real authorization server: discovery to tool call."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import httpx2
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from mcp import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.auth.provider import AccessToken
from mcp.server.auth.settings import AuthSettings
from mcp.server.mcpserver import MCPServer

from integration.api.harness import living, served
from integration.oauth.test_oidc_provider import connect, issuer, moved  # noqa: F401 - a fixture among them

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import ASGIApp, Receive, Scope, Send

    from integration.oauth.conftest import Bench


class Later:
    """An application that is made once its address is known."""

    app: ASGIApp
    url: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


class Verifier:
    """Believes the tokens of one issuer for one resource."""

    def __init__(self, keys: KeySet, issuer: str, resource: str) -> None:  # noqa: F811 - not the fixture
        self._keys, self._issuer, self._resource = keys, issuer, resource

    async def verify_token(self, token: str) -> AccessToken | None:
        try:
            claims = jwt.decode(token, self._keys, algorithms=["RS256"]).claims
        except (JoseError, ValueError):
            return None
        if (claims["iss"], claims["aud"]) != (self._issuer, self._resource):
            return None
        scopes = str(claims["scope"]).split()
        return AccessToken(
            token=token,
            client_id=claims["client_id"],
            scopes=scopes,
            expires_at=claims["exp"],
            resource=claims["aud"],
            subject=claims["sub"],
        )


@contextlib.asynccontextmanager
async def protected(issuer: str) -> AsyncIterator[Later]:  # noqa: F811 - its value
    async with httpx2.AsyncClient(trust_env=False) as client:
        keys = KeySet.import_key_set((await client.get(f"{issuer}/jwks")).json())
    later = Later()
    async with served(later) as url:
        later.url = url
        given: dict[str, Any] = {
            "issuer_url": issuer,
            "resource_server_url": f"{url}/mcp",
            "required_scopes": ["read"],
            "validate_token_resource": True,
        }
        server = MCPServer("protected", auth=AuthSettings(**given), token_verifier=Verifier(keys, issuer, f"{url}/mcp"))

        @server.tool()
        def whisper() -> str:
            """Say something that is not for everybody."""
            return "psst"

        app = server.streamable_http_app()
        later.app = app
        async with living(app):
            yield later


async def test_from_discovery_to_a_tool_call_with_nothing_configured(bench: Bench, issuer: str) -> None:  # noqa: F811
    async with protected(issuer) as upstream:
        await moved(bench, upstream.url)
        endpoint = bench.upstream.endpoint
        assert endpoint is not None
        async with httpx2.AsyncClient(trust_env=False) as nobody:
            assert (await nobody.post(endpoint, json={})).status_code == 401
        begun = await connect(bench)
        assert "scope=read+offline_access" in begun.url or "scope=read%20offline_access" in begun.url
        headers = {"Authorization": await bench.credential()}
        async with (
            httpx2.AsyncClient(trust_env=False, headers=headers) as http_client,
            Client(streamable_http_client(endpoint, http_client=http_client)) as client,
        ):
            answer = await client.call_tool("whisper", {})
        assert "psst" in answer.model_dump_json()


async def test_a_token_for_one_resource_opens_no_other(bench: Bench, issuer: str) -> None:  # noqa: F811
    async with protected(issuer) as upstream, protected(issuer) as other:
        await moved(bench, upstream.url)
        await connect(bench)
        headers = {"Authorization": await bench.credential()}
        async with httpx2.AsyncClient(trust_env=False, headers=headers) as http_client:
            assert (await http_client.post(f"{other.url}/mcp", json={})).status_code == 401
            assert (await http_client.post(f"{upstream.url}/mcp", json={})).status_code != 401
