"""Which tokens are believed: against two libraries' signers, the RFCs' examples, and a table of attacks."""

from __future__ import annotations

import base64
import gc
import hashlib
import hmac
import json
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from joserfc.jwk import ECKey

from agentapi._core import ClaimRules, IssuerPolicy, TokenError, TokenVerifier, UnknownKeyError, VerifiedToken
from core.tokens import (
    ALGORITHMS,
    AUDIENCE,
    ISSUER,
    NOW,
    SECRET,
    Json,
    base64url,
    claims,
    jwks,
    key,
    policy,
    public_jwk,
    sign_joserfc,
    sign_pyjwt,
    sign_raw,
    token,
    verifier,
)

if TYPE_CHECKING:
    from collections.abc import Callable

SIGNERS = pytest.mark.parametrize("sign", [sign_joserfc, sign_pyjwt])
HEADER = '{"alg":"ES256","kid":"k"}'


def reason(subject: TokenVerifier, text: str, audience: str = AUDIENCE, now: int = NOW) -> str:
    try:
        subject.verify(text, audience, now)
    except TokenError as error:
        return error.reason if str(error) == "the token is not acceptable" else str(error)
    return "accepted"


# Tokens of other libraries.


@SIGNERS
@pytest.mark.parametrize("alg", ALGORITHMS)
def test_accepts_tokens_of_other_libraries(alg: str, sign: Callable[[str, Any, Json, Json], str]) -> None:
    subject = verifier(public_jwk(key(alg)))
    verified = subject.verify(sign(alg, key(alg), {"kid": "k"}, claims(jti="t-1", email="a@b.c")), AUDIENCE, NOW)
    assert verified.issuer == ISSUER
    assert verified.subject == "user-1"
    assert verified.audiences == (AUDIENCE,)
    assert verified.expires_at == NOW + 600
    assert (verified.token_id, verified.key_id, verified.email) == ("t-1", "k", "a@b.c")
    assert verified.session_id is None
    assert (verified.organization, verified.role, verified.scopes) == (None, None, frozenset())
    assert reason(subject, sign(alg, key(f"{alg}-other"), {"kid": "k"}, claims())) == "bad_signature"


@SIGNERS
def test_accepts_a_shared_secret_where_one_is_configured(sign: Callable[[str, Any, Json, Json], str]) -> None:
    subject = TokenVerifier([IssuerPolicy(issuer=ISSUER, shared_secret=SECRET)])
    verified = subject.verify(sign("HS256", key("HS256"), {"kid": "any"}, claims()), AUDIENCE, NOW)
    assert (verified.subject, verified.key_id) == ("user-1", None)
    assert reason(subject, sign("ES256", key("ES256"), {"kid": "k"}, claims())) == "unsupported_algorithm"


@pytest.mark.parametrize("alg", ["EdDSA", "Ed25519"])
def test_knows_ed25519_by_both_its_names(alg: str) -> None:
    text = sign_joserfc(alg, key("EdDSA"), {"kid": "k"}, claims())
    assert reason(verifier(public_jwk(key("EdDSA"))), text) == "accepted"
    bound = public_jwk(key("EdDSA"), alg="Ed25519")
    assert reason(verifier(bound), text) == ("accepted" if alg == "Ed25519" else "unsupported_algorithm")


def test_uses_the_systems_clock_by_default() -> None:
    subject = verifier()
    now = int(time.time())
    assert subject.verify(token(exp=now + 60, iat=now), AUDIENCE).expires_at == now + 60
    with pytest.raises(TokenError) as caught:
        subject.verify(token(exp=now - 60, iat=now - 120), AUDIENCE)
    assert caught.value.reason == "expired"


# Examples of the RFCs. Their claims lack what this server needs, so the signature is what they prove: the
# answer for a good one is "missing_claim", for a changed one "bad_signature".

RFC7515_PAYLOAD = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
RFC7515_A1_KEY = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"
RFC7515_A2_KEY = {
    "kty": "RSA",
    "n": (
        "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yR"
        "T-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXB"
        "dQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9ia"
        "GNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"
    ),
    "e": "AQAB",
}
RFC7515_A3_KEY = {
    "kty": "EC",
    "crv": "P-256",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
}
RFC8037_KEY = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}

RFC7515_A1 = f"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{RFC7515_PAYLOAD}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
RFC7515_A2 = (
    f"eyJhbGciOiJSUzI1NiJ9.{RFC7515_PAYLOAD}."
    "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdb"
    "F9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383"
    "LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWy"
    "wlVmtVrBp0igcN_IoypGlUPQGe77Rw"
)
RFC7515_A3 = (
    f"eyJhbGciOiJFUzI1NiJ9.{RFC7515_PAYLOAD}.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQ"
    "xfKTUJqPP3-Kg6NU1Q"
)


