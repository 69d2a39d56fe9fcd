from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import ECKey, RSAKey

from agentapi.errors import StartupError, UnauthenticatedError, UpstreamError
from agentapi.settings import IssuerSettings
from unit.identity.doubles import AUDIENCE, ISSUER, Clock, Web, directory, key_set, remote, signing_key, token

KEYS = f"{ISSUER}/keys"
OTHER = "https://other.example"
DISCOVERY = f"{ISSUER}/.well-known/openid-configuration"
DOWN = UpstreamError("The server could not be reached.")


async def reason(refused: object) -> str:
    with pytest.raises(UnauthenticatedError) as caught:
        await refused  # type: ignore[misc] # any awaitable
    assert caught.value.presented
    return caught.value.reason


async def test_a_loaded_key_set_verifies_without_asking_again() -> None:
    web, clock = Web({KEYS: key_set("k1")}), Clock()
    issuers = directory([remote()], web, clock)
    await issuers.load()
    presented = token()
    first = await issuers.verify(presented, AUDIENCE)
    assert (first.issuer, first.subject) == (ISSUER, "alice")
    assert await issuers.verify(presented, AUDIENCE) is first
    assert web.asked == [KEYS]


async def test_a_hundred_callers_with_an_unknown_key_cause_one_fetch() -> None:
    web, clock = Web({KEYS: key_set("k1")}, gate=asyncio.Event()), Clock()
    issuers = directory([remote()], web, clock)
    callers = [asyncio.ensure_future(issuers.verify(token(sub=f"user-{i}"), AUDIENCE)) for i in range(100)]
    await drain()
    assert web.gate is not None
    web.gate.set()
    verified = await asyncio.gather(*callers)
    assert {one.subject for one in verified} == {f"user-{i}" for i in range(100)}
    assert web.asked == [KEYS]


async def test_unknown_keys_are_looked_up_at_most_once_a_minute() -> None:
    web, clock = Web({KEYS: key_set("k1")}), Clock()
    issuers = directory([remote()], web, clock)
    await issuers.load()
    assert await reason(issuers.verify(token("k2"), AUDIENCE)) == "unknown_key"
    web.documents[KEYS] = key_set("k1", "k2")
    clock.advance(59.9)
    for _ in range(50):
        assert await reason(issuers.verify(token("k2"), AUDIENCE)) == "unknown_key"
    assert len(web.asked) == 1
    clock.advance(0.2)
    assert (await issuers.verify(token("k2"), AUDIENCE)).key_id == "k2"
    assert len(web.asked) == 2


async def test_the_bound_on_fetches_holds_for_failures_too() -> None:
    web, clock = Web({KEYS: DOWN}), Clock()
    issuers = directory([remote()], web, clock)
    await issuers.load()
    for _ in range(50):
        assert await reason(issuers.verify(token(), AUDIENCE)) == "no_key_set"
    assert len(web.asked) == 1
    clock.advance(60)
    web.documents[KEYS] = key_set("k1")
    await issuers.verify(token(), AUDIENCE)
    assert len(web.asked) == 2


async def test_an_issuer_that_is_down_keeps_its_last_keys() -> None:
    web, clock = Web({KEYS: key_set("k1")}), Clock()
    issuers = directory([remote()], web, clock, ttl_s=600)
    await issuers.load()
    web.documents[KEYS] = DOWN
    for _ in range(3):
        clock.advance(600)
        await issuers.verify(token(), AUDIENCE)
        await drain()
    assert len(web.asked) == 4
    assert (await issuers.verify(token(sub="late"), AUDIENCE)).subject == "late"


