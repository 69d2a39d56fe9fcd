"""Which of several keys signs, is published, or is over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from agentapi.identity.signing_keys.models import (
    MAX_TOKEN_LIFE,
    PUBLISHED_AHEAD,
    SLACK,
    SigningKey,
    is_over,
    needs_next,
    signing_now,
)

T = datetime(2026, 12, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
MONTH = timedelta(days=30)


def key(id_: str, signs_from: datetime, created_at: datetime | None = None) -> SigningKey:
    return SigningKey(id_, {}, b"", created_at or signs_from, signs_from)


def test_the_key_that_began_last_signs() -> None:
    old, new = key("a", T), key("b", T + HOUR)
    assert signing_now([old, new], T - HOUR) is None
    assert signing_now([old, new], T) is old
    assert signing_now([new, old], T + HOUR) is new
    assert signing_now([], T) is None


def test_of_two_keys_that_begin_together_every_process_takes_the_same() -> None:
    one, two = key("a", T), key("b", T)
    assert signing_now([one, two], T) is signing_now([two, one], T) is two


def test_the_next_key_is_there_before_the_last_one_has_signed_for_its_time() -> None:
    assert needs_next([], T, rotate_after=MONTH)
    only = key("a", T)
    due = T + MONTH - PUBLISHED_AHEAD
    assert not needs_next([only], due - timedelta(seconds=1), rotate_after=MONTH)
    assert needs_next([only], due, rotate_after=MONTH)
    assert not needs_next([only, key("b", T + MONTH)], due, rotate_after=MONTH)


def test_a_key_stays_until_the_last_token_that_it_can_have_signed_has_ended() -> None:
    old, new = key("a", T), key("b", T + MONTH)
    last = T + MONTH + MAX_TOKEN_LIFE
    assert not is_over(old, [old, new], last)
    assert is_over(old, [old, new], last + SLACK)
    assert not is_over(new, [old, new], last + 10 * MONTH)
    assert not is_over(old, [old], last + 10 * MONTH)


@given(
    starts=st.lists(st.integers(0, 1000), min_size=1, max_size=6),
    signed=st.integers(0, 1000),
    life=st.integers(1, 24),
)
def test_a_token_always_finds_the_key_that_signed_it(starts: list[int], signed: int, life: int) -> None:
    keys = [key(str(number), T + start * HOUR) for number, start in enumerate(starts)]
    at = T + signed * HOUR
    signer = signing_now(keys, at)
    if signer is not None:
        for passed in range(life + 1):
            assert not is_over(signer, keys, at + passed * HOUR)
