"""Tokens that are refused before their end, in this process and in those beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentapi.errors import UnauthenticatedError
from agentapi.identity.issuers import IssuerDirectory
from agentapi.identity.revocations.watch import RevocationWatch
from agentapi.identity.token_issuer import TokenIssuer, new_signing_key
from agentapi.principal import Role
from agentapi.settings import IssuerSettings
from integration.api.harness import ISSUER, PUBLIC_URL, Api, Caller
from integration.api.test_mcp_endpoint import HEADERS, LIST, own
from integration.api.test_sessions import SESSIONS, claims_of, started
from support.tasks import eventually
from tenants import make_tenant

if TYPE_CHECKING:
    import httpx2

    from agentapi.storage.database import Database

REVOKE = "/api/v1/tokens/revoke"


async def revoke(caller: Caller, token: str) -> httpx2.Response:
    return await caller.request("POST", REVOKE, json={"token": token})


async def status(api: Api, token: str) -> int:
    return (await Caller(api.http, token).request("POST", own(api), json=LIST, headers=HEADERS)).status_code


def issuers_of(issuer: TokenIssuer) -> IssuerDirectory:
    """The issuers of a process beside the gateway's."""

    async def nowhere(url: str) -> bytes:
        raise AssertionError(url)

    settings = IssuerSettings(issuer=issuer.issuer, audiences=(PUBLIC_URL,), jwks=issuer.key_set())
    return IssuerDirectory(
        [settings], fetch=nowhere, leeway_s=30, cache_entries=100, ttl_s=600, min_interval_s=60, clock=lambda: 0.0
    )


async def test_a_revoked_token_is_refused_at_once_and_others_of_its_owner_are_not(api: Api) -> None:
    alice = api.caller(Role.MEMBER, "mara")
    lost, kept = api.caller(Role.MEMBER, "mara").token, alice.token
    assert [await status(api, token) for token in (lost, kept)] == [200, 200]
    assert (await revoke(alice, lost)).status_code == 204
    assert [await status(api, token) for token in (lost, kept)] == [401, 200]
    assert (await Caller(api.http, lost).request("GET", SESSIONS)).status_code == 401
    rows = (await api.caller().request("GET", "/api/v1/audit", params={"action": "token.revoked"})).json()["items"]
    assert [row["resource"] for row in rows] == [f"jti:{claims_of(lost)['jti']}"]
    assert lost not in str(rows)


async def test_one_token_of_a_session_is_revoked_and_the_session_goes_on(api: Api) -> None:
    alice = api.caller(Role.MEMBER)
    session = await started(alice)
    more = (await alice.request("POST", f"{SESSIONS}/{session['id']}/tokens")).json()["token"]
    assert (await revoke(alice, session["token"])).status_code == 204
    assert [await status(api, token) for token in (session["token"], more)] == [401, 200]


async def test_a_process_beside_hears_of_it_and_so_does_one_that_begins_later(
    api: Api, issuer: TokenIssuer, database: Database
) -> None:
    beside = issuers_of(issuer)
    alice = api.caller(Role.MEMBER)
    lost = api.caller(Role.MEMBER).token
    async with RevocationWatch(database, beside, every_s=0.01).run():
        await beside.verify(lost, PUBLIC_URL)
        assert (await revoke(alice, lost)).status_code == 204

        async def refused() -> bool:
            try:
                await beside.verify(lost, PUBLIC_URL)
            except UnauthenticatedError as error:
                return error.reason == "revoked"
            return False

        await eventually(refused)
    later = issuers_of(issuer)
    async with RevocationWatch(database, later, every_s=3600).run():
        with pytest.raises(UnauthenticatedError):
            await later.verify(lost, PUBLIC_URL)
        await later.verify(alice.token, PUBLIC_URL)


async def test_a_revocation_that_is_committed_late_is_heard_of(
    api: Api, issuer: TokenIssuer, database: Database, superuser: Any
) -> None:
    """Its time is that of the beginning of its transaction, before what was read meanwhile."""
    beside = issuers_of(issuer)
    watch = RevocationWatch(database, beside)
    late, token = api.caller(Role.MEMBER).token, api.caller(Role.MEMBER).token
    row = "INSERT INTO revoked_tokens (issuer, token_id, expires_at) VALUES ($1, $2, now() + interval '1 hour')"
    transaction = superuser.transaction()
    await transaction.start()
    await superuser.execute(row, ISSUER, claims_of(late)["jti"])
    assert (await revoke(api.caller(), token)).status_code == 204
    await watch.catch_up()
    await beside.verify(late, PUBLIC_URL)
    await transaction.commit()
    await watch.catch_up()
    for revoked in (late, token):
        with pytest.raises(UnauthenticatedError):
            await beside.verify(revoked, PUBLIC_URL)


async def test_others_tokens_are_an_admins_to_revoke(api: Api, database: Database) -> None:
    alice, bob, admin = api.caller(Role.MEMBER, "mara"), api.caller(Role.MEMBER, "bob"), api.caller()
    eve = Api(api.http, api.issuer, await make_tenant(database, "eve")).caller()
    answer = await revoke(bob, alice.token)
    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    foreign, nonsense = await revoke(eve, alice.token), await revoke(eve, "x.y.z")
    assert (foreign.status_code, foreign.content) == (422, nonsense.content)
    assert await status(api, alice.token) == 200
    assert (await revoke(admin, alice.token)).status_code == 204
    assert await status(api, alice.token) == 401


async def test_what_no_one_signed_names_nothing_to_revoke(api: Api, superuser: Any) -> None:
    forger = TokenIssuer(ISSUER, new_signing_key())
    forged = Api(api.http, forger, api.tenant).caller().token
    before = await superuser.fetchval("SELECT count(*) FROM revoked_tokens")
    for text in (forged, "x", "a.b.c", "a.bnVsbA.c", "a.W10.c", ".", "a." + "W" * 9000 + ".c"):
        answer = await revoke(api.caller(), text)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request"), text
    assert await superuser.fetchval("SELECT count(*) FROM revoked_tokens") == before


async def test_an_api_key_is_no_token_and_revokes_none_that_it_may_not(api: Api) -> None:
    body = {"name": "ci", "scopes": ["api:write"]}
    key = (await api.caller(Role.MEMBER, "mara").request("POST", "/api/v1/api-keys", json=body)).json()["key"]
    assert (await revoke(api.caller(), key)).status_code == 422
    holder = Caller(api.http, key)
    assert (await revoke(holder, api.caller(Role.MEMBER, "bob").token)).status_code == 403
    mine = api.caller(Role.MEMBER, "mara").token
    assert (await revoke(holder, mine)).status_code == 204
    assert await status(api, mine) == 401


async def test_what_is_over_is_forgotten_and_nothing_else(api: Api, database: Database, superuser: Any) -> None:
    add = "INSERT INTO revoked_tokens VALUES ($1, $2, now() + $3::interval)"
    for name, ends in (("over", "-2 hours"), ("just-over", "-1 minute"), ("standing", "1 hour")):
        await superuser.execute(add.replace("$3::interval", f"interval '{ends}'"), "urn:agentapi:old", name)
    await RevocationWatch(database, issuers_of(api.issuer)).forget_over()
    left = await superuser.fetch("SELECT token_id FROM revoked_tokens WHERE issuer = 'urn:agentapi:old'")
    assert {row["token_id"] for row in left} == {"just-over", "standing"}
    await superuser.execute("DELETE FROM revoked_tokens WHERE issuer = 'urn:agentapi:old'")
