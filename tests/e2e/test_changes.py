"""What changes at an upstream reaches those who listen, in either era: changed lists, and resources they watch."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from mcp.shared.subscriptions import ResourceUpdated, ToolsListChanged

from support.clients import list_tools
from support.era_server import WATCHED
from support.eras import KINDS, MODES, EraUpstream, era_upstreams, mcp_config
from support.gateway import Gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from mcp import Client
    from mcp.client.session import IncomingMessage

    from support.clients import Mode

# The SDK's client warns of what only the older revisions have.
pytestmark = pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning")

SOON_S = 8.0
TOOLS_CHANGED = "notifications/tools/list_changed"
UPDATED = "notifications/resources/updated"


@pytest.fixture(scope="module")
def upstreams(module_directory: Path) -> Iterator[dict[str, EraUpstream]]:
    with era_upstreams(module_directory) as found:
        yield found


@pytest.fixture(scope="module")
def gateway(upstreams: dict[str, EraUpstream], module_directory: Path) -> Iterator[Gateway]:
    # Longer than the module takes: a list that is fresh was made so by a notification.
    env = {"AGENTAPI_CATALOGUE_TTL_S": "3600"}
    arguments = mcp_config(module_directory, upstreams)
    with Gateway.start(*arguments, data_dir=module_directory / "data", env=env) as running:
        yield running


@pytest.fixture(params=KINDS)
def upstream(request: pytest.FixtureRequest, upstreams: dict[str, EraUpstream]) -> EraUpstream:
    return upstreams[request.param]


class _Ears:
    """What one client hears, by whichever way its era has."""

    def __init__(self) -> None:
        self.client: Client
        self._heard: list[str] = []
        self._news = asyncio.Event()

    def heard(self, kind: str) -> int:
        """Return how often ``kind`` was heard."""
        return self._heard.count(kind)

    async def hears(self, kind: str, times: int = 1) -> None:
        """Wait until ``kind`` was heard that many times."""
        async with asyncio.timeout(SOON_S):
            while self.heard(kind) < times:
                self._news.clear()
                await self._news.wait()

    async def listen(self, events: AsyncIterator[object]) -> None:
        """Hear what a modern subscription brings."""
        async for event in events:
            self._hear({ToolsListChanged: TOOLS_CHANGED, ResourceUpdated: UPDATED}[type(event)])

    async def tell(self, message: IncomingMessage) -> None:
        """Hear what an older session brings."""
        if isinstance(message, Exception):
            raise message
        self._hear(message.method)

    def _hear(self, kind: str) -> None:
        self._heard.append(kind)
        self._news.set()


@asynccontextmanager
async def _listener(gateway: Gateway, mode: Mode, *, token: str | None = None, uri: str = "") -> AsyncIterator[_Ears]:
    """Connect a client that listens for changed tools, and for updates of ``uri`` if there is one."""
    ears = _Ears()
    # It declares nothing that it could be asked, so that a stdio server has the one process for all of them.
    async with gateway.mcp(mode, token=token, message_handler=ears.tell) as client:
        ears.client = client
        if mode == "legacy":
            if uri:
                await client.subscribe_resource(uri)
            yield ears
            return
        wanted = [uri] if uri else []
        async with client.listen(tools_list_changed=True, resource_subscriptions=wanted) as subscription:
            listening = asyncio.ensure_future(ears.listen(subscription))
            yield ears
            listening.cancel()


@pytest.mark.parametrize("caller", MODES)
async def test_added_tool_is_heard_of_and_listed(gateway: Gateway, upstream: EraUpstream, caller: Mode) -> None:
    added = f"added-{uuid4().hex[:8]}"
    async with (
        _listener(gateway, "legacy") as older,
        _listener(gateway, "2026-07-28") as modern,
        gateway.mcp(caller) as client,
    ):
        for ears in (older, modern):
            assert f"{upstream.name}__{added}" not in {tool.name for tool in await list_tools(ears.client)}
        await client.call_tool(f"{upstream.name}__add_tool", {"name": added})
        for ears in (older, modern):
            await ears.hears(TOOLS_CHANGED)
            assert f"{upstream.name}__{added}" in {tool.name for tool in await list_tools(ears.client)}


@pytest.mark.parametrize("mode", MODES)
async def test_update_reaches_the_subscriber_alone(gateway: Gateway, upstream: EraUpstream, mode: Mode) -> None:
    uri = f"mcp+{upstream.name}+{WATCHED}"
    async with (
        _listener(gateway, mode, uri=uri) as subscriber,
        _listener(gateway, "legacy") as older,
        _listener(gateway, "2026-07-28") as modern,
        _listener(gateway, "2026-07-28", uri=f"mcp+{upstream.name}+note://static") as elsewhere,
    ):
        await subscriber.client.call_tool(f"{upstream.name}__touch", {})
        await subscriber.hears(UPDATED)
        for ears in (older, modern, elsewhere):
            assert ears.heard(UPDATED) == 0


async def test_unsubscribed_client_hears_no_more(gateway: Gateway, upstream: EraUpstream) -> None:
    uri = f"mcp+{upstream.name}+{WATCHED}"
    async with (
        _listener(gateway, "legacy", uri=uri) as leaver,
        _listener(gateway, "legacy", uri=uri) as subscriber,
    ):
        await leaver.client.unsubscribe_resource(uri)
        await subscriber.client.call_tool(f"{upstream.name}__touch", {})
        await subscriber.hears(UPDATED)
        assert leaver.heard(UPDATED) == 0


async def test_upstream_that_comes_changes_and_goes_is_heard_of(gateway: Gateway) -> None:
    name = f"new-{uuid4().hex[:8]}"
    given = {"workspace": "main", "name": name, "transport": "http", "endpoint": "http://127.0.0.1:59999/mcp"}
    async with _listener(gateway, "legacy") as older, _listener(gateway, "2026-07-28") as modern:

        async def both_hear(times: int) -> None:
            for ears in (older, modern):
                await ears.hears(TOOLS_CHANGED, times)

        await list_tools(older.client)
        before = older.heard(TOOLS_CHANGED), modern.heard(TOOLS_CHANGED)
        assert before == (0, 0)
        created = gateway.api.post("/api/v1/mcp/configurations", json=given)
        assert created.status_code == 201, created.text
        await both_hear(1)
        path = f"/api/v1/mcp/configurations/{created.json()['id']}"
        changed = gateway.api.put(path, json={**given, "enabled": False})
        assert changed.status_code == 200, changed.text
        await both_hear(2)
        assert gateway.api.delete(path).status_code == 204
        await both_hear(3)


def test_the_log_holds_no_traceback(gateway: Gateway) -> None:
    """Last in the module, so that the log covers everything above."""
    assert gateway.tracebacks == []
