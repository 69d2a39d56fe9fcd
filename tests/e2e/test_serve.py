"""The production path: migrate as the owner, serve as a role that owns nothing, tokens of somebody's issuer."""

from __future__ import annotations

import json
import signal
import time
from typing import TYPE_CHECKING

import httpx2
import pytest

from agentapi.storage.embedded import EmbeddedPostgres, embedded_postgres
from support.deployment import agentapi, deployment_environment, serving
from support.processes import free_port
from support.raw import good_headers, initialize, modern_call, modern_headers, modern_message, post
from support.tokens import Issuer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ISSUER = Issuer("https://issuer.example")


@pytest.fixture(scope="module")
async def postgres(module_directory: Path) -> AsyncIterator[EmbeddedPostgres]:
    async with embedded_postgres(module_directory / "data") as server:
        yield server


@pytest.fixture(scope="module")
async def environment(postgres: EmbeddedPostgres, module_directory: Path) -> dict[str, str]:
    """The variables of a deployment whose schema is migrated and that has one organisation."""
    env = deployment_environment(postgres, module_directory, json.dumps([ISSUER.settings()]))
    migrated = agentapi("migrate", env=env)
    assert migrated.returncode == 0, migrated.stderr
    assert migrated.stdout.splitlines()[0] == "applied 0001_tenancy"
    assert agentapi("migrate", env=env).stdout == "up to date\n"
    created = agentapi("organizations", "create", "demo", env=env)
    assert (created.returncode, created.stdout) == (0, "/mcp/demo/main\n"), created.stderr
    again = agentapi("organizations", "create", "demo", env=env)
    assert (again.returncode, again.stderr) == (1, "agentapi: There is an organization demo already.\n")
    assert "not a slug" in agentapi("organizations", "create", "No Slug", env=env).stderr
    return env


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_serves_and_drains_on_sigterm(environment: dict[str, str], tmp_path: Path, workers: str) -> None:
    with serving(environment, tmp_path / "log", "--workers", workers) as (url, process):
        token = ISSUER.sign(ISSUER.claims(aud=f"{url}/mcp/demo/main"))
        answer = modern_call(f"{url}/mcp/demo/main", token, "tools/list")
        assert answer.json()["result"]["tools"] == []
        assert modern_call(f"{url}/mcp/demo/main", None, "tools/list").status_code == 401
        assert httpx2.get(f"{url}/live", trust_env=False).status_code == 200
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) in {0, -signal.SIGTERM}
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_open_streams_end_whole_and_do_not_hold_up_the_stop(
    environment: dict[str, str], tmp_path: Path, workers: str
) -> None:
    with serving(environment, tmp_path / "log", "--workers", workers) as (url, process):
        endpoint = f"{url}/mcp/demo/main"
        token = ISSUER.sign(ISSUER.claims(aud=endpoint))
        session = initialize(endpoint, token).headers["mcp-session-id"]
        listen = modern_message("subscriptions/listen", {"notifications": {"toolsListChanged": True}})
        client = httpx2.Client(trust_env=False, timeout=20)
        with (
            client,
            client.stream("GET", endpoint, headers={**good_headers(token), "mcp-session-id": session}) as legacy,
            client.stream(
                "POST", endpoint, json=listen, headers={**good_headers(token), **modern_headers(listen)}
            ) as modern,
        ):
            assert legacy.status_code == modern.status_code == 200
            events = modern.iter_lines()
            assert any("notifications/subscriptions/acknowledged" in line for line in events)
            begun = time.monotonic()
            process.send_signal(signal.SIGTERM)
            # The stream ends with its result, and neither is cut off, which would raise.
            assert any('"resultType":"complete"' in line for line in events)
            assert list(events) == [""]
            assert b"error" not in legacy.read()
        assert process.wait(15) in {0, -signal.SIGTERM}
        assert time.monotonic() - begun < 10
    assert "Traceback" not in (tmp_path / "log").read_text()


