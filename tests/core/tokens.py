"""Keys and signers that nobody here wrote: joserfc and PyJWT."""

from __future__ import annotations

import base64
import json
import warnings
from functools import cache
from typing import Any

import jwt as pyjwt
from joserfc import jws
from joserfc.errors import SecurityWarning
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from agentapi._core import ClaimRules, IssuerPolicy, TokenVerifier

Key = RSAKey | ECKey | OKPKey | OctKey
Json = dict[str, Any]

ISSUER = "https://issuer.example"
AUDIENCE = "https://gateway.example/mcp/acme/main"
NOW = 1_800_000_000
SECRET = b"0123456789abcdef0123456789abcdef"

ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA")


@cache
def key(name: str) -> Key:
    """A key by name; the part before a dash says of what kind, so that ``ES256-other`` is another one."""
    match name.partition("-")[0]:
        case "RS256" | "RS384" | "RS512" | "PS256":
            return RSAKey.generate_key(2048)
        case "ES256":
            return ECKey.generate_key("P-256")
        case "ES384":
            return ECKey.generate_key("P-384")
        case "EdDSA":
            return OKPKey.generate_key("Ed25519")
        case _:
            return OctKey.import_key(SECRET)


def public_jwk(of: Key, kid: str | None = "k", **members: Any) -> Json:
    jwk: Json = {**of.as_dict(private=False), **members}
    jwk.pop("kid", None)
    return jwk if kid is None else {**jwk, "kid": kid}


def jwks(*keys: Json) -> bytes:
    return json.dumps({"keys": keys}).encode()


def base64url(data: bytes | str) -> str:
    data = data.encode() if isinstance(data, str) else data
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def claims(**changes: Any) -> Json:
    """Acceptable claims; a member that is changed to ``...`` is left out."""
    members = {"iss": ISSUER, "sub": "user-1", "aud": AUDIENCE, "exp": NOW + 600, "iat": NOW, **changes}
    return {name: value for name, value in members.items() if value is not ...}


def sign_joserfc(alg: str, by: Key, header: Json, payload: Json) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)  # RFC 9864 deprecates the name EdDSA, which issuers use.
        return jws.serialize_compact({**header, "alg": alg}, json.dumps(payload), by, algorithms=[alg])


def sign_pyjwt(alg: str, by: Key, header: Json, payload: Json) -> str:
    private: Any = SECRET if isinstance(by, OctKey) else by.as_pem(private=True)
    return pyjwt.encode(payload, private, algorithm=alg, headers=header)


def token(alg: str = "ES256", by: Key | None = None, kid: str = "k", **changes: Any) -> str:
    return sign_joserfc(alg, by or key(alg), {"kid": kid}, claims(**changes))


def sign_raw(header: str | bytes, payload: str | bytes, alg: str = "ES256") -> str:
    """A good signature over texts that no library would write."""
    model = jws.JWSRegistry.algorithms[alg]
    message = f"{base64url(header)}.{base64url(payload)}"
    return f"{message}.{base64url(model.sign(message.encode(), key(alg)))}"


def policy(issuer: str = ISSUER, **rules: Any) -> IssuerPolicy:
    return IssuerPolicy(issuer=issuer, claims=ClaimRules(**rules))


def verifier(*keys: Json, cache_entries: int = 1000, **rules: Any) -> TokenVerifier:
    """A verifier that trusts these keys for ``ISSUER``; by default the key of ES256."""
    made = TokenVerifier([policy(**rules)], cache_entries=cache_entries)
    made.replace_keys(ISSUER, jwks(*(keys or (public_jwk(key("ES256")),))))
    return made
