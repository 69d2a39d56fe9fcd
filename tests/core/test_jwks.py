"""Which key sets are taken."""

from __future__ import annotations

import pytest
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from agentapi._core import IssuerPolicy, KeySetError, TokenVerifier, UnknownKeyError
from core.tokens import (
    ALGORITHMS,
    AUDIENCE,
    ISSUER,
    NOW,
    SECRET,
    Json,
    jwks,
    key,
    policy,
    public_jwk,
    token,
    verifier,
)


def replace(text: bytes) -> int:
    return TokenVerifier([policy()]).replace_keys(ISSUER, text)


def test_counts_the_usable_keys() -> None:
    keys = [public_jwk(key(alg), kid=alg) for alg in ALGORITHMS]
    skipped: list[Json] = [
        public_jwk(key("ES256-enc"), kid="enc", use="enc"),
        public_jwk(ECKey.generate_key("P-521"), kid="p521"),
        public_jwk(ECKey.generate_key("secp256k1"), kid="secp256k1"),
        public_jwk(OKPKey.generate_key("X25519"), kid="x25519"),
        public_jwk(OKPKey.generate_key("Ed448"), kid="ed448"),
        public_jwk(key("RS256"), kid="oaep", alg="RSA-OAEP"),
        {**OctKey.generate_key(256).as_dict(private=True), "kid": "oct"},
        {**key("ES256").as_dict(private=True), "kid": "private"},
        {"kty": "from the future", "kid": "new"},
    ]
    assert replace(jwks(*keys, *skipped)) == len(ALGORITHMS)


@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")
def test_weak_and_giant_rsa_keys_are_skipped() -> None:
    with pytest.raises(KeySetError, match="no usable key"):
        replace(jwks(public_jwk(RSAKey.generate_key(1024))))
    giant = public_jwk(key("RS256"), n="w" * 1400 + "E")
    with pytest.raises(KeySetError, match="no usable key"):
        replace(jwks(giant))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b'{"keys": 1}', "not a JSON object"),
        (b'{"keys": [], "keys": []}', "not a JSON object"),
        (b'{"keys": [' + b"[" * 100_000 + b"]" * 100_000 + b"]}", "not a JSON object"),
        (b'{"keys": []}', "no usable key"),
        (b'{"keys": [' + b",".join([b"{}"] * 101) + b"]}", "more than 100"),
        (b" " * (256 * 1024 + 1), "larger than 256 KiB"),
        (jwks(public_jwk(key("ES256")), public_jwk(key("RS256"))), "same key id"),
    ],
)
def test_a_set_that_cannot_be_used_is_refused(text: bytes, message: str) -> None:
    with pytest.raises(KeySetError, match=message):
        replace(text)


def test_a_refused_set_leaves_the_old_one() -> None:
    subject = verifier()
    with pytest.raises(KeySetError):
        subject.replace_keys(ISSUER, b"{}")
    assert subject.verify(token(), AUDIENCE, NOW).key_id == "k"


def test_key_sets_belong_to_issuers_that_have_them() -> None:
    subject = TokenVerifier([IssuerPolicy(issuer=ISSUER, shared_secret=SECRET)])
    with pytest.raises(KeySetError, match="shared secret"):
        subject.replace_keys(ISSUER, jwks(public_jwk(key("ES256"))))
    with pytest.raises(KeySetError, match="not configured"):
        subject.replace_keys("https://other.example", jwks(public_jwk(key("ES256"))))


def test_without_a_set_the_caller_is_told_to_fetch_one() -> None:
    subject = TokenVerifier([policy()])
    with pytest.raises(UnknownKeyError) as caught:
        subject.verify(token(), AUDIENCE, NOW)
    assert (caught.value.reason, caught.value.issuer) == ("no_key_set", ISSUER)
    subject.replace_keys(ISSUER, jwks(public_jwk(key("ES256"))))
    assert subject.verify(token(), AUDIENCE, NOW).subject == "user-1"
