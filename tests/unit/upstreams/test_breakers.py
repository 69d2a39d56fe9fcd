"""Circuits in front of upstreams: what opens them, what does not, and whose they are."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

import anyio
import pytest
import structlog
from mcp import MCPError

from agentapi._core import CircuitBreakers, CircuitRules
from agentapi.errors import (
    EgressRefusedError,
    UpstreamError,
    UpstreamNeedsConnectionError,
    UpstreamRestsError,
    UpstreamTimeoutError,
    UpstreamUnaskedError,
)
from agentapi.principal import OrgId, UpstreamId, UserId
from agentapi.upstreams import connections
from agentapi.upstreams.breakers import UNGUARDED, Operation, UpstreamBreakers, outcome_of
from agentapi.upstreams.connections import ConnectionPool
from agentapi.upstreams.failures import ClosedError, CredentialRefusedError, UnprocessedError, failed_with
from agentapi.upstreams.link import Caller
from agentapi.upstreams.models import Transport
from agentapi.upstreams.wanted import Limits, Wanted
from support.processes import free_port
from unit.upstreams.doubles import ORG, USER, Opener, echo_server, key, upstream
from unit.upstreams.servers import call, http, serving, text_of, world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentapi.upstreams.channel import Channel
    from agentapi.upstreams.models import Upstream

CALLER = Caller(ORG, USER)
OTHER = UserId(UUID(int=9))
FAILED = UpstreamError("it failed")


class Ns:
    """Nanoseconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 10**12

    def __call__(self) -> int:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += int(seconds * 1e9)


def breakers(clock: Ns) -> UpstreamBreakers:
    return UpstreamBreakers(CircuitBreakers(CircuitRules(jitter_percent=0), seed=1), now_ns=clock)


def fail(
    circuits: UpstreamBreakers, of: Upstream, *, user: UserId = USER, operation: Operation = Operation.CALL_TOOL
) -> None:
    with pytest.raises(UpstreamError, match="it failed"), circuits.guard(of, user, operation):
        raise FAILED


def test_five_failures_open_it_thirty_seconds_later_two_successes_close_it() -> None:
    clock, to = Ns(), upstream()
    circuits = breakers(clock)
    with structlog.testing.capture_logs() as logs:
        for _ in range(5):
            fail(circuits, to)
        for _ in range(3):
            with pytest.raises(UpstreamRestsError, match="try again in 30 s") as refused:
                circuits.guard(to, USER, Operation.CALL_TOOL).begin()
            assert refused.value.retry_after_s == 30
        clock.advance(30)
        for _ in range(2):
            with circuits.guard(to, USER, Operation.CALL_TOOL):
                pass
    assert [entry["event"] for entry in logs] == ["circuit_opened", "circuit_closed"]
    assert circuits.tripped() == 0


@pytest.mark.parametrize(
    "other",
    [
        replace(upstream(), id=UpstreamId(UUID(int=77))),
        replace(upstream(), org_id=OrgId(UUID(int=78)), id=UpstreamId(UUID(int=79))),
        replace(upstream(), version=2),
    ],
    ids=["another upstream", "another organisation's", "another version"],
)
def test_a_circuit_that_opens_opens_nothing_else(other: Upstream) -> None:
    circuits = breakers(Ns())
    for _ in range(5):
        fail(circuits, upstream())
    with circuits.guard(other, USER, Operation.CALL_TOOL):
        pass
    for operation in set(Operation) - {Operation.CALL_TOOL}:
        with circuits.guard(upstream(), USER, operation):
            pass
    with pytest.raises(UpstreamRestsError):
        circuits.guard(upstream(), OTHER, Operation.CALL_TOOL).begin()


def test_of_a_command_each_user_has_a_process_and_a_circuit() -> None:
    circuits, to = breakers(Ns()), upstream(transport=Transport.STDIO, endpoint=None, command="clock")
    for _ in range(5):
        fail(circuits, to)
    with circuits.guard(to, OTHER, Operation.CALL_TOOL):
        pass
    assert circuits.snapshots(to, USER)[Operation.CALL_TOOL].state == "open"
    assert circuits.snapshots(to, OTHER)[Operation.CALL_TOOL].state == "closed"


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (FAILED, "failure"),
        (UpstreamTimeoutError("late"), "failure"),
        (ClosedError("closed"), "failure"),
        (failed_with(500, "broken"), "failure"),
        (failed_with(503, "away"), "failure"),
        (failed_with(429, "too often"), "neutral"),
        (failed_with(408, "too slow"), "neutral"),
        (failed_with(302, "elsewhere"), "failure"),
        (failed_with(None, "no status"), "failure"),
        (failed_with(400, "what?"), "neutral"),
        (failed_with(403, "not you"), "neutral"),
        (failed_with(404, "not here"), "neutral"),
        (MCPError(-32602, "wrong arguments"), "success"),
        (MCPError(-32603, "the tool broke"), "success"),
        (CredentialRefusedError("401"), "neutral"),
        (UpstreamNeedsConnectionError("connect"), "neutral"),
        (UnprocessedError("session gone"), "neutral"),
        (UpstreamUnaskedError("all in use"), "neutral"),
        (UpstreamRestsError("resting", retry_after_s=1), "neutral"),
        (EgressRefusedError("private"), "neutral"),
        (asyncio.CancelledError(), "neutral"),
        (ValueError("a defect of ours"), "neutral"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{type(value).__name__}: {value}",
)
def test_only_what_is_the_upstreams_fault_counts(error: BaseException, outcome: str) -> None:
    assert outcome_of(error) == outcome


