"""What stands between a stdio server and the gateway: limits, a user id of its own, namespaces, a filter of calls.

Invariants:

* The command sees the variables it is given and no other of the gateway's.
* Its own directory, mode 0700, is the one place it is meant to write to.
* Limits, no_new_privs, the filter and the death signal are set before the command's first instruction, or it does
  not start.
* Under bubblewrap it sees the system, what its own executable needs and its directory, read-only but for the
  last; it does not see the gateway's data, other processes, or a way to signal them; and it has a network of its own,
  with nobody in it, unless the platform admin gave it the host's.

What each protection is for: bubblewrap hides files, processes and the network; a user id of its own (only if the
gateway runs as root) keeps it from the gateway's memory and ``/proc`` entries without bubblewrap, and is what makes
RLIMIT_NPROC count at all, since the kernel never applies it to root. As another user than root RLIMIT_NPROC
counts every process of that user outside bubblewrap's own user namespace. A control group bounds the command and all
that it starts together; without one each process has its own bounds, and ``guard`` watches their sum.

Memory is bounded by RLIMIT_DATA (private writable memory) and not RLIMIT_AS: V8 reserves 8 to 10 GB of
addresses for each WebAssembly memory, so that ``fetch`` in Node fails under any sensible RLIMIT_AS. Shared
memory is not counted by it.

Sources: setrlimit(2), prctl(2), bwrap(1), kernel/fork.c (RLIMIT_NPROC and INIT_USER).
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from agentapi.errors import StartupError
from agentapi.upstreams.bubblewrap import NAMESPACES, NO_NETWORK, View, executables, homes, inside
from agentapi.upstreams.cgroups import CgroupParent
from agentapi.upstreams.identities import FIRST_UID, UIDS
from agentapi.upstreams.seccomp import compile_filter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentapi.settings import Settings

__all__ = [
    "Mode",
    "SandboxLimits",
    "SandboxSupport",
    "Wrapped",
    "hide_this_process",
    "is_own_user_possible",
    "require",
    "wrap",
]

Mode = Literal["off", "auto", "required"]

_LAUNCHER: Final = Path(__file__).with_name("_launch.py")
_PROBE_TIMEOUT_S: Final = 10.0
_MEGABYTE: Final = 1024 * 1024
_OPEN_FILES: Final = 1024
_PR_SET_DUMPABLE: Final = 4


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """Bounds on one stdio server.

    CPU time and file size count per process, processes per user; memory per process, and for all that the server starts
    together by control group or watch.
    """

    memory_mb: int = 4096
    cpu_s: int = 3600
    processes: int = 256
    file_mb: int = 256
    open_files: int = _OPEN_FILES
    life_s: int = 86_400
    directory_mb: int = 1024
    tmp_mb: int = 64
    cpus: float = 1.0

    @classmethod
    def from_settings(cls, settings: Settings) -> SandboxLimits:
        """Build from the ``stdio_*`` settings."""
        return cls(
            memory_mb=settings.stdio_memory_mb,
            cpu_s=settings.stdio_cpu_s,
            processes=settings.stdio_processes,
            file_mb=settings.stdio_file_mb,
            life_s=settings.stdio_life_s,
            directory_mb=settings.stdio_directory_mb,
            tmp_mb=settings.stdio_tmp_mb,
            cpus=settings.stdio_cpus,
        )

    def as_rlimits(self) -> dict[str, int]:
        """Return the limits by the names of the ``resource`` module."""
        return {
            "RLIMIT_DATA": self.memory_mb * _MEGABYTE,
            "RLIMIT_CPU": self.cpu_s,
            "RLIMIT_NPROC": self.processes,
            "RLIMIT_FSIZE": self.file_mb * _MEGABYTE,
            "RLIMIT_NOFILE": self.open_files,
            "RLIMIT_CORE": 0,
        }


@dataclass(frozen=True, slots=True)
class SandboxSupport:
    """What this host offers, found by trying."""

    bubblewrap: str | None
    """Path of a ``bwrap`` that works here."""
    own_user: bool
    """Whether a command can run under a user id of its own."""
    resource_limits: bool
    parent_death_signal: bool
    no_new_privileges: bool
    processes_counted: bool
    """Whether RLIMIT_NPROC bounds a command that runs as this user."""
    own_network: bool = False
    """Whether bubblewrap can give a command a network with nobody in it."""
    call_filter: bool = False
    """Whether system calls can be filtered (seccomp)."""
    cgroup: CgroupParent | None = None
    """The control group below which each run has its own."""

    @classmethod
    def detect(cls, *, bwrap: str | None = None, cgroup: Path | None = None) -> SandboxSupport:
        """Try each protection with a short-lived process. Blocks for some tens of milliseconds.

        Args:
            bwrap: Path of bubblewrap; by default looked for on the path.
            cgroup: The control group that the settings name.

        Raises:
            StartupError: The control group that the settings name cannot be used.
        """
        linux = sys.platform == "linux"
        trial = _spec(SandboxLimits(), cwd="/", env=(), uid=None, parent=None)
        limited = _runs(_launched(trial, [sys.executable, "-ISc", ""]))
        found = bwrap or shutil.which("bwrap")
        own_user = limited and os.geteuid() == 0 and _runs([sys.executable, "-ISc", _TRY_UID])
        filtering = _spec(SandboxLimits(), cwd="/", env=(), uid=None, parent=None, calls=_filter(network=False))
        return cls(
            bubblewrap=found if found is not None and _wraps(found) else None,
            own_user=own_user,
            resource_limits=limited,
            parent_death_signal=linux and limited,
            no_new_privileges=linux and limited,
            processes_counted=limited and (own_user or os.geteuid() != 0),
            own_network=found is not None and _wraps(found, NO_NETWORK),
            call_filter=limited
            and compile_filter(network=False, counted=False) is not None
            and _runs(_launched(filtering, [sys.executable, "-ISc", ""])),
            cgroup=CgroupParent.detect(cgroup) if linux else None,
        )

    def as_dict(self) -> dict[str, bool]:
        """Return the protections by name, for the start-up log; no path is in it."""
        return {each.name: bool(getattr(self, each.name)) for each in fields(self)}

    def in_force(self, mode: Mode) -> dict[str, bool | str]:
        """Return what protects under ``mode``, and how far it goes, for ``/health``; no path is in it."""
        on = mode != "off"
        group = self.cgroup if on else None
        network = (
            "own" if on and self.bubblewrap and self.own_network else "none" if on and self.call_filter else "shared"
        )
        return {
            "mode": mode,
            "bubblewrap": on and self.bubblewrap is not None,
            "own_user": on and self.own_user,
            "call_filter": on and self.call_filter,
            "no_new_privileges": self.no_new_privileges,
            "network": network,
            "memory": "tree" if group else "process, tree watched" if self.resource_limits else "tree watched",
            "processes": "tree" if group else "user" if self.resource_limits and self._counts(on=on) else "unbounded",
            "cpu": "tree" if group and group.cpu else "process" if self.resource_limits else "unbounded",
            "files": "process, directory watched" if self.resource_limits else "directory watched",
            "life": "watched",
        }

    def missing(self) -> tuple[str, ...]:
        """Return what ``required`` asks for and this host lacks, in words."""
        has = {
            "bubblewrap (the package 'bubblewrap', 0.7 or newer, and leave to make namespaces)": bool(self.bubblewrap),
            "a network namespace": self.bubblewrap is None or self.own_network,
            "resource limits": self.resource_limits,
            "no_new_privs": self.no_new_privileges,
            "a bound on the number of processes": self.processes_counted or self.cgroup is not None,
            "a filter of system calls (the library 'libseccomp2')": self.call_filter,
        }
        return tuple(name for name, present in has.items() if not present)

    def _counts(self, *, on: bool) -> bool:
        return self.processes_counted and (on or os.geteuid() != 0)


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A command line that runs another one inside the sandbox."""

    command: str
    args: tuple[str, ...]
    protections: tuple[str, ...] = field(default=())
    """Those in force, for the log."""


