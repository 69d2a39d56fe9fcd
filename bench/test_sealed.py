"""Sealed values, beside AES-256-GCM of ``cryptography`` with a nonce drawn per call."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from agentapi._core import Keyring
from measure import OURS, measure, measure_code

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

AAD = b"oauth_tokens/0190f7a2/github/0190f7a3"
# 160 bytes are the claims of a session id.
SIZES = pytest.mark.parametrize(("size", "name"), [(160, "160 bytes (session mint)"), (1024, "1 KiB")])


@SIZES
def test_seal(benchmark: BenchmarkFixture, size: int, name: str) -> None:
    keyring = Keyring.parse(Keyring.generate("k1"))
    sealed = measure(benchmark, f"Seal {name}", OURS, keyring.seal, bytes(size), AAD)
    assert keyring.open(sealed, AAD) == bytes(size)


@SIZES
def test_seal_cryptography(benchmark: BenchmarkFixture, size: int, name: str) -> None:
    encrypt, code = AESGCM(os.urandom(32)).encrypt, "nonce = urandom(12); nonce + encrypt(nonce, plaintext, AAD)"
    names = {"encrypt": encrypt, "urandom": os.urandom, "plaintext": bytes(size), "AAD": AAD}
    measure_code(benchmark, f"Seal {name}", "cryptography", code, **names)


@SIZES
def test_open(benchmark: BenchmarkFixture, size: int, name: str) -> None:
    keyring = Keyring.parse(Keyring.generate("k1"))
    assert measure(benchmark, f"Open {name}", OURS, keyring.open, keyring.seal(bytes(size), AAD), AAD) == bytes(size)


@SIZES
def test_open_cryptography(benchmark: BenchmarkFixture, size: int, name: str) -> None:
    cipher, nonce = AESGCM(os.urandom(32)), os.urandom(12)
    sealed = nonce + cipher.encrypt(nonce, bytes(size), AAD)
    code = "decrypt(sealed[:12], sealed[12:], AAD)"
    measure_code(benchmark, f"Open {name}", "cryptography", code, decrypt=cipher.decrypt, sealed=sealed, AAD=AAD)