@pytest.mark.parametrize(("text", "jwk"), [(RFC7515_A2, RFC7515_A2_KEY), (RFC7515_A3, RFC7515_A3_KEY)])
def test_rfc_7515_examples_of_public_keys(text: str, jwk: Json) -> None:
    subject = TokenVerifier([policy("joe")])
    subject.replace_keys("joe", jwks(jwk))
    assert reason(subject, text) == "missing_claim"
    message, _, signature = text.rpartition(".")
    assert reason(subject, f"{message}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}") == "bad_signature"


def test_rfc_7515_example_of_a_shared_secret() -> None:
    secret = base64.urlsafe_b64decode(RFC7515_A1_KEY + "==")
    subject = TokenVerifier([IssuerPolicy(issuer="joe", shared_secret=secret)])
    assert reason(subject, RFC7515_A1) == "missing_claim"
    assert reason(subject, RFC7515_A1[:-1] + "l") == "malformed", "trailing bits that are not zero"
    assert reason(subject, RFC7515_A1.replace(".dB", ".eB")) == "bad_signature"


def test_rfc_8037_example_is_no_jwt() -> None:
    subject = verifier(RFC8037_KEY)
    example = (
        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc."
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    )
    assert reason(subject, example) == "malformed"


def test_rfc_8037_key_verifies_what_it_signed() -> None:
    private = {**RFC8037_KEY, "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A"}
    signer = type(key("EdDSA")).import_key(private)  # type: ignore[arg-type]
    subject = verifier(RFC8037_KEY)
    assert reason(subject, sign_joserfc("EdDSA", signer, {}, claims())) == "accepted"


# Attacks.


def unsigned(alg: str) -> str:
    return f"{base64url(json.dumps({'alg': alg, 'kid': 'k'}))}.{base64url(json.dumps(claims()))}."


def signed_with_public_key(secret: bytes) -> str:
    message = f"{base64url(json.dumps({'alg': 'HS256', 'kid': 'k'}))}.{base64url(json.dumps(claims()))}"
    return f"{message}.{base64url(hmac.digest(secret, message.encode(), hashlib.sha256))}"


def claims_text(tail: str = "") -> str:
    return json.dumps(claims())[:-1] + tail + "}"


ES256_PUBLIC = public_jwk(key("ES256"))
ES256_PEM = ECKey.import_key(key("ES256").as_dict(private=False)).as_pem(private=False)
GOOD = token()
MESSAGE, _, SIGNATURE = GOOD.rpartition(".")

