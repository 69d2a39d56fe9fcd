"""Sessions of the older revisions are sealed: they outlive the process, and serve nobody else."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from agentapi.storage.embedded import embedded_postgres
from support.deployment import agentapi, deployment_environment, serving
from support.processes import free_port
from support.raw import LEGACY, initialize, post, rpc
from support.tokens import Issuer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    import httpx2

ALPHA = Issuer("https://alpha.example")
BETA = Issuer("https://beta.example")


class Deployment:
    """Two organisations served by two workers, which can be started anew."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._environment = environment
        self._log = log
        self._port = free_port()

    def running(self) -> AbstractContextManager[object]:
        return serving(self._environment, self._log, "--workers", "2", port=self._port)

    def url(self, organization: str, workspace: str = "main") -> str:
        return f"http://127.0.0.1:{self._port}/mcp/{organization}/{workspace}"

    def token(self, issuer: Issuer, subject: str = "alice") -> str:
        return issuer.sign(issuer.claims(sub=subject))


@pytest.fixture(scope="module")
async def deployment(module_directory: Path) -> AsyncIterator[Deployment]:
    issuers = json.dumps([ALPHA.settings({"organization": "alpha"}), BETA.settings({"organization": "beta"})])
    async with embedded_postgres(module_directory / "data") as postgres:
        env = deployment_environment(postgres, module_directory, issuers)
        for command in (("migrate",), ("organizations", "create", "alpha"), ("organizations", "create", "beta")):
            done = agentapi(*command, env=env)
            assert done.returncode == 0, done.stderr
        yield Deployment(env, module_directory / "log")


@pytest.fixture
def served(deployment: Deployment) -> Iterator[Deployment]:
    with deployment.running():
        yield deployment


def _in_session(url: str, token: str, session: str, method: str = "tools/list") -> httpx2.Response:
    message: dict[str, Any] = {"jsonrpc": "2.0", "id": 2, "method": method}
    return post(url, token, message, headers={"mcp-session-id": session, "mcp-protocol-version": LEGACY})


def _open(url: str, token: str) -> str:
    opened = initialize(url, token)
    assert opened.status_code == 200, opened.text
    session = str(opened.headers["mcp-session-id"])
    assert session.isascii()
    assert session.isprintable()
    assert " " not in session
    return session


def test_session_serves_only_whom_it_was_opened_for(served: Deployment) -> None:
    url, alice = served.url("alpha"), served.token(ALPHA)
    session = _open(url, alice)
    made_up = _in_session(url, alice, "made-up")
    assert made_up.status_code == 404
    strangers = {
        "another principal": (url, served.token(ALPHA, "bob")),
        "another tenant at its own workspace": (served.url("beta"), served.token(BETA)),
        "the same subject of another issuer": (served.url("beta"), served.token(BETA, "alice")),
        "another tenant here": (url, served.token(BETA)),
        "another workspace": (served.url("alpha", "other"), alice),
    }
    for who, (where, token) in strangers.items():
        refused = _in_session(where, token, session)
        assert refused.status_code == 404, who
        assert "result" not in rpc(refused), who
    # One who holds another's session learns nothing from how it is refused.
    bob = _in_session(url, served.token(ALPHA, "bob"), session)
    assert (bob.status_code, rpc(bob)["error"]) == (made_up.status_code, rpc(made_up)["error"])
    assert _in_session(url, alice, session).status_code == 200


def test_session_that_was_changed_is_refused(served: Deployment) -> None:
    url, token = served.url("alpha"), served.token(ALPHA)
    session = _open(url, token)
    changed = {
        session[:-1],
        session + "A",
        session.swapcase(),
        *(session[:at] + ("A" if session[at] != "A" else "B") + session[at + 1 :] for at in range(0, len(session), 7)),
    } - {session}
    statuses = {_in_session(url, token, other).status_code for other in changed}
    assert statuses == {404}


def test_sessions_of_one_principal_are_told_apart(served: Deployment) -> None:
    url, token = served.url("alpha"), served.token(ALPHA)
    assert _open(url, token) != _open(url, token)


def test_session_works_after_a_restart(deployment: Deployment) -> None:
    url, token = deployment.url("alpha"), deployment.token(ALPHA)
    with deployment.running():
        session = _open(url, token)
    with deployment.running():
        answer = _in_session(url, token, session)
        assert answer.status_code == 200, answer.text
        assert _in_session(url, deployment.token(ALPHA, "bob"), session).status_code == 404


def test_the_log_holds_neither_session_nor_traceback(served: Deployment, module_directory: Path) -> None:
    """Last in the module, so that the log covers everything above."""
    session = _open(served.url("alpha"), served.token(ALPHA))
    log = (module_directory / "log").read_text()
    assert session not in log
    assert "Traceback" not in log
