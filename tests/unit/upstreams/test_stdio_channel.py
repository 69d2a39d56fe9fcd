"""Stdio servers as real processes: who shares one, how it ends, and what it may say."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import psutil  # type: ignore[import-untyped]
import pytest
from mcp_types import jsonrpc_message_adapter

from agentapi.errors import UpstreamError, UpstreamTimeoutError
from agentapi.upstreams.link import Era
from agentapi.upstreams.lists import MAX_LIST_BYTES
from agentapi.upstreams.wanted import Limits
from unit.upstreams.doubles import Clock, drain
from unit.upstreams.servers import (
    ALICE,
    BOB,
    Heard,
    World,
    call,
    command,
    sampled,
    session_of,
    stdio,
    text_of,
    world,
)

if TYPE_CHECKING:
    from agentapi.settings import StdioCommand
    from agentapi.upstreams.client import Sharing
    from agentapi.upstreams.link import Caller

TINY = Path(__file__).with_name("tiny_server.py")
UP = stdio("tiny")


def tiny(manner: str = "polite") -> StdioCommand:
    return command(sys.executable, "-S", "-E", str(TINY), manner)


async def pid(made: World, caller: Caller = ALICE) -> int:
    return int(text_of(await call(made.client, UP, caller, "pid")))


def runs(number: int) -> bool:
    try:
        return bool(psutil.Process(number).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


async def gone(number: int, within_s: float = 5.0) -> None:
    """Wait until a process is no more, or is a zombie that somebody else has to bury."""
    async with asyncio.timeout(within_s):
        while runs(number):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_server_of_the_older_revisions_is_spoken_to_as_such(tmp_path: Path) -> None:
    async with world(tmp_path, tiny=tiny()) as made:
        profile = await made.client.profile(UP, ALICE)
        assert (profile.era, profile.revision) == (Era.LEGACY, "2025-06-18")
        result = await call(made.client, UP, ALICE, "echo", text="hällo")
        assert result == {"content": [{"type": "text", "text": "hällo"}], "unknownField": {"kept": True}}


@pytest.mark.parametrize("manner", ["strict", "silent"])
async def test_a_server_that_cannot_be_asked_for_its_era_is_initialized(manner: str, tmp_path: Path) -> None:
    async with world(tmp_path, limits=Limits(connect_timeout_s=4.0), tiny=tiny(manner)) as made:
        assert (await made.client.profile(UP, ALICE)).era is Era.LEGACY
        first = await pid(made)
        # Known by then, it is not asked again, nor does its first end count as a crash.
        os.kill(first, signal.SIGKILL)
        await gone(first)
        assert await pid(made) != first
        loops, who = made.pool._backoff._loops, (ALICE.org_id, UP.id, 1, ALICE.user_id, None)
        with anyio.fail_after(10):
            while who not in loops:
                await anyio.lowlevel.checkpoint()
        assert loops[who].crashes == 1


@pytest.mark.parametrize(("sharing", "processes"), [("user", 2), ("session", 4)])
async def test_who_shares_a_process_is_a_setting(sharing: Sharing, processes: int, tmp_path: Path) -> None:
    async with world(tmp_path, sharing=sharing, tiny=tiny()) as made:
        callers = [
            session_of(ALICE, "c1", experimental={}),
            session_of(ALICE, "c2", experimental={}),
            ALICE,
            session_of(BOB, "c1", experimental={}),
        ]
        pids = [await pid(made, caller) for caller in callers]
        assert len(set(pids)) == processes
        assert pids[3] not in pids[:3]
        assert [await pid(made, caller) for caller in callers] == pids


async def test_a_process_that_could_ask_has_one_request_at_a_time(tmp_path: Path) -> None:
    async with world(tmp_path, tiny=tiny()) as made:
        callers = [session_of(ALICE, "c1"), session_of(ALICE, "c2"), session_of(BOB, "c3")]
        peers = [Heard({"sampling/createMessage": sampled(f"answer {n}")}) for n in range(3)]
        calls = (call(made.client, UP, who, "sample", peer=peer) for who, peer in zip(callers, peers, strict=True))
        answers = await asyncio.gather(*calls)
        assert ["answer" in text_of(answer) and f"answer {n}" in text_of(answer) for n, answer in enumerate(answers)]
        assert [len(peer.asked) for peer in peers] == [1, 1, 1]
        assert {key.alone for key in made.pool._connections if key.declared} == {True}
        # What is free again is used again.
        before = len(made.pool)
        await call(made.client, UP, callers[0], "sample", peer=peers[0])
        assert len(made.pool) == before


async def test_a_process_of_a_session_can_ask_that_session_alone(tmp_path: Path) -> None:
    async with world(tmp_path, sharing="session", tiny=tiny()) as made:
        callers = [session_of(ALICE, f"c{n}") for n in range(3)]
        peers = [Heard({"sampling/createMessage": sampled(f"answer {n}")}) for n in range(3)]
        calls = (call(made.client, UP, who, "sample", peer=peer) for who, peer in zip(callers, peers, strict=True))
        answers = await asyncio.gather(*calls)
        for n, answer in enumerate(answers):
            assert f"answer {n}" in text_of(answer)


async def test_a_process_that_ended_before_the_call_is_replaced_without_a_word(tmp_path: Path) -> None:
    async with world(tmp_path, tiny=tiny()) as made:
        first = await pid(made)
        os.kill(first, signal.SIGKILL)
        while runs(first):
            time.sleep(0.001)  # noqa: ASYNC251 - the event loop shall not see it end before the call is made
        assert await pid(made) != first


async def test_a_crash_fails_the_call_clearly_and_the_next_starts_anew(tmp_path: Path) -> None:
    async with world(tmp_path, tiny=tiny()) as made:
        first = await pid(made)
        with pytest.raises(UpstreamError, match=r"'tiny' closed the connection: its process ended with exit code 3\."):
            await call(made.client, UP, ALICE, "exit", code=3)
        assert await pid(made) != first


async def test_a_crash_loop_is_not_hammered(tmp_path: Path) -> None:
    clock = Clock()
    async with world(tmp_path, clock=clock, tiny=tiny("crash")) as made:
        words = r"'tiny' is unavailable: its process ended with exit code 7\."
        for _ in range(2):
            with pytest.raises(UpstreamError, match=words):
                await made.client.profile(UP, ALICE)
        for pause_s in (1, 2, 4):
            with pytest.raises(UpstreamError, match=f"times in a row; it is started again in {pause_s} s"):
                await made.client.profile(UP, ALICE)
            clock.advance(pause_s)
            with pytest.raises(UpstreamError, match=words):
                await made.client.profile(UP, ALICE)


async def test_a_slow_start_is_no_crash(tmp_path: Path) -> None:
    asleep = command("/bin/sleep", "600")
    async with world(tmp_path, limits=Limits(connect_timeout_s=0.2), tiny=asleep) as made:
        for _ in range(3):
            with pytest.raises(UpstreamTimeoutError, match=r"did not complete the connection within 0\.2 s"):
                await made.client.profile(UP, ALICE)


async def test_what_a_process_answers_is_bounded(tmp_path: Path) -> None:
    async with world(tmp_path, max_message_bytes=100_000, tiny=tiny()) as made:
        assert len(text_of(await call(made.client, UP, ALICE, "large", size=99_000))) == 99_000
        first = await pid(made)
        with pytest.raises(UpstreamError, match="it sent a message larger than 100000 bytes"):
            await call(made.client, UP, ALICE, "large", size=5_000_000)
        await gone(first)
        assert await pid(made) != first


async def test_a_list_page_that_is_too_long_is_not_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process goes on: what else it is asked has another bound, and other users' requests wait on the same pipe."""
    parsed: list[int] = []
    validate = jsonrpc_message_adapter.validate_json

    def noted(text: str, **options: Any) -> Any:
        parsed.append(len(text))
        return validate(text, **options)

    monkeypatch.setattr(jsonrpc_message_adapter, "validate_json", noted)
    async with world(tmp_path, max_message_bytes=32 * 1024 * 1024, tiny=tiny()) as made:
        first = await pid(made)
        with pytest.raises(UpstreamError, match="failed: its answer is too large"):
            await made.client.request(UP, ALICE, "tools/list", {"cursor": str(MAX_LIST_BYTES)}, timeout_s=20)
        assert max(parsed) < MAX_LIST_BYTES
        assert len(text_of(await call(made.client, UP, ALICE, "large", size=2 * MAX_LIST_BYTES))) == 2 * MAX_LIST_BYTES
        assert await pid(made) == first


