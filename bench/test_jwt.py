"""Verification of access tokens, beside PyJWT, joserfc and the bare signature check of ``cryptography``."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

import jwt as pyjwt
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from joserfc import jwt as joserfc_jwt
from joserfc.jwk import KeySet, OctKey

from agentapi._core import TokenError
from core.tokens import AUDIENCE, ISSUER, claims, jwks, key, public_jwk, sign_pyjwt, verifier
from measure import OURS, measure, measure_code

if TYPE_CHECKING:
    from collections.abc import Callable

    from pytest_benchmark.fixture import BenchmarkFixture

NOW = int(time.time())
ALGORITHMS = pytest.mark.parametrize("alg", ["RS256", "ES256", "EdDSA"])


def fresh(alg: str) -> str:
    return sign_pyjwt(alg, key(alg), {"kid": "k"}, claims(exp=NOW + 86400, iat=NOW, jti="t-1"))


def public_key(alg: str) -> Any:
    of = key(alg)
    assert not isinstance(of, OctKey)
    return load_pem_public_key(of.as_pem(private=False))


def with_pyjwt(alg: str) -> Callable[[str], Any]:
    public = public_key(alg)

    def verify(token: str) -> Any:
        return pyjwt.decode(token, public, algorithms=[alg], audience=AUDIENCE, issuer=ISSUER)

    return verify


def with_joserfc(alg: str) -> Callable[[str], Any]:
    keys = KeySet.import_key_set(json.loads(jwks(public_jwk(key(alg)))))
    registry = joserfc_jwt.JWTClaimsRegistry(
        iss={"essential": True, "value": ISSUER}, aud={"essential": True, "value": AUDIENCE}, exp={"essential": True}
    )

    def verify(token: str) -> Any:
        decoded = joserfc_jwt.decode(token, keys, algorithms=[alg])
        registry.validate(decoded.claims)
        return decoded

    return verify


def with_cryptography(alg: str, token: str) -> Callable[[], Any]:
    """The signature alone: no base64, no JSON, no claims."""
    message, _, encoded = token.rpartition(".")
    data, signature = message.encode(), pyjwt.utils.base64url_decode(encoded)
    public = public_key(alg)
    match public:
        case rsa.RSAPublicKey():
            return lambda: public.verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
        case ec.EllipticCurvePublicKey():
            der = encode_dss_signature(*(int.from_bytes(part, "big") for part in (signature[:32], signature[32:])))
            return lambda: public.verify(der, data, ec.ECDSA(hashes.SHA256()))
        case ed25519.Ed25519PublicKey():
            return lambda: public.verify(signature, data)
        case _:
            raise AssertionError(alg)


@ALGORITHMS
def test_warm(benchmark: BenchmarkFixture, alg: str) -> None:
    subject, token = verifier(public_jwk(key(alg))), fresh(alg)
    first = subject.verify(token, AUDIENCE)
    assert measure(benchmark, f"JWT verified already, {alg}", OURS, subject.verify, token, AUDIENCE) is first


@ALGORITHMS
def test_warm_pyjwt(benchmark: BenchmarkFixture, alg: str) -> None:
    assert measure(benchmark, f"JWT verified already, {alg}", "PyJWT", with_pyjwt(alg), fresh(alg))


@ALGORITHMS
def test_cold(benchmark: BenchmarkFixture, alg: str) -> None:
    subject = verifier(public_jwk(key(alg)), cache_entries=0)
    assert measure(benchmark, f"JWT first seen, {alg}", OURS, subject.verify, fresh(alg), AUDIENCE)


@ALGORITHMS
def test_cold_pyjwt(benchmark: BenchmarkFixture, alg: str) -> None:
    assert measure(benchmark, f"JWT first seen, {alg}", "PyJWT", with_pyjwt(alg), fresh(alg))


@ALGORITHMS
@pytest.mark.filterwarnings("ignore::joserfc.errors.SecurityWarning")
def test_cold_joserfc(benchmark: BenchmarkFixture, alg: str) -> None:
    assert measure(benchmark, f"JWT first seen, {alg}", "joserfc", with_joserfc(alg), fresh(alg))


@ALGORITHMS
def test_cold_cryptography(benchmark: BenchmarkFixture, alg: str) -> None:
    bare = with_cryptography(alg, fresh(alg))
    measure(benchmark, f"JWT first seen, {alg}", "cryptography, signature alone", bare)


def test_refused(benchmark: BenchmarkFixture) -> None:
    subject, token = verifier(public_jwk(key("ES256"))), fresh("EdDSA")
    with pytest.raises(TokenError):
        subject.verify(token, AUDIENCE)
    code = "try: verify(token, AUDIENCE)\nexcept TokenError: pass"
    names = {"verify": subject.verify, "token": token, "AUDIENCE": AUDIENCE, "TokenError": TokenError}
    measure_code(benchmark, "JWT refused before its signature", OURS, code, **names)
