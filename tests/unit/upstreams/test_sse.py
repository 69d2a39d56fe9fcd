from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentapi.upstreams.sse import Events, EventTooLargeError

END = st.sampled_from([b"\n", b"\r\n", b"\r"])
LINE = st.sampled_from(
    [b"data: a", b"data:b", b"data:  c", b"data", b": note", b"id: 7", b"event: x", b"event:message", b"datum: z", b""]
)


def read(stream: bytes, cuts: list[int]) -> list[bytes]:
    events = Events(1000)
    edges = [0, *sorted({min(cut, len(stream)) for cut in cuts}), len(stream)]
    return [data for start, end in pairwise(edges) for data in events.feed(stream[start:end])]


def expected(stream: bytes) -> list[bytes]:
    """Read the stream line by line, as the standard says."""
    found: list[bytes] = []
    data: list[bytes] = []
    kind = b""
    lines = stream.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    for line in lines[:-1]:
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
        elif name == b"event":
            kind = value.removeprefix(b" ")
        if not line:
            found += [joined] if (joined := b"\n".join(data)) and kind in {b"", b"message"} else []
            data, kind = [], b""
    return found


@given(st.lists(st.tuples(LINE, END)), st.lists(st.integers(0, 200)))
def test_events_are_the_same_however_the_stream_is_cut(lines: list[tuple[bytes, bytes]], cuts: list[int]) -> None:
    stream = b"".join(line + end for line, end in lines) + b"\n\n"
    whole = expected(stream)
    assert read(stream, cuts) == whole
    assert read(stream, list(range(len(stream)))) == whole


def test_a_byte_order_mark_is_passed_over() -> None:
    assert read(b"\xef\xbb\xbfdata: a\n\n", [1]) == [b"a"]


def test_an_event_without_an_end_is_none() -> None:
    assert read(b"data: a\n", []) == []


@pytest.mark.parametrize("stream", [b"data: " + b"x" * 1000, b"data: " + b"x" * 1000 + b"\n\n", b":" * 1001])
def test_an_event_is_bounded(stream: bytes) -> None:
    with pytest.raises(EventTooLargeError):
        read(stream, [100])


def test_many_events_are_not_one() -> None:
    assert len(read(b"data: x\n\n" * 1000, [])) == 1000
