"""JSON of every shape, as it may be written."""

from __future__ import annotations

import json
from typing import Any, Final

from hypothesis import strategies as st

__all__ = ["JSON", "SOUND", "SPELLINGS", "TEXT", "near", "rarely", "written"]

_RAW: Final = b'"@RAW@"'

TEXT: Final = st.text(max_size=12) | st.sampled_from(
    ["", "\u2028", "\U0001f600", '"uri"', '"error"', "\\u0075", "a\r\nb", "\x00", "\x7f", "uri", "x" * 5000]
)
NUMBERS: Final = (
    st.integers()
    | st.sampled_from([2**53 + 1, -(2**63), 2**64, 10**40])
    | st.floats(allow_nan=False, allow_infinity=False)
)
JSON: Final = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
SOUND: Final = st.sampled_from(
    [
        b"1E2", b"-0", b"-0.0", b"1.0", b"1e308", b"5e-324", b"0.1000000000000000055511151231257827", b"9" * 400,
        b'"\\u0061\\/"', b'"\\ud83d\\ude00"', b" [ ] ", b'{"\\u0075ri":"test://static"}', b'{"uri":"test://a"}',
    ]
)  # fmt: skip
"""JSON as it is written, where the way of writing may matter."""
SPELLINGS: Final = SOUND | st.sampled_from(
    [
        b'{"a":1,"a":2}', b'{"a":1,"\\u0061":2}', b"1e999", b"NaN", b'"\\ud800"', b"9" * 5000, b"01", b'"\t"', b"'x'",
        b"[1,]", b"\xff", b'"\xed\xa0\x80"', b"",
    ]
)  # fmt: skip
"""The same, and what two parsers may read differently, or what is no JSON at all."""


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth - 1):
        value = [value]
    return value


def rarely(values: list[Any], otherwise: object) -> st.SearchStrategy[Any]:
    """One of ``values``, which are mostly refused, so that most of what is generated gets further."""
    return st.sampled_from([*values, *[otherwise] * 20])


def near(*depths: int) -> st.SearchStrategy[list[Any]]:
    """Values about as deep as a bound."""
    return st.sampled_from([depth + change for depth in depths for change in (-4, -3, -2, -1, 0, 1)]).map(nested)


def written(value: object, *, ascii_only: bool, indent: int | None, raw: bytes) -> bytes:
    """Return ``value`` as JSON, with ``raw`` where it says so."""
    return json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass").replace(_RAW, raw)
