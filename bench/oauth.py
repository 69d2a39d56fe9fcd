"""What a user's own credential costs: a read of the vault, and a call with a connection beside one without.

The calls alternate, through one gateway process to one stand-in in this one, which answers both alike; so what differs
is the credential alone.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2

from agentapi._core import Keyring
from agentapi.egress import Egress
from agentapi.oauth import store
from agentapi.oauth.flow import Answer
from agentapi.oauth.vault import Vault
from agentapi.storage.database import Database
from agentapi.storage.embedded import APP_ROLE, embedded_postgres
from agentapi.storage.migrations import migrate
from agentapi.upstreams import store as upstream_store
from agentapi.upstreams.link import Caller
from agentapi.upstreams.models import Auth
from integration.api.harness import served
from integration.oauth.conftest import room_of
from integration.oauth.provider import Provider, provider
from page import write_section
from support.directories import open_directory
from support.echo_upstream import EchoUpstream
from support.gateway import Gateway
from support.plain import PLAIN
from support.raw import good_headers, modern_headers, modern_message
from tenants import make_tenant
from unit.oauth.sites import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from starlette.types import Receive, Scope, Send

_WARM_UP = 200
_BASE = "/api/v1/mcp/oauth"


class Stand:
    """The provider, and behind ``/mcp`` (with a token) and ``/open`` (without) a server that answers alike."""

    def __init__(self) -> None:
        self.provider = Provider()
        self._server = EchoUpstream(needs_credential=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        named = any(name == b"authorization" for name, _ in scope.get("headers", ()))
        if scope["type"] == "http" and (scope["path"] == "/open" or (scope["path"] == "/mcp" and named)):
            self._server.seen.clear()
            await self._server(scope, receive, send)
        else:
            await self.provider(scope, receive, send)


@asynccontextmanager
async def _stand() -> AsyncIterator[Stand]:
    stand = Stand()
    async with served(stand) as url:
        stand.provider.url = url
        stand.provider.lay_down()
        yield stand


async def _timed(work: Callable[[], Awaitable[object]]) -> float:
    begun = time.perf_counter()
    await work()
    return (time.perf_counter() - begun) * 1000


async def _calls(gateway: Gateway, rounds: int) -> dict[str, list[float]]:
    """Return milliseconds of calls by the kind of their upstream, after each has been made often enough to be warm."""
    headers = {"Authorization": f"Bearer {gateway.token}"}
    async with _stand() as stand, httpx2.AsyncClient(**PLAIN, timeout=30.0) as client:
        at = stand.provider
        ids = []
        for name, path, auth in (("open", "/open", "none"), ("own", "/mcp", "oauth")):
            made = await client.post(
                f"{gateway.base_url}/api/v1/mcp/configurations",
                json={"name": name, "transport": "http", "endpoint": f"{at.url}{path}", "auth": auth},
                headers=headers,
            )
            made.raise_for_status()
            ids.append(made.json()["id"])
        begun = await client.post(f"{gateway.base_url}{_BASE}/init", json={"upstream": ids[-1]}, headers=headers)
        begun.raise_for_status()
        given = at.agree(begun.json()["authorization_url"])
        cookie = begun.headers["set-cookie"].partition(";")[0]
        finished = await client.get(f"{gateway.base_url}{_BASE}/callback", params=given, headers={"Cookie": cookie})
        finished.raise_for_status()

        async def call(kind: str) -> None:
            message = modern_message("tools/call", {"name": f"{kind}__echo", "arguments": {}})
            answer = await client.post(
                gateway.mcp_url, json=message, headers={**good_headers(gateway.token), **modern_headers(message)}
            )
            assert "result" in answer.json(), answer.text

        spans: dict[str, list[float]] = {"open": [], "own": []}
        for number in range(_WARM_UP + rounds):
            for kind, taken in spans.items():
                milliseconds = await _timed(lambda kind=kind: call(kind))  # type: ignore[misc]
                if number >= _WARM_UP:
                    taken.append(milliseconds)
        return spans


async def _vault(directory: Path, rounds: int) -> dict[str, list[float]]:
    """Return milliseconds of what gives a call its credential, in process."""
    keyring = Keyring.parse(Keyring.generate("k1"))
    async with (
        embedded_postgres(directory) as postgres,
        provider() as at,
        Egress(LOOPBACK, timeout_s=5.0) as egress,
    ):
        await migrate(postgres.owner_dsn, APP_ROLE)
        database = await Database.connect(postgres.app_dsn, pool_min=1, pool_max=4, timeout_s=5.0)
        tenant = await make_tenant(database)
        upstream = replace(tenant.upstream("bench"), auth=Auth.OAUTH, endpoint=f"{at.url}/mcp")
        async with database.tenant_transaction(tenant.principal) as connection:
            await upstream_store.insert_upstream(connection, upstream)
        room = room_of(database, egress, keyring, lambda: datetime.now(UTC))
        begun = await room.flows.init(tenant.principal, upstream)
        given = at.agree(begun.url)
        answer = Answer(state=given["state"], code=given["code"], issuer=given.get("iss"))
        held = (await room.flows.finish(answer, browser=begun.browser)).connection
        caller = Caller(tenant.principal.org_id, tenant.principal.user_id)
        vault = Vault(keyring)

        async def read_and_open() -> None:
            async with database.user_transaction(caller.org_id, caller.user_id) as connection:
                found = await store.find_connection(connection, caller.user_id, upstream.id)
            assert found is not None
            vault.open_grant(found)

        async def opened() -> None:
            vault.open_grant(held)

        async def kept() -> None:
            await room.credentials.credential(upstream, caller)

        work: dict[str, Callable[[], Awaitable[Any]]] = {"read": read_and_open, "open": opened, "kept": kept}
        spans = {name: [await _timed(each) for _ in range(_WARM_UP + rounds)][_WARM_UP:] for name, each in work.items()}
        await database.close()
    return spans


def _row(name: str, milliseconds: list[float], unit: str = "ms") -> str:
    scale = 1000 if unit == "µs" else 1
    p95 = statistics.quantiles(milliseconds, n=20)[-1]
    return f"| {name} | {statistics.median(milliseconds) * scale:.2f} {unit} | {p95 * scale:.2f} {unit} |"


def _markdown(calls: dict[str, list[float]], vault: dict[str, list[float]], rounds: int) -> str:
    more = statistics.median(calls["own"]) - statistics.median(calls["open"])
    return "\n".join(
        [
            "## A user's own credential",
            "",
            f"`make bench-oauth` measures this anew: {rounds} times each, one after the other. The two calls",
            "alternate, through one `agentapi dev` to one server on loopback that answers both alike.",
            "",
            "| | p50 | p95 |",
            "|---|---|---|",
            _row("vault: read the row in a transaction of its user, and open it", vault["read"]),
            _row("vault: open alone (AES-256-GCM and JSON)", vault["open"], "µs"),
            _row("credential of a warm connection, as a call gets it", vault["kept"], "µs"),
            _row("`tools/call` without a credential", calls["open"]),
            _row("`tools/call` with a warm connection", calls["own"]),
            "",
            f"A warm connection costs a call {more * 1000:+.0f} µs at p50 in this run.",
            "",
        ]
    )


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--out", type=Path, help="Markdown file whose section is replaced; standard output without it")
    options = parser.parse_args()
    with open_directory() as scratch:
        vault = asyncio.run(_vault(scratch / "vault", options.rounds))
        with Gateway.start(data_dir=scratch / "data") as gateway:
            calls = asyncio.run(_calls(gateway, options.rounds))
    text = _markdown(calls, vault, options.rounds)
    if options.out:
        write_section(options.out, "bench-oauth", text)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
