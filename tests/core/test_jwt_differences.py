"""Verdicts on tokens against joserfc and PyJWT: they are the same, or the difference is one that is listed here.

``docs/jwt-differences.md`` explains the classes; a test keeps it complete.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
import warnings
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import jwt as pyjwt
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from joserfc import jwt as josejwt
from joserfc.errors import JoseError, SecurityWarning

from agentapi._core import TokenError
from core.tokens import ALGORITHMS, AUDIENCE, ISSUER, NOW, Json, base64url, claims, key, public_jwk, sign_raw, verifier

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentapi._core import TokenVerifier

LEEWAY_S = 30
DOCUMENT = Path(__file__).parents[2] / "docs" / "jwt-differences.md"
ACCEPTED = "accepted"


class FixedClock(datetime):
    @classmethod
    def now(cls, tz: Any = None) -> FixedClock:
        return cls.fromtimestamp(NOW, tz or UTC)


# The three verdicts.


SUBJECTS: dict[str, TokenVerifier] = {alg: verifier(public_jwk(key(alg)), cache_entries=0) for alg in ALGORITHMS}


def names_of(alg: str) -> list[str]:
    return ["EdDSA", "Ed25519"] if alg == "EdDSA" else [alg]


def verdict_of_agentapi(alg: str, text: str) -> str:
    try:
        SUBJECTS[alg].verify(text, AUDIENCE, NOW)
    except TokenError as error:
        return error.reason
    return ACCEPTED


def verdict_of_pyjwt(alg: str, text: str) -> str:
    public = pyjwt.PyJWK(public_jwk(key(alg)), algorithm=alg).key
    options: Any = {"require": ["iss", "sub", "aud", "exp"]}
    try:
        with mock.patch("jwt.api_jwt.datetime", FixedClock):
            pyjwt.decode(
                text, public, algorithms=[alg], audience=AUDIENCE, issuer=ISSUER, leeway=LEEWAY_S, options=options
            )
    except Exception as error:  # noqa: BLE001 - PyJWT lets errors of other kinds through, which refuse as well.
        return type(error).__name__
    return ACCEPTED


def verdict_of_joserfc(alg: str, text: str) -> str:
    registry = josejwt.JWTClaimsRegistry(
        now=NOW,
        leeway=LEEWAY_S,
        iss={"essential": True, "value": ISSUER},
        aud={"essential": True, "value": AUDIENCE},
        sub={"essential": True},
        exp={"essential": True},
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SecurityWarning)
            registry.validate(josejwt.decode(text, key(alg), algorithms=names_of(alg)).claims)
    except (JoseError, ValueError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        return type(error).__name__
    return ACCEPTED


PEERS: dict[str, Callable[[str, str], str]] = {"PyJWT": verdict_of_pyjwt, "joserfc": verdict_of_joserfc}


# What may explain a difference. Each class is a fact about the token and never the verdict of anyone.


class Token:
    """A token as a lenient reader sees it."""

    def __init__(self, text: str) -> None:
        self.parts = text.split(".")
        self.raw = [lenient(part) for part in self.parts]
        self.header, self.claims = (self.value(0), self.value(1))

    def value(self, at: int) -> Json:
        try:
            value = json.loads(self.raw[at])
        except (ValueError, IndexError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}


def lenient(part: str) -> bytes:
    """What a decoder makes of it that skips what is no base64url."""
    clean = re.sub(r"[^A-Za-z0-9_-]", "", part)
    try:
        return base64.urlsafe_b64decode(clean + "=" * (-len(clean) % 4))
    except binascii.Error:
        return b""


def has_loose_base64(token: Token) -> bool:
    return any(base64url(raw) != part for raw, part in zip(token.raw, token.parts, strict=True))


def has_loose_json(token: Token) -> bool:
    def strict(pairs: list[tuple[str, Any]]) -> Json:
        if len(dict(pairs)) != len(pairs):
            raise ValueError("a key stands twice")
        return dict(pairs)

    def finite(text: str) -> float:
        if math.isinf(float(text)):
            raise ValueError("infinite")
        return float(text)

    def refuse(name: str) -> None:
        raise ValueError(name)

    def depth_of(value: Any) -> int:
        inner = list(value.values()) if isinstance(value, dict) else value
        return 1 + max(map(depth_of, inner), default=0) if isinstance(value, dict | list) else 0

    for raw in token.raw[:2]:
        try:
            value = json.loads(raw.decode(), object_pairs_hook=strict, parse_constant=refuse, parse_float=finite)
            json.dumps(value, ensure_ascii=False).encode()
        except (ValueError, RecursionError):
            return True
        if depth_of(value) > 16:
            return True
    return False


def has_other_type(token: Token) -> bool:
    kind = token.header.get("typ", "JWT")
    return not isinstance(kind, str) or kind.lower().removeprefix("application/") not in {"jwt", "at+jwt"}


def has_crit(token: Token) -> bool:
    return "crit" in token.header or "b64" in token.header


def names_another_key(token: Token) -> bool:
    return bool(token.header.get("kid", "k") != "k")


def has_ignored_header_of_odd_value(token: Token) -> bool:
    """Members of RFC 7515 section 4.1 that AgentAPI never looks at."""
    kinds = {"cty": str, "jku": str, "x5u": str, "x5t": str, "x5t#S256": str, "jwk": dict, "x5c": list}
    if any(not isinstance(token.header.get(name, kind()), kind) for name, kind in kinds.items()):
        return True
    addresses: list[str] = [token.header[name] for name in ("jku", "x5u") if name in token.header]
    return not all(address.startswith(("http://", "https://")) for address in addresses)


def has_unregistered_header(token: Token) -> bool:
    """Beyond RFC 7515 section 4.1."""
    registered = {"alg", "jku", "jwk", "kid", "x5u", "x5c", "x5t", "x5t#S256", "typ", "cty", "crit"}
    return not set(token.header) <= registered


def has_the_new_name_of_ed25519(token: Token) -> bool:
    return token.header.get("alg") == "Ed25519"


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def has_odd_date(token: Token) -> bool:
    dates = [token.claims[name] for name in ("exp", "nbf", "iat") if name in token.claims]
    return any(not is_number(date) or not abs(date) <= 253_402_300_799 for date in dates)


def has_fraction_at_the_edge(token: Token) -> bool:
    """A date with a fraction, in the very second in which it begins or ends to count."""
    edges = {"exp": NOW - LEEWAY_S, "nbf": NOW + LEEWAY_S, "iat": NOW + LEEWAY_S}
    dates = {name: token.claims.get(name) for name in edges}
    return any(
        isinstance(date, float) and math.isfinite(date) and edges[name] < date < edges[name] + 1
        for name, date in dates.items()
    )


def is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) < 256 and not any(is_control(character) for character in value)


def is_control(character: str) -> bool:
    return ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0


def has_odd_name(token: Token) -> bool:
    return any(not is_text(token.claims.get(name, "x")) for name in ("sub", "jti"))


def has_odd_identity(token: Token) -> bool:
    email, scope = token.claims.get("email"), token.claims.get("scope")
    scopes = scope if isinstance(scope, list) else [scope]
    texts = [item for item in scopes if item is not None or isinstance(scope, list)]
    bad_scope = any(not isinstance(item, str) or any(map(is_control, item)) for item in texts)
    return bad_scope or not (email is None or is_text(email))


STRICTER: dict[str, Callable[[Token], bool]] = {
    "loose-base64": has_loose_base64,
    "loose-json": has_loose_json,
    "other-type": has_other_type,
    "critical-header": has_crit,
    "another-key": names_another_key,
    "date-type-or-range": has_odd_date,
    "fraction-at-the-edge": has_fraction_at_the_edge,
    "name-type-or-text": has_odd_name,
    "identity-claim": has_odd_identity,
}
"""AgentAPI refuses, a peer accepts."""

LOOSER: dict[str, Callable[[Token], bool]] = {
    "ignored-header": has_ignored_header_of_odd_value,
    "unregistered-header": has_unregistered_header,
    "rfc-9864-name": has_the_new_name_of_ed25519,
}
"""AgentAPI accepts, a peer refuses."""


def explanation(ours: str, theirs: str, text: str) -> str | None:
    if (ours == ACCEPTED) == (theirs == ACCEPTED):
        return "agreement"
    token = Token(text)
    classes = LOOSER if ours == ACCEPTED else STRICTER
    return next((name for name, explains in classes.items() if explains(token)), None)


def check(alg: str, text: str) -> set[str]:
    ours = verdict_of_agentapi(alg, text)
    found = set()
    for peer, verdict in PEERS.items():
        theirs = verdict(alg, text)
        why = explanation(ours, theirs, text)
        assert why is not None, f"AgentAPI: {ours}, {peer}: {theirs} for {Token(text).raw}"
        found.add(why)
    return found


# Tokens that are nearly right.


odd = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["", "x" * 255, "x" * 256, "a\nb", "\x7f", "\u00e9", "\ud800", [], [1], {}, {"a": 1}, 1e300])
)
edges = st.sampled_from([-31, -30, -29, -1, 0, 1, 29, 30, 31]).flatmap(
    lambda offset: st.sampled_from([NOW + offset, NOW + offset + 0.5, float(NOW + offset), str(NOW + offset)])
)
dates = (
    edges | edges | odd | st.integers(NOW - 10_000, NOW + 10_000) | st.sampled_from([0, -1, 253402300799, 1e12, -1e12])
)
audiences = st.sampled_from([AUDIENCE, [AUDIENCE], ["x", AUDIENCE], [AUDIENCE, 1], [AUDIENCE, None], [], "x", ["x"]])
headers = st.fixed_dictionaries(
    {},
    optional={
        "kid": st.sampled_from(["k", "k", "other"]) | odd,
        "typ": st.sampled_from(["JWT", "jwt", "at+jwt", "application/at+JWT", "dpop+jwt", "JOSE"]) | odd,
        "cty": st.just("JWT") | odd,
        "crit": st.sampled_from([[], ["b64"], ["exp"]]) | odd,
        "b64": st.booleans(),
        "jwk": st.just({"kty": "oct", "k": "AAAA"}) | odd,
        "jku": st.just("https://evil.example/keys") | odd,
        "x5c": st.just(["AAAA"]) | odd,
        "trace": odd,
    },
)
payloads = st.fixed_dictionaries(
    {},
    optional={
        "iss": st.just("https://evil.example") | odd | st.just([ISSUER]),
        "sub": odd,
        "aud": audiences | audiences | odd,
        "exp": dates,
        "nbf": dates,
        "iat": dates,
        "jti": odd,
        "email": odd,
        "scope": odd | st.just("a b") | st.just(["a", "b"]),
        "trace": odd,
    },
)
algorithms = st.sampled_from(ALGORITHMS)


def sign(alg: str, header: Json | str, payload: Json | str) -> str:
    texts = [part if isinstance(part, str) else json.dumps(part) for part in (header, payload)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)
        return sign_raw(texts[0], texts[1], alg)


@st.composite
def signed(draw: st.DrawFn) -> tuple[str, str]:
    """A good signature over a header and claims of which some are odd, or missing."""
    alg = draw(st.sampled_from(["ES256", "ES256", "EdDSA", "RS256"]))
    changes = draw(payloads)
    if draw(st.booleans()):
        changes = dict(list(changes.items())[:1])
    payload = claims(**changes)
    for name in draw(st.sets(st.sampled_from([*payload, "none"]), max_size=1)):
        payload.pop(name, None)
    header = {
        "alg": draw(st.sampled_from(names_of(alg))),
        "kid": "k",
        **draw(headers if draw(st.booleans()) else st.just({})),
    }
    return alg, sign(alg, header, payload)


JSON_QUIRKS = [
    ("{", '{"sub":"other",'),
    ("{", '{"exp":1,'),
    ("{", '{"alg":"none",'),
    ("{", "{ \n"),
    ("}", ',"a":NaN}'),
    ("}", ',"a":-Infinity}'),
    ("}", ',"a":1e999}'),
    ("}", ',"a":"\\ud800"}'),
    ("}", ',"\\u0065xp":1}'),
    ("}", ',"a":' + "[" * 40 + "]" * 40 + "}"),
    ("}", ',"a":1,}'),
    ("}", "} "),
    ("}", "}}"),
    ("}", "}\x00"),
    ("{", "\ufeff{"),
    ('"sub"', '"s\\u0075b"'),
]


@st.composite
def written_oddly(draw: st.DrawFn) -> tuple[str, str]:
    """A good signature over JSON that readers may differ about."""
    texts = [json.dumps({"alg": "ES256", "kid": "k"}), json.dumps(claims())]
    for _ in range(draw(st.integers(1, 2))):
        at, (old, new) = draw(st.integers(0, 1)), draw(st.sampled_from(JSON_QUIRKS))
        texts[at] = texts[at].replace(old, new, 1)
    return "ES256", sign("ES256", *texts)


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, str]:
    """A good token with a few characters of it changed."""
    alg = draw(algorithms)
    text = sign(alg, {"alg": alg, "kid": "k"}, claims())
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(text)) | st.integers(max(0, len(text) - 4), len(text)))
        cut = draw(st.integers(0, 2))
        text = text[:at] + draw(st.text("AQgw9_-=.+/ \n\u00e9", max_size=2)) + text[at + cut :]
    return alg, text


FREELY = settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)


@settings(FREELY, max_examples=1000)
@given(signed())
def test_verdicts_on_claims_and_headers(case: tuple[str, str]) -> None:
    check(*case)


@settings(FREELY, max_examples=300)
@given(written_oddly())
def test_verdicts_on_odd_json(case: tuple[str, str]) -> None:
    check(*case)


@settings(FREELY, max_examples=500)
@given(mutated())
@example(("ES256", "a.b.c"))
@example(("ES256", ""))
def test_verdicts_on_mutated_tokens(case: tuple[str, str]) -> None:
    check(*case)


@pytest.mark.parametrize("alg", ALGORITHMS)
@pytest.mark.parametrize("other", ALGORITHMS)
def test_verdicts_on_swapped_algorithms(alg: str, other: str) -> None:
    assert check(alg, sign(other, {"alg": alg, "kid": "k"}, claims())) == {"agreement"}


# Each class is real: a token shows it.

SHOWN: dict[str, tuple[str, str]] = {
    "loose-base64": ("ES256", sign("ES256", {"alg": "ES256"}, claims()) + "=="),
    "loose-json": ("ES256", sign("ES256", '{"alg":"ES256","a":1,"a":2}', claims())),
    "other-type": ("ES256", sign("ES256", {"alg": "ES256", "typ": "dpop+jwt"}, claims())),
    "critical-header": ("ES256", sign("ES256", {"alg": "ES256", "crit": ["b64"], "b64": True}, claims())),
    "another-key": ("ES256", sign("ES256", {"alg": "ES256", "kid": "other"}, claims())),
    "date-type-or-range": ("ES256", sign("ES256", {"alg": "ES256"}, claims(exp=1e12))),
    "fraction-at-the-edge": ("ES256", sign("ES256", {"alg": "ES256"}, claims(exp=NOW - LEEWAY_S + 0.5))),
    "name-type-or-text": ("ES256", sign("ES256", {"alg": "ES256"}, claims(sub="a\nb"))),
    "identity-claim": ("ES256", sign("ES256", {"alg": "ES256"}, claims(email=7))),
    "ignored-header": ("ES256", sign("ES256", {"alg": "ES256", "cty": 1}, claims())),
    "unregistered-header": ("ES256", sign("ES256", {"alg": "ES256", "trace": "1"}, claims())),
    "rfc-9864-name": ("EdDSA", sign("EdDSA", {"alg": "Ed25519"}, claims())),
}


@pytest.mark.parametrize("name", SHOWN)
def test_every_class_is_real(name: str) -> None:
    found = check(*SHOWN[name])
    assert found - {"agreement"} == {name}


def test_the_document_lists_the_classes() -> None:
    listed = Counter(re.findall(r"^\| `([a-z0-9-]+)` \|", DOCUMENT.read_text(), re.MULTILINE))
    assert listed == Counter([*STRICTER, *LOOSER])
    assert set(SHOWN) == set(listed)
