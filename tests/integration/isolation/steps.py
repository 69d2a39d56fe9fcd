"""One request of a sequence: made from the table of routes, or a message of either era to an MCP endpoint.

A step is drawn as a few small values. What it becomes depends on what both sides have at that moment: parameters of the
path and the query, references in bodies, cursors, sessions and states are its own, the other side's or nobody's.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import quote
from uuid import UUID

from agentapi.identity.access import ROUTES
from agentapi.principal import Role
from support.raw import LEGACY, modern_headers, modern_message

if TYPE_CHECKING:
    from collections.abc import Callable

    from integration.isolation.side import Side

__all__ = ["METHODS", "REST", "Made", "Step", "make"]

Aim = Literal["own", "foreign", "nobody"]

REST: Final = tuple(name for name in ROUTES if not name.startswith("* "))
"""Every route but those that take every method, which are the MCP endpoints."""
METHODS: Final = (
    "server/discover",
    "tools/list",
    "tools/call",
    "resources/list",
    "resources/templates/list",
    "resources/read",
    "prompts/list",
    "prompts/get",
    "completion/complete",
)
_TOOLS: Final = (
    "shared__ask",
    "shared__echo",
    "shared__tell",
    "shared__ask",
    "shared__touch",
    "bound__echo",
    "old__echo",
    "old__tell",
)
_PARAMETER: Final = re.compile(r"\{(\w+)\}")
_UPSTREAMS: Final = "/api/v1/mcp/configurations"
_LENT: Final = {"/api/v1/mcp/oauth/providers": _UPSTREAMS, "/api/v1/mcp/credentials": _UPSTREAMS}
"""Places whose things are named by the ids of another place."""

_SELDOM: Final = 0.2
_OFTEN: Final = 0.7

_UNDOING: Final = {"DELETE /api/v1/organizations/{id}", "PUT /api/v1/mcp/configurations/{id}"}
"""What an organisation does not do to itself in a sequence, since little could be tried of it afterwards."""

_LEAVING: Final = {"DELETE /api/v1/members/{id}", "PUT /api/v1/members/{id}"}
"""The same of its people, who are those of the other organisation as well."""

_BY_THE_PLATFORM: Final = {"PUT /api/v1/platform/organizations/{slug}", "DELETE /api/v1/platform/organizations/{slug}"}
"""What a platform admin may do to any organisation: tried by all others, and by platform admins where nobody is met."""


@dataclass(frozen=True, slots=True)
class Step:
    """What is drawn of one request."""

    kind: Literal["rest", "modern", "legacy"]
    caller: str
    aim: Aim
    chance: int


@dataclass(slots=True)
class Made:
    """One request, ready to be sent."""

    method: str
    path: str
    headers: dict[str, str]
    json: Any = None
    name: str = ""
    """The row of the table, or the message."""
    caller: str = ""
    aims_at: set[str] = field(default_factory=set)
    """Things of the other side that it names."""


@dataclass(slots=True)
class _Maker:
    caller: str
    aim: Aim
    own: Side
    other: Side
    chance: Random
    aims_at: set[str] = field(default_factory=set)
    named: str = ""
    """The id that it named last."""

    def pick(self, kind: str, *, spare: bool = False) -> str:
        """Return something of that kind, whose it is being as the step was drawn."""
        if self.aim == "nobody":
            return self._nobody(kind)
        side = self.own if self.aim == "own" else self.other
        # Every other id of the other side is left alone: one that nobody ever named must not come back either.
        found = side.slug if kind == "org" else side.pick(kind, self.chance, spare=spare, bait=side is self.other)
        # A name of the other side is one of its own where both have it.
        if found is None or (spare and found in self.own.kept):
            return self._nobody(kind)
        if side is self.other:
            self.aims_at.add(found)
        return found

    def id_of(self, place: str, *, spare: bool = False) -> str:
        """Return the id of something that is kept at that place, or now and then of anything."""
        place = _LENT.get(place, place)
        self.named = self.pick("id" if self.chance.random() < _SELDOM else f"id {place}", spare=spare)
        return self.named

    def _nobody(self, kind: str) -> str:
        if kind.startswith("id"):
            return str(UUID(int=self.chance.getrandbits(128), version=4))
        if kind.startswith("retry"):
            return json.dumps({"requestState": "bm9uZQ==", "inputResponses": {}})
        return {"uri": "mcp+shared+test://none", "slug": "none", "org": "org-none"}.get(kind, "bm9uZQ==")

    def canary(self) -> str:
        return self.own.traces.canary()


def make(step: Step, number: int, own: Side, other: Side) -> Made:
    """Return the request that ``own`` makes; ``number`` is how many there were, so that no two steps are the same."""
    chance = Random(f"{step.chance} {number}")  # noqa: S311 - nothing is secret of it, and it can be repeated
    maker = _Maker(step.caller, step.aim, own, other, chance)
    made = _rest(maker) if step.kind == "rest" else _message(maker, modern=step.kind == "modern")
    made.caller = maker.caller
    made.aims_at = maker.aims_at
    token = own.tokens.get(maker.caller)
    if token is not None:
        made.headers["authorization"] = f"Bearer {token}"
    return made


def _rest(maker: _Maker) -> Made:
    name = maker.chance.choice(REST)
    method, template = name.split(" ", 1)
    if maker.aim == "own" and maker.chance.random() < _OFTEN:
        # Whoever may do most has most for the others to reach for.
        maker.caller = str(Role.ORG_ADMIN)
    _spare(maker, name)
    path = _PARAMETER.sub(lambda match: quote(_parameter(maker, name, match[1]), safe=""), template)
    headers = {"accept": "application/json"}
    if method == "POST" and maker.chance.random() < _SELDOM:
        # Both sides use the same few keys, each of which is good for one request of its user.
        headers["idempotency-key"] = f"key-{maker.chance.randrange(4)}"
    if method == "PUT" and maker.chance.random() < _SELDOM:
        headers["if-match"] = f'"{maker.chance.randrange(1, 4)}"'
    made = Made(method, path + _query(maker), headers, name=name)
    if method in {"POST", "PUT"}:
        made.json = _BODIES[name](maker) if name in _BODIES else _anything(maker, name)
        if maker.caller == Role.PLATFORM_ADMIN and name == "POST /api/v1/prompts" and maker.chance.random() < _SELDOM:
            # A global prompt is everybody's, so that it has no canary.
            made.json = {"name": f"global-{maker.chance.randrange(99)}", "scope": "global", "text": "everybody's"}
    return made


def _spare(maker: _Maker, name: str) -> None:
    """Have a step aim elsewhere that would end what it is about, or what a platform admin may do."""
    if name in _UNDOING and maker.aim == "own":
        maker.aim = "foreign"
    if name == "DELETE /api/v1/members/me":
        maker.caller = "nobody"
    if name in _LEAVING or (name in _BY_THE_PLATFORM and maker.caller == Role.PLATFORM_ADMIN):
        maker.aim = "nobody"


def _parameter(maker: _Maker, name: str, parameter: str) -> str:
    """Return what stands in the place of a parameter of a path."""
    method, template = name.split(" ", 1)
    changes = method != "GET"
    if template.startswith("/connect"):
        return maker.pick("connect")
    if template.startswith("/join") and maker.aim == "own":
        # Whoever has the link of an invitation is told what it is to, so no side has one of the other's.
        return maker.pick("join")
    if parameter in {"id", "upstream"}:
        place = template.partition("/{")[0]
        return maker.id_of(place, spare=changes and place not in _LENT)
    return maker.pick("org" if "platform" in template or parameter == "org" else "slug", spare=changes)


def _query(maker: _Maker) -> str:
    """Return a query, most often none; a route takes what it knows of it."""
    if maker.chance.random() < _OFTEN:
        return ""
    every = {
        "limit": str(maker.chance.choice((1, 2, 200))),
        "cursor": maker.pick("cursor"),
        "workspace": maker.pick("slug"),
        "of": "deployment",
        "resource": f"upstream:{maker.id_of(_UPSTREAMS)}",
        "actor_id": maker.id_of("/api/v1/members"),
        "request_id": maker.pick("request"),
        "upstream": maker.id_of(_UPSTREAMS),
        "issuer": maker.pick("issuer"),
        "tool": "shared__echo",
    }
    given = {name: value for name, value in every.items() if maker.chance.random() < _OFTEN / 2}
    return "?" + "&".join(f"{name}={quote(value, safe='')}" for name, value in given.items()) if given else ""


def _anything(maker: _Maker, name: str) -> dict[str, Any]:
    """Return a body for a route that this file does not know yet: what it complained of the last time is mended."""
    complaints = maker.own.complaints.get(name, {})
    body: dict[str, Any] = {
        "name": maker.canary(),
        "text": maker.canary(),
        "workspace": maker.pick("slug"),
        "id": maker.pick("id"),
    }
    values = {"array": [maker.canary()], "integer": 1, "number": 1, "boolean": True, "dictionary": {}, "object": {}}
    for name_, complaint in complaints.items():
        if kind := next((kind for kind in values if f"valid {kind}" in complaint), None):
            body[name_] = values[kind]
        elif "required" in complaint:
            body[name_] = maker.pick("id") if name_.endswith("id") else maker.canary()
        else:
            body.pop(name_, None)
    return body


def _configuration(maker: _Maker) -> dict[str, Any]:
    return {
        "name": maker.canary(),
        "workspace": "main" if maker.aim == "own" else maker.pick("slug"),
        "transport": "http",
        "endpoint": f"http://127.0.0.1:18080/{maker.canary()}",
        "auth": "bearer",
        "secret": maker.canary(),
        "enabled": False,
        "scope": maker.chance.choice(("organization", "user")),
        "description": maker.canary(),
    }


def _toolset(maker: _Maker) -> dict[str, Any]:
    return {"name": maker.canary(), "description": maker.canary(), "tools": ["*", maker.canary()]}


def _policy(maker: _Maker) -> dict[str, Any]:
    return {"rules": [{"effect": "allow", "tools": [maker.canary()], "description": maker.canary()}]}


def _prompt(maker: _Maker) -> dict[str, Any]:
    scope = maker.chance.choice(("user", "organization", "workspace"))
    more = {"workspace": "main" if maker.aim == "own" else maker.pick("slug")} if scope == "workspace" else {}
    return {"name": maker.canary(), "scope": scope, "text": maker.canary(), "description": maker.canary(), **more}


def _prompt_again(maker: _Maker) -> dict[str, Any]:
    """Return the next version of a prompt of its own; of another's it knows no name."""
    stored = maker.own.documents.get(maker.named)
    if stored is None:
        return _prompt(maker)
    kept = {name: stored[name] for name in ("name", "scope", "workspace") if stored.get(name) is not None}
    return {"text": maker.canary(), **kept}


