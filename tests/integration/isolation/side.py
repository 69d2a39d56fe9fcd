"""One of the two organisations: its people and programs, what they were told, and what of it can be tried elsewhere."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

from agentapi.principal import Role

if TYPE_CHECKING:
    from collections.abc import Iterable
    from random import Random

    import httpx2

    from integration.api.harness import Api
    from integration.isolation.traces import Traces

__all__ = ["CALLERS", "Kind", "Side"]

CALLERS = (*map(str, Role), "key", "agent key", "nobody")
"""Who makes a request: somebody of each role, a key of a member, one of an agent, and a stranger."""

Kind = str
"""What something is, as far as it matters to where it can be tried: ``id /api/v1/prompts``, ``slug``, ``cursor``."""

_CONNECT = re.compile(r"/connect/([A-Za-z0-9_.~-]{20,})")
_JOIN = re.compile(r"/join/(agi_[0-9a-f]+)")
_KINDS = {
    "next_cursor": "cursor",
    "nextCursor": "cursor",
    "slug": "slug",
    "workspace": "slug",
    "uri": "uri",
    "issuer": "issuer",
    "request_id": "request",
}
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_KEPT = 40


@dataclass(eq=False)
class Side:
    """An organisation as one who drives it sees it."""

    api: Api
    traces: Traces
    tokens: dict[str, str] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    """Ids and slugs that its own people leave as they are, so that there is always something to reach for."""
    things: dict[Kind, list[str]] = field(default_factory=dict)
    """The newest of each kind that it was given by the gateway."""
    documents: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Things as the gateway showed them last, by id."""
    complaints: dict[str, dict[str, str]] = field(default_factory=dict)
    """What was wrong with the fields of bodies, by route: nobody has to write bodies for a new one."""

    @property
    def slug(self) -> str:
        """The name of the organisation."""
        return self.traces.slug

    def note(self, kind: Kind, value: str) -> None:
        """Remember a thing as one to try."""
        known = self.things.setdefault(kind, [])
        if value in known:
            return
        known.append(value)
        if len(known) > _KEPT:
            known.remove(next(each for each in known if each not in self.kept))

    def pick(self, kind: Kind, chance: Random, *, spare: bool = False, bait: bool = False) -> str | None:
        """Return something of that kind, or None where there is none.

        Args:
            kind: What it is.
            chance: Which one.
            spare: Leave out what is kept, unless somebody else is to try it.
            bait: It is for the other side, which is let have every other id.
        """
        known = self.things.get(kind, [])
        if bait:
            known = [each for each in known if not (kind.startswith("id") and UUID(each).int % 2)]
        elif spare:
            known = [each for each in known if each not in self.kept]
        return chance.choice(known) if known else None

    def learn(self, answer: httpx2.Response, caller: str, name: str) -> None:
        """Remember what the route ``name`` answered to ``caller``."""
        place = name.partition(" ")[2].partition("/{")[0]
        if (session := answer.headers.get("mcp-session-id")) and str(answer.url).endswith("/main"):
            self.note(f"session {caller}", session)
        for link in _CONNECT.findall(answer.text):
            self.note("connect", link)
        for token in _JOIN.findall(answer.text):
            self.note("join", token)
        for document in _documents(answer.text):
            self._walk(document, caller)
            if isinstance(document, dict):
                for error in document.get("errors", ()):
                    self.complaints.setdefault(name, {})[error["pointer"].strip("/")] = error["detail"]
                for thing in (document, *document.get("items", ())):
                    if isinstance(id_ := thing.get("id"), str) and _UUID.fullmatch(id_):
                        self.note(f"id {place}", id_)
                        self.documents[id_] = thing

    def _walk(self, value: Any, caller: str, name: str = "") -> None:
        if isinstance(value, dict):
            if "requestState" in value:
                answer = {"action": "accept", "content": {"city": "Bern"}}
                answers = dict.fromkeys(value.get("inputRequests", ()), answer)
                retry = {"requestState": value["requestState"], "inputResponses": answers}
                self.note(f"retry {caller}", json.dumps(retry))
            for key, inner in value.items():
                self._walk(inner, caller, key)
        elif isinstance(value, list):
            for inner in value:
                self._walk(inner, caller, name)
        elif isinstance(value, str):
            if kind := _KINDS.get(name):
                self.note(kind, value)
            elif _UUID.fullmatch(value):
                self.note("id", value)


def _documents(text: str) -> Iterable[Any]:
    """Return the documents of an answer: the whole, or each line or event of one that has several."""
    for piece in (text, *(line.removeprefix("data:") for line in text.splitlines() if len(line) < len(text))):
        try:
            yield json.loads(piece)
        except ValueError:
            continue
