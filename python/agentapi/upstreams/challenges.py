"""What an upstream says with a 401 or a 403: which credential it wants (RFC 6750; RFC 9728)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

__all__ = ["Challenge", "parse_challenge"]

_PARAMETER: Final = re.compile(
    r"""\s*(?P<name>[!#$%&'*+.^_`|~0-9A-Za-z-]+)\s*=\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^\s,"]+))\s*(?:,|$)"""
)
_SCHEME: Final = re.compile(r"\s*(?P<scheme>[!#$%&'*+.^_`|~0-9A-Za-z-]+)(?:\s+|$)(?!=)")


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a ``WWW-Authenticate: Bearer`` header says (RFC 6750, section 3; RFC 9728, section 5.1)."""

    resource_metadata: str | None = None
    scopes: tuple[str, ...] = ()
    error: str | None = None


def parse_challenge(headers: list[str]) -> Challenge:
    """Return the first Bearer challenge of the headers (RFC 9110, section 11.6.1)."""
    for header in headers:
        scheme, found = "", dict[str, str]()
        rest = header
        while rest:
            parameter = _PARAMETER.match(rest)
            if parameter is not None:
                if scheme == "bearer":
                    quoted = parameter["quoted"]
                    value = parameter["plain"] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
                    found.setdefault(parameter["name"].lower(), value)
                rest = rest[parameter.end() :]
                continue
            start = _SCHEME.match(rest)
            if start is None or scheme == "bearer":
                break
            scheme = start["scheme"].lower()
            rest = rest[start.end() :]
        if scheme == "bearer":
            return Challenge(
                found.get("resource_metadata"), tuple(dict.fromkeys(found.get("scope", "").split())), found.get("error")
            )
    return Challenge()
