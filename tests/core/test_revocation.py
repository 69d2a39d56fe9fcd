"""Tokens that are refused before they expire."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest

from agentapi._core import RevocationError, TokenError, TokenVerifier
from core.tokens import AUDIENCE, ISSUER, NOW, jwks, key, policy, public_jwk, token, verifier

if TYPE_CHECKING:
    from collections.abc import Callable

OTHER = "https://other.example"


def reason(subject: TokenVerifier, text: str) -> str:
    try:
        subject.verify(text, AUDIENCE, NOW)
    except TokenError as error:
        return error.reason if str(error) == "the token is not acceptable" else str(error)
    return "accepted"


@pytest.mark.parametrize("cache_entries", [0, 100])
@pytest.mark.parametrize("seen_before", [True, False])
def test_a_token_is_revoked_by_its_id(cache_entries: int, seen_before: bool) -> None:
    subject = verifier(cache_entries=cache_entries)
    revoked, kept = token(jti="t-1"), token(jti="t-2")
    if seen_before:
        assert (reason(subject, revoked), reason(subject, kept)) == ("accepted", "accepted")
    subject.revoke_token(ISSUER, "t-1", NOW + 600, now=NOW)
    assert (reason(subject, revoked), reason(subject, kept)) == ("revoked", "accepted")
    assert subject.revocations == 1


@pytest.mark.parametrize("seen_before", [True, False])
def test_a_subject_loses_what_was_issued_before(seen_before: bool) -> None:
    subject = verifier()
    old, undated, new = token(iat=NOW - 1), token(iat=...), token(iat=NOW)
    stranger = token(iat=NOW - 1, sub="user-2")
    if seen_before:
        assert {reason(subject, text) for text in (old, undated, new, stranger)} == {"accepted"}
    subject.revoke_subject(ISSUER, "user-1", NOW, now=NOW)
    assert (reason(subject, old), reason(subject, undated)) == ("revoked", "revoked")
    assert (reason(subject, new), reason(subject, stranger)) == ("accepted", "accepted")


def test_another_issuer_is_not_meant() -> None:
    subject = TokenVerifier([policy(), policy(OTHER)])
    for issuer in (ISSUER, OTHER):
        subject.replace_keys(issuer, jwks(public_jwk(key("ES256"))))
    subject.revoke_token(OTHER, "t-1", NOW + 600, now=NOW)
    subject.revoke_subject(OTHER, "user-1", NOW + 600, now=NOW)
    assert reason(subject, token(jti="t-1")) == "accepted"
    assert reason(subject, token(jti="t-1", iss=OTHER)) == "revoked"
    assert reason(subject, token(jti="t-9", iss=OTHER)) == "revoked"


def test_a_revocation_that_means_nothing_is_refused() -> None:
    subject = verifier()
    with pytest.raises(RevocationError, match="not configured"):
        subject.revoke_token(OTHER, "t-1", NOW)
    with pytest.raises(RevocationError, match="no token"):
        subject.revoke_subject(ISSUER, "", NOW)
    assert subject.revocations == 0


def revoke(subject: TokenVerifier) -> None:
    subject.revoke_token(ISSUER, "t-1", NOW + 600, now=NOW)


def revoke_subject(subject: TokenVerifier) -> None:
    subject.revoke_subject(ISSUER, "user-1", NOW + 1, now=NOW)


def rotate(subject: TokenVerifier) -> None:
    subject.replace_keys(ISSUER, jwks(public_jwk(key("ES256-other"))))


@pytest.mark.parametrize("invalidate", [revoke, revoke_subject, rotate])
def test_no_thread_gets_a_token_after_its_invalidation(invalidate: Callable[[TokenVerifier], None]) -> None:
    text = token(jti="t-1")
    for _ in range(20):
        subject = verifier()
        done, stop = threading.Event(), threading.Event()
        late: list[str] = []

        def show(
            subject: TokenVerifier = subject,
            done: threading.Event = done,
            stop: threading.Event = stop,
            late: list[str] = late,
        ) -> None:
            while not stop.is_set():
                is_late = done.is_set()
                if reason(subject, text) == "accepted" and is_late:
                    late.append(text)

        threads = [threading.Thread(target=show) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.002)
        invalidate(subject)
        done.set()
        assert reason(subject, text) != "accepted"
        time.sleep(0.002)
        stop.set()
        for thread in threads:
            thread.join()
        assert late == []
