"""What a tool says of itself, as one digest: two definitions that a model could tell apart have two digests."""

from __future__ import annotations

import hashlib
import json
from typing import Any

__all__ = ["FINGERPRINTED", "described", "fingerprint", "stored_name"]

FINGERPRINTED = ("title", "description", "inputSchema", "outputSchema", "annotations")
"""What a client or a model acts upon; icons and ``_meta`` may change from day to day."""

_MAX_NAME = 128
_DIGEST_LENGTH = 16


def described(definition: dict[str, Any]) -> str:
    """Return the fingerprinted members as canonical JSON in ASCII: members sorted, nothing between them."""
    shown = {member: definition[member] for member in FINGERPRINTED if definition.get(member) is not None}
    return json.dumps(shown, sort_keys=True, separators=(",", ":"))


def fingerprint(definition: dict[str, Any]) -> bytes:
    """Return SHA-256 of what ``described`` gives."""
    return hashlib.sha256(described(definition).encode()).digest()


def stored_name(tool: str) -> str:
    """Return a tool's name as the database can keep it: unchanged, or for a hostile one a digest in its place.

    An upstream may name a tool with NUL, with half a surrogate pair, or with a million characters.
    """
    if len(tool) <= _MAX_NAME and tool.isascii() and "\x00" not in tool:
        return tool
    clean = tool.encode("utf-8", "replace").decode().replace("\x00", "\N{REPLACEMENT CHARACTER}")
    if clean == tool and len(tool) <= _MAX_NAME:
        return tool
    digest = hashlib.sha256(tool.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST_LENGTH]
    return f"{clean[: _MAX_NAME - _DIGEST_LENGTH - 1]}_{digest}"
