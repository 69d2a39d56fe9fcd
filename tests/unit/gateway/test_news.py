"""What a process tells the others of upstreams, and what it makes of what it is told."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast
from uuid import UUID, uuid4

import pytest

from agentapi.gateway.listening import OpenStreams
from agentapi.gateway.news import News
from agentapi.gateway.subscriptions import Audience
from agentapi.principal import OrgId, UserId, WorkspaceId
from agentapi.storage.notifier import Change
from unit.gateway.test_announcements import ALICE, UPSTREAM

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentapi.gateway.router import Router
    from agentapi.upstreams.client import UpstreamClient

ALL = [f"notifications/{kind}/list_changed" for kind in ("tools", "prompts", "resources")]


class Feed:
    """Hands on what a test says, and keeps what it is told."""

    hears = True

    def __init__(self) -> None:
        self.changed: dict[str, Callable[[Change], None]] = {}
        self.missed: list[Callable[[], None]] = []
        self.told: list[Change] = []

    def listen(self, topics: tuple[str, ...], changed: Callable[[Change], None], missed: Callable[[], None]) -> None:
        self.changed |= dict.fromkeys(topics, changed)
        self.missed.append(missed)

    def tell(self, change: Change) -> None:
        self.told.append(change)


class World:
    """What news come to: the calls of the catalogue and of the streams, in order."""

    def __init__(self) -> None:
        self.feed = Feed()
        self.calls: list[tuple[Any, ...]] = []
        self.heard: list[Callable[[Any, Any, str, dict[str, Any]], None]] = []

        def note(name: str) -> Callable[..., None]:
            return lambda *given: self.calls.append((name, *given))

        router = SimpleNamespace(
            catalogue=SimpleNamespace(changed=note("dropped"), doubt=note("doubted")),
            subscriptions=SimpleNamespace(announce=note("announced"), announce_to=note("announced_to")),
        )
        client = SimpleNamespace(on_change=self.heard.append, drop_session=note("session_dropped"))
        self.streams = OpenStreams(most=10, most_per_user=10)
        self.news = News(self.feed, cast("Router", router), cast("UpstreamClient", client), self.streams)

    def hear(self, method: str) -> None:
        for listener in self.heard:
            listener(UPSTREAM, ALICE.user_id, method, {})


@pytest.mark.parametrize("kind", ["tools", "prompts", "resources"])
def test_a_list_that_changed_is_told_and_is_dropped_where_it_is_heard_of(kind: str) -> None:
    here, there = World(), World()
    method = f"notifications/{kind}/list_changed"
    here.hear(method)
    (told,) = here.feed.told
    assert here.calls == []
    there.feed.changed[told.topic](told)
    dropped, announced = ("dropped", UPSTREAM.id, method), ("announced_to", UPSTREAM.id, ALICE.user_id, (kind,))
    assert there.calls == [dropped, announced]
    assert there.feed.told == []


def test_what_is_no_list_is_told_to_nobody() -> None:
    world = World()
    world.hear("notifications/resources/updated")
    assert world.feed.told == []


def test_a_line_that_says_too_little_is_dropped() -> None:
    world = World()
    world.feed.changed["upstream_tools"](Change("upstream_tools", ALICE.org_id))
    assert world.calls == []


@pytest.mark.parametrize(
    ("change", "audience", "methods"),
    [
        (
            Change("upstreams", ALICE.org_id, UPSTREAM.workspace_id, ALICE.user_id, UPSTREAM.id),
            Audience(ALICE.org_id, UPSTREAM.workspace_id, ALICE.user_id),
            ALL,
        ),
        (Change("prompts", ALICE.org_id), Audience(ALICE.org_id), ALL[1:2]),
        (Change("prompts", OrgId(UUID(int=0))), Audience(), ALL[1:2]),
    ],
)
def test_a_change_is_told_to_those_whom_it_concerns(change: Change, audience: Audience, methods: list[str]) -> None:
    world = World()
    world.feed.changed[change.topic](change)
    assert world.calls == [("announced", audience, method) for method in methods]


def test_after_a_gap_everything_counts_as_changed() -> None:
    world = World()
    for missed in world.feed.missed:
        missed()
    assert world.calls == [("doubted",), *(("announced", Audience(), method) for method in ALL)]


@pytest.mark.parametrize("hears", [True, False])
def test_what_this_process_does_is_told_here_only_while_nothing_is_heard(hears: bool) -> None:
    world = World()
    world.feed.hears = hears
    changed: list[Callable[[Any], None]] = []
    room = cast("Any", SimpleNamespace(on_change=changed.append))
    world.news.follow(room, room, room)
    workspace = WorkspaceId(UUID(int=8))
    prompt = SimpleNamespace(org_id=None, workspace_id=None, owner_id=UserId(UUID(int=9)))
    for callback, subject in zip(changed, (UPSTREAM, workspace, prompt), strict=True):
        callback(subject)
    told = [
        *(("announced", Audience(UPSTREAM.org_id, UPSTREAM.workspace_id, None), method) for method in ALL),
        *(("announced", Audience(workspace_id=workspace), method) for method in ALL),
        ("announced", Audience(user_id=prompt.owner_id), ALL[1]),
    ]
    assert world.calls == ([] if hears else told)


@pytest.mark.parametrize(
    ("change", "ended"),
    [
        (Change("members", ALICE.org_id, user_id=ALICE.user_id), ["alice", "key"]),
        (Change("members", ALICE.org_id, user_id=UserId(UUID(int=9))), ["bob"]),
        (Change("members", ALICE.org_id), ["alice", "key", "bob"]),
        (Change("organizations", ALICE.org_id), ["alice", "key", "bob"]),
        (Change("organizations", OrgId(UUID(int=9))), []),
        (Change("api_keys", ALICE.org_id, id=UUID(int=7)), ["key"]),
        (Change("api_keys", ALICE.org_id, id=UUID(int=8)), []),
        (Change("api_keys", ALICE.org_id), []),
    ],
)
def test_the_streams_of_whoever_is_changed_end(change: Change, ended: list[str]) -> None:
    world, came = World(), list[str]()
    bob = replace(ALICE, subject="bob", user_id=UserId(UUID(int=9)))
    keyed = replace(ALICE, key_id=UUID(int=7))
    with (
        world.streams.admit(ALICE, lambda: came.append("alice")),
        world.streams.admit(keyed, lambda: came.append("key")),
        world.streams.admit(bob, lambda: came.append("bob")),
    ):
        world.feed.changed[change.topic](change)
    assert came == ended


def test_what_runs_of_a_session_ends_in_every_process_once_the_session_has() -> None:
    world, session_id = World(), uuid4()
    world.feed.changed["sessions"](Change("sessions", ALICE.org_id, user_id=ALICE.user_id, id=session_id))
    assert world.calls == [("session_dropped", session_id)]