ATTACKS: dict[str, tuple[str, str]] = {
    "empty": ("", "malformed"),
    "dots": ("..", "malformed"),
    "not base64": ("a.b.c", "malformed"),
    "not a token": ("Bearer " + GOOD, "malformed"),
    "lone surrogate": (GOOD + "\udc80", "malformed"),
    "not ascii": (GOOD + "é", "malformed"),
    "none": (unsigned("none"), "unsupported_algorithm"),
    "NONE": (unsigned("NONE"), "unsupported_algorithm"),
    "empty alg": (unsigned(""), "unsupported_algorithm"),
    "no signature": (f"{MESSAGE}.", "bad_signature"),
    "two parts": (MESSAGE, "malformed"),
    "five parts (JWE)": (f"{GOOD}.x.y", "malformed"),
    "public key as secret, pem": (
        signed_with_public_key(ES256_PEM),
        "unsupported_algorithm",
    ),
    "public key as secret, jwk": (
        signed_with_public_key(json.dumps(ES256_PUBLIC).encode()),
        "unsupported_algorithm",
    ),
    "another key": (token(by=key("ES256-other")), "bad_signature"),
    "another kind of key": (token("ES384", key("ES384")), "unsupported_algorithm"),
    "embedded jwk": (
        sign_raw(json.dumps({"alg": "EdDSA", "kid": "k", "jwk": public_jwk(key("EdDSA"))}), claims_text(), "EdDSA"),
        "unsupported_algorithm",
    ),
    "embedded jwk, kid unknown": (
        sign_raw(json.dumps({"alg": "EdDSA", "kid": "x", "jwk": public_jwk(key("EdDSA"))}), claims_text(), "EdDSA"),
        "unknown_key",
    ),
    "kid with a path": (token(kid="../../dev/null"), "unknown_key"),
    "kid with sql": (token(kid="k' OR '1'='1"), "unknown_key"),
    "kid of another type": (sign_raw('{"alg":"ES256","kid":{"$ne":1}}', claims_text()), "malformed"),
    "crit": (sign_raw('{"alg":"ES256","kid":"k","crit":["exp"]}', claims_text()), "malformed"),
    "crit b64": (
        sign_raw('{"alg":"ES256","kid":"k","b64":false,"crit":["b64"]}', claims_text()),
        "malformed",
    ),
    "typ of another kind": (
        sign_raw('{"alg":"ES256","kid":"k","typ":"logout+jwt"}', claims_text()),
        "malformed",
    ),
    "duplicate alg": (sign_raw('{"alg":"none","kid":"k","alg":"ES256"}', claims_text()), "malformed"),
    "duplicate claim": (sign_raw(HEADER, claims_text(', "sub": "admin"')), "malformed"),
    "duplicate claim, escaped": (sign_raw(HEADER, claims_text(r', "su\u0062": "admin"')), "malformed"),
    "duplicate claim, nested": (sign_raw(HEADER, claims_text(', "x": [{"a": 1, "a": 2}]')), "malformed"),
    "claims that are no object": (sign_raw(HEADER, f"[{claims_text()}]"), "malformed"),
    "claims with a tail": (sign_raw(HEADER, claims_text() + "{}"), "malformed"),
    "claims with a byte order mark": (sign_raw(HEADER, "\ufeff" + claims_text()), "malformed"),
    "claims that are no utf-8": (
        sign_raw(HEADER, claims_text().encode().replace(b"user", b"us\xff")),
        "malformed",
    ),
    "claims with NaN": (sign_raw(HEADER, claims_text(', "x": NaN')), "malformed"),
    "huge depth": (sign_raw(HEADER, claims_text(f', "x": {"[" * 5000}{"]" * 5000}')), "malformed"),
    "padding": (GOOD + "=", "malformed"),
    "padding inside": (GOOD.replace(".", "=."), "malformed"),
    "trailing newline": (GOOD + "\n", "malformed"),
    "trailing garbage": (GOOD + "AAAA", "bad_signature"),
    "leading blank": (" " + GOOD, "malformed"),
    "standard alphabet": (GOOD.replace("_", "/").replace("-", "+") + "+", "malformed"),
    "too large": ("a" * (16 * 1024 + 1), "too_large"),
    "expired": (token(exp=NOW - 30), "expired"),
    "expired long ago": (token(exp=0), "expired"),
    "not before": (token(nbf=NOW + 31), "not_yet_valid"),
    "issued in the future": (token(iat=NOW + 31), "not_yet_valid"),
    "no exp": (token(exp=...), "missing_claim"),
    "exp as text": (token(exp=str(NOW + 600)), "bad_claim"),
    "exp as bool": (token(exp=True), "bad_claim"),
    "exp beyond all time": (token(exp=10**30), "bad_claim"),
    "exp beyond a double": (sign_raw(HEADER, claims_text(', "x": 1e999')), "malformed"),
    "no sub": (token(sub=...), "missing_claim"),
    "empty sub": (token(sub=""), "bad_claim"),
    "long sub": (token(sub="s" * 256), "bad_claim"),
    "sub with a nul": (token(sub="user\0"), "bad_claim"),
    "no iss": (token(iss=...), "missing_claim"),
    "another iss": (token(iss=ISSUER + "/"), "unknown_issuer"),
    "iss as a list": (token(iss=[ISSUER]), "bad_claim"),
    "no aud": (token(aud=...), "missing_claim"),
    "another aud": (token(aud=AUDIENCE + "/"), "wrong_audience"),
    "aud without members": (token(aud=[]), "wrong_audience"),
    "aud of mixed types": (token(aud=[AUDIENCE, 1]), "bad_claim"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_refuses(name: str) -> None:
    text, expected = ATTACKS[name]
    subject = verifier()
    assert reason(subject, text) == expected
    assert subject.verify(GOOD, AUDIENCE, NOW).subject == "user-1"
    assert reason(subject, text) == expected, "the same once a good token is remembered"


def test_a_key_of_one_issuer_says_nothing_for_another() -> None:
    subject = TokenVerifier([policy(), policy("https://evil.example")])
    subject.replace_keys(ISSUER, jwks(public_jwk(key("ES256"), kid="good")))
    subject.replace_keys("https://evil.example", jwks(public_jwk(key("ES256-evil"), kid="evil")))
    assert reason(subject, token(by=key("ES256-evil"), kid="evil")) == "unknown_key"
    assert reason(subject, token(by=key("ES256-evil"), kid="good")) == "bad_signature"
    assert reason(subject, token(by=key("ES256-evil"), kid="evil", iss="https://evil.example")) == "accepted"


def test_an_unknown_key_names_the_issuer() -> None:
    with pytest.raises(UnknownKeyError) as caught:
        verifier().verify(token(kid="new"), AUDIENCE, NOW)
    assert (caught.value.reason, caught.value.issuer) == ("unknown_key", ISSUER)


def test_without_a_kid_one_key_must_be_meant() -> None:
    text = sign_joserfc("ES256", key("ES256"), {}, claims())
    assert reason(verifier(), text) == "accepted"
    assert reason(verifier(public_jwk(key("ES256"), kid=None)), text) == "accepted"
    two = verifier(public_jwk(key("ES256"), kid="a"), public_jwk(key("ES256-other"), kid="b"))
    with pytest.raises(TokenError) as caught:
        two.verify(text, AUDIENCE, NOW)
    assert caught.value.reason == "unknown_key"
    assert not isinstance(caught.value, UnknownKeyError)


def test_the_alg_of_a_key_binds_it() -> None:
    subject = verifier(public_jwk(key("RS256"), alg="RS256"))
    assert reason(subject, token("RS256", key("RS256"))) == "accepted"
    assert reason(subject, token("PS256", key("RS256"))) == "unsupported_algorithm"
    assert reason(subject, token("RS512", key("RS256"))) == "unsupported_algorithm"


@pytest.mark.parametrize(
    "changes", [{"exp": NOW + 0.5}, {"nbf": NOW - 0.5}, {"iat": float(NOW)}, {"aud": ["x", AUDIENCE]}]
)
def test_accepts_odd_but_valid_claims(changes: Json) -> None:
    assert reason(verifier(), token(**changes)) == "accepted"


@pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "AT+JWT", "application/at+jwt"])
def test_accepts_the_media_types_of_access_tokens(typ: str) -> None:
    assert reason(verifier(), sign_joserfc("ES256", key("ES256"), {"kid": "k", "typ": typ}, claims())) == "accepted"


