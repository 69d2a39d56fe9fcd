"""The command line of bubblewrap: what a command sees of the machine, and where it may write.

Source: bwrap(1).
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["NAMESPACES", "NO_NETWORK", "View", "executables", "homes", "inside"]

NAMESPACES: Final = (
    "--die-with-parent",
    "--new-session",
    "--unshare-pid",
    "--unshare-ipc",
    "--unshare-uts",
    "--unshare-cgroup-try",
)
NO_NETWORK: Final = "--unshare-net"

_SYSTEM: Final = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix", "/etc")
_RESOLV: Final = ("/run/systemd/resolve", "/run/resolvconf", "/run/NetworkManager")
_TMP: Final = "/tmp"  # noqa: S108 - the name inside the sandbox
_SHARED_MEMORY: Final = "/dev/shm"  # noqa: S108 - the name inside the sandbox
_SECRET_ETC: Final = ("/etc/ssh", "/etc/ssl/private", "/etc/agentapi", "/etc/sudoers.d")
_MEGABYTE: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class View:
    """What one run of a command is given to see."""

    writable: tuple[Path, ...]
    readable: tuple[Path, ...]
    hidden: tuple[Path, ...]
    """Directories and files that are masked, also where something that is shown contains them."""
    tmp_mb: int
    """Size of its ``/tmp``, and of its shared memory."""
    network: bool
    keep_identity: bool
    """Whether it stays the gateway's user."""

    def shows(self, file: Path) -> bool:
        """Return whether ``file`` would be seen if nothing were put on it."""
        places = (*map(Path, _SYSTEM), *self.readable)
        masked = any(file.is_relative_to(folder) for folder in self.hidden if folder.is_dir())
        return file.is_file() and not masked and any(file.is_relative_to(place) for place in places)


def inside(view: View) -> tuple[str, ...]:
    """Return the arguments that make ``view`` out of the machine, up to the command."""
    args = [*NAMESPACES, "--cap-drop", "ALL"]
    if not view.network:
        args.append(NO_NETWORK)
    if not view.keep_identity:
        args += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    for path in _SYSTEM:
        args += ["--ro-bind-try", path, path]
    bounded = ("--size", str(view.tmp_mb * _MEGABYTE), "--perms", "1777", "--tmpfs")
    args += ["--tmpfs", "/run", *bounded, _TMP]
    for path in _RESOLV:
        args += ["--ro-bind-try", path, path]
    args += ["--proc", "/proc", "--dev", "/dev", *bounded, _SHARED_MEMORY]
    for place in map(str, dict.fromkeys(view.readable)):
        args += [*_ways_to(Path(place)), "--ro-bind-try", place, place]
    masks = _outermost([path for path in (*map(Path, _SECRET_ETC), *view.hidden) if path.is_dir()])
    for path in masks:
        args += ["--tmpfs", path]
    for file in filter(view.shows, view.hidden):
        args += ["--ro-bind", os.devnull, str(file)]
    for place in map(str, view.writable):
        args += [*_ways_to(Path(place)), "--bind", place, place]
    # Whoever keeps the gateway's user owns these, and they have no size.
    for path in (*masks, "/run", "/dev", "/"):
        args += ["--remount-ro", path]
    # The launcher goes to the directory once it is the user who may.
    return (*args, "--chdir", "/")


def executables(command: str, path: str) -> tuple[Path, ...]:
    """Return the executable as found on ``path`` and as it is behind its symbolic links."""
    found = shutil.which(command, path=path)
    if found is None:
        return ()
    literal = Path(found).absolute()
    real = literal.resolve()
    return (literal,) if real == literal else (literal, real)


def homes(programs: tuple[Path, ...], hidden: tuple[Path, ...]) -> tuple[Path, ...]:
    """Return the directories that hold an executable and its libraries: its prefix, or just its folder.

    A prefix that is a home directory, the root, or holds what is hidden would show too much.
    """
    found: list[Path] = []
    for program in programs:
        folder = program.parent
        prefix = folder.parent
        narrow = folder.name != "bin" or prefix in {Path("/"), Path.home()} or _holds(prefix, hidden)
        found.append(folder if narrow else prefix)
    return tuple(dict.fromkeys(found))


def _holds(prefix: Path, hidden: tuple[Path, ...]) -> bool:
    return any(path.is_relative_to(prefix) for path in hidden)


def _outermost(folders: list[Path]) -> list[str]:
    """Leave out what is inside another one: it is masked with it, and could not be found below it any more."""
    return [
        str(each)
        for each in dict.fromkeys(folders)
        if not any(each.is_relative_to(other) for other in folders if other != each)
    ]


def _ways_to(path: Path) -> list[str]:
    """Make the parents of a mount point, which bubblewrap would make passable to root alone."""
    parents = [str(parent) for parent in reversed(path.parents) if parent != Path("/")]
    return [word for parent in parents for word in ("--dir", parent)]