async def drain() -> None:
    """Let the tasks that are ready run to their next wait."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_an_old_key_set_is_fetched_in_the_background() -> None:
    web, clock = Web({KEYS: key_set("k1")}), Clock()
    issuers = directory([remote()], web, clock, ttl_s=600)
    await issuers.load()
    clock.advance(599)
    await issuers.verify(token(), AUDIENCE)
    await drain()
    assert len(web.asked) == 1
    clock.advance(1)
    web.gate = asyncio.Event()
    # The caller has its answer although the fetch has none yet.
    await asyncio.wait_for(issuers.verify(token(), AUDIENCE), 5)
    await drain()
    assert len(web.asked) == 2
    await issuers.close()


async def test_rotation_drops_the_tokens_of_the_old_key() -> None:
    web, clock = Web({KEYS: key_set("k1")}), Clock()
    issuers = directory([remote()], web, clock, ttl_s=600)
    await issuers.load()
    old = token("k1")
    await issuers.verify(old, AUDIENCE)
    web.documents[KEYS] = key_set("k2")
    clock.advance(61)
    assert (await issuers.verify(token("k2"), AUDIENCE)).key_id == "k2"
    assert await reason(issuers.verify(old, AUDIENCE)) == "unknown_key"


async def test_a_key_set_that_changes_its_key_under_one_kid_ends_the_old_tokens() -> None:
    web, clock = Web({KEYS: key_set("k1")}), Clock()
    issuers = directory([remote()], web, clock)
    await issuers.load()
    old = token("k1")
    await issuers.verify(old, AUDIENCE)
    impostor = ECKey.generate_key("P-256", {"kid": "k1"}).as_dict(private=False)
    web.documents[KEYS] = json.dumps({"keys": [impostor]}).encode()
    clock.advance(600)
    await issuers.verify(old, AUDIENCE)
    await drain()
    assert await reason(issuers.verify(old, AUDIENCE)) == "bad_signature"


async def test_the_key_set_is_found_by_discovery() -> None:
    document = json.dumps({"issuer": ISSUER, "jwks_uri": KEYS}).encode()
    web, clock = Web({DISCOVERY: document, KEYS: key_set("k1")}), Clock()
    issuers = directory([remote(jwks_url=None)], web, clock)
    await issuers.load()
    await issuers.verify(token(), AUDIENCE)
    assert web.asked == [DISCOVERY, KEYS]


DISCOVERY_DOCUMENTS: dict[str, bytes] = {
    "another issuer": json.dumps({"issuer": OTHER, "jwks_uri": KEYS}).encode(),
    "the issuer with a slash": json.dumps({"issuer": f"{ISSUER}/", "jwks_uri": KEYS}).encode(),
    "no issuer": json.dumps({"jwks_uri": KEYS}).encode(),
    "no jwks_uri": json.dumps({"issuer": ISSUER}).encode(),
    "jwks_uri of the wrong type": json.dumps({"issuer": ISSUER, "jwks_uri": [KEYS]}).encode(),
    "a list": b"[]",
    "no JSON": b"<html>",
    "not UTF-8": b'{"issuer": "\xff"}',
    "nothing": b"",
    "nested too deep": b"[" * 200_000,
    "a lone surrogate": b'{"issuer": "\\ud800"}',
}


@pytest.mark.parametrize("document", DISCOVERY_DOCUMENTS.values(), ids=DISCOVERY_DOCUMENTS)
async def test_a_wrong_discovery_document_leads_nowhere_and_harms_nobody_else(document: bytes) -> None:
    web = Web({DISCOVERY: document, KEYS: key_set("k1"), f"{OTHER}/keys": key_set("k2")})
    issuers = directory([remote(jwks_url=None), remote(OTHER)], web, Clock())
    await issuers.load()
    assert await reason(issuers.verify(token(), AUDIENCE)) == "no_key_set"
    assert KEYS not in web.asked
    await issuers.verify(token("k2", issuer=OTHER), AUDIENCE)


def oversized_key_set() -> bytes:
    public = signing_key("k1").as_dict(private=False)
    return json.dumps({"keys": [{**public, "kid": f"k{number}"} for number in range(5000)]}).encode()


KEY_SETS: dict[str, bytes] = {
    "no JSON": b"nonsense",
    "nothing": b"",
    "no keys": b'{"keys": []}',
    "a list": b"[]",
    "keys of the wrong type": b'{"keys": 1}',
    "nested too deep": b'{"keys":' + b"[" * 100_000,
    "not UTF-8": b'{"keys": "\xff"}',
    "thousands of keys": oversized_key_set(),
    "many megabytes": b" " * (8 * 1024 * 1024) + key_set("k1"),
    "only symmetric keys": b'{"keys": [{"kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", "kid": "k1"}]}',
}


@pytest.mark.parametrize("document", KEY_SETS.values(), ids=KEY_SETS)
async def test_a_garbage_key_set_leaves_the_old_one_in_force(document: bytes) -> None:
    web, clock = Web({KEYS: key_set("k1")}), Clock()
    issuers = directory([remote()], web, clock)
    await issuers.load()
    web.documents[KEYS] = document
    clock.advance(61)
    assert await reason(issuers.verify(token("k9"), AUDIENCE)) == "unknown_key"
    assert len(web.asked) == 2
    assert (await issuers.verify(token("k1", sub="after"), AUDIENCE)).subject == "after"


@given(
    document=st.binary(max_size=200)
    | st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["keys", "kty", "kid", "n", "x"]), inner),
    ).map(lambda value: json.dumps(value).encode())
)
def test_no_document_crashes_a_refresh(document: bytes) -> None:
    async def run() -> None:
        web = Web({KEYS: document, DISCOVERY: document})
        for settings in (remote(), remote(jwks_url=None)):
            issuers = directory([settings], web, Clock())
            await issuers.load()
            assert await reason(issuers.verify(token(), AUDIENCE)) == "no_key_set"

    asyncio.run(run())


async def test_the_failure_of_one_issuer_leaves_the_other_alone() -> None:
    web, clock = Web({KEYS: DOWN, f"{OTHER}/keys": key_set("k2")}), Clock()
    issuers = directory([remote(), remote(OTHER)], web, clock)
    await issuers.load()
    assert (await issuers.verify(token("k2", issuer=OTHER), AUDIENCE)).issuer == OTHER
    assert await reason(issuers.verify(token("k1"), AUDIENCE)) == "no_key_set"
    # Unknown keys of one issuer do not spend the other's turn.
    web.documents[KEYS] = key_set("k1")
    clock.advance(61)
    assert await reason(issuers.verify(token("k9", issuer=OTHER), AUDIENCE)) == "unknown_key"
    await issuers.verify(token("k1"), AUDIENCE)


async def test_a_key_of_one_issuer_signs_nothing_for_another() -> None:
    web = Web({KEYS: key_set("k1"), f"{OTHER}/keys": key_set("k2")})
    issuers = directory([remote(), remote(OTHER)], web, Clock())
    await issuers.load()
    assert await reason(issuers.verify(token("k2", issuer=ISSUER), AUDIENCE)) == "unknown_key"


async def test_a_token_chooses_no_address() -> None:
    web = Web({KEYS: key_set("k1")})
    issuers = directory([remote()], web, Clock())
    assert await reason(issuers.verify(token(issuer="https://evil.example"), AUDIENCE)) == "unknown_issuer"
    assert web.asked == []


async def test_inline_keys_are_never_fetched() -> None:
    web = Web()
    inline = IssuerSettings(issuer=ISSUER, jwks=key_set("k1").decode())
    issuers = directory([inline], web, Clock())
    await issuers.load()
    await issuers.verify(token(), AUDIENCE)
    assert await reason(issuers.verify(token("k2"), AUDIENCE)) == "unknown_key"
    assert web.asked == []


async def test_one_caller_that_leaves_does_not_take_the_refresh_from_another() -> None:
    web = Web({KEYS: key_set("k1")}, gate=asyncio.Event())
    issuers = directory([remote()], web, Clock())
    leaver = asyncio.ensure_future(issuers.verify(token(), AUDIENCE))
    stayer = asyncio.ensure_future(issuers.verify(token(sub="bob"), AUDIENCE))
    await drain()
    leaver.cancel()
    await drain()
    assert web.gate is not None
    web.gate.set()
    assert (await asyncio.wait_for(stayer, 5)).subject == "bob"
    assert leaver.cancelled()


async def test_closing_ends_a_fetch_under_way() -> None:
    web = Web({KEYS: key_set("k1")}, gate=asyncio.Event())
    issuers = directory([remote()], web, Clock())
    before = asyncio.all_tasks()
    caller = asyncio.ensure_future(issuers.verify(token(), AUDIENCE))
    await drain()
    (fetch,) = asyncio.all_tasks() - before - {caller}
    assert web.asked == [KEYS]
    async with asyncio.timeout(5):
        await issuers.close()
    assert fetch.cancelled()
    with pytest.raises(asyncio.CancelledError):
        await caller


@pytest.mark.parametrize(
    ("issuers", "complaint"),
    [
        ([remote(), remote()], "names one issuer twice"),
        ([IssuerSettings(issuer=ISSUER, jwks="nonsense")], "AGENTAPI_ISSUERS: "),
        ([IssuerSettings(issuer=ISSUER, jwks='{"keys": []}')], "AGENTAPI_ISSUERS: "),
        ([IssuerSettings.model_validate({"issuer": ISSUER, "shared_secret": "too short"})], "AGENTAPI_ISSUERS: "),
        ([IssuerSettings.model_validate({"issuer": ISSUER, "claims": {"default_role": "king"}})], "AGENTAPI_ISSUERS: "),
        ([IssuerSettings.model_validate({"issuer": ""})], "AGENTAPI_ISSUERS: "),
    ],
)
def test_issuers_that_cannot_work_are_refused_at_start(issuers: list[IssuerSettings], complaint: str) -> None:
    with pytest.raises(StartupError, match=complaint):
        directory(issuers, Web(), Clock())


def test_a_shared_secret_is_in_no_message() -> None:
    settings = IssuerSettings.model_validate({"issuer": ISSUER, "shared_secret": "hunter2"})
    with pytest.raises(StartupError) as caught:
        directory([settings], Web(), Clock())
    assert "hunter2" not in f"{caught.value!r} {caught.value} {settings!r}"


def test_required_scopes_are_those_of_the_issuer() -> None:
    issuers = directory([remote(required_scopes=("mcp:use",)), remote(OTHER)], Web(), Clock())
    assert issuers.required_scopes(ISSUER) == ("mcp:use",)
    assert issuers.required_scopes(OTHER) == ()


async def test_a_key_for_another_algorithm_is_not_used() -> None:
    rsa = RSAKey.generate_key(2048, {"kid": "k1"}).as_dict(private=False)
    web = Web({KEYS: json.dumps({"keys": [rsa]}).encode()})
    issuers = directory([remote()], web, Clock())
    await issuers.load()
    assert await reason(issuers.verify(token("k1"), AUDIENCE)) in {"unsupported_algorithm", "bad_signature"}


@pytest.mark.parametrize(
    ("claims", "named"),
    [
        ({}, {"acme", "other"}),
        ({"organization_pointer": "/org"}, {"acme", "other"}),
        ({"organization_pointer": "/org", "organization": "acme"}, {"acme", "other"}),
        ({"organization_pointer": None, "organization": "acme"}, {"acme"}),
        ({"organization_pointer": None}, set()),
    ],
    ids=["the preset's claim", "a claim", "a claim or else", "one alone", "none"],
)
def test_an_issuer_may_name_what_its_rules_can_find(claims: dict[str, str | None], named: set[str]) -> None:
    issuers = directory([remote(claims=claims)], Web(), Clock())
    assert {slug for slug in ("acme", "other") if issuers.may_name(ISSUER, slug)} == named
