"""The working directories of sessions: one each, below ``{state_dir}/sessions/{organisation}/{session}``.

Invariants:

* A path is made of two ids that the gateway drew, and of nothing that a client or an agent wrote.
* What is inside is an agent's, who may put a link wherever it likes. So every step down is taken relative to the
  directory that is held open and follows no link (``O_NOFOLLOW``), whether something is made, measured or removed:
  a directory that is swapped for a link meanwhile leads nowhere.
* Nothing here decides which sessions live: whoever removes a directory has asked the database.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import UUID

from agentapi.principal import OrgId, SessionId

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Found", "SessionDirectories", "Usage"]

_PRIVATE: Final = 0o700
_PASSAGE: Final = 0o711
"""Of what is above: a command that runs as another user passes through, and lists nothing."""
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_HANDLE: Final = getattr(os, "O_PATH", 0) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK: Final = 512
"""What ``st_blocks`` counts in, whatever the file system's own blocks are (stat(2))."""
_MAX_DEPTH: Final = 200
"""How far a measurement goes down; deeper is what counts as too much, since each step holds a descriptor."""


@dataclass(frozen=True, slots=True)
class Found:
    """A directory that is there."""

    org_id: OrgId
    session_id: SessionId
    age_s: float
    """Since anything in it was made or removed; its owner can set no later time than now (``st_ctime``)."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a directory holds: bytes as the disk counts them, and entries of every kind."""

    size: int
    entries: int


