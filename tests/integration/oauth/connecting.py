"""An upstream that wants each user's own token, its authorization server, and the gateway between it and clients."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlencode, urlsplit

import pytest
from mcp.shared.exceptions import MCPError
from mcp.types import ElicitResult

from agentapi.principal import Role
from integration.api.harness import PUBLIC_URL, Api, served
from integration.oauth.provider import Provider
from support.clients import Mode, mcp_client
from support.echo_upstream import EchoUpstream
from support.page_browser import PageBrowser

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from mcp import Client
    from starlette.applications import Starlette
    from starlette.types import Receive, Scope, Send

    from support.page_browser import Page

CALLBACK = "/api/v1/mcp/oauth/callback"


@dataclass(slots=True)
class Guarded(Provider):
    """A provider whose ``/mcp`` is an MCP server for those who have a token that it gave."""

    upstream: EchoUpstream = field(default_factory=EchoUpstream)
    grants: str = "read"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        carried = any(name == b"authorization" for name, _ in scope.get("headers", ()))
        if scope["type"] == "http" and scope["path"] == "/mcp" and carried:
            await self.upstream(scope, receive, send)
        else:
            await Provider.__call__(self, scope, receive, send)

    def _grant(self) -> dict[str, Any]:
        return {**Provider._grant(self), "scope": self.grants}


@dataclass
class Connecting:
    """One organisation with one such upstream, called ``tracker``."""

    api: Api
    site: Guarded
    base: str
    """Where clients reach the gateway."""

    @property
    def mcp_url(self) -> str:
        return f"{self.base}/mcp/{self.api.tenant.principal.org_slug}/main"

    def token(self, subject: str = "mia") -> str:
        return self.api.caller(Role.MEMBER, subject).token

    @contextlib.asynccontextmanager
    async def client(self, mode: Mode, subject: str = "mia", **options: Any) -> AsyncIterator[Client]:
        async with mcp_client(self.mcp_url, self.token(subject), mode, **options) as client:
            yield client

    def browser(self) -> PageBrowser:
        return PageBrowser(self.api.http)

    async def sign_in(self, browser: PageBrowser, url: str, subject: str = "mia") -> Page:
        """Open a link and show a token; return the page after that."""
        page = await browser.get(url)
        assert page.status == 200, page.text
        return await browser.submit(page, token=self.token(subject))

    async def connect(self, url: str, subject: str = "mia", browser: PageBrowser | None = None) -> str:
        """Do all that a link asks for; return the address at the authorization server."""
        browser = browser or self.browser()
        page = await browser.submit(await self.sign_in(browser, url, subject))
        assert page.goes_on is not None, page.text
        done = await self.agree(browser, page.goes_on)
        assert "is connected to tracker" in done.text, done.text
        return page.goes_on

    async def link(self, subject: str = "mia") -> str:
        """Return the link that a call of ``subject`` is answered with."""
        async with self.client("2026-07-28", subject) as client:
            with pytest.raises(MCPError) as caught:
                await client.call_tool("tracker__echo", {})
        return str(caught.value.error.data["url"])

    async def agree(self, browser: PageBrowser, authorization_url: str) -> Page:
        return await browser.get(f"{PUBLIC_URL}{CALLBACK}?{urlencode(self.site.agree(authorization_url))}")


class Asked:
    """A client's answer to elicitations; it does what the page asks before it says yes."""

    def __init__(
        self, connecting: Connecting, *, action: Literal["accept", "decline", "cancel"] = "accept", subject: str = "mia"
    ) -> None:
        self._connecting, self._action, self._subject = connecting, action, subject
        self.urls: list[str] = []
        self.messages: list[str] = []

    async def __call__(self, _: Any, params: Any) -> ElicitResult:
        self.urls.append(params.url)
        self.messages.append(params.message)
        if self._action == "accept":
            await self._connecting.connect(params.url)
        return ElicitResult(action=self._action)


@contextlib.asynccontextmanager
async def connecting(gateway: Starlette, api: Api, *, legacy: bool = False) -> AsyncIterator[Connecting]:
    made = Guarded(upstream=EchoUpstream(legacy=legacy))
    async with served(made) as url, served(gateway) as base:
        made.url = url
        made.lay_down()
        await api.caller().created(name="tracker", endpoint=f"{url}/mcp", auth="oauth")
        yield Connecting(api, made, base)


def path_of(url: str) -> str:
    assert url.startswith(f"{PUBLIC_URL}/connect/")
    return urlsplit(url).path
