from __future__ import annotations

import hashlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agentapi.gateway.names import MAX_LENGTH, SEPARATOR, public_name, public_uri, split_uri, upstream_of

UPSTREAM = st.lists(st.text("ab9", min_size=1, max_size=7), min_size=1, max_size=4).map("-".join)
TOOL = st.text(min_size=1, max_size=200) | st.text("ab_-.", min_size=1, max_size=80)
PAIR = st.tuples(UPSTREAM, TOOL)


def cut(full: str) -> str:
    """The form of a long name, written down independently."""
    return full[:43] + "_" + hashlib.sha256(full.encode()).hexdigest()[:16]


@pytest.mark.parametrize(
    ("upstream", "tool", "name"),
    [
        ("github", "search", "github__search"),
        ("a", "_b", "a___b"),
        ("a", "__b", "a____b"),
        ("a-b", "c", "a-b__c"),
        ("time", "name.with-dots", "time__name.with-dots"),
        ("u" * 32, "t" * 25, "u" * 32 + "__" + "t" * 25),
    ],
)
def test_a_short_name_is_the_upstream_and_the_tool(upstream: str, tool: str, name: str) -> None:
    assert public_name(upstream, tool) == name


@pytest.mark.parametrize("length", [60, 61, 100, 10_000])
def test_a_long_name_is_cut_and_keeps_its_beginning(length: int) -> None:
    tool = "t" * (length - len("up__"))
    assert public_name("up", tool) == cut(f"up__{tool}")


def test_names_are_stable_across_releases() -> None:
    """Clients keep names in their settings, so these never change."""
    assert (
        public_name("github", "x" * 60)
        == "github__xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx_" + (hashlib.sha256(b"github__" + b"x" * 60).hexdigest()[:16])
    )
    assert (MAX_LENGTH, SEPARATOR) == (60, "__")


@given(pairs=st.sets(PAIR, min_size=2, max_size=20))
@example(pairs={("a", "b__c"), ("a-b", "c")})
@example(pairs={("a", "_b"), ("a", "b"), ("a", "__b")})
@example(pairs={("u", "t" * 56 + "x"), ("u", "t" * 56 + "y")})
def test_different_tools_have_different_names(pairs: set[tuple[str, str]]) -> None:
    assert len({public_name(upstream, tool) for upstream, tool in pairs}) == len(pairs)


@given(upstream=UPSTREAM, tool=st.text(min_size=40, max_size=200))
def test_a_tool_cannot_be_named_like_the_cut_name_of_another(upstream: str, tool: str) -> None:
    long = public_name(upstream, tool)
    crafted = long.removeprefix(f"{upstream}{SEPARATOR}")
    if crafted != tool:
        assert public_name(upstream, crafted) != long


@given(upstream=UPSTREAM, tool=st.text(min_size=61, max_size=200))
def test_bare_names_are_as_injective(upstream: str, tool: str) -> None:
    name = public_name(upstream, tool, bare=True)
    assert name == cut(tool)
    assert public_name(upstream, name, bare=True) != name


@given(pair=PAIR, bare=st.booleans())
def test_a_name_is_at_most_sixty_characters_and_always_the_same(pair: tuple[str, str], bare: bool) -> None:
    name = public_name(*pair, bare=bare)
    assert len(name) <= 60
    assert name == public_name(*pair, bare=bare)


@given(pair=PAIR)
def test_the_upstream_is_read_back_from_a_name(pair: tuple[str, str]) -> None:
    assert upstream_of(public_name(*pair)) == pair[0]


@given(tool=st.text(min_size=1, max_size=59))
def test_a_bare_name_is_the_tools_own(tool: str) -> None:
    assert public_name("up", tool, bare=True) == (tool if len(tool) < 60 else cut(tool))


@pytest.mark.parametrize("name", ["", "search", "a_b", "__", "__a", "a__", "_"])
def test_a_name_without_both_parts_names_no_upstream(name: str) -> None:
    assert upstream_of(name) is None


URI = st.text(min_size=1, max_size=80) | st.from_regex(r"[a-z]{1,8}:[a-z0-9/{}+?._-]{1,60}", fullmatch=True)


@given(upstream=UPSTREAM, uri=URI)
@example(upstream="a", uri="mcp+b+file:///x")
@example(upstream="a", uri="+")
@example(upstream="a", uri="test://template/{id}/data")
def test_a_public_uri_is_read_back(upstream: str, uri: str) -> None:
    assert split_uri(public_uri(upstream, uri)) == (upstream, uri)


@given(pairs=st.sets(st.tuples(UPSTREAM, URI), min_size=2, max_size=20))
def test_different_resources_have_different_uris(pairs: set[tuple[str, str]]) -> None:
    assert len({public_uri(upstream, uri) for upstream, uri in pairs}) == len(pairs)


@given(uri=URI)
def test_a_bare_uri_is_the_upstreams_own(uri: str) -> None:
    assert public_uri("up", uri, bare=True) == uri


def test_uris_are_stable_across_releases() -> None:
    """Clients keep URIs too."""
    assert public_uri("notes", "file:///a b") == "mcp+notes+file:///a b"


@pytest.mark.parametrize("uri", ["", "file:///x", "mcp+", "mcp+notes", "mcp+notes+", "mcp++file:///x", "MCP+a+b"])
def test_a_uri_without_both_parts_is_not_public(uri: str) -> None:
    assert split_uri(uri) is None
