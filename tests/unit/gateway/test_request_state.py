from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp_types import INVALID_PARAMS

from agentapi._core import Keyring
from agentapi.errors import UpstreamError
from agentapi.gateway.request_state import MAX_STATE_BYTES, InvalidRequestStateError, RequestStates
from agentapi.principal import OrgId, Principal, UpstreamId, UserId
from unit.upstreams.doubles import PRINCIPAL, Clock

KEYRING = Keyring.parse(Keyring.generate("k1"))
UPSTREAM = UpstreamId(UUID(int=7))
TTL_S = 600.0


def states(clock: Clock | None = None, keyring: Keyring = KEYRING) -> RequestStates:
    return RequestStates(keyring, TTL_S, clock or Clock())


def sealed(state: str = "step 1") -> str:
    return states().seal(PRINCIPAL, UPSTREAM, "tools/call", "book", state)


@given(st.text(st.characters(codec=None)), st.text(st.characters(codec=None)))
def test_a_state_comes_back_as_the_upstream_gave_it(state: str, name: str) -> None:
    kept = states().seal(PRINCIPAL, UPSTREAM, "tools/call", name, state)
    assert states().open(PRINCIPAL, UPSTREAM, "tools/call", name, kept) == state


def test_a_client_cannot_read_a_state() -> None:
    assert "step" not in sealed("step 1")
    assert sealed() != sealed()


@pytest.mark.parametrize(
    ("principal", "upstream_id", "method", "name"),
    [
        (replace(PRINCIPAL, user_id=UserId(UUID(int=99))), UPSTREAM, "tools/call", "book"),
        (replace(PRINCIPAL, org_id=OrgId(UUID(int=99))), UPSTREAM, "tools/call", "book"),
        (PRINCIPAL, UpstreamId(UUID(int=99)), "tools/call", "book"),
        (PRINCIPAL, UPSTREAM, "prompts/get", "book"),
        (PRINCIPAL, UPSTREAM, "tools/call", "other"),
        (PRINCIPAL, UPSTREAM, 'tools/call", "book', ""),
    ],
    ids=["user", "organisation", "upstream", "method", "name", "parts shifted"],
)
def test_a_state_opens_nowhere_else(principal: Principal, upstream_id: UpstreamId, method: str, name: str) -> None:
    with pytest.raises(InvalidRequestStateError):
        states().open(principal, upstream_id, method, name, sealed())


@given(st.text(max_size=300))
def test_what_was_never_sealed_does_not_open(text: str) -> None:
    with pytest.raises(InvalidRequestStateError):
        states().open(PRINCIPAL, UPSTREAM, "tools/call", "book", text)


def test_a_changed_state_does_not_open() -> None:
    good = sealed()
    for index, character in enumerate(good):
        changed = good[:index] + ("A" if character != "A" else "B") + good[index + 1 :]
        with pytest.raises(InvalidRequestStateError):
            states().open(PRINCIPAL, UPSTREAM, "tools/call", "book", changed)


def test_a_state_expires() -> None:
    clock = Clock()
    kept = states(clock).seal(PRINCIPAL, UPSTREAM, "tools/call", "book", "step 1")
    clock.advance(TTL_S - 1)
    assert states(clock).open(PRINCIPAL, UPSTREAM, "tools/call", "book", kept) == "step 1"
    clock.advance(1)
    with pytest.raises(InvalidRequestStateError):
        states(clock).open(PRINCIPAL, UPSTREAM, "tools/call", "book", kept)


def test_another_deployment_opens_nothing() -> None:
    other = states(keyring=Keyring.parse(Keyring.generate("k1")))
    with pytest.raises(InvalidRequestStateError):
        other.open(PRINCIPAL, UPSTREAM, "tools/call", "book", sealed())


def test_every_failure_reads_alike() -> None:
    failures = set()
    for text, name in [
        ("", "book"),
        ("é", "book"),
        ("x" * 200_000, "book"),
        (sealed(), "other"),
        (sealed()[:-4], "book"),
    ]:
        with pytest.raises(InvalidRequestStateError) as caught:
            states().open(PRINCIPAL, UPSTREAM, "tools/call", name, text)
        failures.add((caught.value.code, caught.value.message, caught.value.__cause__))
    assert failures == {(INVALID_PARAMS, "The requestState is not valid for this request, or has expired.", None)}


def test_the_longest_state_passes_and_a_longer_one_does_not() -> None:
    longest = "x" * MAX_STATE_BYTES
    assert states().open(PRINCIPAL, UPSTREAM, "tools/call", "book", sealed(longest)) == longest
    with pytest.raises(UpstreamError, match="more than 65536 bytes"):
        sealed(longest + "x")
