"""One refresh for real processes, and what is left when one is killed with the provider's answer in its hands."""

from __future__ import annotations

import asyncio
import hashlib
import json
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from agentapi._core import Keyring
from agentapi.oauth import store
from agentapi.oauth.errors import ReconnectNeededError
from support.node import REPOSITORY

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator
    from pathlib import Path

    from agentapi.storage.embedded import EmbeddedPostgres
    from integration.oauth.conftest import Bench

WITHIN_S = 60.0
TEXT = Keyring.generate("k1")


@pytest.fixture
def oauth_keyring() -> Keyring:
    """A keyring that other processes can be given."""
    return Keyring.parse(TEXT)


@asynccontextmanager
async def caller(
    bench: Bench, postgres: EmbeddedPostgres, directory: Path, calls: int, *options: str
) -> AsyncIterator[Process]:
    """A process that is ready to call."""
    keyring = directory / "keyring.json"
    keyring.write_text(TEXT)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "integration.oauth.caller",
        postgres.app_dsn,
        str(keyring),
        str(bench.principal.org_id),
        str(bench.principal.user_id),
        str(bench.upstream.id),
        str(calls),
        *options,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=REPOSITORY / "tests",
    )
    try:
        assert await said(process) == "ready"
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def said(process: Process) -> str:
    """Return the next line that is no event of the log."""
    assert process.stdout is not None
    async with asyncio.timeout(WITHIN_S):
        while True:
            line = (await process.stdout.readline()).decode().strip()
            if line in {"ready", "answered", ""} or line.startswith('["'):
                return line


def go(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.write(b"go\n")


async def about_to_end(bench: Bench) -> None:
    """Connect, with a token that no call may use any more; the next one lasts."""
    bench.provider.lifetime_s = 20
    await bench.connect()
    bench.provider.lifetime_s = 3600


@pytest.mark.parametrize("processes", [1, 2])
async def test_a_hundred_calls_at_the_moment_of_expiry_make_one_refresh(
    bench: Bench, postgres: EmbeddedPostgres, tmp_path: Path, processes: int
) -> None:
    await about_to_end(bench)
    each = 100 // processes
    async with caller(bench, postgres, tmp_path, each) as first, caller(bench, postgres, tmp_path, each) as second:
        running = (first, second)[:processes]
        for process in running:
            go(process)
        found = [json.loads(await said(process)) for process in running]
    assert [len(digests) for digests in found] == [each] * processes
    assert bench.provider.refreshes == 1
    current = hashlib.sha256((await bench.credential()).encode()).hexdigest()
    assert {digest for digests in found for digest in digests} == {current}


@pytest.mark.parametrize("grace", [False, True], ids=["rotated for good", "with a grace period"])
async def test_a_process_killed_between_answer_and_commit(
    bench: Bench, postgres: EmbeddedPostgres, tmp_path: Path, grace: bool
) -> None:
    """What was answered is lost; the old refresh token is tried once more, and its owner told if that is spent."""
    await about_to_end(bench)
    old = set(bench.provider.refresh_tokens)
    async with caller(bench, postgres, tmp_path, 1, "--hold") as process:
        go(process)
        assert await said(process) == "answered"
        assert bench.provider.refreshes == 1
        process.send_signal(signal.SIGKILL)
        assert await process.wait() == -signal.SIGKILL
    if grace:
        bench.provider.refresh_tokens |= old
        assert (await bench.credential()).startswith("Bearer access-")
    else:
        for _ in range(3):
            with pytest.raises(ReconnectNeededError):
                await bench.credential()
    assert bench.provider.refreshes == 2
    async with bench.database.tenant_transaction(bench.principal) as connection:
        held = await store.find_connection(connection, bench.principal.user_id, bench.upstream.id)
    assert held is not None
    assert held.status_reason == (None if grace else "refresh_interrupted")
    if not grace:
        await bench.connect()
        assert (await bench.credential()).startswith("Bearer access-")
