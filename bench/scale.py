"""How fast lists and queries answer over 1,000 organisations with 100 users each and 1,000,000 audit rows.

    PYTHONPATH=python:tests:bench python bench/scale.py [--repetitions 150] [--out FILE]

One client asks ``agentapi serve`` for one thing after the other, as the admin of the organisation that has a tenth of
all audit rows, and as those of others in turn, so that no page is remembered from the request before. Endpoints are
those of ``identity/access.py``: a new list is measured without anybody's doing.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import cycle
from pathlib import Path
from statistics import quantiles
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import asyncpg

from agentapi.identity.access import ROUTES
from agentapi.identity.permissions import Permission
from agentapi.identity.token_issuer import TokenIssuer
from agentapi.principal import Role
from agentapi.storage.embedded import APP_ROLE, embedded_postgres
from agentapi.storage.migrations import migrate
from agentapi.tenancy.models import user_id_of
from page import write_section
from support.deployment import deployment_environment, serving
from support.directories import open_directory
from support.filling import TENANT_TABLES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from agentapi.storage.embedded import EmbeddedPostgres

TARGET_MS = 20.0
ISSUER = "https://issuer.example"
LARGE = 1
"""The number of the organisation that has a tenth of the audit log."""
ROWS = Path(__file__).with_name("scale.sql")
_AUDIENCE = "https://scale.example"
_OTHERS = range(2, 42)
_WARM_UP = 20
_LEFT_OUT = {
    "GET /api/v1/mcp/explain": "it asks upstream servers",
    "GET /api/v1/audit/export": "it streams every row",
}
_QUERIES = {
    "GET /api/v1/audit": (
        {"action": "configuration.updated"},
        {"outcome": "denied"},
        {"actor_id": "{actor_id}"},
        {"resource": "{resource}"},
        {"request_id": "{request_id}"},
        {"since": "2000-01-01T00:00:00Z", "limit": "200"},
        {"until": "{half_a_year_ago}"},
        {"action": "nothing.such"},
    ),
    "GET /api/v1/mcp/approvals": ({"state": "held"},),
    "GET /api/v1/mcp/configurations": ({"workspace": "main"},),
}
"""What is asked besides the first page, the second, and a page of 200."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request, as it is shown and as it is sent by each organisation."""

    shown: str
    paths: tuple[str, ...]


class Client:
    """Keeps one connection to the gateway."""

    def __init__(self, address: str, tokens: dict[str, str]) -> None:
        self.tokens = tokens
        self._connection = http.client.HTTPConnection(address)

    def get(self, slug: str, path: str) -> Any:
        """Return the document at ``path``, or None where there is none."""
        self._connection.request("GET", path, headers={"Authorization": f"Bearer {self.tokens[slug]}"})
        answer = self._connection.getresponse()
        body = answer.read()
        if answer.status not in {200, 404}:
            message = f"{path}: {answer.status} {body[:400].decode()}"
            raise RuntimeError(message)
        return json.loads(body) if answer.status == http.client.OK else None

    def timed(self, slug: str, path: str) -> float:
        """Return how long an answer took, in milliseconds."""
        begun = time.perf_counter()
        found = self.get(slug, path)
        taken = (time.perf_counter() - begun) * 1000
        assert found is not None, path
        return taken


def slug_of(number: int) -> str:
    """Return the slug of an organisation."""
    return f"org-{number}"


async def fill(superuser: asyncpg.Connection[Any], options: argparse.Namespace) -> None:
    """Fill a database that was migrated and holds nothing."""
    amounts = {
        "organizations": options.organizations,
        "users": options.users,
        "audit_rows": options.audit_rows,
        "issuer": ISSUER,
        "admin": user_id_of(ISSUER, "admin"),
    }
    for name, value in amounts.items():
        await superuser.fetchval("SELECT set_config($1, $2, false)", f"scale.{name}", str(value))
    await superuser.execute(ROWS.read_text())
    for statement in ("VACUUM ANALYZE", "CHECKPOINT"):
        await superuser.execute(statement)


def _lists() -> Iterator[str]:
    for name, access in ROUTES.items():
        method, path = name.split(" ", 1)
        if method == "GET" and isinstance(access, Permission) and "{" not in path and name not in _LEFT_OUT:
            yield path


def _requests(client: Client, slugs: tuple[str, ...]) -> list[Asked]:
    """Return what is asked of every list: its first page, its second, a long one, queries, and one of its items."""
    # What the machine adds: it asks no database, and nobody who it is that asks.
    asked = [Asked("/live", ("/live",) * len(slugs))]
    for path in _lists():
        firsts = [client.get(slug, path) for slug in slugs]
        asked.append(Asked(path, (path,) * len(slugs)))
        if firsts[0] is None or "items" not in firsts[0]:
            continue
        asked.append(Asked(f"{path}?limit=200", (f"{path}?limit=200",) * len(slugs)))
        if all(first.get("next_cursor") for first in firsts):
            paths = tuple(f"{path}?{urlencode({'cursor': first['next_cursor']})}" for first in firsts)
            asked.append(Asked(f"{path}?cursor=", paths))
        for query in _QUERIES.get(f"GET {path}", ()):
            paths = tuple(f"{path}?{urlencode(_filled(query, first))}" for first in firsts)
            shown = "&".join(f"{name}={value.strip('{}')}" for name, value in query.items())
            asked.append(Asked(f"{path}?{shown}", paths))
        asked += _items(client, slugs, path, firsts)
    return asked


