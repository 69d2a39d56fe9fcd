from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentapi.observability import redaction

PIECES = ["ghp_", "sk-", "AKIA", "eyJ", "bearer ", "token", "secret=", "://a@", "0a", "-", "_", "/", "9", "T", "{org}"]


@given(st.lists(st.one_of(st.sampled_from(PIECES), st.from_regex(redaction._PLAIN, fullmatch=True))))
def test_what_is_taken_for_plain_holds_nothing_that_a_pattern_finds(pieces: list[str]) -> None:
    text = "".join(pieces)
    if redaction._PLAIN.fullmatch(text):
        assert not any(pattern.search(text) for pattern, _ in redaction._PATTERNS)


@pytest.mark.parametrize(
    "text", ["request", "/mcp/{org}/{workspace}", "2026-11-22T19:40:00.123456Z", "POST", "0123456789abcdef" * 2]
)
def test_what_every_log_line_holds_is_plain(text: str) -> None:
    assert redaction._PLAIN.fullmatch(text)
    assert redaction.scrub(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "ghp_" + "a" * 20,
        "sk-" + "0" * 20,
        "AKIA" + "B" * 16,
        "token:abc",
        "bearer abcdef",
        # What the log holds of a link that was mistyped, so that no route is known.
        f"/join/agi_{'0a' * 48}/",
    ],
)
def test_what_is_a_secret_is_not_plain(text: str) -> None:
    assert redaction.REDACTED in redaction.scrub(text)
