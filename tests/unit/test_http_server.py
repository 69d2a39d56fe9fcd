from __future__ import annotations

from typing import TYPE_CHECKING, cast

from agentapi.http_server import JoinedWrites

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class Wire:
    """What arrives at the kernel, write by write; closing it is told as a write of None."""

    def __init__(self) -> None:
        self.writes: list[bytes | None] = []
        self.later: list[Callable[[], None]] = []
        self.transport = JoinedWrites(cast("asyncio.Transport", self), self.later.append)

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def close(self) -> None:
        self.writes.append(None)

    def is_closing(self) -> bool:
        return True


def test_a_head_leaves_with_what_follows_it() -> None:
    wire = Wire()
    wire.transport.write(HEAD)
    wire.transport.write(b"body")
    wire.transport.write(b"more")
    wire.later[0]()
    assert wire.writes == [HEAD + b"body", b"more"]


def test_a_head_that_nothing_follows_leaves_soon() -> None:
    wire = Wire()
    wire.transport.write(HEAD)
    assert wire.writes == []
    wire.later[0]()
    assert wire.writes == [HEAD]


def test_closing_writes_the_head_first() -> None:
    wire = Wire()
    wire.transport.write(HEAD)
    wire.transport.close()
    assert wire.writes == [HEAD, None]


def test_all_else_is_the_transports_own() -> None:
    assert Wire().transport.is_closing()
