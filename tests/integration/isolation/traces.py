"""What belongs to one organisation, and how it is found in the bytes that the other one receives.

Whatever an organisation writes has a *canary*: its mark and a number. Its ids are those that the gateway showed it.
Both are looked for as they are, in another case, percent-encoded, in base64 and in hexadecimal, and in one inside
another. What the other side sent itself may come back to it, and is no leak.
"""

from __future__ import annotations

import base64
import binascii
import re
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from uuid import UUID

__all__ = ["Traces", "ids_in", "readings"]

_UUID = re.compile(rb"[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{16,}")
_HEX = re.compile(rb"[0-9A-Fa-f]{24,}")
_STANDARD = bytes.maketrans(b"-_", b"+/")
_DEEP = 2


def readings(data: bytes, depth: int = 0) -> Iterator[bytes]:
    """Return ``data`` and what it would say decoded, in small letters."""
    yield data.lower()
    if b"%" in data:
        yield unquote_to_bytes(data).lower()
    if depth == _DEEP:
        return
    for run in _BASE64.findall(data):
        standard = run.translate(_STANDARD)
        yield from readings(
            base64.b64decode(standard[: len(standard) - len(standard) % 4] + _padded(standard)), depth + 1
        )
    for run in _HEX.findall(data):
        yield from readings(binascii.unhexlify(run[: len(run) - len(run) % 2]), depth + 1)


def ids_in(data: bytes) -> set[bytes]:
    """Return the ids in ``data``, in hexadecimal without dashes."""
    return {id_.replace(b"-", b"") for id_ in _UUID.findall(data.lower())}


def _padded(run: bytes) -> bytes:
    rest = len(run) % 4
    return b"" if rest < 2 else run[-rest:] + b"=" * (4 - rest)


@dataclass
class Traces:
    """What shows that bytes are of one organisation."""

    org_id: UUID
    slug: str
    mark: str = field(default_factory=lambda: "zq" + secrets.token_hex(5))
    ids: set[bytes] = field(default_factory=set)
    public: set[bytes] = field(default_factory=set)
    """What a platform admin of any organisation is shown of this one: its id, slug and name."""
    sent: set[bytes] = field(default_factory=set)
    """What the other organisation said itself, at any time."""
    _number: int = 0

    def __post_init__(self) -> None:
        self._canary = re.compile(self.mark.encode() + rb"[0-9a-f]{6}")
        self.ids.add(self.org_id.hex.encode())
        self.public |= {self.org_id.hex.encode(), self.slug.encode()}

    def canary(self) -> str:
        """Return a text that nobody else has ever written; it is good for a slug."""
        self._number += 1
        return f"{self.mark}{self._number:06x}"

    def found_in(self, data: bytes) -> set[bytes]:
        """Return all of this organisation that ``data`` tells."""
        found: set[bytes] = set()
        for text in readings(data):
            found.update(self._canary.findall(text))
            found.update(ids_in(text) & self.ids)
            if self.slug.encode() in text:
                found.add(self.slug.encode())
            if self.org_id.bytes.lower() in text:
                found.add(self.org_id.hex.encode())
        return found

    def learn(self, data: bytes, common: set[bytes]) -> None:
        """Take the ids in what this organisation received for its own, but for those of ``common``."""
        self.ids |= ids_in(data) - common
