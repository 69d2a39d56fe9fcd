"""What in a text reads like an attempt to take a model over.

The detector flags and never rewrites: it is given text and returns places, so what is composed is what was written. It
is a help for people who review prompts and no boundary; the boundary is how parts are composed (``compose``).

Every pattern is linear in the text: quantifiers are bounded, and alternatives do not overlap within one.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Final

__all__ = ["Finding", "Suspicion", "findings_in"]

_MAX_FINDINGS: Final = 50
"""For one text; a reviewer who is shown that many needs no more."""


class Suspicion(StrEnum):
    """What a place reads like."""

    OVERRIDE = "override"
    """It tells the model to disregard what stands elsewhere."""
    ROLE_MARKER = "role_marker"
    """It poses as the beginning of a system or assistant message."""
    BOUNDARY = "boundary"
    """It poses as one of the lines that begin or end a part."""
    REVEAL = "reveal"
    """It asks for the instructions or for secrets."""
    INVISIBLE = "invisible"
    """Characters that people do not see and models read."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A place in a text, in characters."""

    suspicion: Suspicion
    start: int
    end: int


_GAP: Final = r"\W{1,3}(?:\w{1,12}\W{1,3}){0,3}"
_RULES: Final = r"instructions?|prompts?|rules?|guidelines?|directions?"
_PATTERNS: Final = tuple(
    (suspicion, re.compile(pattern, re.MULTILINE))
    for suspicion, pattern in (
        (
            Suspicion.OVERRIDE,
            rf"\b(?:ignore|disregard|forget|override|bypass)\b{_GAP}(?:{_RULES}|above)\b",
        ),
        (Suspicion.OVERRIDE, rf"\b(?:ignoriere|vergiss|missachte)\b{_GAP}(?:anweisung(?:en)?|regeln?|vorgaben?)\b"),
        (Suspicion.OVERRIDE, rf"\b(?:ignore[zr]?|oublie[zr]?)\b{_GAP}(?:consignes?|règles?)\b"),
        (Suspicion.OVERRIDE, rf"\b(?:ignora|olvida|ignore)\b{_GAP}(?:instrucciones|reglas|indicaciones)\b"),
        (Suspicion.OVERRIDE, r"\b(?:you are now|from now on,? you|new instructions?:)"),
        (Suspicion.ROLE_MARKER, r"<\|[a-z_]{2,24}\|>|\[/?inst\]|<</?sys>>"),
        (Suspicion.ROLE_MARKER, r"^[ \t]{0,8}(?:#{1,6} )?\[?(?:system|assistant|developer)\]?(?: message| prompt)?:"),
        (Suspicion.ROLE_MARKER, r"</?(?:system|assistant|developer|system_prompt)>"),
        (Suspicion.BOUNDARY, r"^[ \t]{0,8}\[[0-9a-f]{16,64}\]"),
        (
            Suspicion.REVEAL,
            rf"\b(?:reveal|print|repeat|output|show|leak)\b{_GAP}(?:system prompt|instructions|secrets|credentials)\b",
        ),
    )
)
_UNSEEN: Final = re.compile(
    "[\u00ad\u180e\u200b\u2060-\u2064\u202a-\u202e\u2066-\u2069\ufeff\ufff9-\ufffb\U000e0000-\U000e007f]+"
)
"""Characters without a glyph that no script needs; the joiners U+200C and U+200D, which some do need, are not among."""
_SKIPPED: Final = frozenset({"Cf", "Mn"})


@lru_cache(maxsize=512)
def findings_in(text: str) -> tuple[Finding, ...]:
    """Return the places in ``text`` that are worth a look, in order, at most 50 of them."""
    folded, places = _folded(text)
    found = [Finding(Suspicion.INVISIBLE, match.start(), match.end()) for match in _UNSEEN.finditer(text)]
    for suspicion, pattern in _PATTERNS:
        for match in pattern.finditer(folded):
            start, end = match.span()
            found.append(
                Finding(suspicion, start, end) if places is None else Finding(suspicion, places[start], places[end])
            )
    found.sort(key=lambda finding: (finding.start, finding.end, finding.suspicion))
    return tuple(found[:_MAX_FINDINGS])


def _folded(text: str) -> tuple[str, list[int] | None]:
    """Return ``text`` as it reads, and where each of its characters stood if that changed.

    Compatibility forms count as what they look like, accents and characters without a glyph as nothing.
    """
    if text.isascii():
        return text.lower(), None
    letters: list[str] = []
    places: list[int] = []
    for place, character in enumerate(text):
        for letter in unicodedata.normalize("NFKC", character).casefold():
            if unicodedata.category(letter) not in _SKIPPED:
                letters.append(letter)
                places.append(place)
    places.append(len(text))
    return "".join(letters), places
