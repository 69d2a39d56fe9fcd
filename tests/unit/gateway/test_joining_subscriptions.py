from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from agentapi.gateway.exchange import Interest
from agentapi.gateway.rewrite import Rewriter
from agentapi.gateway.subscriptions import Source, Subscriptions
from unit.gateway.doubles import WORKSPACE, Client, Server
from unit.upstreams.doubles import PRINCIPAL, upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentapi.upstreams.link import Caller
    from agentapi.upstreams.models import Upstream

ONE = upstream("one")


class _SlowClient(Client):
    """Subscribes when it is let."""

    def __init__(self) -> None:
        super().__init__({"one": Server()})
        self.asked: asyncio.Queue[frozenset[str]] = asyncio.Queue()
        self.gates: dict[frozenset[str], asyncio.Event] = {}

    @contextlib.asynccontextmanager
    async def listen(self, upstream: Upstream, caller: Caller, *, on_event: Any, **wanted: Any) -> AsyncIterator[None]:
        gate = self.gates.setdefault(wanted["uris"], asyncio.Event())
        self.asked.put_nowait(wanted["uris"])
        await gate.wait()
        async with super().listen(upstream, caller, on_event=on_event, **wanted):
            yield


def _source(uri: str) -> Source:
    return Source(ONE, Rewriter("one", bare=True), frozenset({uri}))


async def test_listener_that_joins_while_another_is_subscribed_waits_for_its_own_turn() -> None:
    """Else a change right after it was told that it listens would pass it by."""
    client = _SlowClient()
    subscriptions = Subscriptions(client.typed, ready_s=10)
    first, both = frozenset({"note://a"}), frozenset({"note://a", "note://b"})

    async def listen(uri: str, listens: asyncio.Event) -> None:
        async with subscriptions.listen(
            PRINCIPAL, WORKSPACE.id, [_source(uri)], Interest(), lambda _method, _params: None
        ):
            listens.set()
            await asyncio.Event().wait()

    async with subscriptions.run():
        early, late = asyncio.Event(), asyncio.Event()
        tasks = [asyncio.ensure_future(listen("note://a", early))]
        assert await client.asked.get() == first
        # Between the question to the upstream and its answer.
        tasks.append(asyncio.ensure_future(listen("note://b", late)))
        await asyncio.sleep(0)
        client.gates[first].set()
        assert await client.asked.get() == both
        assert not late.is_set()
        client.gates[both].set()
        await early.wait()
        await late.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