def test_the_policy_may_name_audiences() -> None:
    subject = TokenVerifier([IssuerPolicy(issuer=ISSUER, audiences=["api://gateway"])])
    subject.replace_keys(ISSUER, jwks(ES256_PUBLIC))
    assert reason(subject, token(aud="api://gateway")) == "accepted"
    assert reason(subject, token(aud=AUDIENCE)) == "accepted"
    assert reason(subject, token(aud=["api://other"])) == "wrong_audience"
    assert reason(subject, token(aud=""), audience="") == "wrong_audience"


# Claims.


def test_claims_say_who_the_caller_is() -> None:
    subject = verifier(
        organization_pointer="/app_metadata/org",
        organizations={"11-22": "acme"},
        role_pointer="/realm_access/roles",
        roles={"root": "platform_admin", "staff": "member"},
        default_role="viewer",
        email_pointer="/https:~1~1example.com~1email",
        scope_pointer="/scp",
    )
    extra: Json = {
        "app_metadata": {"org": "11-22"},
        "realm_access": {"roles": ["staff", "agent", "offline_access"]},
        "https://example.com/email": "a@b.c",
        "scp": "tools:read tools:call",
    }
    verified = subject.verify(token(**extra), AUDIENCE, NOW)
    assert (verified.organization, verified.role, verified.email) == ("acme", "member", "a@b.c")
    assert verified.scopes == {"tools:read", "tools:call"}
    assert verified.scopes is verified.scopes
    assert subject.verify(token(realm_access={"roles": ["root"]}), AUDIENCE, NOW).role == "platform_admin"
    assert subject.verify(token(realm_access={"roles": ["platform_admin"]}), AUDIENCE, NOW).role == "viewer"
    assert reason(subject, token(realm_access={"roles": "staff "})) == "accepted"
    assert reason(subject, token(realm_access={"roles": 7})) == "bad_claim"


@pytest.mark.parametrize(
    "rules",
    [
        {"role_pointer": "role"},
        {"email_pointer": "/a~"},
        {"default_role": "platform_admin"},
        {"default_role": "boss"},
        {"roles": {"x": "boss"}},
        {"organization": ""},
    ],
)
def test_rules_are_checked(rules: Json) -> None:
    with pytest.raises(ValueError, match=r"."):
        ClaimRules(**rules)


