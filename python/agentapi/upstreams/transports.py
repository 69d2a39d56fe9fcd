"""One channel per transport. A channel is given a credential and never asks for one."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from agentapi.errors import UpstreamNeedsConnectionError
from agentapi.upstreams.channel import Channel, OpenChannel
from agentapi.upstreams.http_channel import WatchedTransport
from agentapi.upstreams.models import Auth, Transport
from agentapi.upstreams.secrets import credential_headers
from agentapi.upstreams.stdio_channel import StdioProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx2

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
        max_message_bytes: Bound on one message of a pipe or an event stream.
    """

    def __init__(self, *, egress: Egress, commands: StdioCommands, keyring: Keyring, max_message_bytes: int) -> None:
        self._egress = egress
        self._commands = commands
        self._keyring = keyring
        self._max_message_bytes = max_message_bytes

    def open(self, upstream: Upstream) -> OpenChannel:
        """Return the opener for ``upstream``; nothing is opened and no secret is touched until it is entered."""

        def opener() -> contextlib.AbstractAsyncContextManager[Channel]:
            if upstream.auth is Auth.OAUTH:
                raise UpstreamNeedsConnectionError(
                    f"Upstream '{upstream.name}' needs an OAuth connection of yours, and you have none."
                )
            if upstream.transport is Transport.STDIO:
                return self._stdio(upstream)
            return self._http(upstream)

        return opener

    @contextlib.asynccontextmanager
    async def _http(self, upstream: Upstream) -> AsyncIterator[Channel]:
        endpoint = upstream.endpoint
        if endpoint is None:
            raise AssertionError(upstream.id)
        over_sse = upstream.transport is Transport.SSE
        watched = WatchedTransport(self._egress.transport, answers_elsewhere=over_sse)

        def client(
            headers: dict[str, str] | None = None,
            timeout: httpx2.Timeout | None = None,
            auth: httpx2.Auth | None = None,
        ) -> httpx2.AsyncClient:
            return self._egress.client(
                headers={**credential_headers(self._keyring, upstream), **(headers or {})},
                timeout=timeout,
                auth=auth,
                transport=watched,
            )

        if over_sse:
            streams = sse_client(endpoint, httpx_client_factory=client)
            yield Channel(streams, Transport.SSE, lambda: watched.last_status)
            return
        async with client() as http_client:
            http = streamable_http_client(endpoint, http_client=http_client, max_sse_event_size=self._max_message_bytes)
            yield Channel(http, Transport.HTTP, lambda: watched.last_status)

    @contextlib.asynccontextmanager
    async def _stdio(self, upstream: Upstream) -> AsyncIterator[Channel]:
        if upstream.command is None:
            raise AssertionError(upstream.id)
        async with self._commands.parameters(upstream.command) as parameters:
            process = StdioProcess(parameters, max_message_bytes=self._max_message_bytes)
            yield Channel(
                process.streams(),
                Transport.STDIO,
                ending=lambda: process.ending,
                alive=process.is_running,
            )
