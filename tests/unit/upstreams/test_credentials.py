from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from pydantic import SecretStr

from agentapi._core import Keyring
from agentapi.errors import UpstreamError, UpstreamNeedsConnectionError
from agentapi.principal import UserId
from agentapi.upstreams.credentials import (
    NO_CREDENTIAL,
    Credential,
    CredentialsByAuth,
    SharedSecrets,
    with_query,
)
from agentapi.upstreams.link import Caller
from agentapi.upstreams.models import Auth, Transport
from agentapi.upstreams.secrets import seal_secret
from support.echo_upstream import EchoUpstream
from unit.upstreams.doubles import ORG, USER, upstream
from unit.upstreams.keepers import Keeper
from unit.upstreams.servers import call, command, http, serving, world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from agentapi.upstreams.client import UpstreamClient
    from agentapi.upstreams.connections import ConnectionPool
    from agentapi.upstreams.models import Upstream
    from agentapi.upstreams.wanted import ConnectionKey

ALICE, BOB = Caller(ORG, USER), Caller(ORG, UserId(UUID(int=3)))
ERAS = pytest.mark.parametrize("legacy", [False, True], ids=["modern", "legacy"])


class Bench:
    """A client whose upstream echoes, and what it was given."""

    def __init__(self, client: UpstreamClient, pool: ConnectionPool, server: EchoUpstream, to: Upstream) -> None:
        self.client, self.pool, self.server, self.to = client, pool, server, to

    async def ask(self, caller: Caller) -> tuple[str, int]:
        """Return the credential that a call arrived with, and the port it came from."""
        result = await call(self.client, self.to, caller, "echo")
        token, _, port = result["content"][0]["text"].partition(" on ")
        return token, int(port)


@contextlib.asynccontextmanager
async def echoing(keeper: Keeper, *, legacy: bool) -> AsyncIterator[Bench]:
    server = EchoUpstream(legacy=legacy)
    async with serving(server) as base, world(credentials=keeper) as made:
        yield Bench(made.client, made.pool, server, http(f"{base}/mcp", auth=Auth.OAUTH))


@ERAS
async def test_each_user_comes_as_itself_over_a_connection_of_its_own(legacy: bool) -> None:
    async with echoing(Keeper({ALICE.user_id: "alice-1", BOB.user_id: "bob-1"}), legacy=legacy) as bench:
        answers = [await bench.ask(caller) for caller in (ALICE, BOB, ALICE, BOB)]
        assert [token for token, _ in answers] == ["alice-1", "bob-1", "alice-1", "bob-1"]
        assert len(bench.pool) == 2


@ERAS
async def test_a_new_credential_leaves_the_old_connections_of_that_user_alone(legacy: bool) -> None:
    keeper = Keeper({ALICE.user_id: "alice-1", BOB.user_id: "bob-1"})
    async with echoing(keeper, legacy=legacy) as bench:
        await bench.ask(ALICE)
        await bench.ask(BOB)
        keeper.tokens[ALICE.user_id] = "alice-2"
        assert (await bench.ask(ALICE))[0] == "alice-2"
        assert {key.credential for key in _keys(bench.pool)} == {"alice-2", "bob-1"}
        assert len(bench.pool) == 2


@ERAS
async def test_what_a_gone_credential_opened_is_closed_at_once(legacy: bool) -> None:
    async with echoing(Keeper({ALICE.user_id: "alice-1", BOB.user_id: "bob-1"}), legacy=legacy) as bench:
        await bench.ask(ALICE)
        await bench.ask(BOB)
        bench.client.close_user(bench.to.id, ALICE.user_id, at_once=True)
        assert {key.credential for key in _keys(bench.pool)} == {"bob-1"}


@ERAS
async def test_a_refused_credential_is_renewed_once_and_the_call_sent_again(legacy: bool) -> None:
    keeper = Keeper({ALICE.user_id: "alice-1"}, renewals=["alice-2"])
    async with echoing(keeper, legacy=legacy) as bench:
        await bench.ask(ALICE)
        bench.server.refuses["alice-1"] = 'Bearer error="invalid_token"'
        assert (await bench.ask(ALICE))[0] == "alice-2"
        assert [each.credential for each in bench.server.calls] == ["alice-1", "alice-1", "alice-2"]
        assert [challenge.error for challenge in keeper.rejections] == ["invalid_token"]


@ERAS
async def test_a_credential_that_is_refused_when_connecting_is_renewed_once(legacy: bool) -> None:
    keeper = Keeper({ALICE.user_id: "alice-1"}, renewals=["alice-2"])
    async with echoing(keeper, legacy=legacy) as bench:
        bench.server.refuses["alice-1"] = "Bearer"
        assert (await bench.ask(ALICE))[0] == "alice-2"
        assert len(keeper.rejections) == 1
        assert [each.credential for each in bench.server.calls] == ["alice-2"]


