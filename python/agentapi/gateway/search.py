"""Search mode: a client sees two tools, one to find and one to call, so that a model's context does not drown.

Ranking is Okapi BM25 (Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009) over the
words of names, titles and descriptions. The kept libraries for it need numpy, which is many times the gateway's size.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, OrderedDict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from agentapi.errors import FieldError, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentapi.gateway.exchange import Exchange
    from agentapi.gateway.items import CatalogueItem

__all__ = ["CALL_TOOL", "FIND_TOOLS", "SEARCH_TOOLS", "Finder", "Index", "inner_call", "words"]

FIND_TOOLS = "find_tools"
CALL_TOOL = "call_tool"

_DEFAULT_LIMIT = 10
_MAX_LIMIT = 50
_MAX_QUERY = 1000
_MAX_INDEXES = 16

SEARCH_TOOLS: tuple[dict[str, Any], ...] = (
    {
        "name": FIND_TOOLS,
        "title": "Find tools",
        "description": (
            "Search the tools of this workspace by what they do. Returns the best matches with their name, description"
            f" and input schema, and how many match in total; call one of them with {CALL_TOOL}. An empty query matches"
            " every tool."
        ),
        "inputSchema": {
            "type": "object",
            "properties": {
                "query": {
                    "type": "string",
                    "maxLength": _MAX_QUERY,
                    "description": "Words that say what the tool should do.",
                },
                "limit": {
                    "type": "integer",
                    "minimum": 1,
                    "maximum": _MAX_LIMIT,
                    "default": _DEFAULT_LIMIT,
                    "description": "How many tools to return at most.",
                },
            },
            "required": ["query"],
            "additionalProperties": False,
        },
        "annotations": {"readOnlyHint": True, "openWorldHint": False},
    },
    {
        "name": CALL_TOOL,
        "title": "Call a tool",
        "description": f"Call a tool that {FIND_TOOLS} returned, with arguments that fit its input schema.",
        "inputSchema": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "description": f"The tool's name as {FIND_TOOLS} returned it."},
                "arguments": {"type": "object", "description": "Arguments of the tool.", "default": {}},
            },
            "required": ["name"],
            "additionalProperties": False,
        },
    },
)
"""What the client lists. They carry no prefix, and no tool can be renamed to them: a tool of an upstream that is called
so itself, which only a workspace of one upstream can have, is reached through ``call_tool``."""

_WORD = re.compile(r"[^\W_]+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_K1 = 1.2
_B = 0.75
_NAME_WEIGHT = 3
"""A word of the name counts as much as that many in the description."""


def words(text: str) -> list[str]:
    """Return the words of ``text`` in lower case; ``listOpenIssues`` and ``list_open_issues`` have the same."""
    return [found.casefold() for found in _WORD.findall(_CAMEL.sub(" ", text))]


class Index:
    """The words of some tools, ready to be searched."""

    def __init__(self, tools: Sequence[CatalogueItem]) -> None:
        self._tools = tuple(tools)
        self._counts = [_counts(tool) for tool in self._tools]
        self._lengths = [counts.total() for counts in self._counts]
        self._mean = sum(self._lengths) / len(self._lengths) if self._lengths else 1.0
        self._frequency = Counter(word for counts in self._counts for word in counts)

    def rank(self, query: str) -> list[CatalogueItem]:
        """Return what matches, the best first; equal ones stay in the order of the list. No words match everything."""
        wanted = dict.fromkeys(words(query))
        if not wanted:
            return list(self._tools)
        scores = [sum(self._score(word, position) for word in wanted) for position in range(len(self._tools))]
        matching = (position for position, score in enumerate(scores) if score > 0)
        return [self._tools[position] for position in sorted(matching, key=lambda position: -scores[position])]

    def _score(self, word: str, position: int) -> float:
        count = self._counts[position].get(word, 0)
        if not count:
            return 0.0
        holding = self._frequency[word]
        rarity = math.log(1 + (len(self._tools) - holding + 0.5) / (holding + 0.5))
        length = 1 - _B + _B * self._lengths[position] / self._mean
        return rarity * count * (_K1 + 1) / (count + _K1 * length)


def _counts(tool: CatalogueItem) -> Counter[str]:
    counts = Counter(words(f"{tool.definition.get('title') or ''} {tool.definition.get('description') or ''}"))
    for word in words(tool.name):
        counts[word] += _NAME_WEIGHT
    return counts


class Finder:
    """Answers ``find_tools``, and remembers the indexes of the lists that were searched last."""

    def __init__(self) -> None:
        self._indexes: OrderedDict[tuple[tuple[str, bytes], ...], Index] = OrderedDict()

    def find(self, tools: Sequence[CatalogueItem], arguments: object) -> dict[str, Any]:
        """Return the result of the call ``find_tools`` with ``arguments`` over ``tools``.

        Raises:
            InvalidRequestError: The arguments do not fit the schema.
        """
        search = _Search.of(arguments)
        found = self._index(tools).rank(search.query)
        document = {"tools": [_shown(tool) for tool in found[: search.limit]], "total": len(found)}
        text = json.dumps(document, ensure_ascii=False)
        return {"content": [{"type": "text", "text": text}], "structuredContent": document, "isError": False}

    def _index(self, tools: Sequence[CatalogueItem]) -> Index:
        key = tuple((tool.name, tool.profile.fingerprint) for tool in tools)
        index = self._indexes.get(key)
        if index is None:
            index = self._indexes[key] = Index(tools)
        self._indexes.move_to_end(key)
        while len(self._indexes) > _MAX_INDEXES:
            self._indexes.popitem(last=False)
        return index


def _shown(tool: CatalogueItem) -> dict[str, Any]:
    members = ("name", "title", "description", "inputSchema", "annotations")
    return {member: tool.definition[member] for member in members if tool.definition.get(member) is not None}


@dataclass(frozen=True, slots=True)
class _Search:
    query: str
    limit: int

    @classmethod
    def of(cls, arguments: object) -> _Search:
        given = _members(arguments, {"query", "limit"})
        query, limit = given.get("query"), given.get("limit", _DEFAULT_LIMIT)
        if not isinstance(query, str) or len(query) > _MAX_QUERY:
            raise _wrong("query", f"This is a text of at most {_MAX_QUERY} characters.")
        if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= _MAX_LIMIT:
            raise _wrong("limit", f"This is a number from 1 to {_MAX_LIMIT}.")
        return cls(query, limit)


def inner_call(exchange: Exchange) -> Exchange:
    """Return the call that ``call_tool`` asks for, as if the client had made it directly.

    Raises:
        InvalidRequestError: The arguments do not fit the schema.
    """
    given = _members(exchange.params.get("arguments"), {"name", "arguments"})
    name, arguments = given.get("name"), given.get("arguments", {})
    if not isinstance(name, str):
        raise _wrong("name", "This is the name of a tool.")
    if not isinstance(arguments, dict):
        raise _wrong("arguments", "These are an object.")
    params = {**exchange.params, "name": name, "arguments": arguments}
    return replace(exchange, incoming=exchange.incoming.rewritten(params), inner=True)


def _members(arguments: object, allowed: set[str]) -> dict[str, Any]:
    given = {} if arguments is None else arguments
    if not isinstance(given, dict):
        raise _wrong("", "The arguments are an object.")
    unknown = sorted(given.keys() - allowed)
    if unknown:
        raise _wrong(unknown[0][:64], "There is no such argument.")
    return given


def _wrong(member: str, detail: str) -> InvalidRequestError:
    pointer = f"/arguments/{member}" if member else "/arguments"
    return InvalidRequestError(f"The arguments are not valid: {pointer}: {detail}", (FieldError(pointer, detail),))
