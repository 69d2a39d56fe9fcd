"""What connecting an account takes: ``init`` and ``callback`` of a gateway process, beside what its provider takes.

The provider is a stand-in of the tests in this process. It is asked for the same documents directly, so that what is
left is the gateway's own: PKCE, sealing, two transactions of PostgreSQL and the log.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2

from integration.oauth.provider import provider
from page import write_section
from support.directories import open_directory
from support.gateway import Gateway
from support.plain import PLAIN

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from integration.oauth.provider import Provider

_WARM_UP = 20
_BASE = "/api/v1/mcp/oauth"
_PROBE = {"jsonrpc": "2.0", "id": 1, "method": "ping"}


class Spans(dict[str, list[float]]):
    """Milliseconds by what took them."""

    @asynccontextmanager
    async def of(self, name: str) -> AsyncIterator[None]:
        begun = time.perf_counter()
        yield
        self.setdefault(name, []).append((time.perf_counter() - begun) * 1000)


async def _round(spans: Spans, api: httpx2.AsyncClient, plain: httpx2.AsyncClient, at: Provider, upstream: str) -> None:
    async with spans.of("init"):
        begun = await api.post(f"{_BASE}/init", json={"upstream": upstream})
    begun.raise_for_status()
    answer = at.agree(begun.json()["authorization_url"])
    cookie = begun.headers["set-cookie"].partition(";")[0]
    async with spans.of("callback"):
        page = await api.get(f"{_BASE}/callback", params=answer, headers={"Cookie": cookie})
    page.raise_for_status()
    async with spans.of("discovery"):
        await plain.post(f"{at.url}/mcp", json=_PROBE)
        await plain.get(f"{at.url}/.well-known/oauth-protected-resource/mcp")
        await plain.get(f"{at.url}/.well-known/oauth-authorization-server")
    form = {"grant_type": "refresh_token", "refresh_token": at.refresh_tokens.copy().pop()}
    async with spans.of("token"):
        (await plain.post(f"{at.url}/token", data=form)).raise_for_status()


async def _measure(gateway: Gateway, rounds: int) -> Spans:
    spans = Spans()
    headers = {"Authorization": f"Bearer {gateway.token}"}
    given: dict[str, Any] = {**PLAIN, "timeout": 30.0}
    async with (
        provider() as at,
        httpx2.AsyncClient(base_url=gateway.base_url, headers=headers, **given) as api,
        httpx2.AsyncClient(**given) as plain,
    ):
        configuration = {"name": "bench", "transport": "http", "endpoint": f"{at.url}/mcp", "auth": "oauth"}
        made = await api.post("/api/v1/mcp/configurations", json=configuration)
        made.raise_for_status()
        for number in range(_WARM_UP + rounds):
            if number == _WARM_UP:
                spans.clear()
            await _round(spans, api, plain, at, made.json()["id"])
    return spans


def _row(name: str, milliseconds: list[float]) -> str:
    p95 = statistics.quantiles(milliseconds, n=20)[-1]
    return f"| {name} | {statistics.median(milliseconds):.1f} ms | {p95:.1f} ms |"


def _markdown(spans: Spans, rounds: int) -> str:
    rows = {
        "`POST .../oauth/init`, with discovery": "init",
        "asked directly: challenge, metadata of resource and server": "discovery",
        "`GET .../oauth/callback`": "callback",
        "asked directly: one token request": "token",
    }
    return "\n".join(
        [
            "## Connecting an account",
            "",
            f"`make bench-oauth-flow` measures this anew: {rounds} times one after the other, with `agentapi dev` in a",
            "process of its own and a provider on loopback in that of the browser. The provider's own time is part of",
            "the gateway's; the rows *asked directly* show how much.",
            "",
            "| request | p50 | p95 |",
            "|---|---|---|",
            *(_row(name, spans[key]) for name, key in rows.items()),
            "",
        ]
    )


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--out", type=Path, help="Markdown file whose section is replaced; standard output without it")
    options = parser.parse_args()
    with open_directory() as scratch, Gateway.start(data_dir=scratch / "data") as gateway:
        spans = asyncio.run(_measure(gateway, options.rounds))
    text = _markdown(spans, options.rounds)
    if options.out:
        write_section(options.out, "bench-oauth-flow", text)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
