"""Keys of checkpoints: Ed25519 (RFC 8032), one for each key of the sealing keyring, derived from it.

The seed is HKDF-SHA256 (RFC 5869) of the keyring's key, without salt, with the info of ``_INFO``. So the deployment has
no further secret to keep, whoever has the database alone can sign nothing, and whoever checks needs public keys alone.
A key that leaves the keyring can be checked with as long as its public key is kept.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from agentapi.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["PublicKeys", "SigningKeys"]

_INFO: Final = b"agentapi audit checkpoints, Ed25519, 1"


class PublicKeys:
    """What checkpoints are checked with, by the id of the keyring's key."""

    def __init__(self, keys: Mapping[str, Ed25519PublicKey]) -> None:
        self._keys = keys

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the JSON that ``as_json`` wrote.

        Raises:
            StartupError: It is not such JSON.
        """
        try:
            given = json.loads(text)
            return cls({id_: Ed25519PublicKey.from_public_bytes(_decoded(key)) for id_, key in given.items()})
        except (ValueError, TypeError, AttributeError) as error:
            raise StartupError("The public keys are not what `agentapi audit keys` prints.") from error

    def as_json(self) -> str:
        """Return the keys as a JSON object of key id and the 32 bytes in base64url."""
        return json.dumps({id_: _encoded(key.public_bytes_raw()) for id_, key in sorted(self._keys.items())})

    def joined(self, other: PublicKeys) -> PublicKeys:
        """Return both; of two keys with one id the other's."""
        return PublicKeys({**self._keys, **other._keys})

    def knows(self, key_id: str) -> bool:
        """Return whether there is a key of that id."""
        return key_id in self._keys

    def verifies(self, key_id: str, signature: bytes, data: bytes) -> bool:
        """Return whether the key of that id signed ``data``."""
        key = self._keys.get(key_id)
        if key is None:
            return False
        try:
            key.verify(signature, data)
        except InvalidSignature:
            return False
        return True


class SigningKeys:
    """What checkpoints are signed with.

    Args:
        active_id: The key that signs.
        keys: All of them.
    """

    def __init__(self, active_id: str, keys: Mapping[str, Ed25519PrivateKey]) -> None:
        self.active_id = active_id
        self._keys = keys

    @classmethod
    def from_keyring(cls, text: str) -> Self:
        """Derive the keys from a keyring that ``Keyring.parse`` has accepted."""
        keyring = json.loads(text)
        return cls(keyring["active"], {id_: _derived(_decoded(key)) for id_, key in keyring["keys"].items()})

    @property
    def public(self) -> PublicKeys:
        """The public keys."""
        return PublicKeys({id_: key.public_key() for id_, key in self._keys.items()})

    def sign(self, data: bytes) -> bytes:
        """Return the active key's signature."""
        return self._keys[self.active_id].sign(data)


def _derived(key: bytes) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(HKDF(SHA256(), 32, salt=None, info=_INFO).derive(key))


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
