"""How long a command that keeps crashing is left alone before it is started again."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from agentapi.errors import UpstreamUnaskedError

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentapi.upstreams.wanted import ConnectionKey

__all__ = ["Backoff"]

_FIRST_S: Final = 1.0
_LONGEST_S: Final = 60.0
_SOUND_S: Final = 60.0
"""A process that ran this long was not part of a loop."""
_MAX_ENTRIES: Final = 10_000


@dataclass(slots=True)
class _Loop:
    crashes: int = 0
    not_before: float = 0.0


class Backoff:
    """Counts the crashes in a row of each user's run of an upstream.

    The first is forgiven: the next call starts the command at once. From the second on the pause doubles.

    Args:
        clock: Monotonic seconds.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._loops: OrderedDict[tuple[object, ...], _Loop] = OrderedDict()

    def check(self, key: ConnectionKey, name: str) -> None:
        """Refuse to start it while it is left alone.

        Raises:
            UpstreamUnaskedError: Says how long that lasts.
        """
        loop = self._loops.get(_who(key))
        left_s = loop.not_before - self._clock() if loop is not None else 0.0
        if loop is not None and left_s > 0:
            raise UpstreamUnaskedError(
                f"Upstream '{name}' crashed {loop.crashes} times in a row; "
                f"it is started again in {max(1, round(left_s))} s at the earliest."
            )

    def crashed(self, key: ConnectionKey, *, ran_s: float) -> None:
        """Note that it ended without being told to, ``ran_s`` after it was started."""
        who = _who(key)
        loop = self._loops.pop(who, None)
        if loop is None or ran_s >= _SOUND_S:
            loop = _Loop()
        loop.crashes += 1
        pause_s = 0.0 if loop.crashes == 1 else min(_LONGEST_S, _FIRST_S * 2 ** min(loop.crashes - 2, 16))
        loop.not_before = self._clock() + pause_s
        self._loops[who] = loop
        while len(self._loops) > _MAX_ENTRIES:
            self._loops.popitem(last=False)


def _who(key: ConnectionKey) -> tuple[object, ...]:
    return key.org_id, key.upstream_id, key.version, key.user_id, key.session_id