def test_the_first_word_about_an_operation_counts() -> None:
    circuits, to = breakers(Ns()), upstream()
    for _ in range(5):
        with circuits.guard(to, USER, Operation.CONNECT) as guard:
            guard.record("failure")
    assert circuits.snapshots(to, USER)[Operation.CONNECT].state == "open"


def test_what_is_not_guarded_may_always_be() -> None:
    for _ in range(10):
        with pytest.raises(UpstreamError), UNGUARDED:
            raise FAILED
    with UNGUARDED:
        pass


@pytest.mark.parametrize(
    ("method", "operation"),
    [
        ("tools/list", Operation.LIST_TOOLS),
        ("resources/templates/list", Operation.LIST_TOOLS),
        ("tools/call", Operation.CALL_TOOL),
        ("resources/read", Operation.CALL_TOOL),
        ("completion/complete", Operation.CALL_TOOL),
    ],
)
def test_lists_and_other_requests_have_circuits_of_their_own(method: str, operation: Operation) -> None:
    assert Operation.of(method) is operation


@contextlib.asynccontextmanager
async def served() -> AsyncIterator[str]:
    async with serving(echo_server().streamable_http_app()) as base:
        yield f"{base}/mcp"


async def test_a_server_that_is_gone_is_not_connected_to_for_a_while() -> None:
    clock = Ns()
    circuits = breakers(clock)
    async with world(breakers=circuits) as at:
        gone = http(f"http://127.0.0.1:{free_port()}/mcp")
        for _ in range(5):
            with pytest.raises(UpstreamError, match="the connection was refused"):
                await call(at.client, gone, CALLER, "echo", text="hello")
        with pytest.raises(UpstreamRestsError):
            await call(at.client, gone, CALLER, "echo", text="hello")
    found = circuits.snapshots(gone, CALLER.user_id)
    assert {operation: shown.state for operation, shown in found.items() if shown.state != "closed"} == {
        Operation.CONNECT: "open"
    }


async def test_a_server_that_hangs_is_not_called_for_a_while_and_still_lists() -> None:
    circuits = breakers(Ns())
    async with served() as url, world(breakers=circuits) as at:
        hanging = http(url)
        for _ in range(5):
            with pytest.raises(UpstreamTimeoutError):
                await call(at.client, hanging, CALLER, "hang", timeout_s=0.1)
        with pytest.raises(UpstreamRestsError):
            await call(at.client, hanging, CALLER, "echo", text="hello")
        listed = await at.client.request(hanging, CALLER, "tools/list", {}, timeout_s=10.0)
        assert {tool["name"] for tool in listed["tools"]} >= {"echo", "hang"}


async def test_errors_of_tools_open_nothing() -> None:
    circuits = breakers(Ns())
    async with served() as url, world(breakers=circuits) as at:
        for _ in range(10):
            answer = await call(at.client, http(url), CALLER, "echo", wrong="argument")
            assert answer["isError"]
        assert text_of(await call(at.client, http(url), CALLER, "echo", text="hello")) == "hello"


async def test_a_server_that_never_answers_its_farewell_is_let_go_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    circuits, to, left = breakers(Ns()), upstream(), 0

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Channel]:
        nonlocal left
        async with Opener()() as channel:
            try:
                yield channel
                await asyncio.Event().wait()
            finally:
                left += 1

    pool = ConnectionPool(Limits())
    async with pool.run():
        for number in range(6):
            # The last one would be waited for, were it not for the circuit.
            monkeypatch.setattr(connections, "_CLOSE_S", 0.05 if number < 5 else 3600.0)
            wanted = Wanted(key(number), "one", opened, parting=circuits.guard(to, USER, Operation.DISCONNECT))
            async with pool.lease(wanted):
                pass
            pool.close(lambda _: True)
            with anyio.fail_after(30):
                while left <= number:
                    await anyio.lowlevel.checkpoint()
    assert circuits.snapshots(to, USER)[Operation.DISCONNECT].state == "open"
