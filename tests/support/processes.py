"""Processes that tests start: ready within a bound, ended whatever happens, and what they leave behind."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = [
    "ProcessId",
    "accepts",
    "descendants",
    "end_group",
    "free_port",
    "in_session",
    "naming",
    "started",
    "still_alive",
    "wait_until",
]

T = TypeVar("T")
_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process, told apart from a later one that got the same number by when it started."""

    pid: int
    started_ticks: int


@dataclass(frozen=True, slots=True)
class _Stat:
    state: str
    parent: int
    session: int
    started_ticks: int


def wait_until(condition: Callable[[], T | None], *, within_s: float, what: str) -> T:
    """Return the first true value of ``condition``; fail with ``what`` if there is none in time."""
    deadline = time.monotonic() + within_s
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {within_s:g} s: {what}"
        time.sleep(_POLL_S)


def free_port() -> int:
    """Return a loopback port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def accepts(port: int) -> bool:
    """Whether something on loopback accepts connections on ``port``."""
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def end_group(process: subprocess.Popen[bytes], *, within_s: float = 5.0) -> int:
    """End ``process`` and its process group: first politely, after ``within_s`` by force."""
    for kind in (signal.SIGINT, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, kind)
        with suppress(subprocess.TimeoutExpired):
            process.wait(within_s)
            break
    # The leader may be gone while others of its group are not.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    return process.wait(within_s)


@contextmanager
def started(
    command: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``command`` in a process group of its own with all its output in ``log``, and end it."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            list(command),
            env=dict(env) if env is not None else None,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        end_group(process)


def _stat(pid: int) -> _Stat | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name in parentheses may itself hold spaces and parentheses (proc(5)).
    fields = text.rpartition(")")[2].split()
    return _Stat(fields[0], int(fields[1]), int(fields[3]), int(fields[19]))


def _all() -> dict[int, _Stat]:
    numbers = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return {pid: stat for pid in numbers if (stat := _stat(pid)) is not None}


def _ids(pids: set[int], table: dict[int, _Stat]) -> frozenset[ProcessId]:
    return frozenset(ProcessId(pid, table[pid].started_ticks) for pid in pids if table[pid].state != "Z")


def descendants(root: int) -> frozenset[ProcessId]:
    """Return the children of ``root``, their children and so on, without ``root`` and without zombies."""
    table = _all()
    found: set[int] = set()
    frontier = {root}
    while frontier:
        frontier = {pid for pid, stat in table.items() if stat.parent in frontier} - found
        found |= frontier
    return _ids(found, table)


def in_session(leader: int) -> frozenset[ProcessId]:
    """Return the processes of the session that ``leader`` started, which orphans keep belonging to."""
    table = _all()
    return _ids({pid for pid, stat in table.items() if stat.session == leader}, table)


def naming(text: str) -> frozenset[ProcessId]:
    """Return the processes whose command line or working directory names ``text``, other than this one."""
    table = _all()
    found = set()
    for pid in table:
        with suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            where = str(Path(f"/proc/{pid}/cwd").readlink())
            if (text in command or text in where) and pid != os.getpid():
                found.add(pid)
    return _ids(found, table)


def still_alive(processes: frozenset[ProcessId]) -> frozenset[ProcessId]:
    """Return those of ``processes`` that have not ended; a zombie has."""
    return frozenset(
        process
        for process in processes
        if (stat := _stat(process.pid)) is not None
        and stat.started_ticks == process.started_ticks
        and stat.state != "Z"
    )
