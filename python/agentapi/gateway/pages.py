"""Long lists in pages: what a cursor is, and a page as a result.

A cursor names the last item of its page, sealed and bound to the list and to who asked for it. A list that changed
meanwhile thus goes on where it was; one that lost that very item is asked for anew.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from mcp import MCPError
from mcp_types import INVALID_PARAMS

from agentapi._core import SealError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from agentapi._core import Keyring
    from agentapi.gateway.exchange import Visitor
    from agentapi.gateway.items import ListedItem
    from agentapi.gateway.listing import Kind

__all__ = ["Pages", "RawResult"]

_TTL_S = 3600
_MAX_CURSOR_LENGTH = 16 * 1024


class RawResult(dict[str, Any]):
    """A result that is written already; as a dict it reads the same, and whoever changes that must not use ``raw``."""

    def __init__(self, members: Mapping[str, Any], raw: bytes) -> None:
        super().__init__(members)
        self.raw = raw

    def extended(self, members: Mapping[str, Any]) -> RawResult:
        """Return the result with more members, none of which it has."""
        text = json.dumps(members, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        return RawResult({**self, **members}, b"%b,%b" % (self.raw[:-1], text[1:]))


class Pages:
    """Cuts lists into pages.

    Args:
        keyring: Seals the cursors.
        size: Most items of a page.
        clock: Unix seconds.
    """

    def __init__(self, keyring: Keyring, size: int, clock: Callable[[], float]) -> None:
        self._keyring = keyring
        self._size = size
        self._clock = clock

    def page(
        self, visitor: Visitor, kind: Kind, items: Sequence[ListedItem], cursor: object, head: dict[str, Any]
    ) -> RawResult:
        """Return the page of ``items`` behind ``cursor``, with the members of ``head``.

        Raises:
            MCPError: The cursor is none of this list, or its place is gone.
        """
        start = 0 if cursor is None else self._start(visitor, kind, items, cursor)
        shown = items[start : start + self._size]
        if start + self._size < len(items):
            head = {**head, "nextCursor": self._cursor(visitor, kind, shown[-1].name)}
        members = {kind.value: [item.definition for item in shown], **head}
        text = json.dumps(head, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
        rest = b"," + text[1:] if head else b"}"
        return RawResult(members, b'{"%b":[%b]%b' % (kind.value.encode(), b",".join([i.raw for i in shown]), rest))

    def _cursor(self, visitor: Visitor, kind: Kind, last: str) -> str:
        return self._keyring.seal_text_until(last.encode(), _aad(visitor, kind), int(self._clock()) + _TTL_S)

    def _start(self, visitor: Visitor, kind: Kind, items: Sequence[ListedItem], cursor: object) -> int:
        if not isinstance(cursor, str) or not cursor.isascii() or len(cursor) > _MAX_CURSOR_LENGTH:
            raise _unknown_cursor()
        try:
            last = self._keyring.open_text_unexpired(cursor, _aad(visitor, kind), int(self._clock())).decode()
        except SealError:
            raise _unknown_cursor() from None
        for index, item in enumerate(items):
            if item.name == last:
                return index + 1
        raise _unknown_cursor()


def _aad(visitor: Visitor, kind: Kind) -> bytes:
    parts = [str(visitor.principal.user_id), str(visitor.view.workspace.id), visitor.toolset, kind.value]
    return f"gateway.cursor/{json.dumps(parts)}".encode()


def _unknown_cursor() -> MCPError:
    return MCPError(INVALID_PARAMS, "Unknown cursor: it expired, or the list has changed. Ask for the list again.")
