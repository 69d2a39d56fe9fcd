"""User ids for commands, where the gateway runs as root: no id is anybody else's while somebody runs under it.

A run without a session has an id of its own; the runs of a session share one, since they share its directory. Several
gateways on one state directory agree by locks on files, which the kernel lifts when a process dies: whoever holds an
id has a shared lock on its file, in which the holder's name stands.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
import subprocess
import sys
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agentapi.errors import UpstreamError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["FIRST_UID", "UIDS", "Identities", "Identity"]

FIRST_UID: Final = 61_184
UIDS: Final = 4_336
"""systemd's range for dynamic users, which no account database hands out."""

_KILL_ALL: Final = (
    "import os, sys; u = int(sys.argv[1]); "
    "os.setgroups([]); os.setresgid(u, u, u); os.setresuid(u, u, u); os.kill(-1, 9)"
)
_KILL_TIMEOUT_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class Identity:
    """A user id that is held."""

    uid: int
    descriptor: int


class Identities:
    """The ids of one state directory.

    Args:
        folder: Where the locks are; nobody but the gateway may look into it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def take(self, owner: str, directory: Path) -> Identity:
        """Hold the id of ``owner``, and make ``directory`` and all that is in it its own.

        Args:
            owner: Of the id: a run, or a session.
            directory: Exists; the id that it belongs to already is kept where nobody else has it.

        Raises:
            UpstreamError: All ids are held.
        """
        with self._alone():
            before = directory.stat().st_uid
            identity = self._choose(owner, before)
            if identity.uid != before:
                _give(directory, before, identity.uid)
            return identity

    def release(self, identity: Identity) -> None:
        """Let go of an id; the last who does ends whatever still runs under it."""
        try:
            with self._alone():
                if not _lock(identity.descriptor, fcntl.LOCK_EX):
                    return
                if _is_in_use(identity.uid):
                    # One call for all of them: whoever looks for them one by one can be outrun.
                    argv = [sys.executable, "-ISc", _KILL_ALL, str(identity.uid)]
                    subprocess.run(argv, check=False, timeout=_KILL_TIMEOUT_S, env={})
                (self._folder / str(identity.uid)).unlink()
        finally:
            os.close(identity.descriptor)

    def _choose(self, owner: str, before: int) -> Identity:
        kept = [before] if FIRST_UID <= before < FIRST_UID + UIDS else []
        first = secrets.randbelow(UIDS)
        others = (FIRST_UID + (first + step) % UIDS for step in range(UIDS))
        for uid in chain(kept, others):
            descriptor = os.open(self._folder / str(uid), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if _lock(descriptor, fcntl.LOCK_EX):
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, owner.encode(), 0)
            elif os.pread(descriptor, 256, 0) != owner.encode():
                os.close(descriptor)
                continue
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            return Identity(uid, descriptor)
        raise UpstreamError("Every user id for commands is in use; try again shortly.")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let nobody else choose meanwhile, in this process or another."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _give(directory: Path, before: int, uid: int) -> None:
    """Change the owner of what ``before`` owned; nobody runs under either id who could exchange something meanwhile.

    A second name of a file may be one that lies elsewhere: such a file stays whose it is.
    """
    for _, folders, files, opened in os.fwalk(directory, topdown=False, follow_symlinks=False):
        for name in (*folders, *files):
            state = os.stat(name, dir_fd=opened, follow_symlinks=False)
            if state.st_uid == before and (stat.S_ISDIR(state.st_mode) or state.st_nlink == 1):
                os.chown(name, uid, uid, dir_fd=opened, follow_symlinks=False)
    os.chown(directory, uid, uid, follow_symlinks=False)


def _is_in_use(uid: int) -> bool:
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with contextlib.suppress(OSError):
                lines = (folder / "status").read_text(errors="replace").splitlines()
                if any(line.startswith("Uid:") and str(uid) in line.split() for line in lines):
                    return True
    return False
