from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentapi.errors import InsufficientScopeError, UnauthenticatedError
from agentapi.identity.authentication import authenticate, bearer_token
from agentapi.settings import IssuerSettings
from unit.identity.doubles import AUDIENCE, ISSUER, Clock, Web, directory, key_set, token


def header(value: bytes) -> list[tuple[bytes, bytes]]:
    return [(b"host", b"gateway.example"), (b"authorization", value)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"Bearer abc", "abc"),
        (b"bearer abc", "abc"),
        (b"BEARER abc", "abc"),
        (b"Bearer   abc", "abc"),
        (b"Bearer abc ", "abc"),
        (b"Bearer a.b-c_d~e+f/g==", "a.b-c_d~e+f/g=="),
    ],
)
def test_a_bearer_token_is_read(value: bytes, expected: str) -> None:
    assert bearer_token(header(value)) == expected


ATTACKS: dict[str, bytes] = {
    "empty": b"",
    "scheme alone": b"Bearer",
    "scheme and space": b"Bearer ",
    "no scheme": b"abc",
    "basic": b"Basic YTpi",
    "another scheme that begins alike": b"BearerX abc",
    "no space": b"Bearer:abc",
    "a tab": b"Bearer\tabc",
    "space in front": b" Bearer abc",
    "two tokens": b"Bearer abc def",
    "two by comma": b"Bearer abc,Bearer def",
    "comma in one": b"Bearer abc, def",
    "quoted": b'Bearer "abc"',
    "a line break": b"Bearer abc\r\nX-Evil: 1",
    "a line break at the end": b"Bearer abc\n",
    "a null": b"Bearer abc\0",
    "padding inside": b"Bearer a=b",
    "only padding": b"Bearer ==",
    "not ASCII": "Bearer äbc".encode(),
    "not UTF-8": b"Bearer \xff\xfe",
    "full-width letters": "Bearer \uff41\uff42\uff43".encode(),
    "a letter that folds to k": "Bearer \u212a".encode(),
    "a parameter": b"Bearer token=abc;x",
    "an e-mail": b"Bearer a@b",
}


@pytest.mark.parametrize("value", ATTACKS.values(), ids=ATTACKS)
def test_what_is_no_bearer_token_is_refused(value: bytes) -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        bearer_token(header(value))
    assert caught.value.reason == "not_a_bearer_token"
    assert caught.value.presented


@pytest.mark.parametrize("second", [b"Bearer abc", b"Bearer def", b"", b"Basic YTpi"])
def test_two_authorization_headers_are_refused_even_if_alike(second: bytes) -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        bearer_token([*header(b"Bearer abc"), (b"authorization", second)])
    assert caught.value.reason == "several_authorization_headers"
    assert caught.value.presented


@pytest.mark.parametrize("headers", [[], [(b"x-authorization", b"Bearer abc"), (b"cookie", b"authorization=abc")]])
def test_no_header_is_no_presented_token(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        bearer_token(headers)
    assert not caught.value.presented


@given(value=st.binary(max_size=100))
def test_a_header_gives_a_token_of_the_grammar_or_a_refusal(value: bytes) -> None:
    try:
        found = bearer_token(header(b"Bearer " + value))
    except UnauthenticatedError:
        return
    assert found.encode() == value.strip(b" ")
    assert set(found) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/=")


def test_nothing_that_was_presented_is_in_the_error() -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        bearer_token(header(b"Basic aHVudGVyMg=="))
    assert "aHVudGVyMg" not in f"{caught.value!r} {caught.value} {caught.value.log_context}"


def settings(**changes: object) -> IssuerSettings:
    return IssuerSettings.model_validate({"issuer": ISSUER, "jwks": key_set("k1").decode(), **changes})


async def test_a_good_token_for_this_audience_is_accepted() -> None:
    issuers = directory([settings()], Web(), Clock())
    verified = await authenticate(issuers, header(f"Bearer {token()}".encode()), audience=AUDIENCE)
    assert verified.subject == "alice"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"aud": "https://gateway.example/mcp/acme/other"}, "wrong_audience"),
        ({"aud": "https://gateway.example"}, "wrong_audience"),
        ({"aud": ...}, "missing_claim"),
        ({"exp": 1}, "expired"),
        ({"exp": ...}, "missing_claim"),
        ({"nbf": 4_102_444_800}, "not_yet_valid"),
        ({"sub": ...}, "missing_claim"),
    ],
)
async def test_a_token_that_is_not_for_here_and_now_is_refused(changes: dict[str, Any], reason: str) -> None:
    issuers = directory([settings()], Web(), Clock())
    with pytest.raises(UnauthenticatedError) as caught:
        await authenticate(issuers, header(f"Bearer {token(**changes)}".encode()), audience=AUDIENCE)
    assert caught.value.reason == reason


@pytest.mark.parametrize("scope", [..., "", "mcp:use", "mcp:use-more mcp:read", "mcp:read MCP:USE"])
async def test_a_token_without_a_required_scope_names_all_that_are_needed(scope: object) -> None:
    issuers = directory([settings(required_scopes=["mcp:use", "mcp:read"])], Web(), Clock())
    with pytest.raises(InsufficientScopeError) as caught:
        await authenticate(issuers, header(f"Bearer {token(scope=scope)}".encode()), audience=AUDIENCE)
    assert caught.value.scopes == ("mcp:use", "mcp:read")


async def test_a_token_with_all_required_scopes_and_more_is_accepted() -> None:
    issuers = directory([settings(required_scopes=["mcp:use", "mcp:read"])], Web(), Clock())
    presented = token(scope="mcp:read openid mcp:use")
    assert (await authenticate(issuers, header(f"Bearer {presented}".encode()), audience=AUDIENCE)).scopes == {
        "mcp:read",
        "openid",
        "mcp:use",
    }
