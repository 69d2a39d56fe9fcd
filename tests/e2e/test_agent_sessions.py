"""Agents in sessions: with the SDK's client, across a kill, over several workers, and from the command line."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from joserfc import jwt as joserfc_jwt
from joserfc.jwk import KeySet

from agentapi.storage.embedded import EmbeddedPostgres, embedded_postgres
from support.clients import mcp_client
from support.deployment import agentapi, deployment_environment, serving
from support.gateway import Gateway
from support.plain import PLAIN
from support.processes import free_port, wait_until
from support.raw import modern_call
from support.tokens import Issuer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from support.clients import Mode

ISSUER = Issuer("https://issuer.example")
SESSIONS = "/api/v1/sessions"


@pytest.fixture(scope="module")
async def postgres(module_directory: Path) -> AsyncIterator[EmbeddedPostgres]:
    async with embedded_postgres(module_directory / "data") as server:
        yield server


@pytest.fixture(scope="module")
def environment(postgres: EmbeddedPostgres, module_directory: Path) -> dict[str, str]:
    """The variables of a deployment that has one organisation."""
    env = deployment_environment(postgres, module_directory, json.dumps([ISSUER.settings()]))
    for command in (("migrate",), ("organizations", "create", "demo")):
        done = agentapi(*command, env=env)
        assert done.returncode == 0, done.stderr
    return env


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody at the API of a gateway."""

    url: str
    token: str

    def ask(self, method: str, path: str, **given: Any) -> httpx2.Response:
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx2.request(method, self.url + path, headers=headers, timeout=30, **PLAIN, **given)


def member_of(url: str) -> Person:
    return Person(url, ISSUER.sign(ISSUER.claims(aud=url, role="member")))


def begun(person: Person, **body: Any) -> dict[str, Any]:
    answer = person.ask("POST", SESSIONS, json=body)
    assert answer.status_code == 201, answer.text
    document: dict[str, Any] = answer.json()
    return document


def listed(session: dict[str, Any], token: str | None = None) -> int:
    return modern_call(session["mcp_url"], token or session["token"], "tools/list").status_code


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28"])
async def test_an_agent_begins_with_nothing_but_the_answer(tmp_path: Path, mode: Mode) -> None:
    with Gateway.start(data_dir=tmp_path / "data") as gateway:
        person = Person(gateway.base_url, gateway.token)
        session = begun(person, name="first")
        async with mcp_client(session["mcp_url"], session["token"], mode) as client:
            names = {tool.name for tool in (await client.list_tools()).tools}
            assert "clock__current_time" in names
            answer = await client.call_tool("clock__current_time", {"time_zone": "Europe/Berlin"})
            assert not answer.is_error
        assert person.ask("DELETE", f"{SESSIONS}/{session['id']}").status_code == 204
        assert listed(session) == 401
        # The demo's own tokens are as good as before.
        assert modern_call(gateway.mcp_url, gateway.token, "tools/list").status_code == 200
        assert gateway.tracebacks == []