_TRY_UID: Final = (
    f"import os; os.setgroups([]); os.setresgid({FIRST_UID}, {FIRST_UID}, {FIRST_UID}); "
    f"os.setresuid({FIRST_UID + UIDS - 1}, {FIRST_UID}, {FIRST_UID})"
)


def require(mode: Mode, support: SandboxSupport) -> None:
    """Refuse to start where the mode asks for more than the host has.

    Raises:
        StartupError: ``required``, and something is missing; one sentence names all of it.
    """
    missing = support.missing() if mode == "required" else ()
    if missing:
        raise StartupError(
            f"AGENTAPI_SANDBOX=required, and this host lacks {', '.join(missing)}; mend that, or set "
            "AGENTAPI_SANDBOX=auto."
        )


def is_own_user_possible(
    argv: tuple[str, ...], *, path: str, folders: tuple[Path, ...], support: SandboxSupport, mode: Mode
) -> bool:
    """Return whether ``argv`` can run under a user id of its own: without bubblewrap it has to reach everything itself.

    Args:
        argv: The command.
        path: On which it is looked for.
        folders: The directories that hold its own.
        support: What the host offers.
        mode: How much of it is used.
    """
    if mode == "off" or not support.own_user:
        return False
    return support.bubblewrap is not None or all(map(_is_open_to_all, (*executables(argv[0], path), *folders)))


