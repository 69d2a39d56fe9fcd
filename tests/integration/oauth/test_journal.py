"""What the audit log and the counters say of connections, and that neither ever holds a token or a code."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
from prometheus_client import generate_latest
from starlette.responses import Response

from agentapi.audit.log import AuditLog
from agentapi.egress import Egress
from agentapi.oauth.errors import AuthorizationServerError, FlowRefusedError, ReconnectNeededError
from agentapi.observability.metrics import OAUTH_EVENTS, REGISTRY
from agentapi.tenancy.store import upsert_member
from agentapi.upstreams import store as upstream_store
from agentapi.upstreams.models import Auth
from integration.audit.logs import rows_of
from integration.oauth.conftest import room_of
from integration.oauth.provider import provider
from tenants import make_tenant
from unit.oauth.sites import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentapi._core import Keyring
    from agentapi.audit.models import AuditRow
    from integration.oauth.conftest import Bench


class OutOfOrderError(Exception):
    """The audit log cannot be written."""


class BrokenLog(AuditLog):
    """An audit log that refuses one act."""

    refuses = ""

    async def record(self, connection: Any, doer: Any, entry: Any, source: Any = None) -> None:
        if entry.action == self.refuses:
            raise OutOfOrderError
        await super().record(connection, doer, entry, source)


@pytest.fixture
async def log(bench: Bench, oauth_keyring: Keyring) -> AsyncIterator[BrokenLog]:
    """The log of the bench's room."""
    log = BrokenLog(bench.database, flush_s=0.01)
    async with Egress(LOOPBACK, timeout_s=5.0) as egress:
        bench.room = room_of(bench.database, egress, oauth_keyring, bench.clock, audit=log)
        yield log
        await bench.room.refresher.aclose()


async def acts(bench: Bench) -> list[tuple[str, str, dict[str, Any]]]:
    return [(row.action, row.outcome, json.loads(row.details)) for row in await rows(bench)]


async def rows(bench: Bench) -> list[AuditRow]:
    return sorted(await rows_of(bench.database, bench.principal.org_id), key=lambda row: row.recorded_at_us)


def counted(event: str, provider: str = "mcp") -> float:
    return float(OAUTH_EVENTS.labels(event, provider)._value.get())


@pytest.mark.usefixtures("log")
async def test_each_change_has_its_row_and_is_counted(bench: Bench) -> None:
    events = ("initiated", "connected", "refreshed", "revoked")
    before = [counted(event) for event in events]
    await bench.connect()
    bench.clock.moved += timedelta(hours=1)
    await bench.credential()
    await bench.room.revoker.revoke(bench.principal, bench.upstream.id)
    assert await acts(bench) == [(f"oauth.{event}", "success", {"provider": "mcp"}) for event in events]
    found = await rows(bench)
    assert {row.actor_id for row in found} == {bench.principal.user_id}
    assert {row.resource for row in found} == {f"upstream:{bench.upstream.id}"}
    assert [counted(event) for event in events] == [number + 1 for number in before]


@pytest.mark.usefixtures("log")
async def test_failures_have_rows_that_say_why(bench: Bench) -> None:
    await bench.connect()
    bench.clock.moved += timedelta(hours=1)
    bench.provider.token_answer = Response(status_code=503)
    with pytest.raises(AuthorizationServerError):
        await bench.credential()
    bench.provider.token_answer = None
    bench.provider.refresh_tokens.clear()
    bench.clock.moved += timedelta(minutes=1)
    with pytest.raises(ReconnectNeededError):
        await bench.credential()
    assert (await acts(bench))[2:] == [
        ("oauth.refresh_failed", "failure", {"provider": "mcp", "reason": "authorization_server_failed"}),
        ("oauth.refresh_failed", "failure", {"provider": "mcp", "reason": "refresh_interrupted"}),
    ]


async def test_refusals_and_replays_have_rows(bench: Bench, log: BrokenLog) -> None:
    async with log.run():
        begun = await bench.init()
        answer = bench.answer(begun)
        await bench.room.flows.finish(answer, browser=begun.browser)
        with pytest.raises(FlowRefusedError):
            await bench.room.flows.finish(answer, browser=begun.browser)
        refused = await bench.init()
        with pytest.raises(AuthorizationServerError):
            await bench.finish(refused, error="access_denied")
        bench.provider.answers["/revoke"] = Response(status_code=500)
        await bench.room.revoker.revoke(bench.principal, bench.upstream.id)
    found = {(action, outcome) for action, outcome, _ in await acts(bench)}
    assert found >= {
        ("oauth.replayed", "denied"),
        ("oauth.denied", "denied"),
        ("oauth.revocation_failed", "failure"),
    }
    assert {row.actor_id for row in await rows(bench)} == {bench.principal.user_id}


@pytest.mark.parametrize(("refuses", "left"), [("initiated", (0, 0)), ("connected", (0, 0)), ("revoked", (0, 1))])
async def test_what_cannot_be_recorded_is_not_done(
    bench: Bench, log: BrokenLog, refuses: str, left: tuple[int, int]
) -> None:
    log.refuses = f"oauth.{refuses}"
    with pytest.raises(OutOfOrderError):  # noqa: PT012 - one of the three
        await bench.connect()
        await bench.room.revoker.revoke(bench.principal, bench.upstream.id)
    assert (await bench.rows("oauth_flows"), await bench.rows("oauth_connections")) == left


