"""What an earlier run may have left in a cluster: a server that outlived its parent, a stale pid file."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["adopt_stale_pid_file", "stop_leftover"]

_log = structlog.get_logger(__name__)


def stop_leftover(cluster: Path, *, timeout_s: float) -> bool:
    """Shut down a server that still runs on ``cluster``; return whether none runs any more.

    The caller holds the lock of the data directory, so such a server has lost its parent.
    """
    pid = _pid_in_file(cluster)
    for how in (signal.SIGINT, signal.SIGQUIT):
        if pid is None or not _is_server_of(pid, cluster):
            return True
        _log.warning("postgres_leftover_stopped", pid=pid, signal=how.name)
        with suppress(ProcessLookupError):
            os.kill(pid, how)
        deadline = time.monotonic() + timeout_s
        while _is_server_of(pid, cluster) and time.monotonic() < deadline:
            time.sleep(0.02)
    return pid is None or not _is_server_of(pid, cluster)


def adopt_stale_pid_file(cluster: Path) -> None:
    """Put our own pid in a pid file that names a dead server or an unrelated process.

    PostgreSQL takes a pid file that names a living process of its user for a rival, which in a container,
    where pids start again at 1, is often a mistake. A file that names its parent it takes for stale. The file
    stays, because its last lines let PostgreSQL see back ends of the dead server that still use its shared
    memory.
    """
    path = cluster / "postmaster.pid"
    with suppress(FileNotFoundError):
        lines = path.read_text().split("\n")
        lines[0] = str(os.getpid())
        path.write_text("\n".join(lines))


def _pid_in_file(cluster: Path) -> int | None:
    with suppress(FileNotFoundError, ValueError):
        pid = int((cluster / "postmaster.pid").read_text().split("\n", 1)[0])
        return pid if pid > 1 and pid != os.getpid() else None
    return None


def _is_server_of(pid: int, cluster: Path) -> bool:
    """Tell whether ``pid`` is alive and its command line is that of a server on ``cluster``."""
    return f"-D {cluster} " in _command_line(pid)


def _command_line(pid: int) -> str:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:  # noqa: PTH123 - a file of the kernel, not of ours
            return file.read().replace(b"\0", b" ").decode(errors="surrogateescape")
    except ProcessLookupError:
        return ""
    except FileNotFoundError:
        if os.path.isdir("/proc/self"):  # noqa: PTH112
            return ""
    command = ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)]
    return subprocess.run(command, check=False, capture_output=True, timeout=10).stdout.decode(errors="surrogateescape")
