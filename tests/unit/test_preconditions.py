"""Entity tags and what requests ask of them (RFC 9110, sections 8.8.3, 13.1.1 and 13.1.2)."""

from __future__ import annotations

from uuid import UUID

import pytest
from starlette.datastructures import Headers
from starlette.requests import Request

from agentapi.errors import PreconditionFailedError
from agentapi.preconditions import ANY, entity_tag, if_match, is_known

ID = UUID("6f1f1a0e-6d0b-4d0e-9c5a-6f5d2a1c7b90")


def request(*values: str) -> Request:
    headers = [(b"if-match", value.encode()) for value in values]
    return Request({"type": "http", "method": "PUT", "headers": headers})


def holds(*values: str, version: int = 3, of: UUID | None = None) -> bool:
    try:
        if_match(request(*values)).check(version, of)
    except PreconditionFailedError:
        return False
    return True


def test_a_request_that_names_no_version_changes_any() -> None:
    assert if_match(request()) is ANY
    assert holds()
    assert holds("*")


@pytest.mark.parametrize("given", ['"3"', ' "3" ', '"1", "3"', '"1","2" ,"3"', '"a,b", "3"'])
def test_the_stored_version_is_among_those_that_are_named(given: str) -> None:
    assert holds(given)


@pytest.mark.parametrize("given", ['"2"', "3", "", '"', 'W/"3"', '"33"', '"1" 3', "'3'", '"a"3"', "null"])
def test_another_version_a_weak_tag_and_no_tag_at_all_match_nothing(given: str) -> None:
    assert not holds(given)


def test_several_fields_are_one_list() -> None:
    assert holds('"1"', '"3"')
    assert not holds('"1"', '"2"')


def test_the_tag_of_what_may_be_replaced_by_another_thing_names_the_thing() -> None:
    assert holds(entity_tag(3, ID), of=ID)
    assert not holds('"3"', of=ID)
    assert not holds(entity_tag(3, UUID(int=1)), of=ID)


@pytest.mark.parametrize(
    ("given", "known"),
    [(None, False), ("*", True), ('"3"', True), ('W/"3"', True), ('"2", "3"', True), ('"2"', False), ("3", False)],
)
def test_what_a_reader_has_already_is_compared_weakly(given: str | None, known: bool) -> None:
    headers = Headers({} if given is None else {"If-None-Match": given})
    assert is_known(headers, entity_tag(3)) is known
