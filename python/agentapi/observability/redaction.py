"""Secrets out of log entries, by the name of the key and by the look of the value.

Every leaf of an entry becomes a plain string, number, boolean or None here, so that nothing is rendered
later by a ``repr`` that has not been looked at. Invariant: what leaves ``redact`` holds no value under a
sensitive key and no run of characters that looks like a credential.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from structlog.typing import EventDict, WrappedLogger

__all__ = ["REDACTED", "is_sensitive", "redact", "scrub"]

REDACTED: Final = "[redacted]"

_WORDS: Final = (
    r"authorization|token|secret|password|passwd|passphrase|cookie|credentials?|api[_-]?key|apikey|private[_-]?key"
    r"|keyring|client[_-]?assertion|code[_-]?verifier|mcp[_-]session[_-]id|dsn|database[_-]?url"
)
_SUFFIX: Final = r"[_-](?:value|hash|header|b64)"
_KEY: Final = re.compile(rf"(?:{_WORDS})s?(?:{_SUFFIX})?$", re.IGNORECASE)
_PATTERNS: Final = (
    (
        re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
        REDACTED,
    ),
    # A credential of an HTTP authentication scheme (RFC 7235).
    (
        re.compile(r"\b(bearer|basic|digest|dpop|negotiate)(\s+)[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE),
        rf"\1\2{REDACTED}",
    ),
    # JWS, JWE, and what has lost its tail: base64url of '{"'.
    (re.compile(r"\beyJ[A-Za-z0-9_-]{6,}(?:\.[A-Za-z0-9_-]*){0,4}"), REDACTED),
    # User name and password in a URL.
    (re.compile(r"(?<=://)[^\s/@\"'<>]+(?=@)"), REDACTED),
    # name=value, name: value and "name": "value" in text, also escaped.
    (
        re.compile(
            rf"((?:{_WORDS})s?(?:{_SUFFIX})?[\\\"']*\s*[=:]\s*[\\\"']*)(?!(?:bearer|basic|digest|dpop|negotiate)\s)"
            r"(?:[\[({][^\])}]*|[^\s\\\"'&;,)}\]]+)",
            re.IGNORECASE,
        ),
        rf"\1{REDACTED}",
    ),
    # Keys by their makers' prefixes, ours among them.
    (
        re.compile(
            r"\b(?:gh[pousr]_|github_pat_|glpat-|xox[abeprs]-|sk-|sk_live_|rk_live_|AKIA|ASIA|AIza|agentapi_|aak_|agi_)"
            r"[A-Za-z0-9_-]{10,}"
        ),
        REDACTED,
    ),
    # Sealed values and random tokens: a long run without a break that mixes cases and digits.
    (
        re.compile(
            r"(?<![A-Za-z0-9_/+-])(?=[A-Za-z_/+-]*[0-9])(?=[^A-Z]*[A-Z])(?=[^a-z]*[a-z])[A-Za-z0-9_:.+-]{40,}={0,2}"
        ),
        REDACTED,
    ),
)
_PLAIN: Final = re.compile(r"[a-z0-9/{}.]*|[0-9a-f-]*|[0-9TZ:.-]*|[A-Z]{0,8}")
"""What no pattern above can match: words, paths, hexadecimal ids, times, methods. Most of a log line is of this kind,
and seven searches for each of its values are what a log line would cost most."""
_MAX_DEPTH: Final = 8


def scrub(text: str) -> str:
    """Return ``text`` with everything in it that looks like a credential replaced."""
    if _PLAIN.fullmatch(text):
        return text
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def redact(_logger: WrappedLogger | None, _method: str, event_dict: EventDict) -> EventDict:
    """Redact a log entry; a structlog processor, to run right before the renderer."""
    return {key: _value(key, value, 0) for key, value in event_dict.items()}


def _value(key: str, value: object, depth: int) -> object:
    if value is None or isinstance(value, bool):
        return value
    if depth > _MAX_DEPTH or is_sensitive(key):
        return REDACTED
    # Nearly all values are strings, which need not be asked whether they are of the abstract kinds below.
    if isinstance(value, str):
        return scrub(value)
    if isinstance(value, Mapping):
        return {scrub(str(inner)): _value(str(inner), one, depth + 1) for inner, one in value.items()}
    if isinstance(value, (list, tuple, AbstractSet)):
        return [_value("", one, depth + 1) for one in value]
    return _leaf(value)


@functools.lru_cache(maxsize=1024)
def is_sensitive(key: str) -> bool:
    """Return whether what goes by the name ``key`` is a secret as a rule."""
    return _KEY.search(key) is not None


def _leaf(value: object) -> int | float | str:
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"[{len(value)} bytes]"
    # str() of a SecretStr is masked already; of anything else it is looked at like any text.
    return scrub(str(value))