def _client(maker: _Maker) -> dict[str, Any]:
    issuer = f"https://{maker.canary()}.example"
    return {"issuer": issuer, "client_id": maker.canary(), "client_secret": maker.canary()}


def _imported(maker: _Maker) -> dict[str, Any]:
    return {"mcpServers": {maker.canary(): {"url": f"http://127.0.0.1:18080/{maker.canary()}"}}}


def _named(maker: _Maker) -> dict[str, Any]:
    return {"slug": maker.canary(), "name": maker.canary()}


_BODIES: Final[dict[str, Callable[[_Maker], dict[str, Any]]]] = {
    "POST /api/v1/mcp/configurations": _configuration,
    "PUT /api/v1/mcp/configurations/{id}": _configuration,
    "POST /api/v1/mcp/test": lambda maker: {"id": maker.id_of(_UPSTREAMS)},
    "POST /api/v1/mcp/import": _imported,
    "POST /api/v1/api-keys": lambda maker: {"name": maker.canary()},
    "POST /api/v1/api-keys/{id}/rotate": lambda _: {},
    "POST /api/v1/sessions": lambda maker: {"name": maker.canary(), "workspace": maker.pick("slug")},
    "POST /api/v1/sessions/{id}/touch": lambda _: {},
    "POST /api/v1/sessions/{id}/tokens": lambda _: {},
    "PUT /api/v1/mcp/policy": _policy,
    "POST /api/v1/mcp/toolsets": _toolset,
    "PUT /api/v1/mcp/toolsets/{id}": _toolset,
    "POST /api/v1/mcp/approvals/{id}/approve": lambda _: {},
    "POST /api/v1/mcp/approvals/{id}/hold": lambda _: {},
    "POST /api/v1/mcp/oauth/init": lambda maker: {"upstream": maker.id_of(_UPSTREAMS)},
    "POST /api/v1/mcp/oauth/refresh": lambda maker: {"upstream": maker.id_of(_UPSTREAMS)},
    "POST /api/v1/mcp/oauth/revoke": lambda maker: {"upstream": maker.id_of(_UPSTREAMS)},
    "PUT /api/v1/mcp/oauth/clients": _client,
    "PUT /api/v1/mcp/oauth/providers/{id}": lambda _: {"provider": "mcp", "scopes": []},
    "PUT /api/v1/mcp/credentials/{upstream}": lambda maker: {"values": {"token": maker.canary()}},
    "POST /api/v1/prompts": _prompt,
    "PUT /api/v1/prompts/{id}": _prompt_again,
    "POST /api/v1/prompts/compose": lambda maker: {"workspace": maker.pick("slug")},
    "POST /api/v1/prompts/{id}/rollback": lambda _: {"version": 1},
    # An organisation keeps its slug, which its people's tokens name.
    "PUT /api/v1/organizations/{id}": lambda maker: {"slug": maker.own.slug, "name": "Ours"},
    "POST /api/v1/organizations/{id}/transfer": lambda maker: {"user_id": maker.id_of("/api/v1/members")},
    "POST /api/v1/workspaces": _named,
    "PUT /api/v1/workspaces/{slug}": _named,
    "PUT /api/v1/members/{id}": lambda _: {"role": "viewer"},
    "POST /api/v1/invitations": lambda maker: {"email": f"{maker.canary()}@example.com"},
    "POST /api/v1/invitations/accept": lambda maker: {"token": maker.id_of("/api/v1/invitations")},
    "POST /api/v1/platform/organizations": lambda maker: {"slug": maker.canary(), "name": "Third"},
    "PUT /api/v1/platform/organizations/{slug}": lambda _: {"suspended": True},
}
"""What a route is sent that takes a body; for one that stands in no row ``_anything`` finds out what it takes."""


