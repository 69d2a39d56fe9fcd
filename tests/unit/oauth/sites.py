"""Servers on loopback that answer what a test lays down, and keep what they were asked."""

from __future__ import annotations

import contextlib
import inspect
import json
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from agentapi.egress import AddressPolicy, Egress
from integration.api.harness import served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from starlette.types import Receive, Scope, Send

LOOPBACK = AddressPolicy(allow_networks=(ip_network("127.0.0.0/8"),), allow_http=True)


@dataclass(frozen=True, slots=True)
class Asked:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode(), strict_parsing=True))

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(slots=True)
class Site:
    """Answers by path; an answer is a JSON value, a response, or a function of the request."""

    answers: dict[str, Any] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    url: str = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        asked = Asked(request.method, request.url.path, dict(request.headers), await request.body())
        self.asked.append(asked)
        answer = self.answers.get(asked.path)
        if callable(answer) and not isinstance(answer, Response):
            answer = answer(asked)
            if inspect.isawaitable(answer):
                answer = await answer
        if answer is None:
            answer = Response(status_code=404)
        response = answer if isinstance(answer, Response) else JSONResponse(answer)
        await response(scope, receive, send)

    def paths(self) -> list[str]:
        return [asked.path for asked in self.asked]


@contextlib.asynccontextmanager
async def site(build: Callable[[str], dict[str, Any]]) -> AsyncIterator[Site]:
    """Serve what ``build`` makes of the site's own address."""
    made = Site()
    async with served(made) as url:
        made.url = url
        made.answers = build(url)
        yield made


@contextlib.asynccontextmanager
async def egress(policy: AddressPolicy = LOOPBACK, timeout_s: float = 5.0) -> AsyncIterator[Egress]:
    async with Egress(policy, timeout_s=timeout_s) as out:
        yield out


def server_metadata(issuer: str, **changes: Any) -> dict[str, Any]:
    """Metadata of a good authorization server; a member that is changed to ``...`` is left out."""
    document = {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/authorize",
        "token_endpoint": f"{issuer}/token",
        "registration_endpoint": f"{issuer}/register",
        "code_challenge_methods_supported": ["S256"],
        "scopes_supported": ["read", "write", "offline_access"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "none", "private_key_jwt"],
        **changes,
    }
    return {name: value for name, value in document.items() if value is not ...}