async def test_what_is_no_message_is_passed_over(tmp_path: Path) -> None:
    async with world(tmp_path, tiny=tiny()) as made:
        assert text_of(await call(made.client, UP, ALICE, "noise")) == "ok"


async def test_a_call_that_hangs_is_given_up_and_the_process_goes_on(tmp_path: Path) -> None:
    async with world(tmp_path, tiny=tiny()) as made:
        first = await pid(made)
        with pytest.raises(UpstreamTimeoutError):
            await call(made.client, UP, ALICE, "hang", timeout_s=0.1)
        assert await pid(made) == first


@pytest.mark.parametrize("manner", ["polite", "stubborn"])
async def test_a_process_and_what_it_started_are_ended_within_a_bound(manner: str, tmp_path: Path) -> None:
    async with world(tmp_path, tiny=tiny(manner)) as made:
        leader = await pid(made)
        child = int(text_of(await call(made.client, UP, ALICE, "child")))
        assert psutil.pid_exists(child)
        began = time.monotonic()
    assert time.monotonic() - began < 7
    await gone(leader)
    await gone(child)
    assert os.listdir(tmp_path) == []  # noqa: PTH208 - nothing here blocks


async def test_an_idle_process_is_ended(tmp_path: Path) -> None:
    clock = Clock()
    async with world(tmp_path, clock=clock, tiny=tiny()) as made:
        first = await pid(made)
        clock.advance(301)
        made.pool.close_idle()
        await gone(first)
        assert len(made.pool) == 0