def wrap(
    argv: tuple[str, ...],
    *,
    directories: tuple[Path, ...],
    env: Mapping[str, str],
    limits: SandboxLimits,
    support: SandboxSupport,
    mode: Mode,
    uid: int | None = None,
    hidden: tuple[Path, ...] = (),
    readable: tuple[Path, ...] = (),
    network: bool = False,
) -> Wrapped:
    """Return the command line that runs ``argv`` in the first of ``directories``, protected as mode and host allow.

    Args:
        argv: The allowed command, its first element absolute or found on ``env["PATH"]``.
        directories: Where the command may write; they exist, and belong to ``uid``.
        env: The command's whole environment; only its names go onto the command line, which others can read.
        limits: Bounds to set.
        support: What the host offers.
        mode: ``off`` leaves limits and the clean environment, and nothing else.
        uid: The id to run under; None for the gateway's own.
        hidden: The gateway's directories and files, masked even where a bound directory contains them.
        readable: More directories that the command may read.
        network: Whether it has the host's network.

    Raises:
        StartupError: The mode asks for more than the host has.
    """
    require(mode, support)
    on = mode != "off"
    bubblewrap = support.bubblewrap if on else None
    own_network = bubblewrap is not None and support.own_network and not network
    calls = None
    if on and support.call_filter:
        calls = _filter(network=network or own_network, counted=support.cgroup is not None)
    parent = os.getpid() if bubblewrap is None else None
    spec = _spec(limits, cwd=str(directories[0]), env=tuple(env), uid=uid, parent=parent, calls=calls)
    launched = _launched(spec, list(argv))
    protections = {
        "bubblewrap": bubblewrap is not None,
        "own_user": uid is not None,
        "resource_limits": support.resource_limits,
        "parent_death_signal": support.parent_death_signal,
        "no_new_privileges": support.no_new_privileges,
        "call_filter": calls is not None,
        "no_network": own_network or (calls is not None and not network),
        "cgroup": on and support.cgroup is not None,
    }
    names = tuple(name for name, present in protections.items() if present)
    if bubblewrap is None:
        return Wrapped(launched[0], tuple(launched[1:]), names)
    programs = (*executables(argv[0], env.get("PATH", os.defpath)), Path(sys.executable))
    interpreter = Path(sys.base_prefix, "bin", "python")
    view = View(
        writable=directories,
        readable=(*homes((*programs, interpreter), hidden), *readable, _LAUNCHER),
        hidden=hidden,
        tmp_mb=limits.tmp_mb,
        network=not own_network,
        keep_identity=uid is None,
    )
    return Wrapped(bubblewrap, (*inside(view), "--", *launched), names)


def hide_this_process() -> None:
    """Close ``/proc/<pid>`` of this process (its environment, memory and files) to others of the same user.

    For the composition root of a gateway with stdio servers: without bubblewrap and without root they share
    its user. Costs core dumps and debuggers of that user (prctl(2), PR_SET_DUMPABLE). Does nothing outside
    Linux.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _filter(*, network: bool, counted: bool = False) -> str | None:
    compiled = compile_filter(network=network, counted=counted)
    return base64.b64encode(compiled).decode() if compiled is not None else None


def _spec(
    limits: SandboxLimits,
    *,
    cwd: str,
    env: tuple[str, ...],
    uid: int | None,
    parent: int | None,
    calls: str | None = None,
) -> str:
    return json.dumps(
        {"cwd": cwd, "limits": limits.as_rlimits(), "env": env, "uid": uid, "parent": parent, "calls": calls}
    )


def _launched(spec: str, argv: list[str]) -> list[str]:
    return [sys.executable, "-I", "-S", str(_LAUNCHER), spec, *argv]


def _wraps(bwrap: str, *more: str) -> bool:
    everything = ("--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev")
    sized = ("--size", str(_MEGABYTE), "--tmpfs", "/run")
    return _runs([bwrap, *NAMESPACES, *more, *everything, *sized, "/bin/sh", "-c", ":"])


def _runs(argv: list[str]) -> bool:
    try:
        done = subprocess.run(argv, capture_output=True, timeout=_PROBE_TIMEOUT_S, check=False, env={})
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def _is_open_to_all(path: Path) -> bool:
    """Return whether a stranger can get to ``path``."""
    try:
        return all(place.stat().st_mode & 0o001 for place in (path, *path.parents))
    except OSError:
        return False
