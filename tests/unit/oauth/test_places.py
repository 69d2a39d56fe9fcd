"""Who may ask an authorization server: bounded for each, and not at all while it fails again and again."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from uuid import uuid4

import pytest
from pydantic import SecretStr

from agentapi._core import CircuitBreakers, CircuitRules
from agentapi.oauth.errors import AuthorizationServerError, AuthorizationServerRestsError, GrantRefusedError
from agentapi.oauth.models import Tokens
from agentapi.oauth.places import TokenPlaces
from agentapi.principal import OrgId

ORG, OTHER = OrgId(uuid4()), OrgId(uuid4())
ISSUER = "https://as.example"
SECOND = 10**9
TOKENS = Tokens(access_token=SecretStr("a"), refresh_token=None, scopes=None, expires_in_s=None)
DOWN = AuthorizationServerError("The authorization server failed.")


@dataclass(slots=True)
class Desk:
    """Places by a clock that stands still."""

    at_once: int = 5
    now_ns: int = 1000 * SECOND
    places: TokenPlaces = field(init=False)

    def __post_init__(self) -> None:
        breakers = CircuitBreakers(CircuitRules(jitter_percent=0), seed=7)
        self.places = TokenPlaces(at_once=self.at_once, wait_s=0.01, breakers=breakers, now_ns=lambda: self.now_ns)

    async def ask(
        self, answer: Tokens | AuthorizationServerError = TOKENS, org_id: OrgId = ORG, issuer: str = ISSUER
    ) -> None:
        async def request() -> Tokens:
            if isinstance(answer, AuthorizationServerError):
                raise answer
            return answer

        async with self.places.take(org_id, issuer) as place:
            await place.ask(request())

    async def fail(self, times: int, error: AuthorizationServerError = DOWN) -> None:
        for _ in range(times):
            with pytest.raises(type(error)) as raised:
                await self.ask(error)
            assert raised.value is error


async def test_a_server_that_failed_five_times_rests_until_two_probes_succeed() -> None:
    desk = Desk()
    await desk.fail(5)
    with pytest.raises(AuthorizationServerRestsError) as refused:
        await desk.ask()
    assert refused.value.retry_after_s == 30
    await desk.ask(org_id=OTHER)
    desk.now_ns += 30 * SECOND
    await desk.ask()
    await desk.ask()
    await desk.fail(4)
    await desk.ask()


async def test_a_probe_that_fails_keeps_the_server_at_rest() -> None:
    desk = Desk()
    await desk.fail(5)
    desk.now_ns += 30 * SECOND
    await desk.fail(1)
    with pytest.raises(AuthorizationServerRestsError):
        await desk.ask()


async def test_a_probe_that_asks_nothing_makes_room_for_another() -> None:
    desk = Desk()
    await desk.fail(5)
    desk.now_ns += 30 * SECOND
    async with desk.places.take(ORG, ISSUER):
        with pytest.raises(AuthorizationServerRestsError):
            await desk.ask()
    await desk.ask()


@pytest.mark.parametrize("error", ["invalid_grant", "invalid_client", "bad_refresh_token"])
async def test_a_refused_grant_is_the_answer_of_a_server_that_is_well(error: str) -> None:
    desk = Desk()
    await desk.fail(4)
    await desk.fail(30, GrantRefusedError(error))
    await desk.fail(4)
    await desk.ask()


@pytest.mark.parametrize("error", ["server_error", "temporarily_unavailable"])
async def test_an_error_that_speaks_of_the_server_counts_against_it(error: str) -> None:
    desk = Desk()
    await desk.fail(5, GrantRefusedError(error))
    with pytest.raises(AuthorizationServerRestsError):
        await desk.ask()


async def test_a_server_that_hangs_takes_two_places_and_no_more() -> None:
    desk = Desk()
    async with AsyncExitStack() as hanging:
        for _ in range(2):
            await hanging.enter_async_context(desk.places.take(ORG, ISSUER))
        with pytest.raises(AuthorizationServerRestsError, match="Too many"):
            await desk.ask()
        await desk.ask(org_id=OTHER)
    await desk.ask()


@pytest.mark.parametrize("at_once", [2, 3, 4, 5, 6])
async def test_servers_of_one_organisation_that_hang_leave_places_to_another(at_once: int) -> None:
    desk = Desk(at_once=at_once)
    async with AsyncExitStack() as hanging:
        taken = 0
        for attempt in range(6):
            with contextlib.suppress(AuthorizationServerRestsError):
                await hanging.enter_async_context(desk.places.take(ORG, f"https://as{attempt % 3}.example"))
                taken += 1
        assert taken == (at_once + 1) // 2
        await desk.ask(org_id=OTHER)
        with pytest.raises(AuthorizationServerRestsError, match="Too many"):
            await desk.ask(issuer="https://fourth.example")
    await desk.ask(issuer="https://fourth.example")


@pytest.mark.parametrize("at_once", [3, 4, 5, 20])
async def test_a_server_that_hangs_leaves_a_place_to_the_others_of_its_organisation(at_once: int) -> None:
    desk = Desk(at_once=at_once)
    async with AsyncExitStack() as hanging:
        for _ in range(3):
            with contextlib.suppress(AuthorizationServerRestsError):
                await hanging.enter_async_context(desk.places.take(ORG, ISSUER))
        await desk.ask(issuer="https://other.example")


async def test_all_together_take_no_more_places_than_there_are() -> None:
    desk = Desk(at_once=1)
    async with desk.places.take(ORG, ISSUER):
        with pytest.raises(AuthorizationServerRestsError, match="Too many"):
            await desk.ask(org_id=OTHER)
    await desk.ask(org_id=OTHER)


async def test_those_that_waited_do_not_ask_a_server_that_was_found_down() -> None:
    desk = Desk(at_once=1)
    desk.places = TokenPlaces(at_once=1, wait_s=5.0, now_ns=lambda: desk.now_ns)
    await desk.fail(4)
    async with AsyncExitStack() as first:
        place = await first.enter_async_context(desk.places.take(ORG, ISSUER))
        waiting = asyncio.ensure_future(desk.ask())
        await asyncio.sleep(0)
        with pytest.raises(AuthorizationServerError):
            await place.ask(failing())
    with pytest.raises(AuthorizationServerRestsError, match="asked again shortly"):
        await waiting


async def failing() -> Tokens:
    raise DOWN
