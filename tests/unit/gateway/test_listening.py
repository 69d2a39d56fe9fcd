from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from uuid import UUID

import pytest

from agentapi.errors import TooManyStreamsError
from agentapi.gateway.exchange import Interest
from agentapi.gateway.listening import MAX_URIS, Changes, OpenStreams, filter_of, interest_of
from agentapi.principal import OrgId, UserId
from unit.gateway.fronts import ALICE

BOB = replace(ALICE, user_id=UserId(UUID(int=10)))
NAMESAKE = replace(ALICE, org_id=OrgId(UUID(int=20)))


def test_streams_are_bounded_for_each_user_of_each_organisation() -> None:
    streams = OpenStreams(most=10, most_per_user=2)
    with ExitStack() as stack:
        for holder in (ALICE, ALICE, BOB, BOB, NAMESAKE, NAMESAKE):
            stack.enter_context(streams.admit(holder, lambda: None))
        for holder in (ALICE, BOB, NAMESAKE):
            with pytest.raises(TooManyStreamsError):
                stack.enter_context(streams.admit(holder, lambda: None))
        assert len(streams) == 6
    with streams.admit(ALICE, lambda: None):
        assert len(streams) == 1


def test_streams_are_bounded_altogether() -> None:
    streams = OpenStreams(most=2, most_per_user=2)
    with streams.admit(ALICE, lambda: None), streams.admit(BOB, lambda: None):
        with pytest.raises(TooManyStreamsError), streams.admit(NAMESAKE, lambda: None):
            raise AssertionError
        assert len(streams) == 2
    assert len(streams) == 0


def test_an_interest_is_written_as_it_was_asked_for() -> None:
    asked = {"promptsListChanged": True, "resourcesListChanged": True, "resourceSubscriptions": ["a:1", "b:2"]}
    interest = interest_of({"notifications": asked})
    assert interest == Interest(prompts=True, resources=True, uris=frozenset({"a:1", "b:2"}))
    assert filter_of(interest) == asked
    assert filter_of(interest_of({"notifications": {"toolsListChanged": False}})) == {}


def test_parts_wait_up_to_a_bound_and_then_what_is_listened_to() -> None:
    changes = Changes(Interest(uris=frozenset({"test://a", "test://b"})))
    for at in range(10 * MAX_URIS):
        for whole in ("a", "b"):
            changes.add("notifications/resources/updated", {"uri": f"test://{whole}/{at}"})
    waiting = {params["uri"] for params in changes._waiting.values()}
    assert len(waiting) == MAX_URIS + 2
    assert {"test://a", "test://b", "test://a/0"} <= waiting
