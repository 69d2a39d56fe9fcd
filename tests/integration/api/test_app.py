"""Starting, and the probes; what cannot work is said in one sentence before anything is opened."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
import structlog
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from agentapi.app import create_app
from agentapi.errors import AgentAPIError, StartupError, StorageUnavailableError
from agentapi.principal import Role
from agentapi.storage.embedded import APP_ROLE
from integration.api.harness import PUBLIC_URL, lifespan_of, served, settings_for

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg
    from starlette.requests import Request

    from agentapi.identity.token_issuer import TokenIssuer
    from agentapi.settings import Settings
    from agentapi.storage.embedded import EmbeddedPostgres


@pytest.fixture
def good(postgres: EmbeddedPostgres, issuer: TokenIssuer, keyring: str, state_dir: Path) -> Settings:
    return settings_for(postgres, issuer, keyring, state_dir)


def changed(settings: Settings, **changes: Any) -> Settings:
    return settings.model_copy(update=changes)


def refusal(settings: Settings) -> str:
    with pytest.raises(StartupError) as caught:
        create_app(settings)
    message: str = caught.value.message
    assert message.endswith(".")
    assert "\n" not in message
    return message


def test_what_is_missing_is_named(good: Settings) -> None:
    assert "AGENTAPI_DATABASE_URL" in refusal(changed(good, database_url=None))
    assert "AGENTAPI_ISSUERS" in refusal(changed(good, issuers=()))
    missing = refusal(changed(good, keyring=None))
    assert "AGENTAPI_KEYRING" in missing
    assert "keys generate" in missing


@pytest.mark.parametrize(
    "content", ["", "nonsense", '{"active": "k1", "keys": {}}', '{"active":"k","keys":{"k":"c2VjcmV0"}}']
)
def test_a_keyring_that_is_none_is_said_so_without_its_content(good: Settings, tmp_path: Path, content: str) -> None:
    path = tmp_path / "keyring.json"
    path.write_text(content, "utf-8")
    message = refusal(changed(good, keyring=None, keyring_file=path))
    assert "The keyring cannot be used" in message
    assert "c2VjcmV0" not in message


def test_a_keyring_file_is_read(good: Settings, tmp_path: Path, keyring: str) -> None:
    path = tmp_path / "keyring.json"
    path.write_text(keyring, "utf-8")
    create_app(changed(good, keyring=None, keyring_file=path))
    assert "AGENTAPI_KEYRING_FILE cannot be read" in refusal(
        changed(good, keyring=None, keyring_file=tmp_path / "missing")
    )


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("postgresql://agentapi_app:x@127.0.0.1:1/agentapi", StorageUnavailableError),
        ("postgresql://agentapi_app:x@upstream.invalid/agentapi", StorageUnavailableError),
        ("nonsense", StartupError),
        ("mysql://agentapi_app:x@127.0.0.1/agentapi", StartupError),
        ("postgresql://agentapi_app:x@127.0.0.1:port/agentapi", StartupError),
    ],
)
async def test_a_database_that_cannot_be_reached_stops_the_start(
    good: Settings, url: str, kind: type[AgentAPIError]
) -> None:
    from agentapi.settings import load_settings

    settings = load_settings(**{**good.__dict__, "database_url": url, "database_timeout_s": 2.0})
    with pytest.raises(kind) as caught:
        async with lifespan_of(settings):
            pass
    assert ":x@" not in caught.value.message


async def test_the_owner_of_the_schema_is_refused_as_the_application(
    good: Settings, postgres: EmbeddedPostgres
) -> None:
    from agentapi.settings import load_settings

    settings = load_settings(**{**good.__dict__, "database_url": postgres.owner_dsn})
    with pytest.raises(StartupError, match="owns tables"):
        async with lifespan_of(settings):
            pass


async def test_an_issuer_that_is_down_does_not_stop_the_start(good: Settings) -> None:
    from agentapi.settings import IssuerSettings

    down = IssuerSettings.model_validate({"issuer": "http://127.0.0.1:18080", "jwks_url": "http://127.0.0.1:18080/k"})
    async with lifespan_of(changed(good, issuers=(*good.issuers, down))):
        pass


async def test_a_defect_is_answered_without_its_details(good: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret detail")

    async with lifespan_of(good) as app:
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url=PUBLIC_URL) as client:
            monkeypatch.setattr("agentapi.identity.issuers.IssuerDirectory.verify", broken)
            answer = await client.get("/api/v1/mcp/configurations", headers={"Authorization": "Bearer x"})
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "secret detail" not in answer.text
    assert json.loads(answer.text)["code"] == "internal_error"
    assert answer.headers["x-request-id"]


async def test_no_redirect_is_made_of_the_host_header(good: Settings) -> None:
    async with lifespan_of(good) as app:
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url=PUBLIC_URL) as client:
            answer = await client.post("/mcp/demo/main/", headers={"Host": "evil.example"})
    assert (answer.status_code, "location" in answer.headers) == (404, False)


@pytest.mark.parametrize(("origin", "allowed"), [("https://app.example", True), ("https://evil.example", False)])
async def test_browsers_of_the_listed_origins_are_let_in(good: Settings, origin: str, *, allowed: bool) -> None:
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    async with lifespan_of(changed(good, allowed_origins=("https://app.example",))) as app:
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url=PUBLIC_URL) as client:
            preflight = await client.options("/mcp/demo/main", headers=asked)
            refused = await client.post("/mcp/demo/main", headers={"Origin": origin})
    assert (preflight.status_code == 200) is allowed
    assert (preflight.headers.get("access-control-allow-origin") == origin) is allowed
    assert refused.status_code == (401 if allowed else 403)


async def test_a_database_without_the_schema_is_named(good: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async def missing(_: object) -> list[str]:
        return ["0009_later"]

    monkeypatch.setattr("agentapi.storage.database.Database.pending_migrations", missing)
    with pytest.raises(StartupError, match="lacks the migrations 0009_later; run `agentapi migrate`"):
        async with lifespan_of(good):
            pass


async def test_the_probes_tell_of_the_database(good: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with lifespan_of(good) as app:
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url=PUBLIC_URL) as client:
            statuses = {path: (await client.get(path)).status_code for path in ("/live", "/ready", "/health")}
            assert statuses == {"/live": 200, "/ready": 200, "/health": 200}
            health = (await client.get("/health")).json()
            assert health["status"] == "ok"
            assert health["parts"]["database"]["status"] == "ok"
            told = health["parts"]["sandbox"]["details"]
            assert (told["mode"], told["network"], told["bubblewrap"]) == ("off", "shared", False)
            assert told["memory"] == "process, tree watched"

    async def away(_: object) -> None:
        raise StorageUnavailableError("The database is not available.", reason="10.1.2.3 refused")

    monkeypatch.setattr("agentapi.storage.database.Database.ping", away)
    async with lifespan_of(good) as app:
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url=PUBLIC_URL) as client:
            answers = {path: await client.get(path) for path in ("/live", "/ready", "/health")}
    assert {path: answer.status_code for path, answer in answers.items()} == {
        "/live": 200,
        "/ready": 503,
        "/health": 503,
    }
    assert answers["/health"].json()["parts"]["database"]["status"] == "down"
    assert "10.1.2.3" not in answers["/health"].text


async def test_stopping_closes_the_database_pool(good: Settings, superuser: asyncpg.Connection[asyncpg.Record]) -> None:
    async def sessions() -> set[int]:
        rows = await superuser.fetch("SELECT pid FROM pg_stat_activity WHERE usename = $1", APP_ROLE)
        return {row["pid"] for row in rows}

    before = await sessions()
    async with lifespan_of(good) as app:
        own = await sessions() - before
        assert own
    async with asyncio.timeout(5):
        # PostgreSQL ends a session a moment after its client said goodbye.
        while own & await sessions():
            pass
    assert app.routes, "what holds the pool is alive until here"


@pytest.mark.parametrize(("size", "status"), [(256 * 1024, 404), (256 * 1024 + 1, 401)])
async def test_a_key_set_above_256_kib_is_not_read(good: Settings, size: int, status: int, issuer: TokenIssuer) -> None:
    from agentapi.settings import IssuerSettings

    async def keys(_: Request) -> Response:
        return Response(issuer.key_set().ljust(size))

    async with served(Starlette(routes=[Route("/keys", keys)])) as base_url:
        remote = IssuerSettings.model_validate(
            {**good.issuers[0].model_dump(exclude_unset=True), "jwks": None, "jwks_url": f"{base_url}/keys"}
        )
        with structlog.testing.capture_logs() as logs:
            async with lifespan_of(changed(good, issuers=(remote,))):
                pass
        reasons = [entry.get("reason") for entry in logs if entry["event"] == "key_set_refresh_failed"]
        # The core has a bound of its own; the fetch stops at its own while the bytes arrive.
        assert reasons == ([] if status == 404 else ["The server's answer is larger than 262144 bytes."])
        async with lifespan_of(changed(good, issuers=(remote,))) as app:
            transport = httpx2.ASGITransport(app=app)
            async with httpx2.AsyncClient(transport=transport, base_url=PUBLIC_URL) as client:
                token = issuer.mint(
                    subject="alice", audiences=[PUBLIC_URL], organization="missing", role=Role.MEMBER, lifetime_s=60
                )
                answer = await client.get("/api/v1/mcp/configurations", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == status


async def test_the_rest_interface_asks_for_a_bearer_token(http: httpx2.AsyncClient) -> None:
    answer = await http.get("/api/v1/mcp/configurations")
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
