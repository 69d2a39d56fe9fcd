from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from agentapi.errors import (
    EgressRefusedError,
    UpstreamError,
    UpstreamNeedsConnectionError,
    UpstreamTimeoutError,
    UpstreamUnaskedError,
)
from agentapi.upstreams.connections import ConnectionPool
from agentapi.upstreams.link import Caller
from agentapi.upstreams.wanted import ConnectionKey, Limits, Wanted
from support.tasks import tasks_by_kind
from unit.upstreams.doubles import ORG, USER, Clock, Opener, drain, key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from agentapi.upstreams.session import Link

NOBODY = Caller(ORG, USER)
REQUEST = httpx2.Request("POST", "https://upstream.example/mcp")


@contextlib.asynccontextmanager
async def pool(
    *,
    connect_timeout_s: float = 5.0,
    in_all: int = 10,
    per_upstream: int = 10,
    per_organization: int = 10,
    per_user: int = 10,
    connecting: int = 16,
    clock: Clock | None = None,
) -> AsyncIterator[ConnectionPool]:
    limits = Limits(
        connect_timeout_s=connect_timeout_s,
        connecting=connecting,
        in_all=in_all,
        per_upstream=per_upstream,
        per_organization=per_organization,
        per_user=per_user,
    )
    made = ConnectionPool(limits, clock=clock or Clock())
    async with made.run():
        yield made


async def link_of(link: Link) -> Link:
    return link


async def ask(link: Link) -> list[str]:
    listing = await link.request("tools/list", {}, caller=NOBODY, timeout_s=5.0)
    return [tool["name"] for tool in listing["tools"]]


async def hang(link: Link) -> Any:
    return await link.request("tools/call", {"name": "hang", "arguments": {}}, caller=NOBODY, timeout_s=60.0)


async def call(
    connections: ConnectionPool,
    opener: Opener,
    operation: Callable[[Link], Awaitable[Any]] = ask,
    *,
    of: ConnectionKey | None = None,
) -> Any:
    async with connections.lease(Wanted(of or key(), "up", opener)) as link:
        return await operation(link)


async def test_calls_share_one_connection() -> None:
    opener = Opener()
    async with pool() as connections:
        first = await call(connections, opener, link_of)
        assert await call(connections, opener, link_of) is first
        assert await call(connections, opener) == ["echo", "hang"]
        assert (opener.opened, opener.open, len(connections)) == (1, 1, 1)
    assert opener.open == 0


@pytest.mark.parametrize(
    "other", [key(2), key(version=2), key(user=3), key(org=4)], ids=["upstream", "version", "user", "organisation"]
)
async def test_nothing_is_shared_across(other: ConnectionKey) -> None:
    opener = Opener()
    async with pool() as connections:
        first = await call(connections, opener, link_of)
        assert await call(connections, opener, link_of, of=other) is not first
        assert opener.opened == 2


async def test_a_hundred_callers_open_one_connection() -> None:
    opener = Opener(gate=asyncio.Event())
    async with pool() as connections:
        callers = [asyncio.ensure_future(call(connections, opener)) for _ in range(100)]
        await drain()
        assert opener.gate is not None
        opener.gate.set()
        assert await asyncio.gather(*callers) == [["echo", "hang"]] * 100
        assert opener.opened == 1


