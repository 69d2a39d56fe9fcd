"""The two organisations behind one running gateway, and what is watched while one of them acts."""

from __future__ import annotations

import contextlib
import random
import re
import secrets
from collections import Counter
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx2

from agentapi.identity.access import ROUTES, Open
from agentapi.principal import Role
from agentapi.storage.database import Database
from integration.api.harness import PUBLIC_URL, Api, configuration, served
from integration.isolation.side import Side
from integration.isolation.steps import Made, make
from integration.isolation.traces import Traces, ids_in
from integration.isolation.upstream import canary_server
from support.filling import TENANT_TABLES
from tenants import make_tenant

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from starlette.applications import Starlette

    from agentapi.identity.token_issuer import TokenIssuer
    from agentapi.storage.embedded import EmbeddedPostgres
    from integration.isolation.steps import Step

__all__ = ["LeakError", "World", "two_organisations"]

_UNWATCHED = {"audit_checkpoints", "audit_log"}
"""Checkpoints are taken when their time has come, and a refusal has its row a moment later, whoever acts by then. Both
are added to and nothing else; ``misplaced`` says whether a row is in the wrong log."""
_DIGEST = """
SELECT '{0}' AS name, count(*) AS rows, md5(string_agg(row, '' ORDER BY row)) AS hash
FROM (SELECT md5((to_jsonb(t) - 'last_used_at')::text) AS row FROM {0} t WHERE {1} = $1) AS rows
"""
"""When a key was last used is noted behind the request's back."""
_MISPLACED = "SELECT action FROM audit_log WHERE org_id = $1 AND request_id = ANY($2)"
_PLATFORM_PATHS = ("/api/v1/platform/", "/api/v1/audit")
"""Where a platform admin is told of other organisations: of each its row, and what the deployment's log has of it."""
_WRITER = re.compile(rb'"writer_id": ?"([0-9a-f-]{36})"')
_TIMEOUT_S = 30.0
_SCOPES = ["api:read", "api:write", "mcp:prompts", "mcp:resources", "mcp:tools"]
_PUBLIC = {
    name.removeprefix("GET ")
    for name, access in ROUTES.items()
    if isinstance(access, Open) and name.startswith("GET ") and "{" not in name
}
_FORM = {
    "fields": [{"name": "token", "label": "Token"}],
    "placements": [{"place": "header", "name": "X-Token", "value": "{token}"}],
}


class LeakError(AssertionError):
    """One organisation has had something of the other."""


class World:
    """Both organisations, and what was seen of them."""

    def __init__(self, sides: tuple[Side, Side], superuser: asyncpg.Connection[Any]) -> None:
        self.sides = sides
        self.superuser = superuser
        self.requests: tuple[set[str], set[str]] = (set(), set())
        """The ids of the requests that each side made."""
        self.common: set[bytes] = {bytes(32).replace(b"\0", b"0")}
        """Ids that both have: people with one subject at one issuer are one user in each organisation, a process of the
        gateway writes the logs of both, and a global prompt is everybody's."""
        self.seen: Counter[str] = Counter()
        self._digest_sql = ""
        self._leak: LeakError | None = None

    async def play(self, turns: Sequence[tuple[int, Sequence[Step]]]) -> None:
        """Let the sides act in turn.

        Raises:
            LeakError: A side received a trace of the other, or changed one of its rows.
        """
        if self._leak is not None:
            # The example is run again to be shown; the organisations are others by now.
            raise self._leak
        try:
            for number, steps in turns:
                await self._turn(self.sides[number], self.sides[1 - number], steps)
        except LeakError as leak:
            self._leak = leak
            raise
        self.seen["sequences"] += 1

    async def _turn(self, own: Side, other: Side, steps: Sequence[Step]) -> None:
        # Hypothesis lets each example begin with the same numbers; ids of requests are made of them.
        random.seed(secrets.token_bytes(16))
        before = await self.digest(other)
        told = [await self.act(step, own, other) for step in steps]
        after = await self.digest(other)
        if after != before:
            changed = sorted(name for name in before if before[name] != after[name])
            raise LeakError(f"rows of the other organisation in {changed} are others after {told}")

    async def act(self, step: Step, own: Side, other: Side) -> str:
        """Make one request and look at what comes back."""
        made = make(step, self.seen["requests"], own, other)
        request = own.api.http.build_request(made.method, made.path, headers=made.headers, json=made.json)
        other.traces.sent |= other.traces.found_in(str(request.url).encode() + b"\n" + _head(request) + request.content)
        answer = await own.api.http.send(request)
        received = _head(answer) + answer.content
        self.requests[self.sides.index(own)].add(answer.headers.get("x-request-id", ""))
        told = f"{made.name} by {made.caller}: {made.method} {made.path} -> {answer.status_code}"
        if answer.status_code >= 500 and answer.status_code not in {502, 503, 504}:
            raise LeakError(f"{told} {answer.text}")
        leaked = other.traces.found_in(received) - other.traces.sent - self.common
        if made.caller == Role.PLATFORM_ADMIN and made.path.startswith(_PLATFORM_PATHS):
            leaked -= other.traces.public
        if leaked:
            raise LeakError(
                f"{told} has {sorted(leaked)} of the other organisation: {received.decode(errors='replace')}"
            )
        self.common |= {id_.replace(b"-", b"") for id_ in _WRITER.findall(received)}
        if isinstance(made.json, dict) and made.json.get("scope") == "global":
            self.common |= ids_in(received)
        self._count(made, answer, own, received)
        own.learn(answer, made.caller, made.name)
        if made.path.startswith(_PLATFORM_PATHS[0]):
            own.traces.public |= own.traces.found_in(received)
        elif made.caller != "nobody":
            # An id of the other side that came back, because it was sent, is not this one's.
            known = self.common | other.traces.ids | other.traces.public | own.traces.public
            own.traces.learn(received, known)
        return told

    async def misplaced(self) -> list[str]:
        """Return the acts of one side that the log of the other tells of."""
        rows = []
        for number, side in enumerate(self.sides):
            rows += await self.superuser.fetch(_MISPLACED, side.traces.org_id, self.requests[1 - number] - {""})
        return [row["action"] for row in rows]

    def _count(self, made: Made, answer: httpx2.Response, own: Side, received: bytes) -> None:
        self.seen["requests"] += 1
        self.seen[f"caller {made.caller}"] += 1
        self.seen[f"{'foreign' if made.aims_at else 'other'} {made.name}"] += 1
        self.seen[f"{answer.status_code // 100}xx {made.name}"] += 1
        self.seen["aimed at the other"] += bool(made.aims_at)
        self.seen["own traces seen"] += bool(own.traces.found_in(received))

    async def digest(self, side: Side) -> dict[str, tuple[int, str]]:
        """Return how many rows of each table are an organisation's, and a hash of all of them."""
        if not self._digest_sql:
            tables = [row["name"] for row in await self.superuser.fetch(TENANT_TABLES)]
            self._digest_sql = " UNION ALL ".join(
                _DIGEST.format(name, "id" if name == "organizations" else "org_id")
                for name in tables
                if name not in _UNWATCHED
            )
        rows = await self.superuser.fetch(self._digest_sql, side.traces.org_id)
        return {row["name"]: (row["rows"], row["hash"]) for row in rows}