class SessionDirectories:
    """Makes, finds, measures and removes the directories of one host, or of all that share the file system.

    Args:
        root: Where they are; made when the first one is.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def of(self, org_id: OrgId, session_id: SessionId) -> Path:
        """Return where the directory of a session is, whether it is there or not."""
        return self._root / str(org_id) / str(session_id)

    def make(self, org_id: OrgId, session_id: SessionId) -> Path:
        """Make the directory of a session unless it is there, and return it.

        Raises:
            OSError: It cannot be made.
        """
        while True:
            with (
                contextlib.suppress(FileNotFoundError),
                _opened(self._root) as root,
                _opened(str(org_id), root) as organization,
            ):
                _make(str(session_id), organization, _PRIVATE)
                with _opened(str(session_id), organization):
                    return self.of(org_id, session_id)
            # It is the first one, or the organisation's was removed just now, as the last of its sessions ended.
            self._root.mkdir(mode=_PASSAGE, parents=True, exist_ok=True)
            with _opened(self._root) as root:
                _make(str(org_id), root, _PASSAGE)

    def remove(self, org_id: OrgId, session_id: SessionId) -> None:
        """Remove the directory of a session with all that is in it, if it is there.

        Raises:
            OSError: Something is left.
        """
        with contextlib.suppress(FileNotFoundError), _opened(self._root) as root:
            with _opened(str(org_id), root) as organization:
                _remove(str(session_id), organization)
            # The last one takes the organisation's directory along.
            with contextlib.suppress(OSError):
                os.rmdir(str(org_id), dir_fd=root)

    def measure(self, org_id: OrgId, session_id: SessionId, *, max_size: int, max_entries: int) -> Usage:
        """Return what the directory of a session holds, or what was counted until it was too much.

        A link counts as itself, never as what it points to. One file under several names counts once for each.
        """
        usage = [0, 0]
        with (
            contextlib.suppress(FileNotFoundError),
            _opened(self._root) as root,
            _opened(str(org_id), root) as organization,
        ):
            _measure(str(session_id), organization, usage, max_size=max_size, max_entries=max_entries, depth=0)
        return Usage(*usage)

    def found(self) -> list[Found]:
        """Return the directories that are there, as far as their names are ids; nothing else is ever touched."""
        found = []
        now = time.time()
        with contextlib.suppress(FileNotFoundError), _opened(self._root) as root:
            for org_id in _ids(root):
                with contextlib.suppress(OSError), _opened(str(org_id), root) as organization:
                    for session_id in _ids(organization):
                        with contextlib.suppress(FileNotFoundError):
                            state = os.stat(str(session_id), dir_fd=organization, follow_symlinks=False)
                            found.append(Found(OrgId(org_id), SessionId(session_id), now - state.st_ctime))
        return found

    @contextmanager
    def alone(self) -> Iterator[bool]:
        """Tell whether this process is the one of the host that sweeps, for the length of the context.

        Raises:
            OSError: The directories cannot be reached.
        """
        self._root.mkdir(mode=_PASSAGE, parents=True, exist_ok=True)
        with _opened(self._root) as root:
            try:
                fcntl.flock(root, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                yield False
            else:
                yield True


@contextmanager
def _opened(path: str | Path, parent: int | None = None, flags: int = _FOLDER) -> Iterator[int]:
    descriptor = os.open(path, flags, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _make(name: str, parent: int, mode: int) -> None:
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, mode, dir_fd=parent)


def _ids(folder: int) -> list[UUID]:
    found = []
    for name in _names(folder):
        with contextlib.suppress(ValueError):
            if str(UUID(name)) == name:
                found.append(UUID(name))
    return found


def _names(folder: int) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]


def _is_folder(name: str, parent: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


def _remove(name: str, parent: int) -> None:
    """Remove an entry of an open directory, and first what is in it.

    It goes down without recursion, and holds two descriptors at most: an agent may nest deeper than either allows. What
    lies deep is moved up to the top beside the others, under a name that is taken by nothing.
    """
    try:
        is_folder = _is_folder(name, parent)
    except FileNotFoundError:
        return
    if not is_folder:
        os.unlink(name, dir_fd=parent)
        return
    _give_back(name, parent)
    with _opened(name, parent) as top:
        moved = 0
        while names := _names(top):
            for inner in names:
                if not _is_folder(inner, top):
                    os.unlink(inner, dir_fd=top)
                    continue
                _give_back(inner, top)
                with _opened(inner, top) as folder:
                    for deep in _names(folder):
                        if _is_folder(deep, folder):
                            _give_back(deep, folder)
                            moved = _lift(deep, folder, top, moved)
                        else:
                            os.unlink(deep, dir_fd=folder)
                os.rmdir(inner, dir_fd=top)
    os.rmdir(name, dir_fd=parent)


def _lift(name: str, folder: int, top: int, moved: int) -> int:
    """Move a directory up to ``top`` under a free name; return the number that its name has."""
    while True:
        moved += 1
        try:
            os.stat(f".{moved}", dir_fd=top, follow_symlinks=False)
        except FileNotFoundError:
            os.rename(name, f".{moved}", src_dir_fd=folder, dst_dir_fd=top)
            return moved


def _give_back(name: str, parent: int) -> None:
    """Let this process into a directory, whatever mode its agent left it in.

    The mode is set through a handle on the directory itself; by its name a link that took its place would be followed.
    """
    with _opened(name, parent, _HANDLE) as handle, contextlib.suppress(OSError):
        Path(f"/proc/self/fd/{handle}").chmod(_PRIVATE)


def _measure(name: str, parent: int, usage: list[int], *, max_size: int, max_entries: int, depth: int) -> None:
    if depth > _MAX_DEPTH:
        usage[1] = max_entries + 1
        return
    try:
        folder = os.open(name, _FOLDER, dir_fd=parent)
    except PermissionError:
        _give_back(name, parent)
        folder = os.open(name, _FOLDER, dir_fd=parent)
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    state = entry.stat(follow_symlinks=False)
                    usage[0] += state.st_blocks * _BLOCK
                    usage[1] += 1
                    if usage[0] > max_size or usage[1] > max_entries:
                        return
                    if stat.S_ISDIR(state.st_mode):
                        _measure(
                            entry.name,
                            folder,
                            usage,
                            max_size=max_size,
                            max_entries=max_entries,
                            depth=depth + 1,
                        )
    finally:
        os.close(folder)
