"""Two organisations with the same people and names behind one gateway: whatever they do, neither has the other's."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from agentapi.storage.embedded import APP_ROLE
from integration.api.harness import lifespan_of, settings_for
from integration.conftest import migrated_postgres
from integration.isolation.side import CALLERS
from integration.isolation.steps import METHODS, REST, Step
from integration.isolation.world import LeakError, World, two_organisations
from support.raw import LEGACY, modern_headers, modern_message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from starlette.applications import Starlette

    from agentapi.identity.token_issuer import TokenIssuer
    from agentapi.storage.embedded import EmbeddedPostgres

SEQUENCES = 480

_WEIGHTED = (*CALLERS, "org_admin", "org_admin", "member", "key")

NEVER_FOREIGN = {"PUT /api/v1/members/{id}", "DELETE /api/v1/members/{id}"}
"""People are the same in both organisations."""

UNANSWERED = {
    # There is no authorization server, and nobody signs in; tests/integration/oauth has both.
    "POST /api/v1/mcp/oauth/init",
    "GET /api/v1/mcp/oauth/callback",
    "POST /api/v1/mcp/oauth/refresh",
    "POST /api/v1/mcp/oauth/revoke",
    "GET /connect/signed-in",
    "GET /connected/{id}",
    "POST /connect/{id}",
    "POST /connect/{id}/sign-in",
    "POST /connect/{id}/sign-out",
    "POST /join/{token}",
    "POST /join/{token}/sign-in",
    "POST /join/{token}/sign-out",
    # What the sequences leave alone of their own; see steps.py.
    "POST /api/v1/invitations/accept",
    "DELETE /api/v1/organizations/{id}",
    "POST /api/v1/organizations/{id}/transfer",
    "PUT /api/v1/members/{id}",
    "DELETE /api/v1/members/{id}",
    "DELETE /api/v1/members/me",
    "PUT /api/v1/mcp/configurations/{id}",
    "PUT /api/v1/platform/organizations/{slug}",
    "DELETE /api/v1/platform/organizations/{slug}",
}
"""What answers nobody well in any sequence."""

steps = st.builds(
    Step,
    kind=st.sampled_from(["rest", "rest", "rest", "modern", "legacy"]),
    caller=st.sampled_from(_WEIGHTED),
    aim=st.sampled_from(["own", "foreign", "own", "foreign", "nobody"]),
    chance=st.integers(0, 2**64 - 1),
)
turns = st.lists(st.tuples(st.integers(0, 1), st.lists(steps, min_size=1, max_size=6)), min_size=2, max_size=4)


@pytest.fixture(scope="module")
async def world(gateway: Starlette, postgres: EmbeddedPostgres, issuer: TokenIssuer) -> AsyncIterator[World]:
    async with two_organisations(gateway, postgres, issuer) as world:
        yield world


@settings(
    max_examples=SEQUENCES,
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(turns=turns)
async def test_no_sequence_of_requests_gives_one_organisation_anything_of_the_other(
    world: World, turns: list[tuple[int, list[Step]]]
) -> None:
    await world.play(turns)


async def test_each_side_reached_for_what_the_other_has(world: World) -> None:
    """What was tried, so that nobody takes a suite that tries nothing for one that finds nothing."""
    seen = world.seen
    assert seen["sequences"] >= SEQUENCES
    assert seen["own traces seen"] > SEQUENCES, "what an organisation has is in what it receives"
    assert seen["aimed at the other"] > SEQUENCES
    for name in REST:
        assert seen[f"foreign {name}"] + seen[f"other {name}"] > 0, f"{name} was never asked for"
    with_parameters = [name for name in REST if "{" in name and name not in NEVER_FOREIGN]
    assert [name for name in with_parameters if not seen[f"foreign {name}"]] == []
    unanswered = {name for name in REST if not seen[f"2xx {name}"] + seen[f"3xx {name}"]}
    rare = sorted(unanswered - UNANSWERED)
    assert len(rare) * 8 < len(REST), f"their own people should have been answered by {rare}"
    for method in METHODS:
        assert seen[f"2xx modern {method}"] > 0
    for caller in CALLERS:
        assert seen[f"caller {caller}"] > SEQUENCES // 5


async def test_what_one_side_did_is_in_no_log_of_the_other(world: World) -> None:
    assert await world.misplaced() == []


async def test_no_session_was_ended_by_the_other_side(world: World) -> None:
    """Nobody ended one of their own; the other side tried, by its id."""
    assert world.seen["foreign legacy DELETE"] > 0
    pinged = 0
    for side in world.sides:
        for caller in CALLERS:
            for session in side.things.get(f"session {caller}", ())[-3:]:
                headers = {"authorization": f"Bearer {side.tokens[caller]}", "mcp-session-id": session}
                headers |= {"accept": "application/json, text/event-stream", "mcp-protocol-version": LEGACY}
                ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
                answer = await side.api.http.post(f"/mcp/{side.slug}/main", json=ping, headers=headers)
                assert answer.status_code == 200, answer.text
                pinged += 1
    assert pinged > 0


async def test_a_change_of_one_side_is_heard_by_its_own_people_alone(world: World) -> None:
    heard: list[list[str]] = [[], []]
    loud = asyncio.Event(), asyncio.Event()

    async def listen(number: int, ready: asyncio.Event) -> None:
        side = world.sides[number]
        message = modern_message("subscriptions/listen", {"notifications": {"toolsListChanged": True}})
        headers = {**modern_headers(message), "authorization": f"Bearer {side.tokens['member']}"}
        headers["accept"] = "application/json, text/event-stream"
        path = f"/mcp/{side.slug}/main"
        async with side.api.http.stream("POST", path, json=message, headers=headers) as answer:
            async for line in answer.aiter_lines():
                if "acknowledged" in line:
                    ready.set()
                elif line.startswith("data:"):
                    heard[number].append(line)
                    loud[number].set()

    async def touch(number: int) -> None:
        side = world.sides[number]
        message = modern_message("tools/call", {"name": "shared__touch", "arguments": {}})
        headers = {**modern_headers(message), "authorization": f"Bearer {side.tokens['member']}"}
        headers["accept"] = "application/json, text/event-stream"
        answer = await side.api.http.post(f"/mcp/{side.slug}/main", json=message, headers=headers)
        assert answer.status_code == 200, answer.text

    ready = asyncio.Event(), asyncio.Event()
    tasks = [asyncio.create_task(listen(number, ready[number])) for number in (0, 1)]
    try:
        async with asyncio.timeout(20):
            for event in ready:
                await event.wait()
            await touch(0)
            await loud[0].wait()
            assert heard[1] == []
            await touch(1)
            await loud[1].wait()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def test_a_gateway_without_row_level_security_is_found_out(
    issuer: TokenIssuer, keyring: str, tmp_path: Path
) -> None:
    """The suite itself: the application's role comes to see every row, after the start that would refuse it."""
    async with migrated_postgres() as postgres:
        settings = settings_for(postgres, issuer, keyring, tmp_path)
        async with lifespan_of(settings) as gateway, two_organisations(gateway, postgres, issuer) as world:
            await world.superuser.execute(f"ALTER ROLE {APP_ROLE} BYPASSRLS")
            with pytest.raises(LeakError, match="of the other organisation"):
                await _wander(world, Random(1))  # noqa: S311 - nothing is secret of it


async def _wander(world: World, chance: Random) -> None:
    for _ in range(SEQUENCES):
        await world.play([(chance.randrange(2), [_step(chance) for _ in range(5)])])


def _step(chance: Random) -> Step:
    return Step(
        kind=chance.choice(("rest", "modern", "legacy")),
        caller=chance.choice(CALLERS),
        aim=chance.choice(("own", "foreign")),
        chance=chance.getrandbits(64),
    )
