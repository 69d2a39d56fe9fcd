"""An issuer of the gateway's own: a P-256 key, its public key set, and short-lived tokens.

Its tokens are verified like those of any other issuer; having the key is the only privilege. That of ``agentapi dev``
is in a file, those of a deployment are in its database (``signing_keys``).
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet

from agentapi.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from agentapi.principal import Role

__all__ = ["TokenIssuer", "new_signing_key", "write_private_file"]

_ALGORITHM = "ES256"
_CURVE = "P-256"


class TokenIssuer:
    """Mints tokens of one issuer.

    Args:
        issuer: Value of ``iss``.
        key: The signing key, with its ``kid``.
    """

    def __init__(self, issuer: str, key: ECKey) -> None:
        self.issuer = issuer
        self._key = key

    @classmethod
    def from_file(cls, issuer: str, path: Path) -> TokenIssuer:
        """Load the key of ``path``, making one (mode 0600) where there is none.

        Raises:
            StartupError: The file is not such a key.
        """
        try:
            if not path.exists():
                _write_new_key(path)
            key = _signing_key(json.loads(path.read_bytes()))
        except (OSError, ValueError, TypeError, RecursionError, JoseError) as error:
            raise StartupError(
                f"The signing key {path} cannot be used ({type(error).__name__}); move it away."
            ) from error
        return cls(issuer, key)

    def key_set(self) -> str:
        """Return the public key set (RFC 7517, section 5) as JSON."""
        return json.dumps(KeySet([self._key]).as_dict(private=False))

    def mint(
        self,
        *,
        subject: str,
        audiences: Sequence[str],
        organization: str,
        role: Role,
        lifetime_s: int,
        scopes: Sequence[str] = (),
        session_id: str | None = None,
        token_id: str | None = None,
        now: float | None = None,
    ) -> str:
        """Return a signed token (RFC 7519; ``typ`` as RFC 9068, section 2.1; ``sid`` as in OpenID Connect)."""
        issued = int(time.time() if now is None else now)
        claims: dict[str, Any] = {
            "iss": self.issuer,
            "sub": subject,
            "aud": list(audiences),
            "iat": issued,
            "exp": issued + lifetime_s,
            "jti": token_id or uuid4().hex,
            "organization": organization,
            "role": role.value,
        }
        if scopes:
            claims["scope"] = " ".join(scopes)
        if session_id is not None:
            claims["sid"] = session_id
        header = {"alg": _ALGORITHM, "typ": "at+jwt", "kid": self._key.kid}
        return jwt.encode(header, claims, self._key, algorithms=[_ALGORITHM])


def _signing_key(document: Any) -> ECKey:  # noqa: ANN401 - unvalidated JSON
    if not isinstance(document, dict):
        raise TypeError("the key is no object")
    key = ECKey.import_key(document)
    if key.curve_name != _CURVE or not key.is_private or not key.kid:
        raise ValueError("the key is not a private P-256 key with an id")
    return key


def new_signing_key() -> ECKey:
    """Return a new key; its id is its thumbprint (RFC 7638)."""
    return ECKey.generate_key(_CURVE, {"use": "sig", "alg": _ALGORITHM}, auto_kid=True)


def _write_new_key(path: Path) -> None:
    write_private_file(path, json.dumps(new_signing_key().as_dict(private=True)))


def write_private_file(path: Path, text: str) -> None:
    """Create ``path``, readable by its owner alone; a crash leaves the whole file or none.

    Raises:
        OSError: The file cannot be made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{uuid4().hex}")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
