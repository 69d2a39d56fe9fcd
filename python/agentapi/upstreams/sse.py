"""The events of a stream as an upstream sends them: what a relay must read of them, and no more.

Source: WHATWG HTML, "Server-sent events", parsing an event stream. Of an event only the data counts here, and
of events only messages: ids and retry times say nothing to who reads the stream of one request and does not resume it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from agentapi.errors import UpstreamError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["EventTooLargeError", "Events"]

_BLANK: Final = re.compile(rb"\r\n\r\n|\r\n\n|\r\n\r(?!\n)|\n\r\n|\n\n|\n\r(?!\n)|\r\r\n|\r\r(?!\n)")
"""The end of an event: two ends of lines, each of them CR LF, LF or CR."""
_LINE: Final = re.compile(rb"\r\n|\n|\r")
_MARK: Final = b"\xef\xbb\xbf"


class EventTooLargeError(UpstreamError):
    """An event exceeds the bound."""


class Events:
    """Cuts a stream into the data of its events.

    Args:
        max_bytes: Bound on one event.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._rest = bytearray()
        self._searched = 0
        self._begun = False

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Take in ``piece`` and yield the data of each event that it completes; comments and the like yield nothing.

        Raises:
            EventTooLargeError: An event is longer than allowed.
        """
        self._rest += piece
        if not self._begun and len(self._rest) >= len(_MARK):
            self._begun = True
            if self._rest.startswith(_MARK):
                del self._rest[: len(_MARK)]
        start = 0
        # Where a CR LF is cut in half, the LF that comes later is an empty line more, which means nothing.
        while (end := self._end_of_event(start)) is not None:
            if end - start > self._max_bytes:
                raise EventTooLargeError(f"it sent an event of more than {self._max_bytes} bytes")
            data = _data(bytes(self._rest[start:end]))
            start = end
            if data:
                yield data
        del self._rest[:start]
        # The end of an event is at most four bytes long and may have begun already.
        self._searched = max(0, len(self._rest) - 3)
        if len(self._rest) > self._max_bytes:
            raise EventTooLargeError(f"it sent an event of more than {self._max_bytes} bytes")

    def _end_of_event(self, start: int) -> int | None:
        found = _BLANK.search(self._rest, max(start, self._searched))
        return None if found is None else found.end()


def _data(event: bytes) -> bytes:
    lines, kind = [], b""
    for line in _LINE.split(event):
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value.removeprefix(b" "))
        elif name == b"event":
            kind = value.removeprefix(b" ")
    if kind not in {b"", b"message"}:
        return b""
    return lines[0] if len(lines) == 1 else b"\n".join(lines)
