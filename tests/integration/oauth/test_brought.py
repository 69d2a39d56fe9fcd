"""What users bring: tried, kept for its row alone, sent as its owner's, and never said again."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import asyncpg
import pytest
import structlog

from agentapi.observability.logs import configure_logging
from agentapi.principal import Role
from integration.api.conftest import api, gateway, http, issuer, keyring, state_dir  # noqa: F401 - fixtures
from integration.api.harness import Api, Caller, served
from support.echo_upstream import EchoUpstream
from tenants import make_tenant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import httpx2

    from agentapi.storage.database import Database

TOKEN = {"name": "token", "label": "Access token"}
BEARER = {
    "fields": [TOKEN],
    "placements": [{"place": "header", "name": "Authorization", "value": "Bearer {token}"}],
}
QUERY = {"fields": [TOKEN], "placements": [{"place": "query", "name": "key", "value": "{token}"}]}
LOGIN = {
    "fields": [{"name": "user", "label": "User", "kind": "text"}, {"name": "password", "label": "Password"}],
    "placements": [{"place": "header", "name": "Authorization", "value": "basic:{user}:{password}"}],
}
VARIABLE = {"fields": [TOKEN], "placements": [{"place": "environment", "name": "KEY_TOKEN", "value": "{token}"}]}
ALICE, BOB, BAD = "alices-own-7731", "bobs-own-8842", "badly-made-9953"


@pytest.fixture
def upstream() -> EchoUpstream:
    """A modern server, so that calls of modern clients are relayed; it refuses one token."""
    return EchoUpstream(refuses={f"Bearer {BAD}": "Bearer", BAD: "Bearer"})


@pytest.fixture
async def url(upstream: EchoUpstream) -> AsyncIterator[str]:
    async with served(upstream) as address:
        yield f"{address}/mcp"


async def registered(api: Api, form: dict[str, Any], **changes: Any) -> str:  # noqa: F811
    document = await api.caller().created(name="tracker", auth="user", credential_form=form, **changes)
    return str(document["id"])


def path(id_: str) -> str:
    return f"/api/v1/mcp/credentials/{id_}"


async def bring(who: Caller, id_: str, **values: str) -> httpx2.Response:
    return await who.request("PUT", path(id_), json={"values": values})


async def call(api: Api, who: Caller, tool: str = "tracker__echo", *, modern: bool = True) -> dict[str, Any]:  # noqa: F811
    revision = "2026-07-28" if modern else "2025-11-25"
    params: dict[str, Any] = {"name": tool, "arguments": {}}
    headers = {"Accept": "application/json, text/event-stream", "MCP-Protocol-Version": revision}
    if modern:
        headers |= {"Mcp-Method": "tools/call", "Mcp-Name": tool}
        params["_meta"] = {
            "io.modelcontextprotocol/protocolVersion": revision,
            "io.modelcontextprotocol/clientCapabilities": {},
        }
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    answer = await who.request("POST", f"/mcp/{api.tenant.principal.org_slug}/main", json=message, headers=headers)
    document: dict[str, Any] = answer.json()
    return document


def said(document: dict[str, Any]) -> str:
    assert "result" in document, document
    return str(document["result"]["content"][0]["text"])


@pytest.mark.parametrize("legacy", [False, True], ids=["relayed", "in a session"])
@pytest.mark.parametrize("form", [BEARER, QUERY], ids=["header", "query"])
async def test_each_user_calls_one_url_as_themselves(
    api: Api,  # noqa: F811
    upstream: EchoUpstream,
    url: str,
    legacy: bool,
    form: dict[str, Any],
) -> None:
    upstream.legacy = legacy
    prefix = "Bearer " if form is BEARER else ""
    id_ = await registered(api, form, endpoint=url)
    people = {ALICE: api.caller(Role.MEMBER, "alice"), BOB: api.caller(Role.MEMBER, "bob")}
    for token, who in people.items():
        assert (await bring(who, id_, token=token)).status_code == 200
    ports: dict[str, set[str]] = {token: set() for token in people}
    for _ in range(2):
        for modern in (True, False):
            for token, who in people.items():
                sent, _, port = said(await call(api, who, modern=modern)).partition(" on ")
                assert sent == prefix + token
                if modern and not legacy:
                    ports[token].add(port)
    assert not ports[ALICE] & ports[BOB]
    assert {seen.credential for seen in upstream.calls} == {prefix + ALICE, prefix + BOB}


async def test_each_user_has_a_process_of_a_command_with_their_own_variable(api: Api) -> None:  # noqa: F811
    id_ = await registered(api, VARIABLE, transport="stdio", endpoint=..., command="keyed")
    people = {ALICE: api.caller(Role.MEMBER, "alice"), BOB: api.caller(Role.MEMBER, "bob")}
    refused = await bring(people[ALICE], id_, token=BAD)
    assert (refused.status_code, refused.json()["code"]) == (422, "credential_not_accepted")
    processes: dict[str, set[str]] = {token: set() for token in people}
    for token, who in people.items():
        assert (await bring(who, id_, token=token)).status_code == 200
    for modern in (True, False, True):
        for token, who in people.items():
            sent, _, process = said(await call(api, who, "tracker__whoami", modern=modern)).partition(" in ")
            assert sent == token
            processes[token].add(process)
    assert not processes[ALICE] & processes[BOB]


async def test_another_value_is_used_from_the_next_call_on(
    api: Api,  # noqa: F811
    url: str,
) -> None:
    remote = await registered(api, BEARER, endpoint=url)
    command = await api.caller().created(
        name="command", transport="stdio", endpoint=..., command="keyed", auth="user", credential_form=VARIABLE
    )
    who = api.caller(Role.MEMBER, "alice")
    processes: dict[str, str] = {}
    for token in ("first-of-alice", "second-of-alice"):
        for id_ in (remote, command["id"]):
            assert (await bring(who, id_, token=token)).status_code == 200
        for modern in (True, False):
            assert said(await call(api, who, modern=modern)).startswith(f"Bearer {token}")
            sent, _, processes[token] = said(await call(api, who, "command__whoami", modern=modern)).partition(" in ")
            assert sent == token
    assert len(set(processes.values())) == 2


async def test_a_login_travels_as_basic(api: Api, upstream: EchoUpstream, url: str) -> None:  # noqa: F811
    id_ = await registered(api, LOGIN, endpoint=url)
    who = api.caller(Role.MEMBER, "alice")
    assert (await bring(who, id_, user="Aladdin", password="open sesame")).status_code == 200
    assert said(await call(api, who)).startswith("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")
    assert {seen.credential for seen in upstream.seen} == {"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="}


async def test_nothing_is_stored_that_the_upstream_does_not_take(
    api: Api,  # noqa: F811
    upstream: EchoUpstream,
    url: str,
    superuser: asyncpg.Connection[Any],
) -> None:
    id_ = await registered(api, BEARER, endpoint=url)
    who = api.caller(Role.MEMBER, "alice")
    refused = await bring(who, id_, token=BAD)
    assert (refused.status_code, refused.json()["code"]) == (422, "credential_not_accepted")
    assert "HTTP 401" in refused.json()["detail"]
    assert (await who.request("GET", path(id_))).json()["status"] == "missing"
    assert await superuser.fetchval("SELECT count(*) FROM brought_credentials WHERE upstream_id = $1", UUID(id_)) == 0
    # What was there before stays as well.
    await bring(who, id_, token=ALICE)
    assert (await bring(who, id_, token=BAD)).status_code == 422
    assert said(await call(api, who)).startswith(f"Bearer {ALICE}")
    assert not any(BAD in seen.credential for seen in upstream.calls)


async def test_values_that_the_form_forbids_reach_no_upstream(
    api: Api,  # noqa: F811
    upstream: EchoUpstream,
    url: str,
) -> None:
    id_ = await registered(api, BEARER, endpoint=url)
    who = api.caller(Role.MEMBER, "alice")
    for values, pointer in (
        ({}, "/values/token"),
        ({"token": "a\r\nX-Evil: 1"}, "/values/token"),
        ({"token": "x" * 5000}, "/values/token"),
        ({"token": ALICE, "more": "x"}, "/values/more"),
    ):
        answer = await bring(who, id_, **values)
        assert answer.status_code == 422
        assert [error["pointer"] for error in answer.json()["errors"]] == [pointer]
        assert "Evil" not in answer.text
    for body in ({"values": {"token": ["x"]}}, {"values": "x"}, {}, {"values": {"token": "x"}, "user": "bob"}):
        assert (await who.request("PUT", path(id_), json=body)).status_code == 422
    assert upstream.seen == []


async def test_the_state_of_what_was_brought_is_told_without_it(
    api: Api,  # noqa: F811
    url: str,
    upstream: EchoUpstream,
) -> None:
    id_ = await registered(api, BEARER, endpoint=url)
    who = api.caller(Role.MEMBER, "alice")
    before = (await who.request("GET", path(id_))).json()
    assert (before["status"], before["name"], before["updated_at"]) == ("missing", "tracker", None)
    assert [(field["name"], field["label"], field["is_set"]) for field in before["fields"]] == [
        ("token", "Access token", False)
    ]
    await bring(who, id_, token=ALICE)
    after = await who.request("GET", path(id_))
    assert after.headers["cache-control"] == "no-store"
    assert (after.json()["status"], after.json()["fields"][0]["is_set"]) == ("active", True)
    assert after.json()["created_at"]
    assert (await who.request("DELETE", path(id_))).status_code == 204
    assert (await who.request("DELETE", path(id_))).status_code == 404
    assert (await who.request("GET", path(id_))).json() == before
    upstream.seen.clear()
    assert "error" in await call(api, who)
    assert upstream.seen == []
    plain = await api.caller().created(name="plain")
    for method in ("GET", "PUT"):
        answer = await who.request(method, path(plain["id"]), json={"values": {"token": "x"}})
        assert answer.status_code == 404
    assert (await api.http.get(path(id_))).status_code == 401


async def test_a_token_that_the_upstream_drops_has_to_be_entered_again(
    api: Api,  # noqa: F811
    upstream: EchoUpstream,
    url: str,
) -> None:
    id_ = await registered(api, BEARER, endpoint=url)
    alice, bob = api.caller(Role.MEMBER, "alice"), api.caller(Role.MEMBER, "bob")
    await bring(alice, id_, token=ALICE)
    await bring(bob, id_, token=BOB)
    assert said(await call(api, alice)).startswith(f"Bearer {ALICE}")
    upstream.refuses[f"Bearer {ALICE}"] = 'Bearer error="invalid_token"'
    for modern in (True, False, True):
        refused = await call(api, alice, modern=modern)
        assert ALICE not in str(refused)
        assert "does not accept your credential" in str(refused), refused
    # It is not offered to the upstream again and again.
    assert [seen.credential for seen in upstream.calls].count(f"Bearer {ALICE}") == 2
    assert (await alice.request("GET", path(id_))).json()["status"] == "rejected"
    assert said(await call(api, bob)).startswith(f"Bearer {BOB}")
    assert (await bring(alice, id_, token="alices-new-1")).status_code == 200
    assert said(await call(api, alice)).startswith("Bearer alices-new-1")


async def test_a_token_that_may_too_little_stays_for_what_it_may(
    api: Api,  # noqa: F811
    upstream: EchoUpstream,
    url: str,
) -> None:
    id_ = await registered(api, BEARER, endpoint=url)
    who = api.caller(Role.MEMBER, "alice")
    await bring(who, id_, token=ALICE)
    assert said(await call(api, who)).startswith(f"Bearer {ALICE}")
    upstream.refuses[f"Bearer {ALICE}"] = 'Bearer error="insufficient_scope", scope="issues:write"'
    refused = await call(api, who)
    assert "issues:write" in str(refused)
    assert (await who.request("GET", path(id_))).json()["status"] == "narrow"
    del upstream.refuses[f"Bearer {ALICE}"]
    assert said(await call(api, who)).startswith(f"Bearer {ALICE}")


@pytest.mark.parametrize("changed", ["endpoint", "form"])
async def test_what_was_given_for_one_place_goes_to_no_other(
    api: Api,  # noqa: F811
    upstream: EchoUpstream,
    url: str,
    changed: str,
) -> None:
    id_ = await registered(api, BEARER, endpoint=url)
    who = api.caller(Role.MEMBER, "alice")
    await bring(who, id_, token=ALICE)
    upstream.seen.clear()
    same = {"name": "tracker", "auth": "user", "credential_form": BEARER, "endpoint": url}
    change = {"endpoint": f"{url}/elsewhere"} if changed == "endpoint" else {"credential_form": QUERY}
    assert (await api.caller().replace(id_, **{**same, **change})).status_code == 200
    for modern in (True, False):
        assert "another address or form" in str(await call(api, who, modern=modern))
    assert (await who.request("GET", path(id_))).json()["status"] == "outdated"
    assert upstream.seen == []
    # Words may change, and the way back is open.
    renamed = {**BEARER, "fields": [{**TOKEN, "label": "Key", "help": "Look there."}]}
    assert (await api.caller().replace(id_, **{**same, "credential_form": renamed})).status_code == 200
    assert said(await call(api, who)).startswith(f"Bearer {ALICE}")


# Attacks


async def test_a_row_moved_to_another_user_upstream_or_organisation_does_not_open(
    api: Api,  # noqa: F811
    url: str,
    upstream: EchoUpstream,
    superuser: asyncpg.Connection[Any],
    database: Database,
) -> None:
    id_ = await registered(api, BEARER, endpoint=url)
    other = str((await api.caller().created(name="other", auth="user", credential_form=BEARER, endpoint=url))["id"])
    alice, mallory = api.caller(Role.MEMBER, "alice"), api.caller(Role.MEMBER, "mallory")
    await bring(alice, id_, token=ALICE)
    await bring(mallory, id_, token="mallorys-own")
    await bring(mallory, other, token="mallorys-own")
    stranger = Api(api.http, api.issuer, await make_tenant(database))
    theirs = await registered(stranger, BEARER, endpoint=url)
    eve = stranger.caller(Role.MEMBER, "alice")
    await bring(eve, theirs, token="eves-own")
    upstream.seen.clear()
    await superuser.execute(
        """UPDATE brought_credentials AS mine SET sealed = alices.sealed, id = alices.id
        FROM brought_credentials AS alices
        WHERE alices.upstream_id = $1 AND alices.user_id <> mine.user_id AND mine.upstream_id = $1""",
        UUID(id_),
    )
    await superuser.execute(
        """UPDATE brought_credentials SET sealed = s.sealed, id = s.id
        FROM (SELECT sealed, id FROM brought_credentials WHERE upstream_id = $1 LIMIT 1) AS s
        WHERE upstream_id = ANY($2)""",
        UUID(id_),
        [UUID(other), UUID(theirs)],
    )
    assert "enter it again" in str(await call(api, mallory))
    assert "enter it again" in str(await call(api, mallory, "other__echo"))
    assert "enter it again" in str(await call(stranger, eve))
    assert upstream.seen == []
    assert (await mallory.request("GET", path(id_))).json()["status"] == "rejected"


async def test_an_older_ciphertext_does_not_come_back(
    api: Api,  # noqa: F811
    url: str,
    upstream: EchoUpstream,
    superuser: asyncpg.Connection[Any],
) -> None:
    id_ = await registered(api, BEARER, endpoint=url)
    who = api.caller(Role.MEMBER, "alice")
    await bring(who, id_, token="leaked-and-replaced")
    old = await superuser.fetchval("SELECT sealed FROM brought_credentials WHERE upstream_id = $1", UUID(id_))
    await bring(who, id_, token=ALICE)
    await superuser.execute("UPDATE brought_credentials SET sealed = $2 WHERE upstream_id = $1", UUID(id_), old)
    upstream.seen.clear()
    assert "enter it again" in str(await call(api, who))
    assert upstream.seen == []


async def test_a_user_sees_and_writes_no_row_but_their_own(
    api: Api,  # noqa: F811
    url: str,
    database: Database,
) -> None:
    id_ = UUID(await registered(api, BEARER, endpoint=url))
    await bring(api.caller(Role.MEMBER, "alice"), str(id_), token=ALICE)
    await bring(api.caller(Role.MEMBER, "bob"), str(id_), token=BOB)
    # The harness's own people; alice of the tokens has another issuer.
    rows = "SELECT user_id FROM brought_credentials"
    org_id = api.tenant.principal.org_id
    async with database.organization_transaction(org_id) as connection:
        assert await connection.fetch(rows) == []
        owners = [row["user_id"] for row in await connection.fetch("SELECT user_id FROM members")]
    assert len(owners) >= 2
    seen = []
    for user_id in owners:
        async with database.user_transaction(org_id, user_id) as connection:
            found = await connection.fetch(rows)
            assert {row["user_id"] for row in found} <= {user_id}
            seen += found
            assert (
                await connection.execute("UPDATE brought_credentials SET status = 'active'") == f"UPDATE {len(found)}"
            )
    assert len(seen) == 2
    insert = "INSERT INTO brought_credentials (id, org_id, user_id, upstream_id, sealed) VALUES ($1, $2, $3, $4, '')"
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        async with database.user_transaction(org_id, owners[0]) as connection:
            await connection.execute(insert, uuid4(), org_id, owners[1], id_)
    stranger = await make_tenant(database)
    async with database.tenant_transaction(stranger.principal) as connection:
        assert await connection.fetch(rows) == []


async def test_a_private_upstream_takes_nobody_elses_credential(api: Api, url: str) -> None:  # noqa: F811
    owner = api.caller(Role.MEMBER, "olga")
    made = await owner.created(name="mine", scope="user", auth="user", credential_form=BEARER, endpoint=url)
    other = api.caller(Role.MEMBER, "mallory")
    for method in ("GET", "PUT", "DELETE"):
        answer = await other.request(method, path(made["id"]), json={"values": {"token": "x"}})
        assert answer.status_code == 404
    assert (await bring(owner, made["id"], token=ALICE)).status_code == 200


async def test_attempts_are_bounded(api: Api, url: str, upstream: EchoUpstream) -> None:  # noqa: F811
    id_ = await registered(api, BEARER, endpoint=url)
    who = api.caller(Role.MEMBER, "guesser")
    upstream.refuses["*"] = "Bearer"
    answers = [(await bring(who, id_, token=f"guess-{at}")).status_code for at in range(8)]
    assert answers == [422] * 6 + [429] * 2
    assert len({seen.credential for seen in upstream.seen}) == 6
    # A form that is wrong costs no attempt, and nobody else pays for these.
    upstream.refuses.clear()
    assert (await bring(who, id_, token="a b")).status_code == 422
    assert (await bring(api.caller(Role.MEMBER, "alice"), id_, token=ALICE)).status_code == 200


@pytest.mark.parametrize("gone", ["upstream", "member", "membership"])
async def test_what_was_brought_goes_with_its_upstream_and_its_user(
    api: Api,  # noqa: F811
    url: str,
    superuser: asyncpg.Connection[Any],
    gone: str,
) -> None:
    id_ = await registered(api, BEARER, endpoint=url)
    await bring(api.caller(Role.MEMBER, "mia"), id_, token=ALICE)
    rows = "SELECT user_id FROM brought_credentials WHERE upstream_id = $1"
    (row,) = await superuser.fetch(rows, UUID(id_))
    if gone == "upstream":
        assert (await api.caller().delete(id_)).status_code == 204
    elif gone == "membership":
        ended = await api.caller().request("DELETE", f"/api/v1/members/{row['user_id']}")
        assert ended.status_code == 204, ended.text
    else:
        await superuser.execute(
            "DELETE FROM members WHERE user_id = $1 AND org_id = $2", row["user_id"], api.tenant.principal.org_id
        )
    assert await superuser.fetch(rows, UUID(id_)) == []


async def test_what_happens_is_in_the_audit_log(
    api: Api,  # noqa: F811
    url: str,
    upstream: EchoUpstream,
    superuser: asyncpg.Connection[Any],
) -> None:
    id_ = await registered(api, BEARER, endpoint=url)
    who = api.caller(Role.MEMBER, "alice")
    await bring(who, id_, token=BAD)
    await bring(who, id_, token=ALICE)
    await call(api, who)
    for challenge in ('Bearer error="insufficient_scope"', "Bearer"):
        upstream.refuses[f"Bearer {ALICE}"] = challenge
        await call(api, who)
    await who.request("DELETE", path(id_))
    wanted = {
        ("credentials.refused", "denied"),
        ("credentials.stored", "success"),
        ("credentials.narrow", "failure"),
        ("credentials.rejected", "failure"),
        ("credentials.removed", "success"),
    }
    rows: list[Any] = []
    async with asyncio.timeout(10):
        # What changes nothing is written soon, and not before the answer.
        while not wanted <= {(row["action"], row["outcome"]) for row in rows}:
            rows = await superuser.fetch("SELECT * FROM audit_log WHERE org_id = $1", api.tenant.principal.org_id)
    about = [row for row in rows if row["action"].startswith("credentials.")]
    assert {row["resource"] for row in about} == {f"upstream:{id_}"}
    assert len({row["actor_id"] for row in about}) == 1
    assert len(about) == len(wanted)
    assert not any(secret in repr(dict(row)) for row in rows for secret in (ALICE, BAD))


@contextlib.contextmanager
def logged() -> Iterator[io.StringIO]:
    """Everything that the process logs, as it would be written, at the lowest level."""
    stream = io.StringIO()
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    configure_logging(level="debug", output="json", stream=stream)
    try:
        yield stream
    finally:
        structlog.reset_defaults()
        logging.getLogger().handlers[:] = handlers
        logging.getLogger().setLevel(level)


@pytest.mark.parametrize("form", [BEARER, QUERY], ids=["header", "query"])
async def test_what_was_brought_is_in_no_log_list_error_or_row(
    api: Api,  # noqa: F811
    url: str,
    upstream: EchoUpstream,
    superuser: asyncpg.Connection[Any],
    form: dict[str, Any],
) -> None:
    """Tokens of words, which no pattern of the redaction knows, so that it is not the redaction that hides them."""
    with logged() as log:
        id_ = await registered(api, form, endpoint=url)
        admin, who = api.caller(), api.caller(Role.MEMBER, "alice")
        answers = [
            await bring(who, id_, token=ALICE),
            await bring(who, id_, token=BAD),
            await bring(who, id_, token=f"{ALICE}\n"),
            await who.request("PUT", path(id_), json={"values": {"token": ALICE, "x": ALICE}}),
            await who.request("PUT", path(id_), json={"values": {"token": [ALICE]}}),
            await who.request("GET", path(id_)),
            await admin.read(id_),
            await admin.page(),
            await admin.test(id=id_),
            await who.request("GET", "/api/v1/mcp/oauth/connections"),
        ]
        await call(api, who, modern=False)
        await call(api, who)
        upstream.refuses["*"] = "Bearer"
        refusals = [await call(api, who), await call(api, who, modern=False)]
    texts = [answer.text + str(answer.headers) for answer in answers] + [str(refusals), log.getvalue()]
    assert "brought_credential_stored" in log.getvalue()
    for text in texts:
        for secret in (ALICE, BAD):
            assert secret not in text
    row = await superuser.fetchrow("SELECT * FROM brought_credentials WHERE upstream_id = $1", UUID(id_))
    assert row is not None
    assert ALICE not in repr(dict(row))
    assert ALICE.encode() not in row["sealed"]
