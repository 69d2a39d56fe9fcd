from __future__ import annotations

import fnmatch
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentapi.policy.patterns import Patterns, matches


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("github__search", "github__search", True),
        ("github__search", "github__searches", False),
        ("github__*", "github__search", True),
        ("github__*", "github__", True),
        ("*__search", "github__search", True),
        ("*delete*", "github__delete_repo", True),
        ("*delete*", "github__Delete_repo", False),
        ("a*b*c", "a-b-c", True),
        ("a*b*c", "acb", False),
        ("a*a", "a", False),
        ("*", "", True),
        ("", "", True),
        ("", "a", False),
        ("**", "anything", True),
        ("a.c", "abc", False),
        ("a?c", "abc", False),
        ("[a]", "a", False),
        ("*ab*ab", "ab", False),
        ("*ab*ab*", "xabx", False),
        ("*b*a*", "ab", False),
        ("x*\n", "x\n", True),
    ],
)
def test_a_pattern_matches_the_whole_name(pattern: str, name: str, expected: bool) -> None:
    assert matches(pattern, name) is expected


@given(st.text("ab*", max_size=12), st.text("ab", max_size=16))
def test_matching_agrees_with_the_shells(pattern: str, name: str) -> None:
    assert matches(pattern, name) is fnmatch.fnmatchcase(name, pattern)


def test_a_pattern_made_to_be_slow_is_not() -> None:
    begun = time.perf_counter()
    assert not matches("*a" * 60 + "*b", "a" * 100_000)
    assert time.perf_counter() - begun < 1.0


def test_one_of_several_patterns_is_enough() -> None:
    patterns = Patterns(("github__search", "mail__*"))
    assert patterns.match(("other", "mail__send"))
    assert patterns.match(("github__search",))
    assert not patterns.match(("github__searches", "other"))
    assert not Patterns(()).match(("github__search",))
