"""Sealed values, against the format and an independent AES-GCM."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from agentapi._core import Keyring, KeyringError, SealError

if TYPE_CHECKING:
    from collections.abc import Callable

TEXT = Keyring.generate("k1")
KEYRING = Keyring.parse(TEXT)


def raw_key(text: str, key_id: str) -> bytes:
    return base64.urlsafe_b64decode(json.loads(text)["keys"][key_id] + "=")


@given(plaintext=st.binary(max_size=4096), aad=st.binary(max_size=256))
def test_opens_what_it_has_sealed(plaintext: bytes, aad: bytes) -> None:
    assert KEYRING.open(KEYRING.seal(plaintext, aad), aad) == plaintext


@given(plaintext=st.binary(max_size=256), aad=st.binary(max_size=64))
def test_the_format_is_plain_aes_gcm(plaintext: bytes, aad: bytes) -> None:
    peer = AESGCM(raw_key(TEXT, "k1"))
    sealed = KEYRING.seal(plaintext, aad)
    prefix, nonce, body = sealed[:4], sealed[4:16], sealed[16:]
    assert prefix == b"\x01\x02k1"
    assert peer.decrypt(nonce, body, prefix + aad) == plaintext
    assert KEYRING.open(prefix + nonce + peer.encrypt(nonce, plaintext, prefix + aad), aad) == plaintext


@given(plaintext=st.binary(max_size=64), flip=st.integers(1, 255), data=st.data())
def test_a_changed_value_does_not_open(plaintext: bytes, flip: int, data: st.DataObject) -> None:
    sealed = bytearray(KEYRING.seal(plaintext, b"row"))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= flip
    with pytest.raises(SealError):
        KEYRING.open(bytes(sealed), b"row")


def test_every_failure_to_open_reads_alike() -> None:
    sealed = KEYRING.seal(b"secret", b"row 7")
    foreign = Keyring.parse(Keyring.generate("k1")).seal(b"secret", b"row 7")
    unknown = Keyring.parse(Keyring.generate("other")).seal(b"secret", b"row 7")
    cases = [
        (sealed, b"row 8"),
        (sealed[:-1], b"row 7"),
        (foreign, b"row 7"),
        (unknown, b"row 7"),
        (b"", b"row 7"),
    ]
    messages = set()
    for value, aad in cases:
        with pytest.raises(SealError) as caught:
            KEYRING.open(value, aad)
        messages.add((str(caught.value), caught.value.args))
    assert len(messages) == 1


def test_rotation_keeps_what_was_sealed() -> None:
    rotated = Keyring.rotate(TEXT, "k2")
    assert raw_key(rotated, "k1") == raw_key(TEXT, "k1") != raw_key(rotated, "k2")
    keyring = Keyring.parse(rotated)
    assert (keyring.active_key_id, keyring.key_ids) == ("k2", ("k1", "k2"))
    sealed = KEYRING.seal(b"secret", b"row")
    resealed = keyring.reseal(sealed, b"row")
    assert resealed[2:4] == b"k2"
    assert keyring.open(sealed, b"row") == keyring.open(resealed, b"row") == b"secret"
    with pytest.raises(SealError):
        KEYRING.open(resealed, b"row")


def test_one_mebibyte_is_the_limit() -> None:
    largest = bytes(1024 * 1024)
    assert KEYRING.open(KEYRING.seal(largest, b""), b"") == largest
    with pytest.raises(SealError, match="1 MiB"):
        KEYRING.seal(largest + b"\0", b"")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        '{"active":"k1","keys":{}}',
        '{"active":"k1","keys":{"k1":"c2hvcnQ"}}',
        '{"active":"k 1","keys":{"k 1":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"}}',
        '{"active":"k1","keys":{"k1":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="}}',
        '{"active":"k1","keys":{"k1":"AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"},"x":1}',
    ],
)
def test_keyrings_are_read_strictly(text: str) -> None:
    with pytest.raises(KeyringError) as caught:
        Keyring.parse(text)
    assert isinstance(caught.value, ValueError)
    assert "AAECAwQF" not in str(caught.value)


def test_a_keyring_shows_no_key() -> None:
    assert repr(KEYRING) == 'Keyring(active_key_id="k1", key_ids=["k1"])'
    with pytest.raises(TypeError):
        Keyring()


def test_threads_seal_with_different_nonces() -> None:
    with ThreadPoolExecutor(8) as pool:
        sealed = list(pool.map(lambda number: KEYRING.seal(str(number).encode(), b""), range(2000)))
    assert len({value[4:16] for value in sealed}) == 2000
    assert [KEYRING.open(value, b"") for value in sealed] == [str(number).encode() for number in range(2000)]


NOW = 1_800_000_000


@given(
    plaintext=st.binary(max_size=512),
    aad=st.binary(max_size=64),
    expires_at=st.integers(-(2**63), 2**63 - 1),
    now=st.integers(-(2**63), 2**63 - 1),
)
def test_a_value_opens_until_it_expires(plaintext: bytes, aad: bytes, expires_at: int, now: int) -> None:
    sealed = KEYRING.seal_until(plaintext, aad, expires_at)
    text = KEYRING.seal_text_until(plaintext, aad, expires_at)
    assert set(text) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
    if now < expires_at:
        assert KEYRING.open_unexpired(sealed, aad, now) == plaintext
        assert KEYRING.open_text_unexpired(text, aad, now) == plaintext
    else:
        with pytest.raises(SealError):
            KEYRING.open_unexpired(sealed, aad, now)
        with pytest.raises(SealError):
            KEYRING.open_text_unexpired(text, aad, now)


def test_the_expiry_stands_in_front_of_the_plaintext() -> None:
    sealed = KEYRING.seal_until(b"session", b"tenant", NOW)
    plaintext = AESGCM(raw_key(TEXT, "k1")).decrypt(sealed[4:16], sealed[16:], b"\x02\x02k1tenant")
    assert plaintext == NOW.to_bytes(8, "big", signed=True) + b"session"


def test_every_failure_to_open_an_expiring_value_reads_alike() -> None:
    sealed = KEYRING.seal_until(b"session", b"tenant", NOW)
    text = KEYRING.seal_text_until(b"session", b"tenant", NOW)
    foreign = Keyring.parse(Keyring.generate("k1")).seal_until(b"session", b"tenant", NOW)
    unknown = Keyring.parse(Keyring.generate("other")).seal_until(b"session", b"tenant", NOW)
    lasting = KEYRING.seal(b"session", b"tenant")
    attempts: list[Callable[[], bytes]] = [
        lambda: KEYRING.open_unexpired(sealed, b"tenant", NOW),
        lambda: KEYRING.open_unexpired(sealed, b"other", NOW - 1),
        lambda: KEYRING.open_unexpired(sealed[:-1], b"tenant", NOW - 1),
        lambda: KEYRING.open_unexpired(foreign, b"tenant", NOW - 1),
        lambda: KEYRING.open_unexpired(unknown, b"tenant", NOW - 1),
        lambda: KEYRING.open_unexpired(lasting, b"tenant", NOW - 1),
        lambda: KEYRING.open_unexpired(b"", b"tenant", NOW - 1),
        lambda: KEYRING.open(sealed, b"tenant"),
        lambda: KEYRING.reseal(sealed, b"tenant"),
        lambda: KEYRING.open_text_unexpired(text, b"tenant", NOW),
        lambda: KEYRING.open_text_unexpired(text + "=", b"tenant", NOW - 1),
        lambda: KEYRING.open_text_unexpired("\ud800", b"tenant", NOW - 1),
        lambda: KEYRING.open_text_unexpired("\u00e9", b"tenant", NOW - 1),
    ]
    messages = set()
    for attempt in attempts:
        with pytest.raises(SealError) as caught:
            attempt()
        messages.add((type(caught.value), caught.value.args, caught.value.__cause__))
    assert messages == {(SealError, ("the sealed value cannot be opened",), None)}
