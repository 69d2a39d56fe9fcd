"""What a server lists, read page by page within bounds, and which names of its things are fit to be shown.

The gateway's catalogue and the connection test read lists through this one module, so that a test that succeeds means
lists that clients get.

Source: specification 2025-11-25 and 2026-07-28, "Tools", section "Tool Names"; RFC 3986 and RFC 3987 for URIs, RFC 6570
for templates.
"""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from agentapi.errors import UpstreamError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

__all__ = ["LIST_METHODS", "MAX_ITEMS", "MAX_LIST_BYTES", "ListTooLargeError", "Page", "is_fit", "read_pages"]

MAX_ITEMS: Final = 10_000
MAX_LIST_BYTES: Final = 2 * 1024 * 1024
"""Bound on a list as JSON, and already on the bytes of one page of it, before they are parsed."""
_MAX_PAGES: Final = 100
_AT_ONCE: Final = 256
"""Items that are looked at before others have their turn."""

LIST_METHODS: Final = {
    "tools/list": "tools",
    "resources/list": "resources",
    "resources/templates/list": "resourceTemplates",
    "prompts/list": "prompts",
}
"""The member of a result that holds the list, by the method that asks for it."""

_TOOL_NAME: Final = re.compile(r"[A-Za-z0-9_./-]+")
_IN_URI: Final = r"""[^\s"<>\\^`{|}]"""
"""No RFC allows the rest anywhere. Characters beyond ASCII are let through, for many servers do not encode them."""
_URI: Final = re.compile(rf"[A-Za-z][A-Za-z0-9+.-]*:{_IN_URI}+")
_TEMPLATE: Final = re.compile(rf"(?:{_IN_URI}|\{{{_IN_URI}+\}})+")


class ListTooLargeError(UpstreamError):
    """A list exceeds what the gateway keeps."""


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a list: the items that JSON can hold, as they came."""

    items: list[Any]
    size: int
    """Bytes of the items as JSON."""
    unreadable: int
    """How many were left out, since JSON cannot hold them: a lone surrogate, a number that is none."""
    ttl_ms: object


def is_fit(method: str, name: object) -> bool:
    """Return whether what ``method`` lists may go by ``name`` (a URI or template of resources).

    Tools have the characters that the specification gives them: many a model's API refuses a whole request over one
    other. Of prompts it asks nothing, so theirs need be nothing but visible. A name of any length is fit, since the
    gateway shortens what clients see.
    """
    if not isinstance(name, str) or not name.isprintable():
        return False
    match method:
        case "tools/list":
            return _TOOL_NAME.fullmatch(name) is not None
        case "resources/list":
            return _URI.fullmatch(name) is not None
        case "resources/templates/list":
            return _TEMPLATE.fullmatch(name) is not None
    return not name.isspace() and name != ""


async def read_pages(
    method: str, request: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]
) -> AsyncIterator[Page]:
    """Yield the pages of a list that ``request`` asks for with the parameters it is given.

    Raises:
        ListTooLargeError: There are too many items, pages or bytes.
        ValueError: A page is none.
    """
    member = LIST_METHODS[method]
    seen = size = 0
    cursor: object = None
    for _ in range(_MAX_PAGES):
        result = await request({"cursor": cursor} if cursor else {})
        items = result.get(member)
        if not isinstance(items, list):
            raise ValueError(member)  # noqa: TRY004 - foreign data, not a wrong argument
        seen += len(items)
        if seen > MAX_ITEMS:
            break
        page = await _written(items, result.get("ttlMs"))
        size += page.size
        if size > MAX_LIST_BYTES:
            break
        yield page
        cursor = result.get("nextCursor")
        # Some servers say with an empty cursor that there is no other page.
        if not cursor:
            return
        if not isinstance(cursor, str):
            raise ValueError("nextCursor")  # noqa: TRY004 - as above
    raise ListTooLargeError(f"more than {MAX_ITEMS} {member}, {_MAX_PAGES} pages or {MAX_LIST_BYTES} bytes")


async def _written(items: list[Any], ttl_ms: object) -> Page:
    kept: list[Any] = []
    size = 0
    for at, item in enumerate(items):
        if at % _AT_ONCE == _AT_ONCE - 1:
            await asyncio.sleep(0)
        try:
            size += len(json.dumps(item, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode())
        except (ValueError, RecursionError):
            continue
        kept.append(item)
    return Page(kept, size, len(items) - len(kept), ttl_ms)
