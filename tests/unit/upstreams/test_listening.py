"""Changes that upstreams of both eras report: to who listens, and to the catalogue."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import anyio
import pytest
from mcp.server import Server
from mcp.server.lowlevel import NotificationOptions
from mcp_types import CallToolResult, EmptyResult, ListResourcesResult, ListToolsResult, TextContent

from agentapi.errors import UpstreamError
from agentapi.upstreams.inbox import Inbox
from agentapi.upstreams.link import Era, Profile
from agentapi.upstreams.listening import Filter, listen_on
from unit.upstreams.servers import ALICE, BOB, Front, Journal, World, call, full_http, http, serving, world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from anyio.abc import TaskGroup
    from mcp.server.context import ServerRequestContext

    from agentapi.upstreams.models import Upstream
    from agentapi.upstreams.session import Link

TOOLS = "notifications/tools/list_changed"
UPDATED = "notifications/resources/updated"


def legacy_server(journal: Journal) -> Server[Any]:
    """Offers subscriptions as the older revisions have them."""
    subscribed: set[str] = set()

    async def subscribe(_: ServerRequestContext[Any], params: Any) -> EmptyResult:
        journal.methods.append(f"subscribe {params.uri}")
        subscribed.add(str(params.uri))
        return EmptyResult()

    async def unsubscribe(_: ServerRequestContext[Any], params: Any) -> EmptyResult:
        journal.methods.append(f"unsubscribe {params.uri}")
        return EmptyResult()

    async def change(ctx: ServerRequestContext[Any], params: Any) -> CallToolResult:
        await ctx.session.send_tool_list_changed()
        if params.arguments["uri"] in subscribed:
            await ctx.session.send_resource_updated(params.arguments["uri"])
        return CallToolResult(content=[TextContent(text="changed")])

    async def tools(*_: Any) -> ListToolsResult:
        return ListToolsResult(tools=[])

    async def resources(*_: Any) -> ListResourcesResult:
        return ListResourcesResult(resources=[])

    server: Server[Any] = Server(
        "legacy",
        on_list_tools=tools,
        on_call_tool=change,
        on_list_resources=resources,
        on_subscribe_resource=subscribe,
        on_unsubscribe_resource=unsubscribe,
    )
    options = NotificationOptions(tools_changed=True)
    server.create_initialization_options = partial(server.create_initialization_options, options)  # type: ignore[method-assign]
    return server


@contextlib.asynccontextmanager
async def setting(kind: str) -> AsyncIterator[tuple[World, Upstream, Journal]]:
    journal = Journal()
    async with contextlib.AsyncExitStack() as stack:
        if kind == "modern":
            url = await stack.enter_async_context(full_http(journal, legacy=False))
        else:
            app = legacy_server(journal).streamable_http_app()
            url = await stack.enter_async_context(serving(Front(app, journal, legacy=True))) + "/mcp"
        made = await stack.enter_async_context(world())
        yield made, http(url), journal


def listening(made: World, up: Upstream, heard: asyncio.Queue[Any], **wanted: Any) -> Any:
    given = {"tools": False, "prompts": False, "resources": False, "uris": frozenset(), **wanted}
    return made.client.listen(
        up, ALICE, on_event=lambda method, params: heard.put_nowait((method, params.get("uri"))), **given
    )


async def changes(made: World, up: Upstream, uri: str = "test://watched") -> None:
    await call(made.client, up, ALICE, "change", uri=uri)


@pytest.mark.parametrize("kind", ["modern", "legacy"])
async def test_changes_reach_who_listens_and_the_catalogue(kind: str) -> None:
    async with setting(kind) as (made, up, _):
        noted: asyncio.Queue[Any] = asyncio.Queue()
        made.client.on_change(lambda *change: noted.put_nowait(change))
        heard: asyncio.Queue[Any] = asyncio.Queue()
        async with listening(made, up, heard, tools=True, uris=frozenset({"test://watched"})):
            await changes(made, up)
            found = {await asyncio.wait_for(heard.get(), 5) for _ in range(2)}
            assert found == {(TOOLS, None), (UPDATED, "test://watched")}
        about = {(await asyncio.wait_for(noted.get(), 5))[:3] for _ in range(2)}
        assert about == {(up, ALICE.user_id, TOOLS), (up, ALICE.user_id, UPDATED)}


@pytest.mark.parametrize("kind", ["modern", "legacy"])
async def test_what_is_not_wanted_is_not_heard(kind: str) -> None:
    async with setting(kind) as (made, up, _):
        lists: asyncio.Queue[Any] = asyncio.Queue()
        one: asyncio.Queue[Any] = asyncio.Queue()
        async with (
            listening(made, up, lists, tools=True),
            listening(made, up, one, uris=frozenset({"test://watched"})),
        ):
            await changes(made, up, "test://other")
            await changes(made, up)
            assert await asyncio.wait_for(one.get(), 5) == (UPDATED, "test://watched")
            assert await asyncio.wait_for(lists.get(), 5) == (TOOLS, None)
            # The second may be one with the first.
            assert {await lists.get() for _ in range(lists.qsize())} <= {(TOOLS, None)}
            assert one.empty()


async def test_a_legacy_server_is_subscribed_to_once_and_left_by_the_last() -> None:
    async with setting("legacy") as (made, up, journal):
        heard: asyncio.Queue[Any] = asyncio.Queue()
        uris = frozenset({"test://watched"})
        async with listening(made, up, heard, uris=uris):
            async with listening(made, up, heard, uris=uris):
                assert journal.methods == ["subscribe test://watched"]
            assert journal.methods == ["subscribe test://watched"]
        assert journal.methods == ["subscribe test://watched", "unsubscribe test://watched"]
        (link,) = made.pool.links(lambda _: True)
        assert (link.inbox.ears, link.subscriptions) == ({}, {})


async def test_listening_shares_the_connection_of_the_user() -> None:
    async with setting("modern") as (made, up, _):
        heard: asyncio.Queue[Any] = asyncio.Queue()
        async with listening(made, up, heard, tools=True):
            await changes(made, up)
            await call(made.client, up, BOB, "echo", text="x")
            assert len(made.pool) == 2


@pytest.mark.parametrize("kind", ["modern", "legacy"])
async def test_what_is_not_offered_is_refused(kind: str) -> None:
    async with setting(kind) as (made, up, _):
        heard: asyncio.Queue[Any] = asyncio.Queue()
        with pytest.raises(UpstreamError, match="offers no notice"):
            async with listening(made, up, heard, prompts=kind == "legacy"):
                raise AssertionError


@pytest.mark.parametrize("kind", ["modern", "legacy"])
async def test_who_listens_learns_that_it_is_over(kind: str) -> None:
    async with setting(kind) as (made, up, _):
        heard: asyncio.Queue[Any] = asyncio.Queue()

        async def listen() -> None:
            async with listening(made, up, heard, tools=True):
                heard.put_nowait("begun")
                await asyncio.Event().wait()

        task = asyncio.ensure_future(listen())
        assert await asyncio.wait_for(heard.get(), 5) == "begun"
        made.client.close_upstream(up.id, up.version)
        with pytest.raises(UpstreamError):
            await asyncio.wait_for(task, 5)


async def test_a_subscription_that_is_left_is_cancelled_upstream() -> None:
    async with setting("modern") as (made, up, _):
        heard: asyncio.Queue[Any] = asyncio.Queue()
        async with listening(made, up, heard, tools=True):
            (link,) = made.pool.links(lambda _: True)
            assert len(link.inbox.calls) == 1
        await asyncio.wait_for(_until(lambda: not link.inbox.calls), 5)
        assert link.inbox.ears == {}
        await changes(made, up)
        assert heard.empty()


async def _until(condition: Any) -> None:
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


class _SlowLink:
    """A session with a legacy server that answers when it is let."""

    def __init__(self, tasks: TaskGroup) -> None:
        self.name = "slow"
        self.profile = Profile(Era.LEGACY, "2025-11-25", {"resources": {"subscribe": True}})
        self.inbox = Inbox(tasks, askable=(), bound=True, chatty=True, hear=lambda _method, _params: None)
        self.tasks = tasks
        self.closed = anyio.Event()
        self.subscriptions: Counter[str] = Counter()
        self.subscribing = anyio.Lock()
        self.sent: asyncio.Queue[str] = asyncio.Queue()
        self.lets = asyncio.Semaphore(0)

    async def request(self, method: str, _: Mapping[str, Any], **__: Any) -> dict[str, Any]:
        self.sent.put_nowait(method)
        await self.lets.acquire()
        return {}


async def test_a_resource_is_subscribed_to_anew_only_once_it_is_let_go_of() -> None:
    """Over HTTP the server could take the two requests in the other order, and would send nothing more."""
    wanted = Filter(uris=frozenset({"test://watched"}))
    async with anyio.create_task_group() as tasks:
        link = _SlowLink(tasks)
        up, leave = asyncio.Event(), asyncio.Event()

        async def listen() -> None:
            async with listen_on(cast("Link", link), wanted, ALICE, lambda _method, _params: None):
                up.set()
                await leave.wait()
                up.clear()
                leave.clear()

        first = asyncio.ensure_future(listen())
        assert await link.sent.get() == "resources/subscribe"
        link.lets.release()
        await up.wait()
        leave.set()
        assert await link.sent.get() == "resources/unsubscribe"
        second = asyncio.ensure_future(listen())
        for _ in range(10):
            await asyncio.sleep(0)
        assert link.sent.empty()
        link.lets.release()
        assert await link.sent.get() == "resources/subscribe"
        link.lets.release()
        await asyncio.gather(first, up.wait())
        assert link.subscriptions == {"test://watched": 1}
        link.lets.release()
        leave.set()
        await second
        assert link.subscriptions == {}
        tasks.cancel_scope.cancel()