def _head(message: httpx2.Request | httpx2.Response) -> bytes:
    return b"\n".join(name + b": " + value for name, value in message.headers.raw) + b"\n\n"


@contextlib.asynccontextmanager
async def two_organisations(
    gateway: Starlette, postgres: EmbeddedPostgres, issuer: TokenIssuer
) -> AsyncIterator[World]:
    """Serve the gateway, and give it two organisations with the same people and the same names for all there is."""
    async with contextlib.AsyncExitStack() as stack:
        address = await stack.enter_async_context(served(gateway))
        database = await Database.connect(postgres.app_dsn, pool_min=1, pool_max=1, timeout_s=5.0)
        stack.push_async_callback(database.close)
        superuser = await asyncpg.connect(postgres.superuser_dsn)
        stack.push_async_callback(superuser.close)
        sides = (await _side(stack, address, issuer, database), await _side(stack, address, issuer, database))
        world = World(sides, superuser)
        rows = await superuser.fetch("SELECT user_id FROM members GROUP BY 1 HAVING count(DISTINCT org_id) > 1")
        world.common |= {row["user_id"].hex.encode() for row in rows}
        # What is shown to everybody is nobody's, such as the tag of a page.
        for path in sorted(_PUBLIC):
            shown = await sides[0].api.http.get(path)
            world.common |= ids_in(_head(shown) + shown.content)
        for side in sides:
            side.traces.ids -= world.common
        yield world


async def _side(stack: contextlib.AsyncExitStack, address: str, issuer: TokenIssuer, database: Database) -> Side:
    headers = {"host": PUBLIC_URL.partition("//")[2]}
    http = await stack.enter_async_context(httpx2.AsyncClient(base_url=address, timeout=_TIMEOUT_S, headers=headers))
    tenant = await make_tenant(database)
    api = Api(http, issuer, tenant)
    side = Side(api, Traces(tenant.principal.org_id, tenant.principal.org_slug))
    side.tokens |= {str(role): api.caller(role, subject=role).token for role in Role}
    admin = api.caller(Role.ORG_ADMIN, subject=Role.ORG_ADMIN)
    modern = await stack.enter_async_context(
        served(canary_server(side.traces.canary).streamable_http_app(), lifespan=True)
    )
    old = await stack.enter_async_context(served(canary_server(side.traces.canary).sse_app(), lifespan=True))
    bodies = (
        configuration(name="shared", endpoint=f"{modern}/mcp", description=side.traces.canary()),
        configuration(name="old", endpoint=f"{old}/sse", transport="sse", description=side.traces.canary()),
        configuration(name="bound", endpoint=f"{modern}/mcp", auth="user", credential_form=_FORM),
    )
    made = [("/api/v1/mcp/configurations", body) for body in bodies]
    made += [
        ("/api/v1/mcp/toolsets", {"name": "shared", "tools": ["*"], "description": side.traces.canary()}),
        ("/api/v1/prompts", {"name": "shared", "scope": "organization", "text": side.traces.canary()}),
        ("/api/v1/api-keys", {"name": "key", "role": "member", "scopes": _SCOPES}),
        ("/api/v1/api-keys", {"name": "agent key", "acts_as": "agent", "scopes": _SCOPES}),
        ("/api/v1/workspaces", {"slug": "second", "name": side.traces.canary()}),
    ]
    for path, body in made:
        answer = await admin.request("POST", path, json=body)
        assert answer.status_code == 201, answer.text
        document = answer.json()
        if "key" in document:
            side.tokens[document["name"]] = document["key"]
        side.learn(answer, "org_admin", f"POST {path}")
        side.traces.learn(answer.content, set())
        side.kept |= {str(document["id"]), str(document.get("slug", "main"))}
    for role in Role:
        answer = await api.caller(role, subject=role).request("GET", "/api/v1/workspaces")
        assert answer.status_code == 200, answer.text
        side.learn(answer, str(role), "GET /api/v1/workspaces")
    side.note("slug", "main")
    side.kept.add("main")
    return side
