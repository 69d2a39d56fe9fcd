from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, cast

import pytest

from agentapi.errors import TooManyStreamsError
from agentapi.gateway.conversations import Conversations
from agentapi.gateway.exchange import ClientTraits
from agentapi.gateway.session_ids import Session, UnknownSessionError
from agentapi.upstreams.link import Era

if TYPE_CHECKING:
    from agentapi.gateway.reply import Reply


def session(name: str, expires_at: int = 1000) -> Session:
    return Session(ClientTraits(Era.LEGACY, "2025-11-25", conversation=name), expires_at)


def test_a_conversation_is_remembered() -> None:
    known = Conversations(clock=lambda: 0.0)
    known.of(session("a")).log_level = "error"
    assert known.of(session("a")).log_level == "error"
    assert known.of(session("b")).log_level is None


async def test_the_idle_one_that_was_quiet_longest_is_forgotten() -> None:
    known = Conversations(clock=lambda: 0.0, most=2)
    busy = known.of(session("busy"))
    with busy.tracking(1):
        idle = known.of(session("idle"))
        known.of(session("new"))
        assert len(known) == 2
        assert known.of(session("busy")) is busy
        assert known.of(session("idle")) is not idle


async def test_busy_ones_are_not_forgotten_and_the_bound_holds() -> None:
    known = Conversations(clock=lambda: 0.0, most=1)
    first = known.of(session("first"))
    with first.tracking(1):
        with pytest.raises(TooManyStreamsError):
            known.of(session("second"))
        assert known.of(session("first")) is first
    known.of(session("second"))
    assert len(known) == 1


def test_the_bound_holds_behind_any_number_of_standing_streams() -> None:
    known = Conversations(clock=lambda: 0.0, most=100)
    reply = cast("Reply", object())
    with ExitStack() as stack:
        for at in range(99):
            stack.enter_context(known.of(session(f"standing {at}")).stand(reply, lambda: None))
        for at in range(500):
            known.of(session(f"idle {at}"))
        assert len(known) == 100
        stack.enter_context(known.of(session("idle 499")).stand(reply, lambda: None))
        with pytest.raises(TooManyStreamsError):
            known.of(session("another"))
        # What ended while it was busy does not come back when it turns idle.
        known.end(session("standing 0"))
        assert len(known) == 99
    assert len(known) == len(known._idle) == 99


def test_an_end_is_remembered_as_long_as_the_id_would_have_lived() -> None:
    now = 0.0
    known = Conversations(clock=lambda: now)
    known.end(session("a", 100))
    known.end(session("b", 200))
    for name in ("a", "b"):
        with pytest.raises(UnknownSessionError):
            known.of(session(name))
    now = 150.0
    # Whoever opens ids refuses it from now on, so the list need not.
    known.end(session("c", 300))
    assert len(known._ended) == len(known._ends) == 2
