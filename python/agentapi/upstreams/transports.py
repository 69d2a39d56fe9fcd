"""One client adapter per transport. An adapter is given a credential and never asks for one."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

import httpx2
from mcp.client.sse import sse_client
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client

from agentapi.errors import UpstreamNeedsConnectionError
from agentapi.upstreams.connections import OpenTransport, UpstreamLink
from agentapi.upstreams.models import Auth, Transport
from agentapi.upstreams.secrets import credential_headers

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentapi._core import Keyring
    from agentapi.egress.client import Egress
    from agentapi.upstreams.models import Upstream
    from agentapi.upstreams.stdio import StdioCommands

__all__ = ["TransportFactory"]


class TransportFactory:
    """Opens the transport of an upstream with its credential attached.

    Args:
        egress: The guarded HTTP client of the process.
        commands: The allowed commands, each run in its sandbox.
        keyring: Opens the sealed secret.
        read_timeout_s: Longest silence on an HTTP answer.
    """

    def __init__(self, *, egress: Egress, commands: StdioCommands, keyring: Keyring, read_timeout_s: float) -> None:
        self._egress = egress
        self._commands = commands
        self._keyring = keyring
        self._read_timeout_s = read_timeout_s

    def open(self, upstream: Upstream) -> OpenTransport:
        """Return the opener for ``upstream``; nothing is opened and no secret is touched until it is entered."""

        def opener() -> contextlib.AbstractAsyncContextManager[UpstreamLink]:
            if upstream.auth is Auth.OAUTH:
                raise UpstreamNeedsConnectionError(
                    f"Upstream '{upstream.name}' needs an OAuth connection of yours, and you have none."
                )
            if upstream.transport is Transport.STDIO:
                return self._stdio(upstream)
            return self._http(upstream)

        return opener

    @contextlib.asynccontextmanager
    async def _http(self, upstream: Upstream) -> AsyncIterator[UpstreamLink]:
        status: int | None = None

        async def note_status(response: httpx2.Response) -> None:
            nonlocal status
            status = response.status_code

        def client(
            headers: dict[str, str] | None = None,
            timeout: httpx2.Timeout | None = None,
            auth: httpx2.Auth | None = None,
        ) -> httpx2.AsyncClient:
            made = self._egress.client(
                headers={**credential_headers(self._keyring, upstream), **(headers or {})},
                timeout=timeout,
                auth=auth,
            )
            made.event_hooks = {"response": [note_status]}
            return made

        endpoint = upstream.endpoint
        if endpoint is None:
            raise AssertionError(upstream.id)
        if upstream.transport is Transport.SSE:
            yield UpstreamLink(
                sse_client(endpoint, sse_read_timeout=self._read_timeout_s, httpx_client_factory=client),
                lambda: status,
            )
            return
        timeout = httpx2.Timeout(10.0, read=self._read_timeout_s)
        async with client(timeout=timeout) as http_client:
            yield UpstreamLink(streamable_http_client(endpoint, http_client=http_client), lambda: status)

    @contextlib.asynccontextmanager
    async def _stdio(self, upstream: Upstream) -> AsyncIterator[UpstreamLink]:
        if upstream.command is None:
            raise AssertionError(upstream.id)
        # What a server writes to standard error is its own; it may hold anything, so it never reaches our log.
        with open(os.devnull, "w", encoding="utf-8") as errlog:  # noqa: ASYNC230, PTH123 - the null device never blocks
            async with self._commands.parameters(upstream.command) as parameters:
                yield UpstreamLink(stdio_client(parameters, errlog=errlog))
