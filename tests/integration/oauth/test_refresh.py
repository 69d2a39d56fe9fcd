"""Fresh tokens for any number of callers, in two processes' worth of rooms, through every kind of failure."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest
from starlette.responses import JSONResponse, Response

from agentapi.audit.log import AuditLog
from agentapi.egress import Egress
from agentapi.errors import PreconditionFailedError, StorageUnavailableError, UpstreamNeedsConnectionError
from agentapi.oauth import store
from agentapi.oauth.errors import AuthorizationServerError, AuthorizationServerRestsError, ReconnectNeededError
from agentapi.oauth.revoke import AtProvider
from agentapi.preconditions import IfMatch, entity_tag
from agentapi.storage.database import Database
from agentapi.tenancy.store import upsert_member
from agentapi.upstreams import store as upstream_store
from agentapi.upstreams.link import Caller
from agentapi.upstreams.models import Auth
from agentapi.upstreams.registry import UpstreamRegistry
from integration.oauth.conftest import room_of
from integration.oauth.provider import both, provider
from tenants import make_tenant
from unit.oauth.sites import LOOPBACK, server_metadata

if TYPE_CHECKING:
    from agentapi._core import Keyring
    from agentapi.oauth.models import Connection
    from agentapi.storage.embedded import EmbeddedPostgres
    from agentapi.upstreams.models import Upstream
    from integration.oauth.conftest import Bench


async def held(bench: Bench) -> Connection:
    async with bench.database.tenant_transaction(bench.principal) as connection:
        found = await store.find_connection(connection, bench.principal.user_id, bench.upstream.id)
    assert found is not None
    return found


async def expired(bench: Bench) -> str:
    """Connect, let the token end, and return it."""
    await bench.connect()
    old = await bench.credential()
    bench.clock.moved += timedelta(seconds=3600)
    return old


async def test_a_token_that_lasts_is_not_refreshed(bench: Bench) -> None:
    await bench.connect()
    bench.clock.moved += timedelta(seconds=3600 - 301)
    await bench.credential()
    assert bench.provider.refreshes == 0


async def test_a_token_without_an_end_is_used_until_it_is_refused(bench: Bench) -> None:
    bench.provider.lifetime_s = None
    await bench.connect()
    bench.clock.moved += timedelta(days=365)
    await bench.credential()
    assert bench.provider.refreshes == 0


async def test_a_token_near_its_end_is_used_while_it_is_refreshed(bench: Bench) -> None:
    await bench.connect()
    old = await bench.credential()
    bench.clock.moved += timedelta(seconds=3600 - 100)
    assert await bench.credential() == old
    await bench.room.refresher.aclose()
    assert await bench.credential() != old
    assert bench.provider.refreshes == 1


async def test_a_hundred_calls_in_two_processes_make_one_refresh(
    bench: Bench, postgres: EmbeddedPostgres, oauth_keyring: Keyring
) -> None:
    old = await expired(bench)
    other = await Database.connect(postgres.app_dsn, pool_min=1, pool_max=6, timeout_s=5.0)
    caller = Caller(bench.principal.org_id, bench.principal.user_id)
    async with Egress(LOOPBACK, timeout_s=5.0) as egress:
        second = room_of(other, egress, oauth_keyring, bench.clock)
        rooms = [bench.room, second] * 50
        given = await asyncio.gather(*(room.credentials.credential(bench.upstream, caller) for room in rooms))
        await second.refresher.aclose()
    await other.close()
    assert bench.provider.refreshes == 1
    assert {each.headers["Authorization"].get_secret_value() for each in given} == {await bench.credential()} != {old}


async def test_the_rotated_token_is_the_one_used_next(bench: Bench) -> None:
    await expired(bench)
    await bench.credential()
    bench.clock.moved += timedelta(seconds=3600)
    await bench.credential()
    assert bench.provider.refreshes == 2
    assert (await held(bench)).generation == 3


async def test_a_grant_that_is_over_needs_its_owner_and_asks_no_second_time(bench: Bench) -> None:
    await expired(bench)
    bench.provider.refresh_tokens.clear()
    for _ in range(3):
        with pytest.raises(ReconnectNeededError):
            await bench.credential()
    assert bench.provider.refreshes == 1
    assert (await held(bench)).status_reason == "refresh_refused"
    await bench.connect()
    assert (await bench.credential()).startswith("Bearer access-")


@pytest.mark.parametrize("answer", [Response(status_code=503), JSONResponse({"error": "temporarily_unavailable"}, 400)])
async def test_a_provider_that_fails_is_asked_again_later_and_not_at_every_call(bench: Bench, answer: Any) -> None:
    await expired(bench)
    asked = len(bench.provider.asked)
    bench.provider.token_answer = answer
    for _ in range(3):
        with pytest.raises(AuthorizationServerError):
            await bench.credential()
    assert len(bench.provider.asked) == asked + 1
    bench.provider.token_answer = None
    bench.clock.moved += timedelta(seconds=2)
    await bench.credential()
    assert (await held(bench)).refresh_failures == 0


@pytest.mark.parametrize("is_stale", [False, True])
async def test_where_nothing_is_asked_no_begin_is_noted_and_a_refusal_is_not_an_interruption(
    bench: Bench, is_stale: bool
) -> None:
    await expired(bench)
    before = await held(bench)
    bench.provider.token_answer = JSONResponse({"error": "temporarily_unavailable"}, 400)
    with pytest.raises(AuthorizationServerError):
        await bench.credential()
    asked = len(bench.provider.asked)
    with pytest.raises(AuthorizationServerError, match="tried again shortly"):
        # Another process may have read the row before the provider failed.
        await (bench.room.refresher.refresh(before) if is_stale else bench.credential())
    assert len(bench.provider.asked) == asked
    assert (await held(bench)).refresh_begun_at is None
    bench.provider.token_answer = None
    bench.provider.refresh_tokens.clear()
    bench.clock.moved += timedelta(seconds=2)
    with pytest.raises(ReconnectNeededError):
        await bench.credential()
    assert (await held(bench)).status_reason == "refresh_refused"


async def test_a_connection_whose_provider_rests_takes_no_place(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await expired(bench)
    bench.provider.token_answer = Response(status_code=503)
    with pytest.raises(AuthorizationServerError):
        await bench.credential()
    begun_at = (await held(bench)).refresh_begun_at
    monkeypatch.setattr(bench.room.refresher, "_places", None)
    with pytest.raises(AuthorizationServerError, match="tried again shortly"):
        await bench.credential()
    assert (await held(bench)).refresh_begun_at == begun_at is not None


async def colleagues(bench: Bench, count: int) -> list[Bench]:
    """Return others of the organisation, each with a connection to the same upstream."""
    made = [replace(bench, tenant=bench.tenant.colleague(f"colleague-{uuid4()}")) for _ in range(count)]
    for each in made:
        await each.connect()
    return made


async def test_a_provider_that_hangs_holds_up_no_other_organisation(bench: Bench) -> None:
    crowd = await colleagues(bench, 8)
    go_on, two_ask, asked = asyncio.Event(), asyncio.Event(), []

    async def hang(request: Any) -> Response:
        asked.append(request)
        if len(asked) == 2:
            two_ask.set()
        await go_on.wait()
        return Response(status_code=503)

    async with provider() as healthy:
        tenant = await make_tenant(bench.database)
        upstream = replace(tenant.upstream("healthy"), auth=Auth.OAUTH, endpoint=f"{healthy.url}/mcp")
        async with bench.database.tenant_transaction(tenant.principal) as connection:
            await upstream_store.insert_upstream(connection, upstream)
        other = replace(bench, provider=healthy, tenant=tenant, upstream=upstream)
        await other.connect()
        bench.clock.moved += timedelta(seconds=3600)
        bench.provider.answers["/token"] = hang
        waiting = asyncio.ensure_future(both(*(each.credential() for each in crowd)))
        async with asyncio.timeout(4):
            await two_ask.wait()
            await other.credential()
        assert (healthy.refreshes, len(asked)) == (1, 2)
        go_on.set()
        assert all(isinstance(error, AuthorizationServerError) for error in await waiting)


async def test_a_provider_that_is_down_is_not_asked_for_every_connection(bench: Bench) -> None:
    crowd = await colleagues(bench, 8)
    bench.clock.moved += timedelta(seconds=3600)
    bench.provider.token_answer = Response(status_code=503)
    asked = bench.provider.paths().count("/token")
    for each in crowd:
        with pytest.raises(AuthorizationServerError):
            await each.credential()
    assert bench.provider.paths().count("/token") - asked == 5
    with pytest.raises(AuthorizationServerRestsError, match="asked again shortly"):
        await crowd[-1].credential()


async def test_grants_that_are_over_say_nothing_against_the_provider(bench: Bench) -> None:
    crowd = await colleagues(bench, 6)
    bench.provider.refresh_tokens.clear()
    (kept,) = await colleagues(bench, 1)
    bench.clock.moved += timedelta(seconds=3600)
    for each in crowd:
        with pytest.raises(ReconnectNeededError):
            await each.credential()
    await kept.credential()


async def test_a_crash_between_answer_and_commit_is_seen_and_ends_with_the_owner(bench: Bench) -> None:
    """The provider has rotated, and nobody knows the new token: what a crash leaves, down to the note."""
    await expired(bench)
    before = await held(bench)
    async with bench.database.tenant_transaction(bench.principal) as connection:
        assert await store.begin_refresh(connection, before.id, before.generation, now=bench.clock())
    bench.provider.refresh_tokens.clear()
    with pytest.raises(ReconnectNeededError):
        await bench.credential()
    assert (await held(bench)).status_reason == "refresh_interrupted"
    assert bench.provider.refreshes == 1


async def test_after_a_crash_before_the_request_the_old_token_still_works(bench: Bench) -> None:
    await expired(bench)
    before = await held(bench)
    async with bench.database.tenant_transaction(bench.principal) as connection:
        assert await store.begin_refresh(connection, before.id, before.generation, now=bench.clock())
    await bench.credential()
    assert (await held(bench)).refresh_begun_at is None


async def test_an_answer_whose_commit_fails_is_kept_and_stored(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    await expired(bench)
    real = store.store_refreshed
    failures = [2]

    async def failing(*given: Any) -> Any:
        if failures[0]:
            failures[0] -= 1
            raise StorageUnavailableError("The database is not available.")
        return await real(*given)

    monkeypatch.setattr(store, "store_refreshed", failing)
    monkeypatch.setattr("agentapi.oauth.refresh._STORE_AGAIN_S", 0.0)
    new = await bench.credential()
    assert (await held(bench)).generation == 2
    assert await bench.credential() == new
    assert bench.provider.refreshes == 1


async def test_a_caller_who_goes_away_does_not_lose_the_answer(bench: Bench) -> None:
    old = await expired(bench)
    asking = asyncio.ensure_future(bench.credential())
    await bench.provider.refreshing.wait()
    asking.cancel()
    await asyncio.wait([asking])
    await bench.room.refresher.aclose()
    assert await bench.credential() != old
    assert bench.provider.refreshes == 1


async def test_a_connection_without_a_refresh_token_ends_with_its_token(bench: Bench) -> None:
    bench.provider.token_answer = JSONResponse({"access_token": "a", "token_type": "bearer", "expires_in": 60})
    await bench.connect()
    bench.clock.moved += timedelta(seconds=60)
    with pytest.raises(ReconnectNeededError):
        await bench.credential()
    assert (await held(bench)).status_reason == "no_refresh_token"


async def test_a_revocation_takes_the_tokens_at_the_provider_and_here(bench: Bench) -> None:
    await bench.connect()
    refresh_token = next(iter(bench.provider.refresh_tokens))
    assert await bench.room.revoker.revoke(bench.principal, bench.upstream.id) == "revoked"
    assert bench.provider.revoked == [refresh_token]
    with pytest.raises(UpstreamNeedsConnectionError, match="you have none"):
        await bench.credential()


@pytest.mark.parametrize("kind", ["down", "html"])
async def test_a_provider_that_is_down_keeps_nothing_alive_here(bench: Bench, kind: str) -> None:
    await bench.connect()
    bench.provider.answers["/revoke"] = Response("<html>", 500 if kind == "down" else 404)
    assert await bench.room.revoker.revoke(bench.principal, bench.upstream.id) == "failed"
    assert await bench.rows("oauth_connections") == 0


async def test_a_provider_that_hangs_does_not_keep_an_upstream_from_being_deleted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.connect()
    hung = asyncio.Event()

    async def hang(_: object) -> Response:
        hung.set()
        await asyncio.Event().wait()
        raise AssertionError

    bench.provider.answers["/revoke"] = hang
    monkeypatch.setattr(bench.room.revoker, "_patience_s", 0.2)
    own = replace(bench.upstream, owner_id=bench.principal.user_id)
    give_back = await bench.room.revoker.take_for(own)
    assert await bench.rows("oauth_connections") == 0
    assert await give_back() == {AtProvider.FAILED: 1}
    assert hung.is_set()


async def registry_of(bench: Bench) -> UpstreamRegistry:
    """Return the registry of a gateway in which everybody of the bench is a member."""
    async with bench.database.tenant_transaction(bench.principal) as connection:
        await upsert_member(connection, bench.principal, email=None)
    registry = UpstreamRegistry(bench.database, audit=AuditLog(bench.database), clock=monotonic)
    registry.with_deletion(bench.room.revoker.take_for)
    return registry


async def test_an_upstream_that_is_deleted_takes_its_connections_along(bench: Bench) -> None:
    await bench.connect()
    registry, given = await registry_of(bench), set(bench.provider.refresh_tokens)
    await registry.delete(bench.principal, bench.upstream.id)
    assert {*bench.provider.revoked} == given
    assert await bench.rows("oauth_connections") == await bench.rows("upstreams") == 0


async def test_a_deletion_that_is_refused_at_last_revokes_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.connect()
    registry, changed = await registry_of(bench), replace(bench.upstream, description="Another.")
    read = registry.get

    async def changed_meanwhile(*given: Any) -> Upstream:
        found = await read(*given)
        await registry.update(bench.principal, changed)
        return found

    monkeypatch.setattr(registry, "get", changed_meanwhile)
    with pytest.raises(PreconditionFailedError):
        await registry.delete(bench.principal, bench.upstream.id, expected=IfMatch(frozenset({entity_tag(1)})))
    assert (await bench.rows("oauth_connections"), bench.provider.revoked) == (1, [])
    await bench.credential()


async def test_a_deletion_that_fails_after_the_rows_went_revokes_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.connect()
    registry = await registry_of(bench)

    async def failing(*_: object) -> None:
        raise StorageUnavailableError("The database is not available.")

    monkeypatch.setattr(upstream_store, "delete_upstream", failing)
    with pytest.raises(StorageUnavailableError):
        await registry.delete(bench.principal, bench.upstream.id)
    assert (await bench.rows("oauth_connections"), bench.provider.revoked) == (1, [])


async def test_a_provider_without_revocation_says_so(bench: Bench) -> None:
    bench.provider.announces_issuer = False
    bench.provider.answers["/.well-known/oauth-authorization-server"] = server_metadata(bench.provider.url)
    await bench.connect()
    assert await bench.room.revoker.revoke(bench.principal, bench.upstream.id) == "not_supported"


async def test_a_revocation_meanwhile_gives_back_the_newest_tokens(bench: Bench) -> None:
    await expired(bench)
    outcomes = await both(bench.credential(), bench.room.revoker.revoke(bench.principal, bench.upstream.id))
    assert outcomes[1] == "revoked"
    await bench.room.refresher.aclose()
    assert await bench.rows("oauth_connections") == 0
    assert bench.provider.refresh_tokens == set()
