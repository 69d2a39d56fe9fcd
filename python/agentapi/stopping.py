"""Learning that the process is about to stop before the server waits for its connections to end.

An ASGI application is told of it by its lifespan, which a server ends only after every response has; an event stream
without an end would hold that up until somebody's patience is over.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

__all__ = ["on_stop_signal"]


@contextmanager
def on_stop_signal(act: Callable[[], None]) -> Iterator[None]:
    """Call ``act`` in the running loop when the process is told to stop, besides what was to happen then.

    A signal that nobody handles, or that is handled outside the main thread, is left as it is.
    """
    loop = asyncio.get_running_loop()
    former: dict[int, Callable[[int, FrameType | None], object]] = {}

    def handle(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(act)
        former[number](number, frame)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            handler = signal.getsignal(number)
            if callable(handler):
                former[number] = handler
                signal.signal(number, handle)
    try:
        yield
    finally:
        for handled, handler in former.items():
            signal.signal(handled, handler)
