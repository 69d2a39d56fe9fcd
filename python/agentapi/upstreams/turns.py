"""Turns at connecting to one upstream, so that after its restart it is not met by everybody at once.

A few connect side by side and the others wait. Where one of the few finds nobody there, all that wait are told so: it
would be no different for them. What concerns the one who asked, such as a refused credential, is theirs alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from agentapi.errors import UpstreamUnaskedError

if TYPE_CHECKING:
    from collections.abc import Hashable

    from agentapi.errors import UpstreamError

__all__ = ["NobodyThereError", "Turn", "Turns"]


class NobodyThereError(Exception):
    """Somebody whose turn was before found nobody there, and ``failure`` says so."""

    def __init__(self, failure: UpstreamError) -> None:
        super().__init__(failure.message)
        self.failure = failure


@dataclass(slots=True, eq=False)
class _Door:
    slots: anyio.Semaphore
    users: int = 0
    """How many connect or wait."""
    failures: int = 0
    failure: UpstreamError | None = None
    """The last of them."""


class Turn:
    """The right to connect, until ``end`` gives it back."""

    def __init__(self, turns: Turns, key: Hashable, door: _Door) -> None:
        self._turns = turns
        self._key = key
        self._door: _Door | None = door

    def end(self, failure: UpstreamError | None = None) -> None:
        """Let the next have their turn, or tell them ``failure`` instead; only the first time counts."""
        door, self._door = self._door, None
        if door is None:
            return
        if failure is not None:
            door.failures += 1
            door.failure = failure
        door.slots.release()
        self._turns.leave(self._key, door)


class Turns:
    """Gives turns by key.

    Args:
        at_once: How many have one at a time, for each key.
    """

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._doors: dict[Hashable, _Door] = {}

    def __len__(self) -> int:
        return len(self._doors)

    async def take(self, key: Hashable, *, timeout_s: float) -> Turn:
        """Return a turn once there is one.

        Raises:
            UpstreamUnaskedError: There was none in time.
            NobodyThereError: One whose turn was before found nobody there.
        """
        door = self._doors.setdefault(key, _Door(anyio.Semaphore(self._at_once)))
        door.users += 1
        seen = door.failures
        try:
            with anyio.fail_after(timeout_s):
                await door.slots.acquire()
        except BaseException as error:
            self.leave(key, door)
            if isinstance(error, TimeoutError):
                raise UpstreamUnaskedError(f"too many connect to it at once, for {timeout_s:g} s") from None
            raise
        turn = Turn(self, key, door)
        if door.failures != seen and door.failure is not None:
            turn.end()
            raise NobodyThereError(door.failure)
        return turn

    def leave(self, key: Hashable, door: _Door) -> None:
        """Forget the key once nobody connects or waits."""
        door.users -= 1
        if not door.users:
            del self._doors[key]
