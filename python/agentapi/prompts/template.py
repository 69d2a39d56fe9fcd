"""Declared variables in a text: ``{{ name }}``, and nothing else.

Jinja2's sandbox was weighed and left: it keeps a template from the attributes of objects, not from loops, ranges and
repetitions, and those of one tenant would stop the event loop of all. Here the cost is one pass over the text.

Invariants:

* What is no ``{{ name }}`` comes out as it went in, byte for byte, other braces included.
* A value is not looked into: what looks like a variable in it stays text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agentapi.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MAX_RENDERED", "Rendered", "ValueSpan", "names_in", "render"]

MAX_RENDERED: Final = 512 * 1024
"""Characters of a text with its values, since a short text may repeat a long value."""

_VARIABLE: Final = re.compile(r"\{\{[ \t]{0,8}([A-Za-z_][A-Za-z0-9_]{0,63})[ \t]{0,8}\}\}")


@dataclass(frozen=True, slots=True)
class ValueSpan:
    """Where the value of a variable stands, in characters."""

    name: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Rendered:
    """A text with values for its variables."""

    text: str
    values: tuple[ValueSpan, ...]


def names_in(text: str) -> frozenset[str]:
    """Return the variables that ``text`` uses."""
    return frozenset(_VARIABLE.findall(text))


def render(text: str, values: Mapping[str, str]) -> Rendered:
    """Return ``text`` with a value for each of its variables.

    Raises:
        InvalidRequestError: A variable has no value, or the result exceeds ``MAX_RENDERED``.
    """
    pieces: list[str] = []
    spans: list[ValueSpan] = []
    length = last = 0
    for match in _VARIABLE.finditer(text):
        name = match[1]
        value = values.get(name)
        if value is None:
            raise InvalidRequestError(f"The variable {name} has no value.")
        start = length + match.start() - last
        pieces += (text[last : match.start()], value)
        length, last = start + len(value), match.end()
        if length > MAX_RENDERED:
            break
        spans.append(ValueSpan(name, start, length))
    if length + len(text) - last > MAX_RENDERED:
        raise InvalidRequestError(f"The prompt with its values is longer than {MAX_RENDERED} characters.")
    pieces.append(text[last:])
    return Rendered("".join(pieces), tuple(spans))
