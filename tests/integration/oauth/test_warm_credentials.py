"""What is remembered of an opened grant: no call waits for the database, and no change goes unseen."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from agentapi.errors import UpstreamNeedsConnectionError
from agentapi.oauth import store
from agentapi.oauth.errors import ReconnectNeededError
from agentapi.storage.notifier import WITHIN_S, Notifier
from agentapi.upstreams.challenges import Challenge
from agentapi.upstreams.link import Caller
from integration.oauth.conftest import room_of
from tenants import make_tenant

if TYPE_CHECKING:
    from agentapi._core import Keyring
    from agentapi.storage.embedded import EmbeddedPostgres
    from agentapi.upstreams.credentials import Credential
    from integration.oauth.conftest import Bench


class Counted:
    """Counts the transactions of a database."""

    def __init__(self, database: Any) -> None:
        self._database = database
        self.transactions = 0

    def user_transaction(self, *given: Any) -> Any:
        self.transactions += 1
        return self._database.user_transaction(*given)


def counted(bench: Bench) -> Counted:
    credentials = bench.room.credentials
    made = Counted(bench.database)
    credentials._database = made  # type: ignore[assignment] # it asks for nothing else
    return made


def caller_of(bench: Bench) -> Caller:
    return Caller(bench.principal.org_id, bench.principal.user_id)


async def credential(bench: Bench) -> Credential:
    return await bench.room.credentials.credential(bench.upstream, caller_of(bench))


async def test_a_warm_credential_asks_no_database_and_is_the_same_object(bench: Bench) -> None:
    await bench.connect()
    first = await credential(bench)
    database = counted(bench)
    for _ in range(100):
        assert await credential(bench) is first
    assert database.transactions == 0


async def test_the_row_is_read_again_after_half_a_minute(bench: Bench) -> None:
    await bench.connect()
    first = await credential(bench)
    database = counted(bench)
    bench.clock.moved += timedelta(seconds=31)
    assert (await credential(bench)).version == first.version
    assert database.transactions == 1
    await credential(bench)
    assert database.transactions == 1


async def test_two_users_have_two_credentials(bench: Bench) -> None:
    await bench.connect()
    await credential(bench)
    other = await make_tenant(bench.database)
    with pytest.raises(UpstreamNeedsConnectionError) as caught:
        await bench.room.credentials.credential(
            bench.upstream, Caller(bench.principal.org_id, other.colleague("bob").principal.user_id)
        )
    assert caught.value.upstream_id == bench.upstream.id


async def test_a_revocation_is_seen_at_once_and_a_new_connection_is_another_version(bench: Bench) -> None:
    await bench.connect()
    first = await credential(bench)
    await bench.room.revoker.revoke(bench.principal, bench.upstream.id)
    with pytest.raises(UpstreamNeedsConnectionError):
        await credential(bench)
    await bench.connect()
    second = await credential(bench)
    # Both are the first generation of their connection.
    assert second.version != first.version
    assert second.headers["Authorization"] != first.headers["Authorization"]


async def test_a_refresh_and_a_reconnection_are_seen_at_once(bench: Bench) -> None:
    await bench.connect()
    versions = [(await credential(bench)).version]
    await bench.room.book.refresh(bench.principal, bench.upstream.id)
    versions.append((await credential(bench)).version)
    await bench.connect()
    versions.append((await credential(bench)).version)
    assert len(set(versions)) == 3


async def test_what_another_process_changes_unheard_is_seen_after_a_second(
    bench: Bench, oauth_keyring: Keyring
) -> None:
    await bench.connect()
    first = await credential(bench)
    elsewhere = room_of(bench.database, bench.room.protocol._egress, oauth_keyring, bench.clock)
    await elsewhere.book.refresh(bench.principal, bench.upstream.id)
    assert await credential(bench) is first
    bench.clock.moved += timedelta(seconds=WITHIN_S)
    assert (await credential(bench)).version != first.version


async def test_what_another_process_changes_is_told_and_nothing_else_is_read_again(
    bench: Bench, oauth_keyring: Keyring, postgres: EmbeddedPostgres
) -> None:
    await bench.connect()
    feed = Notifier(postgres.app_dsn, timeout_s=5.0, every_s=0.02)
    here = room_of(bench.database, bench.room.protocol._egress, oauth_keyring, bench.clock, feed=feed)

    async def held() -> str | None:
        try:
            return (await here.credentials.credential(bench.upstream, caller_of(bench))).version
        except UpstreamNeedsConnectionError:
            return None

    async def until_not(version: str | None) -> str | None:
        async with asyncio.timeout(WITHIN_S):
            while (other := await held()) == version:  # noqa: ASYNC110 - it is asked, as a call asks
                await asyncio.sleep(0)
        return other

    async with feed.run():
        await feed.wait()
        first = await held()
        here.credentials._database = reads = Counted(bench.database)  # type: ignore[assignment]
        bench.clock.moved += timedelta(seconds=20)
        assert await held() == first
        assert reads.transactions == 0
        await bench.room.book.refresh(bench.principal, bench.upstream.id)
        second = await until_not(first)
        assert second is not None
        await bench.room.revoker.revoke(bench.principal, bench.upstream.id)
        assert await until_not(second) is None


async def test_what_was_read_before_a_change_is_not_kept_after_it(bench: Bench) -> None:
    await bench.connect()
    credentials = bench.room.credentials
    usable = credentials._refresher.usable

    async def revoked_meanwhile(connection: Any) -> Any:
        found = await usable(connection)
        await bench.room.revoker.revoke(bench.principal, bench.upstream.id)
        return found

    credentials._refresher.usable = revoked_meanwhile  # type: ignore[method-assign] # the race, made certain
    await credential(bench)
    credentials._refresher.usable = usable  # type: ignore[method-assign]
    with pytest.raises(UpstreamNeedsConnectionError):
        await credential(bench)


async def test_a_token_near_its_end_is_not_kept_past_it(bench: Bench) -> None:
    await bench.connect()
    bench.clock.moved += timedelta(seconds=3600 - 33)
    before = bench.provider.refreshes
    await credential(bench)
    await bench.room.refresher.aclose()
    assert bench.provider.refreshes == before + 1


async def test_a_refused_token_is_refreshed_once_and_then_given_up(bench: Bench) -> None:
    await bench.connect()
    credentials, caller = bench.room.credentials, caller_of(bench)
    first = await credential(bench)
    second = await credentials.rejected(bench.upstream, caller, first, Challenge())
    assert second.version != first.version
    with pytest.raises(ReconnectNeededError) as caught:
        await credentials.rejected(bench.upstream, caller, second, Challenge())
    assert caught.value.upstream_id == bench.upstream.id
    assert bench.provider.refreshes == 1
    with pytest.raises(ReconnectNeededError):
        await credential(bench)
    async with bench.database.tenant_transaction(bench.principal) as connection:
        held = await store.find_connection(connection, bench.principal.user_id, bench.upstream.id)
    assert held is not None
    assert held.status_reason == "refused_by_upstream"


async def test_a_token_that_was_renewed_meanwhile_is_given_without_another_refresh(bench: Bench) -> None:
    await bench.connect()
    first = await credential(bench)
    await bench.room.book.refresh(bench.principal, bench.upstream.id)
    other = await bench.room.credentials.rejected(bench.upstream, caller_of(bench), first, Challenge())
    assert other.version != first.version
    assert bench.provider.refreshes == 1


async def test_a_token_that_served_for_a_while_may_be_refreshed_again(bench: Bench) -> None:
    await bench.connect()
    credentials, caller = bench.room.credentials, caller_of(bench)
    second = await credentials.rejected(bench.upstream, caller, await credential(bench), Challenge())
    bench.clock.moved += timedelta(seconds=61)
    third = await credentials.rejected(bench.upstream, caller, second, Challenge())
    assert third.version != second.version
    assert bench.provider.refreshes == 2


async def test_scopes_that_are_held_are_not_asked_for_again(bench: Bench) -> None:
    await bench.connect()
    held = await credential(bench)
    challenge = Challenge(scopes=("read", "write"), error="insufficient_scope")
    with pytest.raises(UpstreamNeedsConnectionError) as caught:
        await bench.room.credentials.rejected(bench.upstream, caller_of(bench), held, challenge)
    assert caught.value.scopes == ("write",)
    assert bench.provider.refreshes == 0