async def test_a_rested_server_is_asked_whether_it_is_alive(tmp_path: Path) -> None:
    clock = Clock()
    async with world(tmp_path, limits=Limits(ping_after_s=30, ping_timeout_s=0.2), clock=clock, tiny=tiny()) as made:
        first = await pid(made)
        os.kill(first, signal.SIGSTOP)
        try:
            clock.advance(31)
            # It runs and does not answer: only a question tells.
            assert await pid(made) != first
        finally:
            os.kill(first, signal.SIGCONT)
        await drain()


async def test_a_call_that_is_given_up_is_cancelled_in_the_process(tmp_path: Path) -> None:
    async with world(tmp_path, tiny=tiny()) as made:
        with pytest.raises(UpstreamTimeoutError):
            await call(made.client, UP, ALICE, "hang", timeout_s=0.1)
        hung, cancelled = json.loads(text_of(await call(made.client, UP, ALICE, "given-up")))
        assert hung == cancelled
        assert len(hung) == 1


@pytest.mark.parametrize("sharing", ["user", "session"])
async def test_a_question_ahead_of_the_first_request_is_its_own(sharing: Sharing, tmp_path: Path) -> None:
    async with world(tmp_path, sharing=sharing, tiny=tiny("curious")) as made:
        peer = Heard({"roots/list": {"roots": [{"uri": "file:///a"}]}})
        caller = session_of(ALICE, "c1", roots={})
        await call(made.client, UP, caller, "echo", peer=peer)
        answered: list[Any] = []
        async with asyncio.timeout(5):
            while not answered:
                answered = json.loads(text_of(await call(made.client, UP, caller, "answered", peer=peer)))
        assert answered == [{"roots": [{"uri": "file:///a"}]}]
        assert peer.asked == [("roots/list", {})]


async def test_a_question_after_its_request_is_nobody_elses(tmp_path: Path) -> None:
    async with world(tmp_path, tiny=tiny()) as made:
        first, second = (Heard({"roots/list": {"roots": []}}) for _ in range(2))
        await call(made.client, UP, session_of(ALICE, "c1", roots={}), "ask-afterwards", peer=first)
        await drain()
        answered: list[Any] = []
        async with asyncio.timeout(5):
            while not answered:
                told = await call(made.client, UP, session_of(ALICE, "c2", roots={}), "answered", peer=second)
                answered = json.loads(text_of(told))
        assert len(answered) == 1
        assert second.asked == []
