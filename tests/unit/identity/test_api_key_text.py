"""How a key is written, as a scanner that asks nobody reads it."""

from __future__ import annotations

import re
import zlib
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentapi.errors import UnauthenticatedError
from agentapi.identity.api_keys.models import KeyId
from agentapi.identity.api_keys.text import hash_of, holds_key, ids_of, public_part, write_key
from agentapi.observability.redaction import scrub
from agentapi.principal import OrgId

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def scanner_says(text: str) -> bool:
    """The rule as docs/how-to/api-keys.md gives it to scanners."""
    if re.fullmatch(r"agentapi_[0-9A-Za-z]{43}_[0-9A-Za-z]{49}", text) is None:
        return False
    number = 0
    for character in text[-6:]:
        number = number * 62 + ALPHABET.index(character)
    return number == zlib.crc32(text[:-6].encode())


@given(st.uuids(), st.uuids())
def test_a_key_names_its_organisation_and_itself(org: UUID, key: UUID) -> None:
    text = write_key(OrgId(org), KeyId(key))
    assert ids_of(text) == (org, key)
    assert text.startswith(public_part(OrgId(org), KeyId(key)) + "_")
    assert scanner_says(text)


@pytest.mark.parametrize("number", [0, 2**128 - 1])
def test_the_least_and_the_greatest_id_fit(number: int) -> None:
    one = UUID(int=number)
    assert ids_of(write_key(OrgId(one), KeyId(one))) == (one, one)


def test_no_two_keys_of_one_id_are_alike() -> None:
    org, key = OrgId(uuid4()), KeyId(uuid4())
    texts = {write_key(org, key) for _ in range(100)}
    assert len(texts) == len({hash_of(text) for text in texts}) == 100


@given(st.integers(0, 101), st.sampled_from(ALPHABET))
def test_one_wrong_character_is_noticed_without_a_look_up(place: int, character: str) -> None:
    text = write_key(OrgId(UUID(int=1)), KeyId(UUID(int=2)))
    wrong = text[:place] + character + text[place + 1 :]
    if wrong != text:
        with pytest.raises(UnauthenticatedError) as caught:
            ids_of(wrong)
        assert caught.value.reason == "malformed_api_key"


def test_what_is_cut_or_longer_is_no_key() -> None:
    text = write_key(OrgId(uuid4()), KeyId(uuid4()))
    for wrong in (*(text[:length] for length in range(len(text))), text + "0", " " + text, text + "\n"):
        with pytest.raises(UnauthenticatedError):
            ids_of(wrong)


def test_a_public_part_beyond_256_bits_is_none() -> None:
    body = f"agentapi_{'z' * 43}_{'0' * 43}"
    crc, digits = zlib.crc32(body.encode()), ""
    for _ in range(6):
        crc, value = divmod(crc, 62)
        digits = ALPHABET[value] + digits
    assert scanner_says(body + digits)
    with pytest.raises(UnauthenticatedError):
        ids_of(body + digits)


def test_a_key_in_a_query_string_is_seen_and_other_words_are_not() -> None:
    text = write_key(OrgId(uuid4()), KeyId(uuid4()))
    assert holds_key(b"a=1&access_token=" + text.encode())
    assert not holds_key(b"q=agentapi_something")
    assert not holds_key(b"")


def test_no_log_shows_a_key() -> None:
    text = write_key(OrgId(uuid4()), KeyId(uuid4()))
    assert text[60:] not in scrub(f"refused {text} here")