def _message(maker: _Maker, *, modern: bool) -> Made:
    method = maker.chance.choice(METHODS)
    params = _params(maker, method)
    toolset = f"/{maker.pick('slug')}" if maker.chance.random() < _SELDOM else ""
    side = maker.other if maker.aim == "foreign" and maker.chance.random() < _SELDOM else maker.own
    path = f"/mcp/{side.slug}/main{toolset}"
    headers = {"accept": "application/json, text/event-stream", "content-type": "application/json"}
    if modern:
        message = modern_message(method, params)
        message["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = {
            "elicitation": {"form": {}, "url": {}}
        }
        return Made("POST", path, {**headers, **modern_headers(message)}, message, f"modern {method}")
    headers["mcp-protocol-version"] = LEGACY
    if maker.chance.random() < _SELDOM or f"session {maker.caller}" not in maker.own.things:
        hello = {"protocolVersion": LEGACY, "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}
        return Made("POST", path, headers, _rpc("initialize", hello), "legacy initialize")
    headers["mcp-session-id"] = maker.pick(f"session {maker.caller}")
    if maker.aim != "own" and maker.chance.random() < _SELDOM:
        return Made("DELETE", path, headers, None, "legacy DELETE")
    if method == "server/discover":
        method, params = maker.chance.choice((("ping", {}), ("logging/setLevel", {"level": "debug"})))
    return Made("POST", path, headers, _rpc(method, params), f"legacy {method}")


def _rpc(method: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


def _params(maker: _Maker, method: str) -> dict[str, Any]:
    chance = maker.chance
    if method.endswith("/list"):
        return {"cursor": maker.pick("cursor")} if chance.random() < _SELDOM else {}
    if method == "tools/call":
        name = chance.choice(_TOOLS)
        params: dict[str, Any] = {"name": name, "arguments": {"text": "x"} if name.endswith("echo") else {}}
        if name.endswith("ask") and chance.random() < _OFTEN:
            params |= json.loads(maker.pick(f"retry {maker.caller}"))
        return params
    if method == "resources/read":
        return {"uri": chance.choice(("mcp+shared+test://static", "mcp+shared+test://item/7", maker.pick("uri")))}
    if method == "prompts/get":
        return {"name": "shared__greet", "arguments": {"name": "x"}}
    if method == "completion/complete":
        reference = {"type": "ref/prompt", "name": "shared__greet"}
        return {"ref": reference, "argument": {"name": "name", "value": "x"}}
    return {}
