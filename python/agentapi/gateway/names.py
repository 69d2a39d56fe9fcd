"""Public names: ``{upstream}__{name}`` of tools and prompts, ``mcp+{upstream}+{uri}`` of resources and templates.

Both are stable and never collide; the names are at most 60 characters long.

Invariants:
    * An upstream's name holds no underscore, so the first ``__`` of a public name ends it: names of two upstreams
      never meet.
    * A name is natural (shorter than 60 characters, as the upstream gave it) or cut (exactly 60 characters, ending
      in a digest of the full name); the two kinds never meet, and two cut names meet only if 64 bits of SHA-256 do.
    * An upstream's name holds no ``+``, so the second ``+`` of a public URI ends it. It is in lower case, so a client
      that normalises the scheme (RFC 3986, section 6.2.2.1) changes nothing; ``mcp+notes+file`` is such a scheme.
"""

from __future__ import annotations

import hashlib

__all__ = ["MAX_LENGTH", "SEPARATOR", "public_name", "public_uri", "split_uri", "upstream_of"]

SEPARATOR = "__"
MAX_LENGTH = 60
_DIGEST_LENGTH = 16
_URI_START = "mcp+"


def public_name(upstream: str, name: str, *, bare: bool = False) -> str:
    """Return the name under which a client sees a tool or a prompt.

    Args:
        upstream: Name of the upstream server.
        name: Name that the upstream gave it.
        bare: Leave the prefix out; sound only where the workspace has a single upstream.
    """
    full = name if bare else f"{upstream}{SEPARATOR}{name}"
    if len(full) < MAX_LENGTH:
        return full
    digest = hashlib.sha256(full.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_LENGTH]
    return f"{full[: MAX_LENGTH - _DIGEST_LENGTH - 1]}_{digest}"


def upstream_of(name: str) -> str | None:
    """Return the upstream part of a prefixed public name, or None where there is no prefix."""
    upstream, separator, rest = name.partition(SEPARATOR)
    return upstream if separator and upstream and rest else None


def public_uri(upstream: str, uri: str, *, bare: bool = False) -> str:
    """Return the URI, or URI template, under which a client sees a resource; ``bare`` as for ``public_name``."""
    return uri if bare else f"{_URI_START}{upstream}+{uri}"


def split_uri(uri: str) -> tuple[str, str] | None:
    """Return the upstream and its own URI that a prefixed public URI stands for, or None where there is no prefix."""
    if not uri.startswith(_URI_START):
        return None
    upstream, separator, rest = uri.removeprefix(_URI_START).partition("+")
    return (upstream, rest) if separator and upstream and rest else None
