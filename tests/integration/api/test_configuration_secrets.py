"""A secret goes in and never comes out: not in an answer, a log or an error, and not to another address."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
import structlog.testing

from agentapi._core import Keyring
from agentapi.observability import middleware
from agentapi.principal import OrgId, UpstreamId
from agentapi.upstreams.models import secret_aad

if TYPE_CHECKING:
    import asyncpg

    from integration.api.harness import Api

    Connection = asyncpg.Connection[asyncpg.Record]

SECRET = "correct-horse-battery-staple"
OTHER = "another-secret-altogether"
BEARER = {"auth": "bearer"}


async def stored(superuser: Connection, id_: str) -> bytes | None:
    sealed: bytes | None = await superuser.fetchval("SELECT secret FROM upstreams WHERE id = $1", UUID(id_))
    return sealed


def opened(keyring: str, api: Api, id_: str, sealed: bytes | None) -> str:
    assert sealed is not None
    aad = secret_aad(OrgId(api.tenant.principal.org_id), UpstreamId(UUID(id_)))
    return Keyring.parse(keyring).open(sealed, aad).decode()


async def test_a_secret_is_in_no_answer_log_or_row(
    api: Api,
    superuser: Connection,
    keyring: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    admin = api.caller()
    lines: list[tuple[object, ...]] = []
    # Loggers that other tests have set up write past a capture; what they are given does not depend on that.
    monkeypatch.setattr(middleware, "log_request", lambda _, *told: lines.append(told))
    with structlog.testing.capture_logs() as logs:
        answers = [await admin.create(**BEARER, secret=SECRET)]
        id_ = answers[0].json()["id"]
        answers += [
            await admin.read(id_),
            await admin.page(),
            await admin.replace(id_, **BEARER, secret=SECRET, description="again"),
            await admin.replace(id_, auth="none", secret=SECRET),
            await admin.replace(id_, **BEARER, secret=f" {SECRET}\n"),
            await admin.create(**BEARER, secret=SECRET),
            await admin.create(**BEARER, secret=[SECRET]),
            await admin.create(**BEARER, secret=SECRET, unknown=SECRET),
            await admin.create(**BEARER, secret=SECRET * 400),
            await admin.test(id=id_),
            await admin.test(configuration={"name": "x", "transport": "http", "auth": "bearer", "secret": SECRET}),
            await admin.test(
                configuration={
                    "name": "x",
                    "transport": "http",
                    "endpoint": "http://127.0.0.1:18080/mcp",
                    **BEARER,
                    "secret": SECRET,
                }
            ),
        ]
    statuses = [answer.status_code for answer in answers]
    assert statuses == [201, 200, 200, 200, 422, 422, 409, 422, 422, 422, 200, 422, 200]
    assert not any(SECRET in answer.text or SECRET in str(answer.headers) for answer in answers)
    assert len(lines) == len(answers)
    assert SECRET not in repr(lines) + repr(logs)
    assert SECRET not in caplog.text
    assert answers[1].json()["has_secret"]
    row = await superuser.fetchrow("SELECT * FROM upstreams WHERE id = $1", UUID(id_))
    assert row is not None
    assert SECRET.encode() not in repr(dict(row)).encode()
    sealed = await stored(superuser, id_)
    assert sealed is not None
    assert SECRET.encode() not in sealed
    assert opened(keyring, api, id_, sealed) == SECRET


async def test_a_replacement_without_a_secret_keeps_it(api: Api, superuser: Connection, keyring: str) -> None:
    admin = api.caller()
    id_ = (await admin.created(**BEARER, secret=SECRET))["id"]
    before = await stored(superuser, id_)
    kept = await admin.replace(id_, **BEARER, name="renamed", description="new", enabled=False)
    assert kept.json()["has_secret"]
    assert await stored(superuser, id_) == before
    await admin.replace(id_, **BEARER, secret=OTHER)
    after = await stored(superuser, id_)
    assert opened(keyring, api, id_, after) == OTHER


REDIRECTIONS: dict[str, dict[str, Any]] = {
    "another endpoint": {**BEARER, "endpoint": "http://127.0.0.1:18081/mcp"},
    "another path": {**BEARER, "endpoint": "http://127.0.0.1:18080/"},
    "another spelling": {**BEARER, "endpoint": "http://127.0.0.1:18080/mcp?"},
    "another transport": {**BEARER, "transport": "sse"},
    "another kind of credential": {"auth": "api_key"},
    "another header": {"auth": "api_key", "auth_header": "X-Echo"},
    "null": {**BEARER, "secret": None},
    "nothing": {**BEARER, "secret": ""},
}


@pytest.mark.parametrize("change", REDIRECTIONS.values(), ids=REDIRECTIONS)
async def test_a_kept_secret_never_goes_elsewhere(api: Api, superuser: Connection, change: dict[str, Any]) -> None:
    admin = api.caller()
    created = await admin.created(**BEARER, secret=SECRET)
    before = await stored(superuser, created["id"])
    answer = await admin.replace(created["id"], **change)
    assert answer.status_code == 422, answer.text
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/secret"]
    assert (await admin.read(created["id"])).json() == created
    assert await stored(superuser, created["id"]) == before
    # With the secret given anew the same change is fine.
    assert (await admin.replace(created["id"], **{**change, "secret": OTHER})).status_code == 200


async def test_the_header_of_a_kept_api_key_does_not_change(api: Api) -> None:
    admin = api.caller()
    created = await admin.created(auth="api_key", auth_header="X-One", secret=SECRET)
    for header in ("X-Two", ...):
        answer = await admin.replace(created["id"], auth="api_key", auth_header=header)
        assert [error["pointer"] for error in answer.json()["errors"]] == ["/secret"]
    assert (await admin.replace(created["id"], auth="api_key", auth_header="X-One")).status_code == 200


@pytest.mark.parametrize("auth", ["none", "oauth"])
async def test_an_auth_that_takes_no_secret_drops_it(api: Api, superuser: Connection, auth: str) -> None:
    admin = api.caller()
    created = await admin.created(**BEARER, secret=SECRET)
    replaced = (await admin.replace(created["id"], auth=auth)).json()
    assert (replaced["auth"], replaced["has_secret"]) == (auth, False)
    assert await stored(superuser, created["id"]) is None
    # And it does not come back.
    answer = await admin.replace(created["id"], **BEARER)
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/secret"]


async def test_becoming_a_command_drops_the_secret(api: Api, superuser: Connection) -> None:
    admin = api.caller()
    created = await admin.created(**BEARER, secret=SECRET)
    answer = await admin.replace(created["id"], transport="stdio", endpoint=..., command="clock")
    assert answer.status_code == 200
    assert await stored(superuser, created["id"]) is None


@pytest.mark.parametrize("auth", ["bearer", "api_key"])
@pytest.mark.parametrize("secret", [..., None, "", " ", "a\nb", "a\r\nX-Evil: 1", "ä", "tab\tinside", " a", "a ", "\0"])
async def test_a_credential_is_needed_and_is_a_header_value(api: Api, auth: str, secret: object) -> None:
    answer = await api.caller().create(auth=auth, secret=secret)
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/secret"]


async def test_the_same_secret_is_sealed_differently_each_time(api: Api, superuser: Connection) -> None:
    admin = api.caller()
    ids = [(await admin.created(name=name, **BEARER, secret=SECRET))["id"] for name in ("one", "two")]
    one, two = [await stored(superuser, id_) for id_ in ids]
    assert one != two


async def test_a_secret_moved_to_another_row_does_not_open(api: Api, superuser: Connection) -> None:
    admin = api.caller()
    victim = await admin.created(name="victim", **BEARER, secret=SECRET)
    thief = await admin.created(name="thief", **BEARER, secret=OTHER, endpoint="http://127.0.0.1:18081/mcp")
    await superuser.execute(
        "UPDATE upstreams SET secret = (SELECT secret FROM upstreams WHERE id = $1) WHERE id = $2",
        UUID(victim["id"]),
        UUID(thief["id"]),
    )
    result = (await admin.test(id=thief["id"])).json()
    assert not result["ok"]
    assert "stored secret does not open" in result["reason"]
