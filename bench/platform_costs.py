"""What every request to the API pays for being authorised, and what a system prompt of many parts costs.

    PYTHONPATH=python:tests:bench python bench/platform_costs.py [--repetitions 1000] [--out FILE]

It is not called ``platform.py``: with ``bench`` on the path, whoever imports the standard library's would get it.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from pathlib import Path
from statistics import quantiles
from timeit import Timer
from typing import TYPE_CHECKING, Any

import httpx2
from starlette.requests import Request
from starlette.routing import Route

from agentapi._core import Keyring
from agentapi.identity.access import guard_routes
from agentapi.identity.permissions import Permission, require
from agentapi.identity.token_issuer import TokenIssuer
from agentapi.prompts.compose import compose
from agentapi.prompts.models import Scope, Variable
from agentapi.storage.database import Database
from agentapi.storage.embedded import APP_ROLE, embedded_postgres
from agentapi.storage.migrations import migrate
from integration.api.harness import ISSUER, PUBLIC_URL, Api, lifespan_of, served, settings_for
from page import write_section
from support.directories import open_directory
from tenants import make_tenant
from unit.prompts.samples import prompt

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.applications import Starlette
    from starlette.types import Receive, Send
    from starlette.types import Scope as AsgiScope

    from agentapi.principal import Principal

PARTS = (10, 100)
_WARM_UP = 100
_TEXT = "You work for {{ team }}. Answer {{ name }} in whole sentences, and say so where you do not know. " * 4
_VALUES = {"team": "research", "name": "Ada"}


async def _nothing(*_: object) -> None:
    pass


async def _timed(work: Callable[[], Awaitable[object]], repetitions: int) -> list[float]:
    """Return microseconds of each of so many turns."""
    spans = []
    for _ in range(_WARM_UP + repetitions):
        begun = time.perf_counter_ns()
        await work()
        spans.append((time.perf_counter_ns() - begun) / 1000)
    return spans[_WARM_UP:]


def _scope(token: str) -> AsgiScope:
    headers = [(b"host", b"gateway.example"), (b"authorization", f"Bearer {token}".encode())]
    return {
        "type": "http",
        "method": "GET",
        "path": "/api/v1/workspaces",
        "headers": headers,
        "query_string": b"",
        "state": {},
    }


async def _guard(gateway: Starlette, principal: Principal, token: str, repetitions: int) -> dict[str, list[float]]:
    """Return what stands before a route: the look in the table, and who asks."""
    bare: Any = Route("/api/v1/workspaces", _nothing)
    bare.app = _nothing
    guarded: Any = Route("/api/v1/workspaces", _nothing)
    guarded.app = _nothing

    async def known(_: Request) -> Principal:
        return principal

    guard_routes([guarded], known)
    real: Any = next(
        route.app
        for route in gateway.router.routes
        if isinstance(route, Route) and route.path == "/api/v1/workspaces" and "GET" in (route.methods or ())
    )
    authorize = real._authorize  # noqa: SLF001 - the one that the application made
    receive: Receive = _nothing  # type: ignore[assignment] # nothing is received
    send: Send = _nothing

    async def authorized() -> None:
        require(await authorize(Request(_scope(token))), Permission.WORKSPACES_READ)

    permission = Timer(lambda: require(principal, Permission.WORKSPACES_READ))
    calls = 10_000
    return {
        "the permission of a role": [seconds / calls * 1e6 for seconds in permission.repeat(20, calls)],
        "no guard": await _timed(lambda: bare.app(_scope(token), receive, send), repetitions),
        "the guard, whoever asks being known": await _timed(
            lambda: guarded.app(_scope(token), receive, send), repetitions
        ),
        "the principal of a token seen before, and the permission": await _timed(authorized, repetitions),
    }


async def _compositions(api: Api, repetitions: int) -> dict[str, list[float]]:
    """Return what a composition costs by itself, and over HTTP with its parts in the database."""
    variables = (Variable("team"), Variable("name"))
    spans: dict[str, list[float]] = {}
    caller, stored = api.caller(), 0
    for parts in PARTS:
        scopes = (Scope.GLOBAL, Scope.ORGANIZATION, Scope.WORKSPACE, Scope.USER)
        prompts = [prompt(_TEXT, scopes[n % 4], name=f"part-{n}", variables=variables) for n in range(parts)]

        async def composed(prompts: list[Any] = prompts) -> None:
            compose(prompts, _VALUES)

        spans[f"{parts} prompts"] = await _timed(composed, repetitions)
        declared = [{"name": "team"}, {"name": "name"}]
        for number in range(stored, parts):
            body = {"name": f"part-{number}", "scope": "organization", "text": _TEXT, "variables": declared}
            answer = await caller.request("POST", "/api/v1/prompts", json=body)
            assert answer.status_code == 201, answer.text
        stored = parts

        async def asked() -> None:
            answer = await caller.request("POST", "/api/v1/prompts/compose", json={"variables": _VALUES})
            assert answer.status_code == 200, answer.text

        spans[f"{parts} prompts, over HTTP"] = await _timed(asked, repetitions // 5)
    return spans


async def _run(scratch: Path, repetitions: int) -> dict[str, list[float]]:
    issuer = TokenIssuer.from_file(ISSUER, scratch / "issuer.json")
    async with embedded_postgres(scratch / "data") as postgres:
        await migrate(postgres.owner_dsn, APP_ROLE)
        database = await Database.connect(postgres.app_dsn, pool_min=1, pool_max=1, timeout_s=5.0)
        tenant = await make_tenant(database)
        await database.close()
        settings = settings_for(postgres, issuer, Keyring.generate("k1"), scratch / "state")
        async with lifespan_of(settings) as gateway, served(gateway) as url:
            headers = {"host": PUBLIC_URL.partition("//")[2]}
            async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=30.0) as client:
                api = Api(client, issuer, tenant)
                token = api.caller().token
                guard = await _guard(gateway, tenant.principal, token, repetitions)
                return {**guard, **await _compositions(api, repetitions)}


def _markdown(spans: dict[str, list[float]], repetitions: int) -> str:
    rows = []
    for name, taken in spans.items():
        cut = quantiles(taken, n=20)
        rows.append(f"| {name} | {_shown(cut[9])} | {_shown(cut[18])} |")
    head = f"""## Authorisation and composition

`make bench-platform`, medians and 95th percentiles of {repetitions} turns. A prompt has {len(_TEXT)} characters, with
eight places for two variables. Over HTTP client and gateway share a process, and the request is in the figure.

| what | p50 | p95 |
|---|---|---|"""
    return "\n".join([head, *rows, ""])


def _shown(microseconds: float) -> str:
    return f"{microseconds:.2f} µs" if microseconds < 1000 else f"{microseconds / 1000:.2f} ms"


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--repetitions", type=int, default=1000)
    parser.add_argument("--out", type=Path, help="Markdown file whose section is replaced; standard output without it")
    options = parser.parse_args()
    with open_directory() as scratch:
        text = _markdown(asyncio.run(_run(scratch, options.repetitions)), options.repetitions)
    if options.out:
        write_section(options.out, "bench-platform", text)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
