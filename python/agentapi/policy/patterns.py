"""Names by pattern: ``*`` stands for any characters, everything else for itself, capitals included.

Matching takes each piece between two stars once, from left to right, and never goes back: a pattern that somebody
wrote to be slow is as fast as any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["MAX_LENGTH", "Patterns", "matches"]

MAX_LENGTH = 128
"""Characters of one pattern; whoever accepts patterns from outside holds them to it."""


def matches(pattern: str, name: str) -> bool:
    """Return whether the whole of ``name`` is as ``pattern`` says."""
    first, *rest = pattern.split("*")
    if not rest:
        return name == pattern
    *middle, last = rest
    end = len(name) - len(last)
    if end < len(first) or not name.startswith(first) or not name.endswith(last):
        return False
    position = len(first)
    for piece in middle:
        found = name.find(piece, position, end)
        if found < 0:
            return False
        position = found + len(piece)
    return True


class Patterns:
    """Some patterns, any of which may match."""

    __slots__ = ("_exact", "_open", "texts")

    def __init__(self, texts: Iterable[str]) -> None:
        self.texts = tuple(texts)
        self._exact = frozenset(text for text in self.texts if "*" not in text)
        self._open = tuple(text for text in self.texts if "*" in text)

    def __bool__(self) -> bool:
        return bool(self.texts)

    def match(self, names: Iterable[str]) -> bool:
        """Return whether a pattern matches one of ``names``."""
        return any(name in self._exact or any(matches(text, name) for text in self._open) for name in names)
