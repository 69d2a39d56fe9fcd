"""Public tool names: ``{upstream}__{tool}``, stable, at most 60 characters, and never colliding.

Invariants:
    * An upstream's name holds no underscore, so the first ``__`` of a public name ends it: names of two upstreams
      never meet.
    * A name is natural (shorter than 60 characters, as the upstream gave it) or cut (exactly 60 characters, ending
      in a digest of the full name); the two kinds never meet, and two cut names meet only if 64 bits of SHA-256 do.
"""

from __future__ import annotations

import hashlib

__all__ = ["MAX_LENGTH", "SEPARATOR", "public_name", "upstream_of"]

SEPARATOR = "__"
MAX_LENGTH = 60
_DIGEST_LENGTH = 16


def public_name(upstream: str, tool: str, *, bare: bool = False) -> str:
    """Return the name under which a client sees ``tool``.

    Args:
        upstream: Name of the upstream server.
        tool: Name that the upstream gave the tool.
        bare: Leave the prefix out; sound only where the workspace has a single upstream.
    """
    full = tool if bare else f"{upstream}{SEPARATOR}{tool}"
    if len(full) < MAX_LENGTH:
        return full
    digest = hashlib.sha256(full.encode()).hexdigest()[:_DIGEST_LENGTH]
    return f"{full[: MAX_LENGTH - _DIGEST_LENGTH - 1]}_{digest}"


def upstream_of(name: str) -> str | None:
    """Return the upstream part of a prefixed public name, or None where there is no prefix."""
    upstream, separator, tool = name.partition(SEPARATOR)
    return upstream if separator and upstream and tool else None
