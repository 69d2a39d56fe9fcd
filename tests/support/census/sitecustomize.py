"""Makes a Python process tell, on SIGUSR1, which asyncio tasks it has: put this directory on ``PYTHONPATH``.

The product knows nothing of it. The count goes to the file that ``TEST_CENSUS`` names, renamed into place whole.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

# Of all loops: a signal may come when none runs, and asyncio.all_tasks() would ask for the running one.
_everywhere: Iterable[asyncio.Task[object]] = vars(asyncio.tasks)["_all_tasks"]


def _count(*_: object) -> None:
    tasks = [task for task in list(_everywhere) if not task.done()]
    names = Counter(getattr(task.get_coro(), "__qualname__", "?") for task in tasks)
    path = Path(os.environ["TEST_CENSUS"])
    scratch = path.with_suffix(".new")
    scratch.write_text(json.dumps(names))
    scratch.rename(path)


if "TEST_CENSUS" in os.environ:
    signal.signal(signal.SIGUSR1, _count)