async def test_every_worker_serves_a_session(environment: dict[str, str], tmp_path: Path) -> None:
    with serving(environment, tmp_path / "log", "--workers", "3") as (url, _):
        endpoint = f"{url}/mcp/demo/main"
        token = ISSUER.sign(ISSUER.claims(aud=endpoint))
        session = initialize(endpoint, token).headers["mcp-session-id"]
        message = {"jsonrpc": "2.0", "id": 1, "method": "tools/list"}
        # Each on a connection of its own, so that the kernel spreads them.
        answers = [post(endpoint, token, message, headers={"mcp-session-id": session}) for _ in range(30)]
        assert {answer.status_code for answer in answers} == {200}
        assert {answer.text for answer in answers} == {answers[0].text}


async def test_production_refuses_what_dev_allows(environment: dict[str, str], tmp_path: Path) -> None:
    """Plain HTTP and private addresses are closed unless a setting opens them."""
    with serving(environment, tmp_path / "log") as (url, _):
        claims = ISSUER.claims(aud=url, role="org_admin")
        answer = httpx2.post(
            f"{url}/api/v1/mcp/configurations",
            json={"name": "inside", "transport": "http", "endpoint": "https://169.254.169.254/mcp"},
            headers={"Authorization": f"Bearer {ISSUER.sign(claims)}"},
            trust_env=False,
        )
        assert answer.status_code == 422, answer.text
        assert answer.json()["errors"][0]["pointer"] == "/endpoint"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"AGENTAPI_DATABASE_URL": None}, "AGENTAPI_DATABASE_URL"),
        ({"AGENTAPI_KEYRING_FILE": None}, "keys generate"),
        ({"AGENTAPI_ISSUERS": None}, "AGENTAPI_ISSUERS"),
        ({"AGENTAPI_ISSUERS": "nonsense"}, "JSON"),
        ({"AGENTAPI_PORT": "many", "AGENTAPI_WORKERS": "0"}, "AGENTAPI_WORKERS"),
    ],
)
def test_wrong_settings_are_one_sentence(
    environment: dict[str, str], changes: dict[str, str | None], word: str
) -> None:
    env = {name: value for name, value in {**environment, **changes}.items() if value is not None}
    done = agentapi("serve", env=env)
    assert done.returncode != 0
    assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_refuses_to_serve_as_the_owner(environment: dict[str, str], postgres: EmbeddedPostgres) -> None:
    done = agentapi(
        "serve", "--port", str(free_port()), env={**environment, "AGENTAPI_DATABASE_URL": postgres.owner_dsn}
    )
    assert done.returncode != 0
    assert "owns tables" in done.stderr
    assert "Traceback" not in done.stderr


async def test_production_limits_each_user_unless_it_is_told_not_to(
    environment: dict[str, str], tmp_path: Path
) -> None:
    env = {name: value for name, value in environment.items() if name != "AGENTAPI_RATE_LIMIT_PER_MINUTE"}
    with serving(env, tmp_path / "log") as (url, _):
        endpoint = f"{url}/mcp/demo/main"
        token = ISSUER.sign(ISSUER.claims(aud=endpoint))
        message = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        answers = [post(endpoint, token, message) for _ in range(15)]
        assert [answer.status_code for answer in answers[:10]] == [200] * 10
        assert answers[14].status_code == 429
        assert answers[14].headers["ratelimit-policy"] == '"user";q=10;w=10'


async def test_a_client_on_the_same_machine_cannot_say_that_it_comes_from_elsewhere(
    environment: dict[str, str], tmp_path: Path
) -> None:
    """uvicorn would believe it, by default."""
    env = {**environment, "AGENTAPI_RATE_LIMIT_ADDRESS_PER_MINUTE": "1", "AGENTAPI_RATE_LIMIT_ADDRESS_BURST": "2"}
    with serving(env, tmp_path / "log") as (url, _):
        metadata = f"{url}/.well-known/oauth-protected-resource/mcp/demo/main"
        answers = [
            httpx2.get(metadata, headers={"X-Forwarded-For": f"203.0.113.{number}"}, trust_env=False)
            for number in range(3)
        ]
        assert [answer.status_code for answer in answers] == [200, 200, 429]


def test_the_address_of_redis_is_shown_to_nobody() -> None:
    shown = agentapi("config", env={"AGENTAPI_REDIS_URL": "rediss://:planted-secret@redis.example:6380/0"})
    assert shown.returncode == 0, shown.stderr
    assert "AGENTAPI_REDIS_URL" in shown.stdout
    assert "planted-secret" not in shown.stdout
    assert "redis.example" not in shown.stdout