def _filled(query: dict[str, str], first: dict[str, Any]) -> dict[str, str]:
    row = {**first["items"][0], "half_a_year_ago": (datetime.now(UTC) - timedelta(days=180)).isoformat()}
    return {name: value.format(**row) if value.startswith("{") else value for name, value in query.items()}


def _items(client: Client, slugs: tuple[str, ...], path: str, firsts: list[dict[str, Any]]) -> Iterator[Asked]:
    for name, access in ROUTES.items():
        template = name.partition(" ")[2]
        if not (name.startswith(f"GET {path}/{{") and isinstance(access, Permission)):
            continue
        rest = template.partition("}")[2]
        paths = tuple(f"{path}/{first['items'][0]['id']}{rest}" for first in firsts if first["items"])
        if len(paths) == len(slugs) and all(client.get(*each) is not None for each in zip(slugs, paths, strict=True)):
            yield Asked(template, paths)


def _measure(client: Client, repetitions: int) -> list[tuple[str, list[float], list[float]]]:
    """Return milliseconds by request: of the large organisation, and of the others in turn."""
    large = (slug_of(LARGE),)
    others = tuple(slug_of(number) for number in _OTHERS)
    by_shown: dict[str, list[list[float]]] = {}
    for slugs in (large, others):
        for asked in _requests(client, slugs):
            turns = cycle(zip(slugs, asked.paths, strict=True))
            spans = [client.timed(*next(turns)) for _ in range(_WARM_UP + repetitions)][_WARM_UP:]
            by_shown.setdefault(asked.shown, []).append(spans)
    return [(shown, spans[0], spans[1]) for shown, spans in by_shown.items() if len(spans) == len((large, others))]


@asynccontextmanager
async def _database(
    directory: Path, options: argparse.Namespace
) -> AsyncIterator[tuple[EmbeddedPostgres, str, list[str]]]:
    """Run a filled database; yield it with how long filling it took and which tables have no rows."""
    async with embedded_postgres(directory) as postgres:
        await migrate(postgres.owner_dsn, APP_ROLE)
        superuser = await asyncpg.connect(postgres.superuser_dsn)
        begun = time.perf_counter()
        await fill(superuser, options)
        taken = f"{time.perf_counter() - begun:.0f} s"
        tables = [row["name"] for row in await superuser.fetch(TENANT_TABLES)]
        empty = [name for name in tables if not await superuser.fetchval(f"SELECT EXISTS (SELECT FROM {name})")]  # noqa: S608
        await superuser.close()
        yield postgres, taken, empty


async def _run(scratch: Path, options: argparse.Namespace) -> str:
    issuer = TokenIssuer.from_file(ISSUER, scratch / "issuer.json")
    accepted = [
        {
            "issuer": ISSUER,
            "audiences": [_AUDIENCE],
            "jwks": issuer.key_set(),
            "claims": {"roles": {"platform_admin": "platform_admin"}},
        }
    ]
    tokens = {
        slug: issuer.mint(
            subject="admin",
            audiences=[_AUDIENCE],
            organization=slug,
            # What any admin may ask for, and what the platform's may besides.
            role=Role.PLATFORM_ADMIN,
            lifetime_s=3600,
        )
        for slug in map(slug_of, (LARGE, *_OTHERS))
    }
    async with _database(scratch / "data", options) as (postgres, taken, empty):
        env = deployment_environment(postgres, scratch, json.dumps(accepted))
        with serving({**env, "AGENTAPI_ENVIRONMENT": "development"}, scratch / "log.txt") as (url, _):
            client = Client(urlsplit(url).netloc, tokens)
            measured = await asyncio.to_thread(_measure, client, options.repetitions)
    return _markdown(measured, options, taken, empty)


def _markdown(
    measured: list[tuple[str, list[float], list[float]]], options: argparse.Namespace, taken: str, empty: list[str]
) -> str:
    over = 0
    rows = []
    for shown, *both in measured:
        cells = []
        for spans in both:
            cut = quantiles(spans, n=20)
            over += cut[18] > TARGET_MS
            cells += [f"{cut[9]:.1f} ms", f"{cut[18]:.1f} ms" if cut[18] <= TARGET_MS else f"**{cut[18]:.1f} ms**"]
        rows.append(f"| `{shown}` | {' | '.join(cells)} |")
    verdict = f"{over} figures miss it" if over else "all figures meet it"
    left_out = "; ".join(f"`{name}`, since {why}" for name, why in _LEFT_OUT.items())
    text = f"""## Lists and queries at scale

`make bench-scale`: {options.organizations:,} organisations with {options.users} users each and {options.audit_rows:,}
audit rows of a year, a tenth of them of one organisation, in the embedded PostgreSQL as it comes; filled in {taken}.
One client asks over HTTP, {options.repetitions} times for a figure; *others* are 40 organisations in turn, and
`/live` is what the machine adds. The target is a p95 of {TARGET_MS:.0f} ms; {verdict}.
Hashes of the audit rows chain nothing, which no query reads.
Left out: {left_out}."""
    if empty:
        text += f"\nTables without rows, whose lists are empty: {', '.join(empty)}."
    head = "| request | large, p50 | large, p95 | others, p50 | others, p95 |\n|---|---|---|---|---|"
    return "\n".join([text, "", head, *rows, ""])


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--organizations", type=int, default=1_000)
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--audit-rows", type=int, default=1_000_000)
    parser.add_argument("--repetitions", type=int, default=150)
    parser.add_argument("--out", type=Path, help="Markdown file whose section is replaced; standard output without it")
    options = parser.parse_args()
    with open_directory() as scratch:
        text = asyncio.run(_run(scratch, options))
    if options.out:
        write_section(options.out, "bench-scale", text)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