def test_policies_are_checked() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        IssuerPolicy(issuer=ISSUER, shared_secret=b"short")
    with pytest.raises(ValueError, match="empty"):
        IssuerPolicy(issuer="")
    with pytest.raises(ValueError, match="two policies"):
        TokenVerifier([policy(), policy()])
    with pytest.raises(ValueError, match="leeway"):
        TokenVerifier([policy()], leeway_s=301)
    assert repr(IssuerPolicy(issuer=ISSUER, shared_secret=SECRET)) == f'IssuerPolicy(issuer="{ISSUER}")'


# What is remembered.


def test_a_warm_token_is_the_same_object() -> None:
    subject = verifier()
    text = token()
    first = subject.verify(text, AUDIENCE, NOW)
    assert subject.verify("".join(list(text)), AUDIENCE, NOW) is first
    assert subject.verify(token(jti="2"), AUDIENCE, NOW) is not first
    assert subject.cached_tokens == 2


def test_a_warm_token_dies_at_its_expiry() -> None:
    subject = verifier()
    text = token(exp=NOW + 60)
    subject.verify(text, AUDIENCE, NOW)
    assert reason(subject, text, now=NOW + 89) == "accepted"
    assert reason(subject, text, now=NOW + 90) == "expired"
    assert subject.cached_tokens == 0


def test_a_warm_token_dies_with_its_key() -> None:
    subject = verifier()
    text = token()
    first = subject.verify(text, AUDIENCE, NOW)
    subject.replace_keys(ISSUER, jwks(public_jwk(key("RS256"), kid="new"), ES256_PUBLIC))
    assert subject.verify(text, AUDIENCE, NOW) is first
    subject.replace_keys(ISSUER, jwks(public_jwk(key("RS256"), kid="new")))
    assert reason(subject, text) == "unknown_key"
    assert subject.cached_tokens == 0
    subject.replace_keys(ISSUER, jwks(public_jwk(key("ES256-other"))))
    assert reason(subject, text) == "bad_signature"
    subject.replace_keys(ISSUER, jwks(ES256_PUBLIC))
    assert subject.verify(text, AUDIENCE, NOW) is not first


def test_time_and_audience_of_a_warm_token_are_checked_again() -> None:
    subject = verifier()
    text = token(nbf=NOW)
    subject.verify(text, AUDIENCE, NOW)
    assert reason(subject, text, audience="https://elsewhere.example") == "wrong_audience"
    assert reason(subject, text, audience="") == "wrong_audience"
    assert reason(subject, text, now=NOW - 31) == "not_yet_valid"
    assert reason(subject, text) == "accepted"


def test_memory_is_bounded() -> None:
    subject = verifier(cache_entries=3)
    for number in range(20):
        subject.verify(token(jti=str(number)), AUDIENCE, NOW)
        assert subject.cached_tokens <= 3
    none = verifier(cache_entries=0)
    assert none.verify(GOOD, AUDIENCE, NOW) is not none.verify(GOOD, AUDIENCE, NOW)
    assert none.cached_tokens == 0


def test_a_verified_token_tells_little_and_cannot_be_made() -> None:
    verified = verifier().verify(token(email="a@b.c"), AUDIENCE, NOW)
    assert repr(verified) == f'VerifiedToken(issuer="{ISSUER}")'
    with pytest.raises(TypeError):
        VerifiedToken()
    with pytest.raises(AttributeError):
        verified.subject = "admin"  # type: ignore[misc]
    with pytest.raises(TypeError):
        type("Forged", (VerifiedToken,), {})


def test_a_verified_token_can_be_a_weak_key() -> None:
    subject = verifier()
    verified = subject.verify(GOOD, AUDIENCE, NOW)
    principals = weakref.WeakKeyDictionary({verified: "principal"})
    del verified
    gc.collect()
    assert principals[subject.verify(GOOD, AUDIENCE, NOW)] == "principal"
    subject.replace_keys(ISSUER, jwks(public_jwk(key("ES256-other"))))
    assert reason(subject, GOOD) == "bad_signature"
    gc.collect()
    assert len(principals) == 0


def test_threads_share_a_verifier() -> None:
    subject = verifier(cache_entries=40)
    texts = [token(jti=str(number)) for number in range(50)]
    sets = [jwks(ES256_PUBLIC), jwks(ES256_PUBLIC, public_jwk(key("ES384"), kid="other"))]

    def work(number: int) -> str | None:
        if number % 50 == 0:
            subject.replace_keys(ISSUER, sets[number // 50 % 2])
        return subject.verify(texts[number % 50], AUDIENCE, NOW).token_id

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(5000))) == [str(number % 50) for number in range(5000)]
    assert subject.cached_tokens <= 40
