"""One channel per transport. A channel is given a credential and never asks for one."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client

from agentapi.principal import OrgId, SessionId
from agentapi.upstreams.calls import is_within_bound
from agentapi.upstreams.channel import Channel, OpenChannel
from agentapi.upstreams.credentials import with_query
from agentapi.upstreams.http_channel import WatchedTransport
from agentapi.upstreams.models import Transport
from agentapi.upstreams.stdio import SessionPlace
from agentapi.upstreams.stdio_channel import StdioProcess

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx2

    from agentapi.egress.client import Egress
    from agentapi.upstreams.calls import Call
    from agentapi.upstreams.credentials import Credential
    from agentapi.upstreams.models import Upstream
    from agentapi.upstreams.stdio import StdioCommands

__all__ = ["SessionDirectory", "TransportFactory"]

SessionDirectory = Callable[[OrgId, SessionId], Awaitable[Path]]
"""Says where the directory of an organisation's session is."""


class TransportFactory:
    """Opens the transport of an upstream with its credential attached.

    Args:
        egress: The guarded HTTP client of the process.
        commands: The allowed commands, each run in its sandbox.
        max_message_bytes: Bound on one message of a pipe or an event stream.
        session_directory: Says where the directory of a session is, whether it is there or not.
    """

    def __init__(
        self,
        *,
        egress: Egress,
        commands: StdioCommands,
        max_message_bytes: int,
        session_directory: SessionDirectory | None = None,
    ) -> None:
        self._egress = egress
        self._commands = commands
        self._max_message_bytes = max_message_bytes
        self._session_directory = session_directory

    def open(self, upstream: Upstream, credential: Credential, session_id: SessionId | None = None) -> OpenChannel:
        """Return the opener for ``upstream`` with ``credential``; nothing is opened until it is entered.

        Args:
            upstream: The server.
            credential: What authenticates to it.
            session_id: The session in whose directory a command runs; of no meaning to a server elsewhere.
        """

        def opener() -> contextlib.AbstractAsyncContextManager[Channel]:
            if upstream.transport is Transport.STDIO:
                return self._stdio(upstream, credential, session_id)
            return self._http(upstream, credential)

        return opener

    @contextlib.asynccontextmanager
    async def _http(self, upstream: Upstream, credential: Credential) -> AsyncIterator[Channel]:
        if upstream.endpoint is None:
            raise AssertionError(upstream.id)
        endpoint = with_query(upstream.endpoint, credential)
        over_sse = upstream.transport is Transport.SSE
        watched = WatchedTransport(
            self._egress.to_upstreams, answers_elsewhere=over_sse, own=credential.user_id is not None
        )
        attached = {name: value.get_secret_value() for name, value in credential.headers.items()}

        def client(
            headers: dict[str, str] | None = None,
            timeout: httpx2.Timeout | None = None,
            auth: httpx2.Auth | None = None,
        ) -> httpx2.AsyncClient:
            return self._egress.client(
                headers={**attached, **(headers or {})},
                timeout=timeout,
                auth=auth,
                transport=watched,
            )

        if over_sse:
            streams = sse_client(endpoint, httpx_client_factory=client)
            yield Channel(streams, Transport.SSE, lambda: watched.last_status, lambda: watched.refusal)
            return
        async with client() as http_client:
            http = streamable_http_client(endpoint, http_client=http_client, max_sse_event_size=self._max_message_bytes)
            yield Channel(http, Transport.HTTP, lambda: watched.last_status, lambda: watched.refusal)

    @contextlib.asynccontextmanager
    async def _stdio(
        self, upstream: Upstream, credential: Credential, session_id: SessionId | None
    ) -> AsyncIterator[Channel]:
        if upstream.command is None:
            raise AssertionError(upstream.id)
        place = None
        if session_id is not None and self._session_directory is not None:
            directory = await self._session_directory(upstream.org_id, session_id)
            place = SessionPlace(f"{upstream.org_id}/{session_id}", directory)
        async with self._commands.run(upstream.command, credential.environment, place) as run:
            calls: dict[str | int, Call] = {}
            process = StdioProcess(
                run,
                max_message_bytes=self._max_message_bytes,
                admit=lambda line: is_within_bound(line, calls),
            )
            yield Channel(
                process.streams(),
                Transport.STDIO,
                ending=lambda: process.ending,
                alive=process.is_running,
                calls=calls,
            )
