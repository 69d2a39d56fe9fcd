from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from agentapi.principal import UserId
from agentapi.upstreams.models import Auth
from support.echo_upstream import EchoUpstream
from unit.gateway.relaying import Relaying, relaying, target
from unit.upstreams.doubles import PRINCIPAL, USER, upstream
from unit.upstreams.keepers import Keeper
from unit.upstreams.servers import serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from agentapi.principal import Principal
    from agentapi.upstreams.models import Upstream

BOB = replace(PRINCIPAL, user_id=UserId(UUID(int=3)))


class Bench:
    """A relay whose upstream echoes."""

    def __init__(self, relay: Relaying, server: EchoUpstream, to: Upstream) -> None:
        self.relay, self.server, self.to = relay, server, to

    async def ask(self, principal: Principal = PRINCIPAL) -> tuple[str, int]:
        """Return the credential that a call arrived with, and the port it came from."""
        client = await self.relay.call(target(self.to), principal=principal)
        token, _, port = client.answer["result"]["content"][0]["text"].partition(" on ")
        return token, int(port)

    async def fail(self) -> dict[str, Any]:
        client = await self.relay.call(target(self.to))
        error: dict[str, Any] = json.loads(client.body)["error"]
        return error


@contextlib.asynccontextmanager
async def echoing(keeper: Keeper) -> AsyncIterator[Bench]:
    server = EchoUpstream()
    async with serving(server) as base, relaying(credentials=keeper) as relay:
        yield Bench(relay, server, upstream("one", endpoint=f"{base}/mcp", auth=Auth.OAUTH))


@pytest.mark.parametrize("version", ["", "the same"])
async def test_two_users_share_neither_a_head_nor_a_connection(version: str) -> None:
    async with echoing(Keeper({USER: "alice-1", BOB.user_id: "bob-1"}, version=version)) as bench:
        answers = [await bench.ask(principal) for principal in (PRINCIPAL, BOB, PRINCIPAL, BOB)]
        assert [token for token, _ in answers] == ["alice-1", "bob-1", "alice-1", "bob-1"]
        ports = [port for _, port in answers]
        assert (ports[0], ports[1]) == (ports[2], ports[3])
        assert ports[0] != ports[1]


async def test_a_new_credential_of_a_user_takes_a_new_connection_and_the_old_one_is_closed() -> None:
    keeper = Keeper({USER: "alice-1", BOB.user_id: "bob-1"})
    async with echoing(keeper) as bench:
        _, old = await bench.ask()
        _, other = await bench.ask(BOB)
        keeper.tokens[USER] = "alice-2"
        bench.relay.relay.close_user(bench.to.id, USER)
        assert bench.relay.pool.idle == 1
        token, new = await bench.ask()
        assert (token, old != new) == ("alice-2", True)
        assert await bench.ask(BOB) == ("bob-1", other)


async def test_of_a_user_whose_connection_is_closed_no_head_is_kept() -> None:
    async with echoing(Keeper({USER: "alice-1", BOB.user_id: "bob-1"})) as bench:
        wires = bench.relay.relay._wires
        await bench.ask()
        await bench.ask(BOB)
        assert {place[2] for place in wires._wires} == {USER, BOB.user_id}
        bench.relay.relay.close_user(bench.to.id, USER)
        assert {place[2] for place in wires._wires} == {BOB.user_id}


async def test_a_new_credential_is_used_even_if_nobody_said_that_it_changed() -> None:
    keeper = Keeper({USER: "alice-1"})
    async with echoing(keeper) as bench:
        _, old = await bench.ask()
        keeper.tokens[USER] = "alice-2"
        token, new = await bench.ask()
        assert (token, old != new) == ("alice-2", True)


async def test_a_refused_credential_is_renewed_once_and_the_request_sent_again() -> None:
    keeper = Keeper({USER: "alice-1"}, renewals=["alice-2"])
    async with echoing(keeper) as bench:
        bench.server.refuses["alice-1"] = 'Bearer error="invalid_token"'
        assert (await bench.ask())[0] == "alice-2"
        assert [each.credential for each in bench.server.calls] == ["alice-1", "alice-2"]


async def test_an_upstream_that_refuses_everything_is_asked_twice() -> None:
    keeper = Keeper({USER: "alice-1"}, renewals=["alice-2", "alice-3"])
    async with echoing(keeper) as bench:
        bench.server.refuses["*"] = "Bearer"
        error = await bench.fail()
        assert error["data"]["code"] == "connection_required"
        assert [each.credential for each in bench.server.calls] == ["alice-1", "alice-2"]
        assert len(keeper.rejections) == 2


async def test_missing_scopes_end_the_request() -> None:
    keeper = Keeper({USER: "alice-1"}, renewals=["alice-2"])
    async with echoing(keeper) as bench:
        bench.server.refuses["*"] = 'Basic realm="x", Bearer error="insufficient_scope", scope="write"'
        await bench.fail()
        assert [challenge.scopes for challenge in keeper.rejections] == [("write",)]
        assert len(bench.server.calls) == 1


async def test_without_a_credential_nothing_is_sent() -> None:
    async with echoing(Keeper()) as bench:
        assert (await bench.fail())["data"]["code"] == "connection_required"
        assert bench.server.seen == []


@pytest.mark.parametrize("token", ["evil\r\nX-Injected: 1", "evil\x00"])
async def test_a_credential_that_would_end_its_line_is_not_sent(token: str) -> None:
    async with echoing(Keeper({USER: token})) as bench:
        assert "cannot be sent in a header" in (await bench.fail())["message"]
        assert bench.server.seen == []
