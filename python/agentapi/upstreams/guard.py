"""What no resource limit bounds, watched: how long a command lives, what its directories hold, what its tree takes.

A watch comes too late by up to its interval; it is there for what the kernel cannot be asked to refuse. Where there is
a control group the kernel bounds the memory of the tree, and the watch leaves that alone.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import stat
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import anyio
import anyio.to_thread

from agentapi import folders

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agentapi.upstreams.cgroups import Cgroup
    from agentapi.upstreams.sandbox import SandboxLimits

__all__ = ["Guard", "ProcessTable", "Watched"]

_INTERVAL_S: Final = 1.0
_LEISURE: Final = 4
"""A look that took long is followed by a pause this many times as long, within reason: it can write meanwhile."""
_LONGEST_PAUSE_S: Final = 5.0
_MEGABYTE: Final = 1024 * 1024
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_BLOCK: Final = 512
_FRESH_S: Final = 0.25
_WATCHERS: Final = 4
_ROOT: Final = Path("/proc")
_SHARED_AND_DELETED: Final = re.compile(
    r"^([0-9a-f]+)-([0-9a-f]+) ..-s [0-9a-f]+ ([0-9a-f]+):([0-9a-f]+) (\d+) .* \(deleted\)$", re.ASCII
)


@dataclass(frozen=True, slots=True)
class _Process:
    parent: int
    session: int
    uid: int
    memory: int


class ProcessTable:
    """The processes of the machine, looked at for all guards at once."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[int, _Process] = {}
        self._known_at = float("-inf")

    def tree(self, leader: int, uid: int | None, *, fresh_s: float = _FRESH_S) -> dict[int, int]:
        """Return the processes that ``leader`` began, and their memory in bytes.

        They are its descendants, those of its session, and those of ``uid`` if it has one of its own: whoever has left
        both its parent and its session is found by its id alone.
        """
        if self._clock() - self._known_at >= fresh_s:
            self._known, self._known_at = dict(_look()), self._clock()
        known = self._known
        found = {pid for pid, one in known.items() if leader in (pid, one.session) or one.uid == uid}
        fresh = set(found)
        while fresh:
            fresh = {pid for pid, one in known.items() if one.parent in fresh} - found
            found |= fresh
        return {pid: known[pid].memory for pid in found}


def _look() -> Iterable[tuple[int, _Process]]:
    for folder in _ROOT.iterdir():
        if not folder.name.isdecimal():
            continue
        # It may end while it is looked at.
        with contextlib.suppress(OSError, ValueError, IndexError):
            stat_line = (folder / "stat").read_text(errors="replace")
            # The name before the parenthesis is the process's own choice (proc_pid_stat(5)).
            fields = stat_line.rpartition(")")[2].split()
            uid = folder.stat().st_uid
            yield int(folder.name), _Process(int(fields[1]), int(fields[3]), uid, int(fields[21]) * _PAGE)


@dataclass(frozen=True, slots=True)
class Watched:
    """What all guards of a gateway share."""

    table: ProcessTable = field(default_factory=ProcessTable)
    turns: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(_WATCHERS))
    clock: Callable[[], float] = time.monotonic
    interval_s: float = _INTERVAL_S


@dataclass(frozen=True, slots=True)
class Guard:
    """Holds one run of a command to its bounds."""

    limits: SandboxLimits
    watched: Watched
    directories: tuple[Path, ...]
    """Where it may write, and what counts together."""
    uid: int | None = None
    """The id that it runs under, if nobody else does."""
    cgroup: Cgroup | None = None

    async def watch(self, leader: int) -> str:
        """Return why the run has to end, in words, once it has to.

        Args:
            leader: Its process, which leads a session.
        """
        clock = self.watched.clock
        ends = clock() + self.limits.life_s
        while True:
            begun = clock()
            if begun >= ends:
                return f"it had run for {self.limits.life_s} s"
            reason = await anyio.to_thread.run_sync(self.excess, leader, limiter=self.watched.turns)
            if reason is not None:
                return reason
            pause_s = max(self.watched.interval_s, min(_LEISURE * (clock() - begun), _LONGEST_PAUSE_S))
            await anyio.sleep(max(0.0, min(pause_s, ends - clock())))

    def excess(self, leader: int) -> str | None:
        """Return in words which bound the run has gone over, if it has. Blocks while it looks."""
        tree = self.watched.table.tree(leader, self.uid)
        if self.cgroup is None:
            allowed = self.limits.memory_mb * _MEGABYTE
            # What processes share counts once in the second sum, which costs more.
            if sum(tree.values()) > allowed and sum(map(_proportional, tree.items())) > allowed:
                return f"it used more than {self.limits.memory_mb} MB of memory"
        quota = self.limits.directory_mb * _MEGABYTE
        held = 0
        try:
            for directory in self.directories:
                held += folders.measure(directory, at_most=quota - held)
        except OSError as error:
            return f"its directory cannot be measured ({error.strerror})"
        if held <= quota:
            held += sum(self._nameless(tree).values())
        if held > quota:
            return f"its directory held more than {self.limits.directory_mb} MB"
        return None

    def ended_by(self) -> str | None:
        """Return in words which bound of the kernel has ended the run, if one has and can be told."""
        return self.cgroup.ended_by() if self.cgroup is not None else None

    def kill(self, leader: int) -> None:
        """Kill the run with all that can be found of it."""
        if self.cgroup is not None:
            self.cgroup.kill()
        # Looked up anew: a number may be another's by now.
        for pid in self.watched.table.tree(leader, self.uid, fresh_s=0.0):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)

    def _nameless(self, tree: Iterable[int]) -> dict[tuple[int, int], int]:
        """Return the sizes of files without a name that the processes hold: deleted, and still on the disk."""
        devices = set()
        for directory in self.directories:
            with contextlib.suppress(OSError):
                devices.add(directory.stat().st_dev)
        sizes: dict[tuple[int, int], int] = {}
        for pid in tree:
            with contextlib.suppress(OSError):
                for file in (_ROOT / str(pid) / "fd").iterdir():
                    with contextlib.suppress(OSError):
                        state = file.stat()
                        if stat.S_ISREG(state.st_mode) and state.st_nlink == 0 and state.st_dev in devices:
                            sizes[state.st_dev, state.st_ino] = state.st_blocks * _BLOCK
            with contextlib.suppress(OSError):
                for line in (_ROOT / str(pid) / "maps").read_text(errors="replace").splitlines():
                    mapped = _SHARED_AND_DELETED.match(line)
                    if mapped is None:
                        continue
                    begin, end, major, minor = (int(each, 16) for each in mapped.groups()[:4])
                    at = os.makedev(major, minor), int(mapped[5])
                    if at[0] in devices and at not in sizes:
                        sizes[at] = end - begin
        return sizes


def _proportional(process: tuple[int, int]) -> int:
    """Return the memory of a process, of which what it shares counts by its part; all of it where that is not told."""
    pid, resident = process
    try:
        text = (_ROOT / str(pid) / "smaps_rollup").read_text()
    except OSError:
        return resident
    found = re.search(r"^Pss:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found is not None else resident
