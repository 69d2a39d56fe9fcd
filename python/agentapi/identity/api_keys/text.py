"""How an API key is written.

``agentapi_<public part>_<secret><checksum>``: 43, 43 and 6 characters of base 62. The public part is the organisation's
id and the key's, 128 bits each, so that the key is found among the rows of its own tenant, like anything else. The
secret is 256 random bits. The checksum is the CRC-32 of all before it, by which a scanner tells a leaked key from what
only looks like one without asking anybody; it protects nothing. There is no character at which a double click stops.
"""

from __future__ import annotations

import re
import secrets
import zlib
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, Final
from uuid import UUID

from agentapi.errors import UnauthenticatedError
from agentapi.identity.api_keys.models import KeyId
from agentapi.principal import OrgId

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["PREFIX", "hash_of", "holds_key", "ids_of", "public_part", "write_key"]

PREFIX: Final = "agentapi_"
_PREFIX: Final = PREFIX.encode()
_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_VALUES: Final[Mapping[str, int]] = {character: value for value, character in enumerate(_ALPHABET)}
_BITS: Final = 256
_LONG: Final = 43
_SHORT: Final = 6
_ID_BITS: Final = 128
_FORM: Final = re.compile(rf"({PREFIX}([0-9A-Za-z]{{{_LONG}}})_[0-9A-Za-z]{{{_LONG}}})([0-9A-Za-z]{{{_SHORT}}})")
_ANYWHERE: Final = re.compile(rb"agentapi_[0-9A-Za-z]{43}_")


def write_key(org_id: OrgId, key_id: KeyId) -> str:
    """Return a new key under that id, with a secret of its own."""
    body = f"{public_part(org_id, key_id)}_{_encode(secrets.randbits(_BITS), _LONG)}"
    return body + _checksum(body)


def public_part(org_id: OrgId, key_id: KeyId) -> str:
    """Return what all keys of that id begin with: no secret, and what to look for where one may have leaked."""
    return PREFIX + _encode(org_id.int << _ID_BITS | key_id.int, _LONG)


def ids_of(text: str) -> tuple[OrgId, KeyId]:
    """Return the organisation and the key that ``text`` says it is of; only its hash tells whether that is so.

    Raises:
        UnauthenticatedError: It is no key: cut, mistyped or made up.
    """
    match = _FORM.fullmatch(text)
    if match is None or _checksum(match[1]) != match[3]:
        raise UnauthenticatedError("malformed_api_key", presented=True)
    return _ids(match[2])


def hash_of(text: str) -> bytes:
    """Return the hash that is stored of a key.

    It is of the whole text, ids included, so that a row's hash is good for no other row. SHA-256 is enough: a slow
    hash makes guessing dear where there is little to guess, as with passwords; of 256 random bits nobody guesses any,
    and what is slow would be a lever for whoever sends wrong keys.
    """
    return sha256(text.encode("ascii")).digest()


def holds_key(query: bytes) -> bool:
    """Return whether a query string holds a key, which logs and histories on the way would have kept."""
    return _PREFIX in query and _ANYWHERE.search(query) is not None


@lru_cache(maxsize=4096)
def _ids(public: str) -> tuple[OrgId, KeyId]:
    number = 0
    for character in public:
        number = number * len(_ALPHABET) + _VALUES[character]
    if number >> _BITS:
        raise UnauthenticatedError("malformed_api_key", presented=True)
    return OrgId(UUID(int=number >> _ID_BITS)), KeyId(UUID(int=number & (1 << _ID_BITS) - 1))


def _checksum(body: str) -> str:
    return _encode(zlib.crc32(body.encode("ascii")), _SHORT)


def _encode(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, value = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[value])
    return "".join(reversed(digits))
