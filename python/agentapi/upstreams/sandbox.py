"""What stands between a stdio server and the gateway: limits, a user id of its own, bubblewrap where it can be had.

Invariants:

* The command sees the variables it is given and no other of the gateway's.
* Its own directory, mode 0700, is the one place it is meant to write to.
* Limits, no_new_privs and the death signal are set before the command's first instruction, or it does not
  start.
* Under bubblewrap it sees the system, what its own executable needs and its directory, read-only but for the
  last; it does not see the gateway's data, other processes, or a way to signal them.

What each protection is for: bubblewrap hides files and processes; a user id of its own (only if the gateway
runs as root) keeps it from the gateway's memory and ``/proc`` entries without bubblewrap, and is what makes
RLIMIT_NPROC count at all, since the kernel never applies it to root. As another user than root RLIMIT_NPROC
counts every process of that user outside bubblewrap's own user namespace.

Memory is bounded by RLIMIT_DATA (private writable memory) and not RLIMIT_AS: V8 reserves 8 to 10 GB of
addresses for each WebAssembly memory, so that ``fetch`` in Node fails under any sensible RLIMIT_AS. Shared
memory is not counted.

Sources: setrlimit(2), prctl(2), bwrap(1), kernel/fork.c (RLIMIT_NPROC and INIT_USER).
"""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

from agentapi.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentapi.settings import Settings

__all__ = ["Mode", "SandboxLimits", "SandboxSupport", "Wrapped", "hide_this_process", "require", "wrap"]

Mode = Literal["off", "auto", "required"]

_LAUNCHER: Final = Path(__file__).with_name("_launch.py")
_PROBE_TIMEOUT_S: Final = 10.0
_MEGABYTE: Final = 1024 * 1024
_OPEN_FILES: Final = 1024
_PR_SET_DUMPABLE: Final = 4

_FIRST_UID: Final = 61_184
_UIDS: Final = 4_336
"""systemd's range for dynamic users, which no account database hands out."""

_SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix", "/etc")
_RESOLV: Final = ("/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager")
_TMP: Final = "/tmp"  # noqa: S108 - the name inside the sandbox
_SECRET_ETC: Final = ("/etc/ssh", "/etc/ssl/private", "/etc/agentapi", "/etc/sudoers.d")


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """Bounds on one stdio server; CPU, memory and file size count per process, processes per user."""

    memory_mb: int = 4096
    cpu_s: int = 3600
    processes: int = 256
    file_mb: int = 256
    open_files: int = _OPEN_FILES

    @classmethod
    def from_settings(cls, settings: Settings) -> SandboxLimits:
        """Build from the ``stdio_*`` settings."""
        return cls(
            memory_mb=settings.stdio_memory_mb,
            cpu_s=settings.stdio_cpu_s,
            processes=settings.stdio_processes,
            file_mb=settings.stdio_file_mb,
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

    @classmethod
    def detect(cls, *, bwrap: str | None = None) -> SandboxSupport:
        """Try each protection with a short-lived process. Blocks for some tens of milliseconds.

        Args:
            bwrap: Path of bubblewrap; by default looked for on the path.
        """
        linux = sys.platform == "linux"
        trial = _spec(SandboxLimits(), cwd="/", env=(), uid=None, parent=None)
        limited = _runs(_launched(trial, [sys.executable, "-ISc", ""]))
        found = bwrap or shutil.which("bwrap")
        everything = ("--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev")
        works = found is not None and _runs([found, *_BWRAP, *everything, "/bin/sh", "-c", ":"])
        own_user = limited and os.geteuid() == 0 and _runs([sys.executable, "-ISc", _TRY_UID])
        return cls(
            bubblewrap=found if works else None,
            own_user=own_user,
            resource_limits=limited,
            parent_death_signal=linux and limited,
            no_new_privileges=linux and limited,
            processes_counted=limited and (own_user or os.geteuid() != 0),
        )

    def as_dict(self) -> dict[str, bool]:
        """Return the protections by name, for the start-up log and ``/health``; no path is in it."""
        return {name: bool(value) for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A command line that runs another one inside the sandbox."""

    command: str
    args: tuple[str, ...]
    uid: int | None
    """User id that must own the command's directory; None for the gateway's own."""
    protections: tuple[str, ...] = field(default=())
    """Those in force, for the log."""


_BWRAP: Final = ("--die-with-parent", "--new-session", "--unshare-pid", "--unshare-ipc", "--unshare-uts")
_TRY_UID: Final = (
    f"import os; os.setgroups([]); os.setresgid({_FIRST_UID}, {_FIRST_UID}, {_FIRST_UID}); "
    f"os.setresuid({_FIRST_UID + _UIDS - 1}, {_FIRST_UID}, {_FIRST_UID})"
)


def require(mode: Mode, support: SandboxSupport) -> None:
    """Refuse to start where the mode asks for more than the host has.

    Raises:
        StartupError: ``required`` without a working bubblewrap or without resource limits.
    """
    if mode != "required":
        return
    if support.bubblewrap is None:
        raise StartupError(
            "AGENTAPI_SANDBOX=required needs bubblewrap: install the package 'bubblewrap' and allow it to "
            "make namespaces, or set AGENTAPI_SANDBOX=auto."
        )
    if not support.resource_limits:
        raise StartupError("AGENTAPI_SANDBOX=required needs resource limits, which this system refuses.")


def wrap(
    argv: tuple[str, ...],
    *,
    directory: Path,
    env: Mapping[str, str],
    limits: SandboxLimits,
    support: SandboxSupport,
    mode: Mode,
    hidden: tuple[Path, ...] = (),
    readable: tuple[Path, ...] = (),
) -> Wrapped:
    """Return the command line that runs ``argv`` in ``directory``, protected as mode and host allow.

    Args:
        argv: The allowed command, its first element absolute or found on ``env["PATH"]``.
        directory: The command's own directory, which exists.
        env: The command's whole environment; only its names go onto the command line, which others can read.
        limits: Bounds to set.
        support: What the host offers.
        mode: ``off`` leaves bubblewrap and the own user out; limits and the clean environment stay.
        hidden: The gateway's directories, masked even where a bound directory contains them.
        readable: More directories that the command may read.

    Raises:
        StartupError: The mode asks for more than the host has.
    """
    require(mode, support)
    bubblewrap = support.bubblewrap if mode != "off" else None
    executables = _executables(argv[0], env.get("PATH", os.defpath))
    reachable = bubblewrap is not None or all(_open_to_all(path) for path in (*executables, directory.parent))
    uid = _FIRST_UID + secrets.randbelow(_UIDS) if mode != "off" and support.own_user and reachable else None
    parent = os.getpid() if bubblewrap is None else None
    launched = _launched(_spec(limits, cwd=str(directory), env=tuple(env), uid=uid, parent=parent), list(argv))
    protections = {
        "bubblewrap": bubblewrap is not None,
        "own_user": uid is not None,
        "resource_limits": support.resource_limits,
        "parent_death_signal": support.parent_death_signal,
        "no_new_privileges": support.no_new_privileges,
    }
    names = tuple(name for name, present in protections.items() if present)
    if bubblewrap is None:
        return Wrapped(launched[0], tuple(launched[1:]), uid, names)
    interpreter = (Path(sys.executable), Path(sys.base_prefix, "bin", "python"))
    seen = _homes((*executables, *interpreter), hidden)
    inside = _bubblewrap(directory, (*seen, *readable), hidden, keep_identity=uid is None)
    return Wrapped(bubblewrap, (*inside, "--", *launched), uid, names)


def hide_this_process() -> None:
    """Close ``/proc/<pid>`` of this process (its environment, memory and files) to others of the same user.

    For the composition root of a gateway with stdio servers: without bubblewrap and without root they share
    its user. Costs core dumps and debuggers of that user (prctl(2), PR_SET_DUMPABLE). Does nothing outside
    Linux.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def _spec(limits: SandboxLimits, *, cwd: str, env: tuple[str, ...], uid: int | None, parent: int | None) -> str:
    return json.dumps({"cwd": cwd, "limits": limits.as_rlimits(), "env": env, "uid": uid, "parent": parent})


def _launched(spec: str, argv: list[str]) -> list[str]:
    return [sys.executable, "-I", "-S", str(_LAUNCHER), spec, *argv]


def _runs(argv: list[str]) -> bool:
    try:
        done = subprocess.run(argv, capture_output=True, timeout=_PROBE_TIMEOUT_S, check=False, env={})
    except (OSError, subprocess.SubprocessError):
        return False
    return done.returncode == 0


def _executables(command: str, path: str) -> tuple[Path, ...]:
    """Return the executable as found and as it is behind its symbolic links."""
    found = shutil.which(command, path=path)
    if found is None:
        return ()
    literal = Path(found).absolute()
    real = literal.resolve()
    return (literal,) if real == literal else (literal, real)


def _open_to_all(path: Path) -> bool:
    """Return whether a stranger can get to ``path``."""
    try:
        return all(place.stat().st_mode & 0o001 for place in (path, *path.parents))
    except OSError:
        return False


def _homes(executables: tuple[Path, ...], hidden: tuple[Path, ...]) -> tuple[Path, ...]:
    """Return the directories that hold an executable and its libraries: its prefix, or just its folder.

    A prefix that is a home directory, the root, or holds what is hidden would show too much.
    """
    homes: list[Path] = []
    for executable in executables:
        folder = executable.parent
        prefix = folder.parent
        narrow = folder.name != "bin" or prefix in {Path("/"), Path.home()} or _holds(prefix, hidden)
        homes.append(folder if narrow else prefix)
    return tuple(dict.fromkeys(homes))


def _holds(prefix: Path, hidden: tuple[Path, ...]) -> bool:
    return any(path.is_relative_to(prefix) for path in hidden)


def _bubblewrap(
    directory: Path, seen: tuple[Path, ...], hidden: tuple[Path, ...], *, keep_identity: bool
) -> tuple[str, ...]:
    args = [*_BWRAP, "--cap-drop", "ALL"]
    if not keep_identity:
        args += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    for path in _SYSTEM:
        args += ["--ro-bind-try", path, path]
    args += ["--tmpfs", "/run", "--perms", "1777", "--tmpfs", _TMP]
    if not any(place.is_relative_to(_TMP) for place in (directory, *seen, _LAUNCHER)):
        # Where something that must be seen is below, the command's own directory, mode 0700, would stand in the way.
        args += ["--bind", str(directory / "tmp"), _TMP]
    for path in _RESOLV:
        args += ["--ro-bind-try", path, path]
    args += ["--proc", "/proc", "--dev", "/dev"]
    for place in dict.fromkeys((*seen, _LAUNCHER)):
        args += [*_ways_to(place), "--ro-bind-try", str(place), str(place)]
    for path in (*_SECRET_ETC, *map(str, hidden)):
        if Path(path).is_dir():
            args += ["--tmpfs", path]
    args += [*_ways_to(directory), "--bind", str(directory), str(directory)]
    # The launcher goes to the directory once it is the user who may.
    args += ["--remount-ro", "/", "--chdir", "/"]
    return tuple(args)


def _ways_to(path: Path) -> list[str]:
    """Make the parents of a mount point, which bubblewrap would make passable to root alone."""
    parents = [str(parent) for parent in reversed(path.parents) if parent != Path("/")]
    return [word for parent in parents for word in ("--dir", parent)]
