"""A request with a key, and an answer that can be given again."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from agentapi.principal import OrgId, Principal, UserId

__all__ = ["Answer", "Claim"]


@dataclass(frozen=True, slots=True)
class Claim:
    """What says that two requests are one: who asks, the key, and what is asked."""

    org_id: OrgId
    user_id: UserId
    key_hash: bytes
    fingerprint: bytes

    @classmethod
    def of(cls, principal: Principal, key: str, request: tuple[bytes, ...]) -> Self:
        """Return the claim of a principal's request.

        Args:
            principal: Who asks. What came with an API key is another's than what came with a token, since an answer may
                hold more than the key is good for.
            key: As the client made it up.
            request: All that makes it another request.
        """
        credential = "" if principal.key_id is None else str(principal.key_id)
        hashed = _digest(str(principal.org_id), str(principal.user_id), credential, key)
        return cls(principal.org_id, principal.user_id, hashed, _digest(*request))

    @property
    def lock(self) -> int:
        """What stands for the key among PostgreSQL's advisory locks."""
        return int.from_bytes(self.key_hash[:8], signed=True)


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def dump(self) -> bytes:
        """Return it as it is sealed."""
        headers = [[name.decode("latin-1"), value.decode("latin-1")] for name, value in self.headers]
        return json.dumps([self.status, headers, self.body.decode("latin-1")], separators=(",", ":")).encode()

    @classmethod
    def load(cls, dumped: bytes) -> Self:
        """Return what ``dump`` wrote."""
        status, headers, body = json.loads(dumped)
        pairs = tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in headers)
        return cls(status, pairs, body.encode("latin-1"))


def _digest(*parts: str | bytes) -> bytes:
    """Hash parts so that no two lists of them are written alike."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode() if isinstance(part, str) else part
        digest.update(len(encoded).to_bytes(8))
        digest.update(encoded)
    return digest.digest()
