"""Control groups: bounds on a command and all that it starts together, which resource limits cannot give.

A group is made for each run, below one that is the gateway's to fill: the one that the settings name, else the
gateway's own if it is the root that the gateway sees (of a container, or of a machine without systemd) or one that
systemd has delegated (``Delegate=yes``), else its parent if that is (``DelegateSubgroup=``). A group of anybody else is
never touched, whatever rights the gateway has.

Sources: cgroups(7), Documentation/admin-guide/cgroup-v2.rst of the kernel, systemd's CGROUP_DELEGATION.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from agentapi.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Cgroup", "CgroupParent"]

_NEEDED: Final = ("memory", "pids")
_PREFIX: Final = "agentapi-"
_GATEWAY: Final = "agentapi-gateway"
_DELEGATED: Final = ("user.delegate", "trusted.delegate")
_PERIOD_US: Final = 100_000
_OVERHEAD: Final = 2
"""Processes of bubblewrap itself, which stand in the group as well."""
_TRIES: Final = 50
_TRY_S: Final = 0.02
_ENTER: Final = 'echo 0 > "$0" && exec "$@"'
"""A shell for it, which starts in a millisecond: it has to be done before the sandbox closes, by the process itself."""


@dataclass(frozen=True, slots=True)
class Cgroup:
    """The group of one run."""

    path: Path
    memory_mb: int

    def entering(self, argv: tuple[str, ...]) -> tuple[str, ...]:
        """Return the command line that joins the group and becomes ``argv``."""
        return ("/bin/sh", "-c", _ENTER, str(self.path / "cgroup.procs"), *argv)

    def ended_by(self) -> str | None:
        """Return in words which bound of the group has ended the run, if one has."""
        with contextlib.suppress(OSError, ValueError):
            events = dict(line.split() for line in (self.path / "memory.events").read_text().splitlines())
            if int(events.get("oom_kill", "0")):
                return f"it used more than {self.memory_mb} MB of memory"
        return None

    def kill(self) -> None:
        """Kill every process of the group, at once and for certain."""
        with contextlib.suppress(OSError):
            _write(self.path / "cgroup.kill", "1")

    def remove(self) -> bool:
        """Kill what is left and remove the group; return whether it is gone. Blocks until the dead are buried."""
        for _ in range(_TRIES):
            self.kill()
            try:
                self.path.rmdir()
            except FileNotFoundError:
                return True
            except OSError:
                time.sleep(_TRY_S)
            else:
                return True
        return False


@dataclass(frozen=True, slots=True)
class CgroupParent:
    """A group that the gateway may fill."""

    path: Path
    cpu: bool
    """Whether processor time can be bounded as well."""

    @classmethod
    def detect(cls, wanted: Path | None = None, *, proc: Path = Path("/proc/self")) -> Self | None:
        """Find the group, enable its controllers, and remove what gateways that were killed left in it.

        Args:
            wanted: The group that the settings name.
            proc: Where the kernel says in which groups this process is.

        Raises:
            StartupError: ``wanted`` cannot be used.
        """
        for path in (wanted,) if wanted is not None else _candidates(proc):
            found = cls._try(path)
            if found is not None:
                _sweep(path)
                return found
        if wanted is not None:
            raise StartupError(
                f"AGENTAPI_STDIO_CGROUP={wanted} is no control group (version 2) that this process may fill, or lacks "
                "the controllers memory and pids."
            )
        return None

    def make(self, *, memory_mb: int, processes: int, cpus: float) -> Cgroup:
        """Make a group with these bounds.

        Raises:
            OSError: It cannot be made.
        """
        group = Cgroup(self.path / f"{_PREFIX}{os.getpid()}-{secrets.token_hex(8)}", memory_mb)
        group.path.mkdir()
        try:
            _write(group.path / "memory.max", str(memory_mb * 1024 * 1024))
            _write(group.path / "pids.max", str(processes + _OVERHEAD))
            # All or nothing: a server that lost one of its processes may hang rather than fail.
            _write(group.path / "memory.oom.group", "1")
            if (group.path / "memory.swap.max").exists():
                _write(group.path / "memory.swap.max", "0")
            if self.cpu:
                _write(group.path / "cpu.max", f"{round(cpus * _PERIOD_US)} {_PERIOD_US}")
        except OSError:
            group.remove()
            raise
        return group

    @classmethod
    def _try(cls, path: Path) -> Self | None:
        try:
            available = (path / "cgroup.controllers").read_text().split()
            if not set(_NEEDED) <= set(available):
                return None
            _enable(path, _NEEDED)
            with contextlib.suppress(OSError):
                _enable(path, ("cpu",))
            enabled = (path / "cgroup.subtree_control").read_text().split()
            found = cls(path, "cpu" in enabled)
            found.make(memory_mb=1, processes=1, cpus=1.0).remove()
        except OSError:
            return None
        return found


def _candidates(proc: Path) -> Iterator[Path]:
    """Yield the groups that are the gateway's to fill by themselves."""
    mount = _mount(proc)
    own = _own(proc)
    if mount is None or own is None:
        return
    path = mount / own.lstrip("/")
    if own == "/" or _is_delegated(path):
        yield path
    elif _is_delegated(path.parent):
        yield path.parent


def _mount(proc: Path) -> Path | None:
    """Return where the unified hierarchy is mounted (proc_pid_mountinfo(5))."""
    with contextlib.suppress(OSError):
        for line in (proc / "mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            if after.startswith("cgroup2 ") and before.split()[3] == "/":
                return Path(before.split()[4])
    return None


def _own(proc: Path) -> str | None:
    with contextlib.suppress(OSError):
        for line in (proc / "cgroup").read_text().splitlines():
            if line.startswith("0::"):
                return line.removeprefix("0::")
    return None


def _is_delegated(path: Path) -> bool:
    for name in _DELEGATED:
        with contextlib.suppress(OSError, AttributeError):
            if os.getxattr(path, name) == b"1":
                return True
    return False


def _enable(path: Path, controllers: tuple[str, ...]) -> None:
    """Let the groups below ``path`` be bounded.

    A group with processes of its own cannot have bounded children ("no internal processes"), unless it is the root
    of the machine; so the gateway and its siblings move into a group below.

    Raises:
        OSError: It is not to be had.
    """
    control = path / "cgroup.subtree_control"
    words = " ".join(f"+{name}" for name in controllers)
    if set(controllers) <= set(control.read_text().split()):
        return
    try:
        _write(control, words)
    except OSError:
        (path / _GATEWAY).mkdir(exist_ok=True)
        for pid in (path / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                _write(path / _GATEWAY / "cgroup.procs", pid)
        _write(control, words)


def _write(path: Path, text: str) -> None:
    # Not ``write_text``, which would make a file where the kernel has none.
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def _sweep(path: Path) -> None:
    """Remove the groups of gateways that are no more; what still runs in one has lost its gateway and dies with it."""
    for group in path.glob(f"{_PREFIX}*-*"):
        pid = group.name.split("-")[1]
        if pid.isdecimal() and not Path("/proc", pid).exists():
            Cgroup(group, 0).remove()
