"""How the token of an invitation is written.

``agi_``, the organisation's id and 256 random bits, in lower-case hexadecimal, which no mail, chat or double click
cuts or changes. The id is there so that the invitation is found among the rows of its own tenant, like anything else;
it protects nothing.
"""

from __future__ import annotations

import re
import secrets
from hashlib import sha256
from typing import Final
from uuid import UUID

from agentapi.principal import OrgId

__all__ = ["hash_of", "organization_of", "write_token"]

_PREFIX: Final = "agi_"
"""By which a leak scanner knows an invitation."""
_SECRET_BYTES: Final = 32
_FORM: Final = re.compile(rf"{_PREFIX}([0-9a-f]{{32}})[0-9a-f]{{{2 * _SECRET_BYTES}}}")


def write_token(org_id: OrgId) -> str:
    """Return the token of a new invitation of that organisation."""
    return f"{_PREFIX}{org_id.hex}{secrets.token_hex(_SECRET_BYTES)}"


def organization_of(text: str) -> OrgId | None:
    """Return the organisation that ``text`` says it is of, or None if it is no token; only its hash tells."""
    match = _FORM.fullmatch(text)
    return None if match is None else OrgId(UUID(hex=match[1]))


def hash_of(text: str) -> bytes:
    """Return the hash that is stored of a token: of the whole text, so that it is good for no other organisation."""
    return sha256(text.encode()).digest()
