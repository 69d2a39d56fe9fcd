"""Limits of sessions under two hundred creations at once, through two gateways with pools of their own."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from agentapi.principal import Role
from integration.api.harness import PUBLIC_URL, Api, Caller, lifespan_of, settings_for

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import asyncpg

    from agentapi.identity.token_issuer import TokenIssuer
    from agentapi.storage.embedded import EmbeddedPostgres

SESSIONS = "/api/v1/sessions"


@pytest.fixture
async def gateways(
    postgres: EmbeddedPostgres, issuer: TokenIssuer, keyring: str, state_dir: Path
) -> AsyncIterator[tuple[httpx2.AsyncClient, ...]]:
    """Two of one deployment, each with connections of its own and patience for a machine that is busy."""
    settings = settings_for(postgres, issuer, keyring, state_dir, database_timeout_s=60.0)
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for _ in range(2):
            app = await stack.enter_async_context(lifespan_of(settings))
            client = httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url=PUBLIC_URL)
            clients.append(await stack.enter_async_context(client))
        yield tuple(clients)


@pytest.mark.parametrize("sizes", [(5, 37), (2, 20)], ids=["organisation", "user"])
async def test_limits_are_exact_when_two_hundred_begin_at_once_through_two_gateways(
    gateways: tuple[httpx2.AsyncClient, ...],
    state_dir: Path,
    api: Api,
    superuser: asyncpg.Connection[Any],
    sizes: tuple[int, int],
) -> None:
    people, begun = sizes
    root, slug = api.caller(Role.PLATFORM_ADMIN, "root"), api.tenant.principal.org_slug
    plan = {"max_sessions": 37, "max_sessions_per_user": 10}
    assert (await root.request("PUT", f"/api/v1/platform/organizations/{slug}", json=plan)).status_code == 200
    tokens = [api.caller(Role.MEMBER, f"user-{number}").token for number in range(people)]

    async def begin(number: int) -> tuple[int, int]:
        caller = Caller(gateways[number % 2], tokens[number % people])
        answer = await caller.request("POST", SESSIONS, json={})
        assert answer.status_code == 201 or answer.json()["code"] == "limit_reached", answer.text
        return number % people, answer.status_code

    answers = await asyncio.gather(*(begin(number) for number in range(200)))
    of_each = Counter(user for user, code in answers if code == 201)
    assert of_each.total() == begun
    assert max(of_each.values()) <= 10
    org_id = api.tenant.principal.org_id
    live = "SELECT count(*) FROM sessions WHERE org_id = $1 AND ended_at IS NULL"
    assert await superuser.fetchval(live, org_id) == begun
    assert await superuser.fetchval("SELECT sessions_used FROM organizations WHERE id = $1", org_id) == begun
    # Who was refused has left nothing.
    assert len(list((state_dir / "sessions" / str(org_id)).iterdir())) == begun
    rows = "SELECT count(*) FROM audit_log WHERE org_id = $1 AND action = 'session.created'"
    assert await superuser.fetchval(rows, org_id) == begun
