"""What runs on the event loop, for tests that must leave nothing behind."""

from __future__ import annotations

import asyncio
from collections import Counter


def tasks_by_kind() -> Counter[str]:
    """Count the tasks of the running loop by their coroutine's name, without those of servers beside the subject.

    A session's own tasks come and go one at a time, so that sets of tasks differ where nothing was left behind; what
    each of several steps leaves shows in the count.
    """
    tasks = (task for task in asyncio.all_tasks() if "uvicorn" not in repr(task))
    return Counter(getattr(task.get_coro(), "__qualname__", "") for task in tasks)
