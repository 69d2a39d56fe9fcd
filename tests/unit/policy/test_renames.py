from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentapi.policy.renames import Renames

NAMES = st.sampled_from(["a", "b", "c", "d", "e"])


def test_a_renamed_tool_has_its_new_name_and_no_other() -> None:
    renames = Renames({"github__search_issues": "issues"})
    assert renames.renamed("github__search_issues") == "issues"
    assert renames.original("issues") == "github__search_issues"
    assert renames.original("github__search_issues") is None
    assert renames.renamed("mail__send") == renames.original("mail__send") == "mail__send"


def test_a_new_name_belongs_to_the_tool_that_was_given_it() -> None:
    renames = Renames({"a": "b"})
    assert renames.renamed("b") is None
    assert renames.original("b") == renames.taken_by("b") == "a"


def test_two_tools_may_swap_their_names() -> None:
    renames = Renames({"a": "b", "b": "a"})
    assert [renames.renamed(name) for name in "ab"] == ["b", "a"]
    assert [renames.original(name) for name in "ab"] == ["b", "a"]


def test_two_tools_cannot_be_given_one_name() -> None:
    with pytest.raises(ValueError, match="one name"):
        Renames({"a": "c", "b": "c"})


@given(st.dictionaries(NAMES, NAMES, max_size=5).filter(lambda new: len(set(new.values())) == len(new)))
def test_names_go_there_and_back_and_never_meet(new_names: dict[str, str]) -> None:
    renames = Renames(new_names)
    shown = {public: name for public in "abcde" if (name := renames.renamed(public)) is not None}
    assert len(set(shown.values())) == len(shown)
    assert all(renames.original(name) == public for public, name in shown.items())
    for name in "abcde":
        original = renames.original(name)
        assert original is None or renames.renamed(original) == name