async def test_no_row_and_no_metric_holds_a_token_or_a_code(bench: Bench, log: BrokenLog) -> None:
    secrets: set[str] = set()
    async with log.run():
        begun = await bench.init()
        answer = bench.answer(begun)
        await bench.room.flows.finish(answer, browser=begun.browser)
        with pytest.raises(FlowRefusedError):
            await bench.room.flows.finish(answer, browser=begun.browser)
        secrets |= {begun.browser, str(answer.code), parse_qs(urlsplit(begun.url).query)["state"][0]}
        secrets |= {(await bench.credential()).removeprefix("Bearer "), *bench.provider.refresh_tokens}
        bench.clock.moved += timedelta(hours=1)
        secrets |= {(await bench.credential()).removeprefix("Bearer "), *bench.provider.refresh_tokens}
        bench.provider.refresh_tokens.clear()
        bench.clock.moved += timedelta(hours=1)
        with pytest.raises(ReconnectNeededError):
            await bench.credential()
        await bench.room.revoker.revoke(bench.principal, bench.upstream.id)
    forms = {asked.form[name] for asked in bench.provider.asked if asked.path == "/token" for name in asked.form}
    secrets |= {value for value in forms if len(value) >= 16 and not value.startswith(("http", "authorization"))}
    secrets -= {"refresh_token", "authorization_code"}
    assert len(secrets) >= 8
    written = "\n".join(map(str, await rows(bench))) + generate_latest(REGISTRY).decode()
    assert "oauth.connected" in written
    assert "agentapi_oauth_events_total" in written
    assert [secret for secret in secrets if secret in written] == []


@pytest.mark.usefixtures("log")
async def test_all_connections_of_an_organisation_end_at_their_providers_and_here(bench: Bench) -> None:
    people = [bench.tenant, bench.tenant.colleague("bob"), bench.tenant.colleague("eve")]
    for person in people:
        async with bench.database.tenant_transaction(person.principal) as connection:
            await upsert_member(connection, person.principal, email=None)
        await bench.finish(await bench.init(principal=person.principal))
    waiting = await bench.init()
    given = set(bench.provider.refresh_tokens)
    assert await bench.room.revoker.revoke_all((await make_tenant(bench.database)).principal.org_id) == {}
    assert await bench.room.revoker.revoke_all(bench.principal.org_id) == {"revoked": 3}
    assert {*bench.provider.revoked} == given
    for person in people:
        async with bench.database.tenant_transaction(person.principal) as connection:
            assert await connection.fetchval("SELECT count(*) FROM oauth_connections") == 0
    assert [action for action, _, _ in await acts(bench)].count("oauth.revoked") == 3
    with pytest.raises(FlowRefusedError):
        await bench.finish(waiting)


@pytest.mark.usefixtures("log")
async def test_a_provider_that_hangs_keeps_no_row_and_no_other_provider_from_being_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentapi.oauth.revoke._AT_ONCE", 2)
    monkeypatch.setattr("agentapi.oauth.revoke._EACH", 1)
    people = [bench.tenant, bench.tenant.colleague("bob"), bench.tenant.colleague("eve")]
    hung = asyncio.Event()

    async def hang(_: object) -> Response:
        hung.set()
        await asyncio.Event().wait()
        raise AssertionError

    async with provider() as healthy:
        upstream = replace(bench.tenant.upstream("healthy"), auth=Auth.OAUTH, endpoint=f"{healthy.url}/mcp")
        async with bench.database.tenant_transaction(bench.principal) as connection:
            await upstream_store.insert_upstream(connection, upstream)
        for person in people:
            async with bench.database.tenant_transaction(person.principal) as connection:
                await upsert_member(connection, person.principal, email=None)
            await replace(bench, tenant=person).connect()
            await replace(bench, tenant=person, provider=healthy, upstream=upstream).connect()
        given = set(healthy.refresh_tokens)
        bench.provider.answers["/revoke"] = hang
        monkeypatch.setattr(bench.room.revoker, "_patience_s", 1.0)
        ending = asyncio.ensure_future(bench.room.revoker.revoke_all(bench.principal.org_id))
        async with asyncio.timeout(4):
            await hung.wait()
        assert [await replace(bench, tenant=person).rows("oauth_connections") for person in people] == [0, 0, 0]
        async with asyncio.timeout(2):
            assert await ending == {"failed": 3, "revoked": 3}
        assert {*healthy.revoked} == given
    assert [action for action, _, _ in await acts(bench)].count("oauth.revoked") == 6


@pytest.mark.parametrize("kind", ["down", "nowhere"])
@pytest.mark.usefixtures("log")
async def test_all_connections_of_a_user_end_here_whatever_the_provider_says(bench: Bench, kind: str) -> None:
    bob = bench.tenant.colleague("bob")
    await bench.connect()
    await bench.finish(await bench.init(principal=bob.principal))
    bench.provider.answers["/revoke"] = Response("<html>", 500 if kind == "down" else 404)
    assert await bench.room.revoker.revoke_all(bench.principal.org_id, bob.principal.user_id) == {"failed": 1}
    assert await bench.rows("oauth_connections") == 1
    async with bench.database.tenant_transaction(bob.principal) as connection:
        assert await connection.fetchval("SELECT count(*) FROM oauth_connections") == 0
