"""Whom a token of a session stands for, in the process that changed the session and in those beside it."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from agentapi.audit.log import AuditLog
from agentapi.errors import ForbiddenError, UnauthenticatedError
from agentapi.identity.api_keys.book import KeyBook
from agentapi.identity.api_keys.directory import KeyDirectory
from agentapi.principal import Role
from agentapi.tenancy.store import assign_role, find_workspace, upsert_member

if TYPE_CHECKING:
    from datetime import datetime

    from agentapi.principal import Principal
    from agentapi.sessions.models import Started
    from integration.sessions.bench import Process
    from support.clock import Clock


async def reason(process: Process, started: Started) -> str:
    """Return why the token of a session is refused."""
    with pytest.raises(UnauthenticatedError) as caught:
        await process.principal(started)
    return caught.value.reason


async def test_a_token_stands_for_its_user_in_the_session(process: Process, beside: Process) -> None:
    alice = await process.member()
    started = await process.start(alice, role=Role.MEMBER, scopes=frozenset({"mcp:tools"}))
    for each in (process, beside):
        found = await each.principal(started)
        expected = replace(alice, role=Role.MEMBER, scopes=frozenset({"mcp:tools"}), session_id=started.session.id)
        assert replace(found, workspace_id=None) == expected
        async with process.database.tenant_transaction(alice) as connection:
            workspace = await find_workspace(connection, "main")
        assert workspace is not None
        assert found.workspace_id == workspace.id


async def test_an_end_holds_at_once_here_and_a_second_later_everywhere(
    process: Process, beside: Process, clock: Clock
) -> None:
    alice = await process.member()
    started = await process.start(alice)
    await process.principal(started)
    await beside.principal(started)
    await process.book.end(alice, started.session.id)
    assert await reason(process, started) == "session_ended"
    clock.advance(timedelta(seconds=0.9))
    await beside.principal(started)
    clock.advance(timedelta(seconds=0.2))
    assert await reason(beside, started) == "session_ended"


async def test_time_ends_a_session_to_the_second_whatever_was_read_of_it(process: Process, clock: Clock) -> None:
    alice = await process.member()
    used, unused = await process.start(alice), await process.start(alice)
    for each in (used, unused):
        await process.principal(each)
    clock.at = used.session.idle_at - timedelta(microseconds=1)
    await process.principal(used)
    await process.grants.aclose()
    clock.at = used.session.idle_at
    assert await reason(process, unused) == "session_idle"
    await process.principal(used)
    while clock.at < used.session.expires_at - timedelta(minutes=50):
        clock.advance(timedelta(minutes=50))
        await process.principal(used)
        await process.grants.aclose()
    clock.at = used.session.expires_at
    assert await reason(process, used) == "session_expired"


async def test_a_use_through_another_process_keeps_a_session_alive_here(
    process: Process, beside: Process, clock: Clock
) -> None:
    """What was read here of it may be older than that use, since of uses nobody is told."""
    alice = await process.member()
    started = await process.start(alice)
    clock.at = started.session.idle_at - timedelta(seconds=0.5)
    await beside.grants._standings.get(alice.org_id, started.session.id, partial(_standing, beside, started))
    await process.principal(started)
    await process.grants.aclose()
    clock.advance(timedelta(seconds=0.9))
    await beside.principal(started)


async def _standing(process: Process, started: Started) -> Any:
    """Read a session without using it."""
    return await process.grants._query(started.session.org_id, started.session.id)


async def test_a_use_keeps_a_session_alive_and_is_written_once_a_minute(
    process: Process, clock: Clock, superuser: Any
) -> None:
    alice = await process.member()
    started = await process.start(alice)

    async def last() -> datetime:
        await process.grants.aclose()
        found: datetime = await superuser.fetchval(
            "SELECT last_used_at FROM sessions WHERE id = $1", started.session.id
        )
        return found

    await process.principal(started)
    clock.advance(timedelta(seconds=59))
    await process.principal(started)
    assert await last() == started.session.created_at
    clock.advance(timedelta(seconds=1))
    await asyncio.gather(*(process.principal(started) for _ in range(20)))
    assert await last() == clock.at
    noted = clock.at
    clock.advance(timedelta(seconds=30))
    await process.principal(started)
    assert await last() == noted
    for _ in range(5):
        clock.advance(timedelta(minutes=50))
        await process.principal(started)
        await last()


async def test_a_session_does_no_more_than_its_user_may_now(process: Process, clock: Clock) -> None:
    admin = await process.member()
    started = await process.start(admin, role=Role.ORG_ADMIN)
    await process.principal(started)
    async with process.database.tenant_transaction(admin) as connection:
        await upsert_member(connection, replace(admin, role=Role.MEMBER), email=None)
    clock.advance(timedelta(seconds=1.1))
    assert await reason(process, started) == "session_wider_than_its_user"
    async with process.database.tenant_transaction(admin) as connection:
        await assign_role(connection, admin.user_id, Role.ORG_ADMIN)
    clock.advance(timedelta(seconds=1.1))
    assert (await process.principal(started)).role is Role.ORG_ADMIN


async def test_a_token_of_a_session_that_is_gone_stands_for_nobody(process: Process, superuser: Any) -> None:
    alice = await process.member()
    started = await process.start(alice)
    await superuser.execute("DELETE FROM sessions WHERE id = $1", started.session.id)
    assert await reason(process, started) == "unknown_session"


async def test_a_token_of_the_own_issuer_without_a_session_stands_for_nobody(process: Process) -> None:
    alice = await process.member()
    signer = await process.ring.signer()
    for session_id in (None, "nonsense"):
        text = signer.mint(
            subject=str(alice.user_id),
            audiences=["http://gateway.example/mcp/x/main"],
            organization=alice.org_slug,
            role=Role.ORG_ADMIN,
            lifetime_s=60,
            session_id=session_id,
        )
        token = await process.issuers.verify(text, "http://gateway.example/mcp/x/main")
        with pytest.raises(UnauthenticatedError) as caught:
            await process.grants.principal(token)
        assert caught.value.reason == "token_of_no_session"


async def test_a_session_of_one_organisation_is_none_of_another(process: Process) -> None:
    """The own issuer would never sign this; whoever got it to could still not cross."""
    alice, eve = await process.member(), await process.member(subject="eve")
    started = await process.start(alice)
    text = (await process.ring.signer()).mint(
        subject=str(alice.user_id),
        audiences=["http://gateway.example/mcp/x/main"],
        organization=eve.org_slug,
        role=Role.AGENT,
        lifetime_s=60,
        session_id=str(started.session.id),
    )
    token = await process.issuers.verify(text, "http://gateway.example/mcp/x/main")
    with pytest.raises(UnauthenticatedError) as caught:
        await process.grants.principal(token)
    assert caught.value.reason == "unknown_session"


async def test_many_requests_of_a_session_read_it_once(process: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    alice = await process.member()
    started = await process.start(alice)
    token = await process.verified(started)
    reads = 0
    original = process.database.organization_transaction

    def counted(org_id: Any) -> Any:
        nonlocal reads
        reads += 1
        return original(org_id)

    monkeypatch.setattr(process.database, "organization_transaction", counted)
    found: list[Principal] = await asyncio.gather(*(process.grants.principal(token) for _ in range(50)))
    assert len({principal.session_id for principal in found}) == 1
    assert reads == 1


async def test_whoever_comes_in_a_session_makes_nothing_that_outlives_it(process: Process) -> None:
    """Its token reaches no route of the API; if one ever did, this is the second line."""
    admin = await process.member()
    started = await process.start(admin, role=Role.ORG_ADMIN)
    within = await process.principal(started)
    keys = KeyBook(
        process.database,
        audit=AuditLog(process.database),
        directory=KeyDirectory(process.database),
        asks_scopes=lambda _: False,
    )
    attempts = (
        lambda: process.start(within),
        lambda: process.book.mint(within, started.session.id),
        lambda: process.book.end(within, started.session.id),
        lambda: keys.create(
            within, name="x", agent=False, role=None, scopes=frozenset(), workspace=None, lifetime=None
        ),
    )
    for attempt in attempts:
        with pytest.raises(ForbiddenError, match="session"):
            await attempt()


async def test_who_may_do_less_than_a_session_of_theirs_gets_no_token_of_it(process: Process) -> None:
    admin = await process.member()
    started = await process.start(admin, role=Role.ORG_ADMIN)
    narrower = replace(admin, role=Role.MEMBER)
    with pytest.raises(ForbiddenError, match="more than you are"):
        await process.book.mint(narrower, started.session.id)
    by_key = replace(admin, key_id=uuid4(), scopes=frozenset({"mcp:tools"}))
    with pytest.raises(ForbiddenError, match="more than you are"):
        await process.book.mint(by_key, started.session.id)