async def test_a_failure_to_open_reaches_every_waiter_and_is_not_remembered() -> None:
    opener = Opener(gate=asyncio.Event(), failure=ConnectionRefusedError("10.0.0.1"))
    async with pool() as connections:
        callers = [asyncio.ensure_future(call(connections, opener)) for _ in range(10)]
        await drain()
        assert opener.gate is not None
        opener.gate.set()
        outcomes = await asyncio.gather(*callers, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {UpstreamError}
        assert {str(outcome) for outcome in outcomes} == {"Upstream 'up' is unavailable: the connection broke."}
        # Each waiter has an error of its own: a traceback is not shared.
        assert len({id(outcome) for outcome in outcomes}) == 10
        assert (opener.opened, len(connections)) == (1, 0)
        opener.failure = None
        assert await call(connections, opener) == ["echo", "hang"]


async def test_users_connect_to_one_upstream_a_few_at_a_time() -> None:
    opener, elsewhere = Opener(gate=asyncio.Event()), Opener()
    assert opener.gate is not None
    async with pool(connecting=2) as connections:
        calls = [asyncio.ensure_future(call(connections, opener, of=key(user=user))) for user in range(8)]
        await drain()
        assert opener.opened == 2
        # Another upstream has turns of its own.
        await call(connections, elsewhere, of=key(2))
        opener.gate.set()
        await asyncio.gather(*calls)
        assert (opener.opened, len(connections._turns)) == (8, 0)


@pytest.mark.parametrize(
    ("failure", "tries"),
    [
        (httpx2.ConnectError("no"), 2),
        (UpstreamTimeoutError("slow"), 2),
        (UpstreamNeedsConnectionError("yours"), 8),
        (httpx2.HTTPStatusError("", request=REQUEST, response=httpx2.Response(403)), 8),
    ],
)
async def test_who_waits_is_told_that_nobody_is_there_and_of_nothing_else(failure: Exception, tries: int) -> None:
    opener = Opener(gate=asyncio.Event(), failure=failure)
    assert opener.gate is not None
    async with pool(connecting=2) as connections:
        calls = [asyncio.ensure_future(call(connections, opener, of=key(user=user))) for user in range(8)]
        await drain()
        opener.gate.set()
        failures = await asyncio.gather(*calls, return_exceptions=True)
        assert opener.opened == tries
        assert len({str(each) for each in failures}) == 1
        assert all(isinstance(each, UpstreamError) for each in failures)
        # Nothing of it is remembered.
        opener.failure = None
        await call(connections, opener)


async def test_nobody_waits_for_a_turn_without_end() -> None:
    opener = Opener(gate=asyncio.Event())
    async with pool(connecting=1, connect_timeout_s=0.1) as connections:
        calls = [asyncio.ensure_future(call(connections, opener, of=key(user=user))) for user in range(3)]
        failures = await asyncio.gather(*calls, return_exceptions=True)
        # Who had a turn is told that it took too long; the others that too many wait, and nobody blames the upstream.
        assert sorted(type(each).__name__ for each in failures) == [
            "UpstreamTimeoutError",
            "UpstreamUnaskedError",
            "UpstreamUnaskedError",
        ]
        assert {"Upstream 'up' is unavailable: too many connect to it at once, for 0.1 s."} < {str(e) for e in failures}
        assert len(connections._turns) == 0


async def test_a_waiter_that_leaves_does_not_end_the_opening() -> None:
    opener = Opener(gate=asyncio.Event())
    async with pool() as connections:
        leaver, stayer = (asyncio.ensure_future(call(connections, opener)) for _ in range(2))
        await drain()
        leaver.cancel()
        await drain()
        assert opener.gate is not None
        opener.gate.set()
        assert await asyncio.wait_for(stayer, 5) == ["echo", "hang"]
        assert opener.opened == 1


async def test_the_opening_is_bounded() -> None:
    opener = Opener(gate=asyncio.Event())
    async with pool(connect_timeout_s=0.05) as connections:
        with pytest.raises(UpstreamTimeoutError, match=r"did not complete the connection within 0\.05 s"):
            await asyncio.wait_for(call(connections, opener), 5)
        assert (opener.open, len(connections)) == (0, 0)


async def test_an_open_connection_outlives_the_connect_timeout() -> None:
    opener = Opener()
    async with pool(connect_timeout_s=0.2) as connections:
        first = await call(connections, opener, link_of)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(call(connections, opener, hang), 0.4)
        assert await call(connections, opener, link_of) is first


REFUSALS: dict[str, tuple[Exception, type[UpstreamError], str]] = {
    "a status": (ExceptionGroup("", [RuntimeError()]), UpstreamError, "HTTP 401"),
    "OAuth": (
        UpstreamNeedsConnectionError("Upstream 'up' needs an OAuth connection of yours, and you have none."),
        UpstreamNeedsConnectionError,
        "Upstream 'up' needs an OAuth connection",
    ),
    "the address guard": (EgressRefusedError("The address may not be used."), UpstreamError, "may not be used"),
    "a command": (FileNotFoundError("/opt/secret/path"), UpstreamError, "its command cannot be started"),
    "a defect": (ZeroDivisionError("10.0.0.1"), UpstreamError, "does not speak MCP"),
}


@pytest.mark.parametrize(("error", "kind", "words"), REFUSALS.values(), ids=REFUSALS)
async def test_a_failure_is_told_in_words(error: Exception, kind: type[UpstreamError], words: str) -> None:
    opener = Opener(failure=error, status=401 if isinstance(error, ExceptionGroup) else None)
    async with pool() as connections:
        with pytest.raises(UpstreamError) as caught:
            await call(connections, opener)
        assert type(caught.value) is kind
        # A status is known only once the transport is open; before that the words are those of the error.
        assert words in caught.value.message or words == "HTTP 401"
        assert "10.0.0.1" not in caught.value.message
        assert "/opt" not in caught.value.message


async def test_what_is_no_server_fails_every_call_and_not_the_pool() -> None:
    broken, good = Opener(transport=object()), Opener()
    async with pool() as connections:
        with pytest.raises(UpstreamError, match="is unavailable"):
            await call(connections, broken)
        assert await call(connections, good, of=key(2)) == ["echo", "hang"]


async def test_a_new_version_closes_what_is_idle_of_the_old_one() -> None:
    opener = Opener()
    async with pool() as connections:
        await call(connections, opener, of=key(version=1))
        await call(connections, opener, of=key(2, version=1))
        await call(connections, opener, of=key(version=2))
        await drain()
        assert (opener.open, len(connections)) == (2, 2)


async def test_an_idle_connection_is_closed_when_its_time_is_up() -> None:
    opener, clock = Opener(), Clock()
    async with pool(clock=clock) as connections:
        await call(connections, opener)
        clock.advance(299.9)
        connections.close_idle()
        assert len(connections) == 1
        await call(connections, opener)
        clock.advance(299.9)
        connections.close_idle()
        assert len(connections) == 1
        clock.advance(0.1)
        connections.close_idle()
        await drain()
        assert (len(connections), opener.open) == (0, 0)


async def test_a_connection_in_use_or_being_opened_is_not_idle() -> None:
    opener, clock = Opener(), Clock()
    opening = Opener(gate=asyncio.Event())
    async with pool(clock=clock) as connections:
        busy = asyncio.ensure_future(call(connections, opener, hang))
        waiting = asyncio.ensure_future(call(connections, opening, of=key(2)))
        await drain()
        clock.advance(10_000)
        connections.close_idle()
        assert len(connections) == 2
        for task in (busy, waiting):
            task.cancel()
        await asyncio.gather(busy, waiting, return_exceptions=True)


async def test_the_longest_idle_connection_gives_way() -> None:
    openers, clock = [Opener() for _ in range(3)], Clock()
    async with pool(clock=clock, in_all=2) as connections:
        for number, opener in enumerate(openers[:2]):
            await call(connections, opener, of=key(number))
            clock.advance(1)
        await call(connections, openers[0], of=key(0))
        await call(connections, openers[2], of=key(2))
        await drain()
        assert [opener.open for opener in openers] == [1, 0, 1]
        assert len(connections) == 2


async def test_where_all_are_busy_the_next_is_refused() -> None:
    opener = Opener()
    async with pool(in_all=2) as connections:
        busy = [asyncio.ensure_future(call(connections, opener, hang, of=key(number))) for number in range(2)]
        await drain()
        with pytest.raises(UpstreamError, match="All upstream connections are in use"):
            await call(connections, opener, of=key(3))
        assert opener.opened == 2
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
        assert await call(connections, opener, of=key(3)) == ["echo", "hang"]


@pytest.mark.parametrize(
    ("bounds", "keys", "words"),
    [
        ({"per_user": 2}, [key(1), key(2), key(3)], "connections of yours are in use"),
        ({"per_upstream": 2}, [key(user=1), key(user=2), key(user=3)], "connections to it are in use"),
        ({"per_organization": 2}, [key(1, user=1), key(2, user=2), key(3, user=3)], "of your organisation are in use"),
        ({"per_organization": 1}, [key(1, org=1), key(2, org=2)], None),
        ({"per_user": 1}, [key(user=1, org=1), key(user=1, org=2)], None),
        ({"per_user": 1, "per_upstream": 1}, [key(1, user=1), key(2, user=2)], None),
    ],
    ids=["user", "upstream", "organisation", "another organisation", "another tenant", "others"],
)
async def test_no_user_and_no_upstream_takes_all(
    bounds: dict[str, Any], keys: list[ConnectionKey], words: str | None
) -> None:
    opener = Opener()
    async with pool(**bounds) as connections:
        busy = [asyncio.ensure_future(call(connections, opener, hang, of=each)) for each in keys[:-1]]
        await drain()
        refused = contextlib.nullcontext() if words is None else pytest.raises(UpstreamError, match=words)
        with refused:
            assert await call(connections, opener, of=keys[-1]) == ["echo", "hang"]
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
        # The longest idle of the same user or upstream gives way.
        assert await call(connections, opener, of=keys[-1]) == ["echo", "hang"]


@pytest.mark.parametrize("share", [2, 3])
async def test_an_organisation_makes_room_among_its_own_first(share: int) -> None:
    theirs, ours, clock = Opener(), Opener(), Clock()
    async with pool(clock=clock, in_all=3, per_organization=share) as connections:
        await call(connections, theirs, of=key(1, org=1))
        for number in (2, 3, 4):
            clock.advance(1)
            await call(connections, ours, of=key(number, org=2))
        # Theirs has idled for longest, and there is no room left for anybody.
        await call(connections, ours, of=key(5, org=2))
        assert (theirs.open, ours.open, len(connections)) == (1, 2, 3)


async def test_a_connection_counts_until_it_is_closed() -> None:
    slow, next_one, third = Opener(parting=asyncio.Event()), Opener(), Opener()
    assert slow.parting is not None
    async with pool(in_all=1) as connections:
        await call(connections, slow)
        connections.close(lambda _: True)
        waiting = asyncio.ensure_future(call(connections, next_one, of=key(2)))
        await drain()
        assert (slow.open, next_one.opened, waiting.done()) == (1, 0, False)
        # Its place is taken: a third one is refused.
        with pytest.raises(UpstreamUnaskedError, match="All upstream connections are in use"):
            await call(connections, third, of=key(3))
        slow.parting.set()
        assert await waiting == ["echo", "hang"]
        assert (slow.open, next_one.open, third.opened) == (0, 1, 0)


async def test_nobody_waits_without_end_for_a_connection_to_close() -> None:
    slow, next_one = Opener(parting=asyncio.Event()), Opener()
    assert slow.parting is not None
    async with pool(in_all=1, connect_timeout_s=0.05) as connections:
        await call(connections, slow)
        with pytest.raises(UpstreamUnaskedError, match="All upstream connections are in use"):
            await call(connections, next_one, of=key(2))
        # It counts as before.
        with pytest.raises(UpstreamUnaskedError, match="All upstream connections are in use"):
            await call(connections, next_one, of=key(2))
        assert next_one.opened == 0
        slow.parting.set()


async def test_one_at_a_time_means_one_connection_each() -> None:
    opener = Opener()
    alone = replace(key(), alone=True)
    async with pool() as connections:
        busy = [asyncio.ensure_future(call(connections, opener, hang, of=alone)) for _ in range(3)]
        await drain()
        assert (len(connections), opener.opened) == (3, 3)
        for task in busy:
            task.cancel()
        await asyncio.gather(*busy, return_exceptions=True)
        # What was given up could still be asked about: it is nobody's again.
        await drain()
        assert (len(connections), opener.open) == (0, 0)
        first = await call(connections, opener, link_of, of=alone)
        assert await call(connections, opener, link_of, of=alone) is first


async def test_what_ended_is_replaced_before_it_is_used() -> None:
    opener = Opener()
    async with pool() as connections:
        first = await call(connections, opener, link_of)
        first.closed.set()
        second = await call(connections, opener, link_of)
        assert second is not first
        await drain()
        assert opener.open == 1


async def test_what_is_closed_while_it_opens_is_opened_again_for_who_waits() -> None:
    opener = Opener(gate=asyncio.Event())
    async with pool() as connections:
        waiting = asyncio.ensure_future(call(connections, opener))
        await drain()
        assert connections.close(lambda _: True) == [key()]
        assert opener.gate is not None
        opener.gate.set()
        assert await asyncio.wait_for(waiting, 5) == ["echo", "hang"]
        assert opener.opened == 2


async def test_what_closes_as_soon_as_it_is_open_is_given_up() -> None:
    opener = Opener()

    def close(_: Any) -> None:
        for link in connections.links(lambda _: True):
            link.closed.set()

    async with pool() as connections:
        with pytest.raises(UpstreamError, match="closes every connection as soon as it is open"):
            async with connections.lease(Wanted(key(), "up", opener, opened=close)):
                raise AssertionError
        assert opener.opened == 3


async def test_a_caller_keeps_the_connection_that_was_just_opened_for_it() -> None:
    """Between the opening and the turn of the caller nobody may evict the connection."""
    opener = Opener(gate=asyncio.Event())
    async with pool(in_all=1) as connections:

        async def slow(link: Link) -> list[str]:
            await drain()
            return await ask(link)

        caller = asyncio.ensure_future(call(connections, opener, slow))
        await drain()
        (connection,) = connections._connections[key()]

        async def rival() -> None:
            while not connection.ready.is_set():  # noqa: ASYNC110 - an event would wake it after the caller
                await asyncio.sleep(0)
            with contextlib.suppress(UpstreamError):
                await call(connections, Opener(), of=key(2))

        rivals = [asyncio.ensure_future(rival()) for _ in range(3)]
        assert opener.gate is not None
        opener.gate.set()
        assert await asyncio.wait_for(caller, 5) == ["echo", "hang"]
        await asyncio.gather(*rivals)


async def test_leaving_closes_everything_and_leaves_no_task() -> None:
    before = tasks_by_kind()
    openers = [Opener() for _ in range(5)]
    hanging = Opener(gate=asyncio.Event())
    async with pool() as connections:
        for number, opener in enumerate(openers):
            await call(connections, opener, of=key(number))
        waiting = asyncio.ensure_future(call(connections, hanging, of=key(9)))
        await drain()
        left, started = connections, time.monotonic()
    # What is still being opened does not hold the end back.
    assert time.monotonic() - started < 3
    with pytest.raises(UpstreamError, match="shutting down"):
        await waiting
    assert [opener.open for opener in [*openers, hanging]] == [0] * 6
    await drain()
    assert max((tasks_by_kind() - before).values(), default=0) < 5
    with pytest.raises(UpstreamError, match="shutting down"):
        await call(left, Opener())


async def test_leaving_with_an_error_closes_everything_too() -> None:
    opener = Opener()
    with pytest.raises(ExceptionGroup) as caught:  # noqa: PT012 - the error is raised inside
        async with pool() as connections:
            await call(connections, opener)
            raise RuntimeError("defect")
    assert [str(error) for error in caught.value.exceptions] == ["defect"]
    assert opener.open == 0
