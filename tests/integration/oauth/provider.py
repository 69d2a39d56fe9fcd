"""A provider on loopback that keeps codes and grants, rotates refresh tokens, and can be told to misbehave."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from starlette.responses import JSONResponse, Response

from integration.api.harness import served
from unit.oauth.sites import Site, server_metadata

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from unit.oauth.sites import Asked


@dataclass(slots=True)
class Provider(Site):
    """An MCP server at ``/mcp`` and its authorization server, at one address."""

    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    refresh_tokens: set[str] = field(default_factory=set)
    revoked: list[str] = field(default_factory=list)
    metadata_changes: dict[str, Any] = field(default_factory=dict)
    lifetime_s: int | None = 3600
    token_answer: Response | None = None
    announces_issuer: bool = True
    registrations: int = 0
    refreshes: int = 0
    refreshing: asyncio.Event = field(default_factory=asyncio.Event)

    def lay_down(self) -> None:
        metadata = f"{self.url}/.well-known/oauth-protected-resource/mcp"
        self.answers = {
            "/mcp": lambda _: Response(
                status_code=401,
                headers={"WWW-Authenticate": f'Bearer resource_metadata="{metadata}"'},
            ),
            "/.well-known/oauth-protected-resource/mcp": lambda _: {
                "resource": f"{self.url}/mcp",
                "authorization_servers": [self.url],
                "scopes_supported": ["read"],
            },
            "/.well-known/oauth-authorization-server": lambda _: server_metadata(
                self.url,
                revocation_endpoint=f"{self.url}/revoke",
                authorization_response_iss_parameter_supported=self.announces_issuer,
                **self.metadata_changes,
            ),
            "/register": self._register,
            "/token": self._token,
            "/revoke": self._revoke,
        }

    def agree(self, authorization_url: str) -> dict[str, str]:
        """Do as a user who agrees: return what the browser is sent back with."""
        asked = {name: values[0] for name, values in parse_qs(urlsplit(authorization_url).query).items()}
        assert asked["response_type"] == "code"
        assert asked["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe(16)
        self.codes[code] = asked
        answer = {"state": asked["state"], "code": code}
        return {**answer, "iss": self.url} if self.announces_issuer else answer

    def _register(self, _: Asked) -> Response:
        self.registrations += 1
        return JSONResponse({"client_id": f"dynamic-{self.registrations}", "client_secret": "dynamic-secret"}, 201)

    def _token(self, asked: Asked) -> Any:
        if self.token_answer is not None:
            return self.token_answer
        form = asked.form
        if form["grant_type"] == "refresh_token":
            self.refreshes += 1
            self.refreshing.set()
            if form["refresh_token"] not in self.refresh_tokens:
                return JSONResponse({"error": "invalid_grant"}, 400)
            self.refresh_tokens.discard(form["refresh_token"])
            return self._grant()
        began = self.codes.pop(form["code"], None)
        digest = hashlib.sha256(form["code_verifier"].encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).decode().rstrip("=")
        good = began is not None and began["code_challenge"] == challenge
        if not good or began is None or began.get("resource") != form.get("resource"):
            return JSONResponse({"error": "invalid_grant"}, 400)
        return self._grant()

    def _grant(self) -> dict[str, Any]:
        refresh_token = f"refresh-{secrets.token_urlsafe(24)}"
        self.refresh_tokens.add(refresh_token)
        answer = {
            "access_token": f"access-{secrets.token_urlsafe(24)}",
            "token_type": "Bearer",
            "refresh_token": refresh_token,
            "scope": "read",
        }
        return answer if self.lifetime_s is None else {**answer, "expires_in": self.lifetime_s}

    def _revoke(self, asked: Asked) -> Response:
        self.revoked.append(asked.form["token"])
        self.refresh_tokens.discard(asked.form["token"])
        return Response()


@contextlib.asynccontextmanager
async def provider() -> AsyncIterator[Provider]:
    made = Provider()
    async with served(made) as url:
        made.url = url
        made.lay_down()
        yield made


async def both(*work: Any) -> list[Any]:
    return await asyncio.gather(*work, return_exceptions=True)
