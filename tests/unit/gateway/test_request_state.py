from __future__ import annotations

from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp_types import INVALID_PARAMS

from agentapi._core import Keyring
from agentapi.errors import UpstreamError
from agentapi.gateway.request_state import MAX_STATE_BYTES, Binding, InvalidRequestStateError, RequestStates
from agentapi.principal import OrgId, SessionId, UpstreamId, UserId
from unit.upstreams.doubles import PRINCIPAL, Clock

KEYRING = Keyring.parse(Keyring.generate("k1"))
UPSTREAM = UpstreamId(UUID(int=7))
BINDING = Binding(PRINCIPAL, UPSTREAM, "tools/call", "book", {"to": "Bern", "nights": 2})
TTL_S = 600.0


def states(clock: Clock | None = None, keyring: Keyring = KEYRING) -> RequestStates:
    return RequestStates(keyring, TTL_S, clock or Clock())


def sealed(state: str = "step 1") -> str:
    return states().seal(BINDING, state)


@given(st.text(st.characters(codec=None)), st.text(st.characters(codec=None)))
def test_a_state_comes_back_as_the_upstream_gave_it(state: str, name: str) -> None:
    binding = Binding(PRINCIPAL, UPSTREAM, "tools/call", name, {"text": name})
    assert states().open(binding, states().seal(binding, state)) == state


@pytest.mark.parametrize(
    ("first", "again"),
    [({"a": 1, "b": [2]}, {"b": [2], "a": 1}), (None, {}), ({}, None)],
    ids=["other order", "none then empty", "empty then none"],
)
def test_the_same_arguments_may_be_spelt_differently(first: object, again: object) -> None:
    kept = states().seal(replace(BINDING, arguments=first), "step 1")
    assert states().open(replace(BINDING, arguments=again), kept) == "step 1"


def test_a_client_cannot_read_a_state() -> None:
    assert "step" not in sealed("step 1")
    assert sealed() != sealed()


@pytest.mark.parametrize(
    "binding",
    [
        replace(BINDING, principal=replace(PRINCIPAL, user_id=UserId(UUID(int=99)))),
        replace(BINDING, principal=replace(PRINCIPAL, org_id=OrgId(UUID(int=99)))),
        replace(BINDING, principal=replace(PRINCIPAL, session_id=SessionId(UUID(int=99)))),
        replace(BINDING, principal=replace(PRINCIPAL, key_id=UUID(int=99))),
        replace(BINDING, upstream_id=UpstreamId(UUID(int=99))),
        replace(BINDING, method="prompts/get"),
        replace(BINDING, name="other"),
        replace(BINDING, method='tools/call", "book', name=""),
        replace(BINDING, arguments={"to": "Basel", "nights": 2}),
        replace(BINDING, arguments=None),
    ],
    ids=[
        "user",
        "organisation",
        "session",
        "key",
        "upstream",
        "method",
        "name",
        "parts shifted",
        "arguments",
        "no arguments",
    ],
)
def test_a_state_opens_nowhere_else(binding: Binding) -> None:
    with pytest.raises(InvalidRequestStateError):
        states().open(binding, sealed())


@given(st.text(max_size=300))
def test_what_was_never_sealed_does_not_open(text: str) -> None:
    with pytest.raises(InvalidRequestStateError):
        states().open(BINDING, text)


def test_a_changed_state_does_not_open() -> None:
    good = sealed()
    for index, character in enumerate(good):
        changed = good[:index] + ("A" if character != "A" else "B") + good[index + 1 :]
        with pytest.raises(InvalidRequestStateError):
            states().open(BINDING, changed)


def test_a_state_expires() -> None:
    clock = Clock()
    kept = states(clock).seal(BINDING, "step 1")
    clock.advance(TTL_S - 1)
    assert states(clock).open(BINDING, kept) == "step 1"
    clock.advance(1)
    with pytest.raises(InvalidRequestStateError):
        states(clock).open(BINDING, kept)


def test_another_deployment_opens_nothing() -> None:
    other = states(keyring=Keyring.parse(Keyring.generate("k1")))
    with pytest.raises(InvalidRequestStateError):
        other.open(BINDING, sealed())


def test_every_failure_reads_alike() -> None:
    failures = set()
    for text, name in [
        ("", "book"),
        ("é", "book"),
        ("x" * 200_000, "book"),
        (sealed(), "other"),
        (sealed()[:-4], "book"),
        (7, "book"),
    ]:
        with pytest.raises(InvalidRequestStateError) as caught:
            states().open(replace(BINDING, name=name), text)
        failures.add((caught.value.code, caught.value.message, caught.value.__cause__))
    assert failures == {(INVALID_PARAMS, "The requestState is not valid for this request, or has expired.", None)}


def test_the_longest_state_passes_and_a_longer_one_does_not() -> None:
    longest = "x" * MAX_STATE_BYTES
    assert states().open(BINDING, sealed(longest)) == longest
    with pytest.raises(UpstreamError, match="more than 65536 bytes"):
        sealed(longest + "x")
