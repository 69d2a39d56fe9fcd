from __future__ import annotations

import json
import os
import stat
import time
from typing import TYPE_CHECKING, Any

import jwt as pyjwt
import pytest
from joserfc.jwk import ECKey, OctKey, RSAKey

from agentapi.errors import StartupError, UnauthenticatedError
from agentapi.identity.token_issuer import TokenIssuer, write_private_file
from agentapi.principal import Role
from agentapi.settings import IssuerSettings
from unit.identity.doubles import Clock, Web, directory

if TYPE_CHECKING:
    from pathlib import Path

    from agentapi.identity.issuers import IssuerDirectory

ISSUER = "urn:agentapi:test"
AUDIENCE = "https://gateway.example"


def verifier(issuer: TokenIssuer) -> IssuerDirectory:
    return directory([IssuerSettings(issuer=issuer.issuer, jwks=issuer.key_set())], Web(), Clock())


def mint(issuer: TokenIssuer, **changes: Any) -> str:
    given: dict[str, Any] = {
        "subject": "alice",
        "audiences": [AUDIENCE],
        "organization": "acme",
        "role": Role.MEMBER,
        "lifetime_s": 60,
        **changes,
    }
    return issuer.mint(**given)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_key_file_is_made_once_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "issuer-key.json"
    before = os.umask(0)
    try:
        first = TokenIssuer.from_file(ISSUER, path)
    finally:
        os.umask(before)
    assert mode(path) == 0o600
    written = path.read_bytes()
    assert TokenIssuer.from_file(ISSUER, path).key_set() == first.key_set()
    assert path.read_bytes() == written
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("umask", [0, 0o077, 0o777])
def test_a_private_file_is_private_under_any_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_private_file(tmp_path / "secret", "text")
    finally:
        os.umask(before)
    assert mode(tmp_path / "secret") & 0o077 == 0


GARBAGE: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"nonsense",
    "a list": b"[]",
    "null": b"null",
    "a number": b"7",
    "no key": b"{}",
    "another type of key": json.dumps(RSAKey.generate_key(2048).as_dict(private=True)).encode(),
    "a symmetric key": json.dumps(OctKey.generate_key(256).as_dict(private=True)).encode(),
    "another curve": json.dumps(ECKey.generate_key("P-384", auto_kid=True).as_dict(private=True)).encode(),
    "the public part alone": json.dumps(ECKey.generate_key("P-256", auto_kid=True).as_dict(private=False)).encode(),
    "no point of the curve": b'{"kty":"EC","crv":"P-256","x":"AA","y":"AA","d":"AA","kid":"k"}',
    "no base64": b'{"kty":"EC","crv":"P-256","x":"!","y":"!","d":"!","kid":"k"}',
    "values of the wrong type": b'{"kty":"EC","crv":"P-256","x":1,"y":[],"d":null,"kid":{}}',
    "nested too deep": b"[" * 100_000,
    "not UTF-8": b"\xff\xfe\xfd",
}


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
def test_a_file_that_is_no_such_key_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "issuer-key.json"
    path.write_bytes(content)
    with pytest.raises(StartupError, match="cannot be used") as caught:
        TokenIssuer.from_file(ISSUER, path)
    assert str(path) in caught.value.message
    assert path.read_bytes() == content


def test_a_directory_in_its_place_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="cannot be used"):
        TokenIssuer.from_file(ISSUER, tmp_path)


async def test_a_minted_token_verifies_and_says_what_was_asked(tmp_path: Path) -> None:
    issuer = TokenIssuer.from_file(ISSUER, tmp_path / "key.json")
    settings = IssuerSettings(issuer=ISSUER, jwks=issuer.key_set())
    minted = mint(issuer, role=Role.VIEWER, scopes=("a", "b"))
    verified = await directory([settings], Web(), Clock()).verify(minted, AUDIENCE)
    assert (verified.subject, verified.organization, verified.role) == ("alice", "acme", "viewer")
    assert verified.scopes == {"a", "b"}
    assert verified.audiences == (AUDIENCE,)
    assert pyjwt.get_unverified_header(minted)["typ"] == "at+jwt"


def test_a_token_lives_as_long_as_was_asked(tmp_path: Path) -> None:
    issuer = TokenIssuer.from_file(ISSUER, tmp_path / "key.json")
    claims = pyjwt.decode(mint(issuer, now=1000.9, lifetime_s=60), options={"verify_signature": False})
    assert (claims["iat"], claims["exp"]) == (1000, 1060)
    assert "scope" not in claims


async def test_a_token_ends_with_its_lifetime(tmp_path: Path) -> None:
    issuer = TokenIssuer.from_file(ISSUER, tmp_path / "key.json")
    issuers = verifier(issuer)
    # The leeway of 30 seconds is the issuer's, not the lifetime's.
    await issuers.verify(mint(issuer, now=time.time() - 80, lifetime_s=60), AUDIENCE)
    with pytest.raises(UnauthenticatedError) as caught:
        await issuers.verify(mint(issuer, now=time.time() - 100, lifetime_s=60), AUDIENCE)
    assert caught.value.reason == "expired"


def test_no_two_tokens_are_alike(tmp_path: Path) -> None:
    issuer = TokenIssuer.from_file(ISSUER, tmp_path / "key.json")
    assert mint(issuer, now=1.0) != mint(issuer, now=1.0)
    ids = {pyjwt.decode(mint(issuer), options={"verify_signature": False})["jti"] for _ in range(50)}
    assert len(ids) == 50


def test_the_key_set_holds_no_private_part(tmp_path: Path) -> None:
    path = tmp_path / "key.json"
    issuer = TokenIssuer.from_file(ISSUER, path)
    (key,) = json.loads(issuer.key_set())["keys"]
    assert "d" not in key
    assert json.loads(path.read_bytes())["d"] not in issuer.key_set()
    assert key["kid"]


async def test_the_token_of_another_key_is_refused(tmp_path: Path) -> None:
    own = TokenIssuer.from_file(ISSUER, tmp_path / "own.json")
    foreign = TokenIssuer.from_file(ISSUER, tmp_path / "foreign.json")
    with pytest.raises(UnauthenticatedError):
        await verifier(own).verify(mint(foreign), AUDIENCE)