def test_sessions_and_their_tokens_survive_a_kill(environment: dict[str, str], tmp_path: Path) -> None:
    port = free_port()
    state = tmp_path / "state"
    env = {**environment, "AGENTAPI_STATE_DIR": str(state)}
    with serving(env, tmp_path / "log", port=port) as (url, process):
        person = member_of(url)
        session, ended = begun(person), begun(person)
        assert person.ask("DELETE", f"{SESSIONS}/{ended['id']}").status_code == 204
        (directory,) = state.glob(f"sessions/*/{session['id']}")
        (directory / "notes").write_text("kept")
        assert listed(session) == 200
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait(10) == -signal.SIGKILL
    with serving(env, tmp_path / "log", port=port) as (again, _):
        assert again == url
        person = member_of(url)
        document = person.ask("GET", f"{SESSIONS}/{session['id']}").json()
        assert (document["status"], document["created_at"]) == ("live", session["created_at"])
        assert listed(session) == 200
        assert listed(ended) == 401
        assert (directory / "notes").read_text() == "kept"
        more = person.ask("POST", f"{SESSIONS}/{session['id']}/tokens").json()
        assert listed(session, more["token"]) == 200
        assert person.ask("DELETE", f"{SESSIONS}/{session['id']}").status_code == 204
        wait_until(lambda: not directory.exists(), within_s=20, what="the directory is removed")
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_every_worker_knows_a_session_and_its_end(environment: dict[str, str], tmp_path: Path) -> None:
    with serving(environment, tmp_path / "log", "--workers", "3") as (url, _):
        person = member_of(url)
        session = begun(person)
        # Each on a connection of its own, so that the kernel spreads them.
        assert {listed(session) for _ in range(20)} == {200}
        assert person.ask("DELETE", f"{SESSIONS}/{session['id']}").status_code == 204
        wait_until(lambda: {listed(session) for _ in range(10)} == {401}, within_s=5, what="all workers know")
        assert {listed(session) for _ in range(20)} == {401}
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_anybody_verifies_a_token_with_the_published_keys(environment: dict[str, str], tmp_path: Path) -> None:
    with serving(environment, tmp_path / "log") as (url, _):
        session = begun(member_of(url))
        answer = httpx2.get(f"{url}/.well-known/jwks.json", **PLAIN)
        assert answer.headers["content-type"] == "application/jwk-set+json"
        assert '"d"' not in answer.text
        decoded = joserfc_jwt.decode(session["token"], KeySet.import_key_set(answer.json()), algorithms=["ES256"])
        assert decoded.claims["iss"] == url
        assert decoded.claims["sid"] == session["id"]


def test_a_rotation_by_command_reaches_a_running_gateway(environment: dict[str, str], tmp_path: Path) -> None:
    with serving(environment, tmp_path / "log") as (url, _):
        env = {**environment, "AGENTAPI_PUBLIC_URL": url}
        session = begun(member_of(url))
        rotated = agentapi("issuer", "rotate", env=env)
        assert rotated.returncode == 0, rotated.stderr
        keys = json.loads(agentapi("issuer", "keys", "--json", env=env).stdout)
        assert [key["signs"] for key in keys] == [True, False]
        assert rotated.stdout.startswith(keys[1]["id"])

        def published() -> bool:
            return len(httpx2.get(f"{url}/.well-known/jwks.json", **PLAIN).json()["keys"]) == 2

        wait_until(published, within_s=20, what="the next key is published")
        assert listed(session) == 200
        replaced = agentapi("issuer", "rotate", "--compromised", env=env)
        assert replaced.returncode == 0, replaced.stderr
        wait_until(lambda: listed(session) == 401, within_s=20, what="what the old keys signed is refused")
        assert listed(begun(member_of(url))) == 200
        listing = agentapi("issuer", "keys", env=env).stdout
        assert listing == f"{replaced.stdout.split()[0]}: signs\n"


def test_the_command_line_gets_a_token_for_an_agent(environment: dict[str, str], tmp_path: Path) -> None:
    with serving(environment, tmp_path / "log") as (url, _):
        own = ISSUER.sign(ISSUER.claims(aud=url, role="member"))
        env = {**environment, "AGENTAPI_TOKEN": own}
        first = agentapi("token", "mint", "--url", url, "--scope", "mcp:tools", "--json", env=env)
        assert first.returncode == 0, first.stderr
        session = json.loads(first.stdout)
        assert (session["role"], session["scopes"]) == ("agent", ["mcp:tools"])
        again = agentapi("token", "mint", "--url", url, "--session", session["id"], env=env)
        assert listed(session, again.stdout.strip()) == 200
        for arguments, told in (
            (("--session", session["id"], "--role", "member"), "give --session alone"),
            (("--subject", "root"), "--subject: for `agentapi dev` alone"),
            (("--role", "org_admin"), "would be good for more than you are"),
        ):
            refused = agentapi("token", "mint", "--url", url, *arguments, env=env)
            assert refused.returncode == 1
            assert told in refused.stderr
        env["AGENTAPI_TOKEN"] = session["token"]
        refused = agentapi("token", "mint", "--url", url, env=env)
        assert refused.returncode == 1
        assert "refuses the token" in refused.stderr
