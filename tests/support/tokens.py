"""Tokens signed by libraries that the product does not verify with: joserfc and PyJWT."""

from __future__ import annotations

import base64
import json
import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import jwt as pyjwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from joserfc import jwt as joserfc_jwt
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, KeyParameters, OKPKey, RSAKey

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ALGORITHMS", "AUDIENCE", "ISSUER", "Issuer", "Library"]

Library = Literal["joserfc", "pyjwt"]
Algorithm = Literal["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA"]
ALGORITHMS: tuple[Algorithm, ...] = ("RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA")
ISSUER = "https://issuer.example"
AUDIENCE = "https://gateway.example/tests"

_PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


@dataclass(frozen=True, slots=True)
class _Key:
    private: _PrivateKey
    kid: str

    def pem(self) -> bytes:
        return self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    def public_pem(self) -> bytes:
        return self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def jose(self) -> RSAKey | ECKey | OKPKey:
        parameters: KeyParameters = {"kid": self.kid}
        if isinstance(self.private, rsa.RSAPrivateKey):
            return RSAKey.import_key(self.pem(), parameters)
        if isinstance(self.private, ec.EllipticCurvePrivateKey):
            return ECKey.import_key(self.pem(), parameters)
        return OKPKey.import_key(self.pem(), parameters)


def _key_for(algorithm: Algorithm, rsa_key: rsa.RSAPrivateKey) -> _Key:
    private: _PrivateKey
    match algorithm:
        case "ES256":
            private = ec.generate_private_key(ec.SECP256R1())
        case "ES384":
            private = ec.generate_private_key(ec.SECP384R1())
        case "EdDSA":
            private = ed25519.Ed25519PrivateKey.generate()
        case _:
            private = rsa_key
    return _Key(private, f"test-{algorithm}")


def encode_part(value: object) -> str:
    """Return ``value`` as a part of a compact JWS."""
    text = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


class Issuer:
    """One issuer with an entry of its key set for each algorithm; those of RSA share one key pair."""

    def __init__(self, issuer: str = ISSUER, *, audience: str = AUDIENCE) -> None:
        self.issuer = issuer
        self.audience = audience
        rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._keys = {algorithm: _key_for(algorithm, rsa_key) for algorithm in ALGORITHMS}

    def settings(self, claims: Mapping[str, object] | None = None, **extra: object) -> dict[str, Any]:
        """Return this issuer as an entry of ``AGENTAPI_ISSUERS``."""
        rules = {"organization": "demo", "default_role": "member", **(claims or {})}
        keys = []
        for algorithm, key in self._keys.items():
            public = key.jose().as_dict(private=False)
            keys.append({**public, "kid": key.kid, "alg": algorithm, "use": "sig"})
        jwks = json.dumps({"keys": keys})
        return {"issuer": self.issuer, "audiences": [self.audience], "jwks": jwks, "claims": rules, **extra}

    def claims(self, **changed: object) -> dict[str, Any]:
        """Return good claims with some ``changed``; one that is None is left out."""
        now = int(time.time())
        good = {"iss": self.issuer, "sub": "tester", "aud": self.audience, "iat": now, "exp": now + 600}
        return {name: value for name, value in {**good, **changed}.items() if value is not None}

    def sign(
        self,
        claims: Mapping[str, Any] | None = None,
        *,
        algorithm: Algorithm = "RS256",
        library: Library = "joserfc",
        header: Mapping[str, Any] | None = None,
    ) -> str:
        """Return a token over ``claims``, or over good ones, signed by ``library``."""
        key = self._keys[algorithm]
        payload = dict(self.claims() if claims is None else claims)
        extra = {"kid": key.kid, "typ": "JWT", **(header or {})}
        if library == "pyjwt":
            return pyjwt.encode(payload, key.private, algorithm=algorithm, headers=extra)
        with warnings.catch_warnings():
            # joserfc warns that RFC 9864 prefers Ed25519 to EdDSA as a name; issuers still use the older one.
            warnings.simplefilter("ignore", SecurityWarning)
            return joserfc_jwt.encode({"alg": algorithm, **extra}, payload, key.jose(), algorithms=[algorithm])

    def unsigned(self) -> str:
        """Return a token with ``alg`` none (RFC 7519, section 6)."""
        return f"{encode_part({'alg': 'none', 'typ': 'JWT'})}.{encode_part(self.claims())}."

    def confused(self) -> str:
        """Return a token whose HMAC secret is the public RSA key (RFC 8725, section 2.1)."""
        import hashlib
        import hmac

        key = self._keys["RS256"]
        signed = f"{encode_part({'alg': 'HS256', 'kid': key.kid, 'typ': 'JWT'})}.{encode_part(self.claims())}"
        mac = hmac.new(key.public_pem(), signed.encode(), hashlib.sha256).digest()
        return f"{signed}.{encode_part(mac)}"