@ERAS
async def test_an_upstream_that_refuses_everything_is_asked_twice(legacy: bool) -> None:
    keeper = Keeper({ALICE.user_id: "alice-1"}, renewals=["alice-2"])
    async with echoing(keeper, legacy=legacy) as bench:
        await bench.ask(ALICE)
        bench.server.refuses["*"] = "Bearer"
        before = len(bench.server.seen)
        with pytest.raises(UpstreamNeedsConnectionError):
            await bench.ask(ALICE)
        assert len(keeper.rejections) == 2
        assert {each.credential for each in bench.server.seen[before:]} == {"alice-1", "alice-2"}
        assert len([each for each in bench.server.seen[before:] if each.credential == "alice-2"]) == 1


@ERAS
async def test_missing_scopes_are_named_and_nothing_is_sent_again(legacy: bool) -> None:
    keeper = Keeper({ALICE.user_id: "alice-1"}, renewals=["alice-2"])
    async with echoing(keeper, legacy=legacy) as bench:
        await bench.ask(ALICE)
        bench.server.refuses["*"] = 'Bearer error="insufficient_scope", scope="write admin"'
        with pytest.raises(UpstreamNeedsConnectionError) as caught:
            await bench.ask(ALICE)
        assert caught.value.scopes == ("write", "admin")
        assert len(bench.server.calls) == 2


async def test_a_refusal_of_a_shared_secret_is_a_failure_like_any() -> None:
    keyring = Keyring.parse(Keyring.generate("k"))
    server = EchoUpstream(refuses={"*": "Bearer"})
    shared = CredentialsByAuth(SharedSecrets(keyring), {Auth.OAUTH: Keeper()})
    async with serving(server) as base, world(credentials=shared) as made:
        to = http(f"{base}/mcp", auth=Auth.BEARER)
        with pytest.raises(UpstreamError, match="HTTP 401") as caught:
            await call(made.client, to, ALICE, "echo")
        assert not isinstance(caught.value, UpstreamNeedsConnectionError)


async def test_a_credential_may_go_into_the_query() -> None:
    async with echoing(Keeper({ALICE.user_id: "a b&c"}, in_query=True), legacy=False) as bench:
        assert (await bench.ask(ALICE))[0] == "a b&c"


def test_parameters_stand_behind_those_of_the_address() -> None:
    credential = Credential(query={"key": SecretStr("x&y")}, version="1")
    assert with_query("https://up.example/mcp?a=1", credential) == "https://up.example/mcp?a=1&key=x%26y"
    assert with_query("https://up.example/mcp", NO_CREDENTIAL) == "https://up.example/mcp"


def test_a_credential_shows_no_value() -> None:
    secrets = {"X": SecretStr("s3cret")}
    shown = repr(Credential(headers=secrets, query=secrets, environment=secrets, version="1"))
    assert "s3cret" not in shown


async def test_variables_of_a_credential_reach_the_process_and_overrule_nothing(tmp_path: Path) -> None:
    async with world(tmp_path, tool=command("true")) as made:
        commands = made.client._transports._commands
        given = {"API_KEY": SecretStr("k"), "PATH": SecretStr("/evil"), "HOME": SecretStr("/evil")}
        async with commands.run("tool", given) as run:
            assert run.parameters.env is not None
            assert run.parameters.env["API_KEY"] == "k"
            assert "/evil" not in run.parameters.env.values()


async def test_a_stored_secret_is_opened_once_for_each_version() -> None:
    keyring = Keyring.parse(Keyring.generate("k"))
    stored = upstream(auth=Auth.BEARER)
    sealed = seal_secret(keyring, ORG, stored.id, "s3cret")
    secrets = SharedSecrets(keyring)
    first = upstream(auth=Auth.BEARER, secret=sealed, version=1)
    second = upstream(auth=Auth.BEARER, secret=seal_secret(keyring, ORG, stored.id, "other"), version=2)
    assert await secrets.credential(first, ALICE) is await secrets.credential(first, BOB)
    assert (await secrets.credential(first, ALICE)).headers["Authorization"].get_secret_value() == "Bearer s3cret"
    assert (await secrets.credential(second, ALICE)).headers["Authorization"].get_secret_value() == "Bearer other"
    assert await secrets.credential(upstream(auth=Auth.NONE), ALICE) is NO_CREDENTIAL


async def test_no_shared_secret_stands_in_for_a_connection_of_a_user() -> None:
    secrets = SharedSecrets(Keyring.parse(Keyring.generate("k")))
    with pytest.raises(UpstreamNeedsConnectionError):
        await secrets.credential(upstream(auth=Auth.OAUTH, transport=Transport.SSE), ALICE)


def _keys(pool: ConnectionPool) -> list[ConnectionKey]:
    return list(pool._connections)
