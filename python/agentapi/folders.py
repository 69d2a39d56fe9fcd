"""Directories that belong to somebody who may put anything into them: measured and removed without following a link.

Every step down is taken relative to the directory that is held open and follows no link (``O_NOFOLLOW``): a directory
that is swapped for a link meanwhile leads nowhere, and so does a mode that is changed through a name.
"""

from __future__ import annotations

import contextlib
import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["measure", "remove"]

_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_HANDLE: Final = getattr(os, "O_PATH", 0) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_BLOCK: Final = 512
"""What ``st_blocks`` counts in, whatever the file system's own blocks are (stat(2))."""
_ENTRY: Final = 4096
"""What an entry counts at least: one without a byte has a name and an inode, and takes as long to measure."""
_MAX_DEPTH: Final = 200
"""How far a measurement goes down; deeper is what counts as too much, since each step holds a descriptor."""


def measure(folder: Path, *, at_most: int) -> int:
    """Return the bytes that ``folder`` holds on the disk, or more than ``at_most`` as soon as it is known to.

    A link counts as itself, never as what it points to; a directory that is not there holds nothing.

    Raises:
        OSError: It cannot be measured.
    """
    try:
        with _opened(folder.parent) as parent, _entered(folder.name, parent) as opened:
            return _measure(opened, at_most, depth=0)
    except FileNotFoundError:
        return 0


def remove(folder: Path) -> bool:
    """Remove ``folder`` with all that is in it, whatever modes its owner left; return whether it is gone."""
    try:
        with _opened(folder.parent) as parent:
            _remove(folder.name, parent)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


@contextmanager
def _opened(path: str | Path, parent: int | None = None, flags: int = _FOLDER) -> Iterator[int]:
    descriptor = os.open(path, flags, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _measure(folder: int, at_most: int, *, depth: int) -> int:
    if depth > _MAX_DEPTH:
        return at_most + 1
    held = 0
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                state = entry.stat(follow_symlinks=False)
                held += max(state.st_blocks * _BLOCK, _ENTRY)
                if stat.S_ISDIR(state.st_mode) and held <= at_most:
                    with _entered(entry.name, folder) as inner:
                        held += _measure(inner, at_most - held, depth=depth + 1)
            if held > at_most:
                break
    return held


@contextmanager
def _entered(name: str, parent: int) -> Iterator[int]:
    """Open a directory for the length of the context, also one that its owner has closed to itself."""
    try:
        descriptor = os.open(name, _FOLDER, dir_fd=parent)
    except PermissionError:
        _give_back(name, parent)
        descriptor = os.open(name, _FOLDER, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _remove(name: str, parent: int) -> None:
    """Remove an entry of an open directory, and first what is in it.

    It goes down without recursion and holds two descriptors at most, since an owner may nest deeper than either allows.
    What lies deep is moved up to the top beside the others, under a name that is taken by nothing.
    """
    if not _is_folder(name, parent):
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
                    moved = _empty(folder, top, moved)
                os.rmdir(inner, dir_fd=top)
    os.rmdir(name, dir_fd=parent)


def _empty(folder: int, top: int, moved: int) -> int:
    """Unlink the files of ``folder`` and move its directories up to ``top``; return the last number given as a name."""
    for name in _names(folder):
        if not _is_folder(name, folder):
            os.unlink(name, dir_fd=folder)
            continue
        _give_back(name, folder)
        moved += 1
        while _is_there(f".{moved}", top):
            moved += 1
        os.rename(name, f".{moved}", src_dir_fd=folder, dst_dir_fd=top)
    return moved


def _names(folder: int) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]


def _is_there(name: str, parent: int) -> bool:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def _is_folder(name: str, parent: int) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


def _give_back(name: str, parent: int) -> None:
    """Let this process into a directory, whatever mode its owner left it in.

    The mode is set through a handle on the directory itself; by its name a link that took its place would be followed.
    """
    with _opened(name, parent, _HANDLE) as handle, contextlib.suppress(OSError):
        Path(f"/proc/self/fd/{handle}").chmod(0o700)
