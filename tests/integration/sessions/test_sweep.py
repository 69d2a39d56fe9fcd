"""What becomes of sessions and directories without anybody asking: time, quotas, orphans, and the queue."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from agentapi.errors import NotFoundError, StorageUnavailableError
from agentapi.principal import OrgId, SessionId
from agentapi.sessions.models import EndReason, Wish
from support.tasks import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from agentapi.principal import Principal
    from agentapi.sessions.models import Session, Started
    from integration.sessions.bench import Process
    from support.clock import Clock


def path_of(process: Process, started: Started) -> Path:
    return process.directories.of(started.session.org_id, started.session.id)


async def stored(process: Process, principal: Principal, started: Started) -> Session:
    return await process.book.get(principal, started.session.id)


async def recorded(superuser: Any, started: Started) -> list[tuple[str, str]]:
    rows = await superuser.fetch(
        "SELECT action, details FROM audit_log WHERE org_id = $1 AND resource = $2 ORDER BY recorded_at, sequence",
        started.session.org_id,
        f"session:{started.session.id}",
    )
    return [(row["action"], row["details"]) for row in rows]


async def test_sessions_expire_once_however_many_processes_look(
    process: Process, beside: Process, clock: Clock, superuser: Any
) -> None:
    alice = await process.member()
    idle = await process.start(alice)
    used = await process.start(alice)
    clock.advance(timedelta(minutes=50))
    await process.book.touch(alice, used.session.id)
    clock.advance(timedelta(minutes=20))
    await process.book.expire()
    await beside.book.expire()
    assert (await stored(process, alice, idle)).end_reason is EndReason.IDLE
    assert (await stored(process, alice, used)).end_reason is None
    clock.advance(timedelta(days=1))
    await process.book.expire()
    assert (await stored(process, alice, used)).end_reason is EndReason.EXPIRED
    assert (await recorded(superuser, idle))[1:] == [("session.expired", '{"reason":"idle"}')]
    assert (await recorded(superuser, used))[1:] == [("session.expired", '{"reason":"expired"}')]
    used_now = await superuser.fetchval("SELECT sessions_used FROM organizations WHERE id = $1", alice.org_id)
    assert used_now == 0
    clock.advance(timedelta(days=8))
    await process.book.forget_over()
    with pytest.raises(NotFoundError):
        await stored(process, alice, idle)


async def test_the_queue_removes_the_directory_of_a_session_that_ended(process: Process) -> None:
    alice = await process.member()
    started = await process.start(alice)
    path = path_of(process, started)
    (path / "folder").mkdir()
    await process.book.end(alice, started.session.id)

    async def gone() -> bool:
        return not path.exists()

    async with process.jobs.run():
        await eventually(gone)


async def test_a_directory_without_a_session_is_removed_once_it_is_old(process: Process, superuser: Any) -> None:
    alice = await process.member()
    live, orphan = await process.start(alice), await process.start(alice)
    await superuser.execute("DELETE FROM sessions WHERE id = $1", orphan.session.id)
    # What a crash between the directory and the commit leaves, in an organisation that never was.
    stray = process.directories.make(OrgId(uuid4()), SessionId(uuid4()))
    await process.sweep.sweep()
    assert path_of(process, orphan).exists()
    assert stray.exists()
    await process.sweep_of(young_s=0).sweep()
    assert path_of(process, live).exists()
    assert not path_of(process, orphan).exists()
    assert not stray.exists()


async def test_a_sweep_that_cannot_ask_removes_nothing(
    process: Process, superuser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await process.member()
    orphan = await process.start(alice)
    await superuser.execute("DELETE FROM sessions WHERE id = $1", orphan.session.id)

    def away(_: object) -> Any:
        raise StorageUnavailableError("away")

    monkeypatch.setattr(process.database, "organization_transaction", away)
    with pytest.raises(StorageUnavailableError):
        await process.sweep_of(young_s=0).sweep()
    assert path_of(process, orphan).exists()


@pytest.mark.parametrize("kind", ["bytes", "entries", "depth"])
async def test_a_session_that_fills_the_disk_ends_and_its_neighbour_does_not(
    process: Process, superuser: Any, kind: str
) -> None:
    alice = await process.member()
    greedy, modest = await process.start(alice), await process.start(alice)
    path = path_of(process, greedy)
    (path_of(process, modest) / "small").write_bytes(b"x" * 1000)
    if kind == "bytes":
        (path / "large").write_bytes(b"x" * 2_000_000)
    elif kind == "entries":
        for number in range(60):
            (path / str(number)).symlink_to("nowhere")
    else:
        folder = path
        for _ in range(60):
            folder /= "d"
            folder.mkdir()
    await process.sweep.sweep()
    assert (await stored(process, alice, greedy)).end_reason is EndReason.QUOTA
    assert (await stored(process, alice, modest)).end_reason is None
    assert (await recorded(superuser, greedy))[-1] == ("session.ended", '{"reason":"quota"}')


async def test_a_link_to_much_is_little(process: Process, tmp_path: Path) -> None:
    alice = await process.member()
    started = await process.start(alice)
    (tmp_path / "large").write_bytes(b"x" * 5_000_000)
    (path_of(process, started) / "link").symlink_to(tmp_path / "large")
    (path_of(process, started) / "all").symlink_to("/")
    await process.sweep.sweep()
    assert (await stored(process, alice, started)).end_reason is None


async def test_a_session_whose_directory_cannot_be_made_does_not_begin(process: Process, superuser: Any) -> None:
    alice = await process.member()
    first = await process.start(alice)
    parent = path_of(process, first).parent
    parent.rename(parent.with_name("moved"))
    os.symlink("/tmp", parent)  # noqa: PTH211 - as an attacker would who got so far
    with pytest.raises(StorageUnavailableError, match="directory"):
        await process.book.create(alice, Wish(workspace="main"))
    assert await superuser.fetchval("SELECT count(*) FROM sessions WHERE org_id = $1", alice.org_id) == 1


async def test_the_directory_of_a_session_that_ended_is_made_by_nobody(process: Process) -> None:
    """A call that came while it lived may ask for it later."""
    alice = await process.member()
    started = await process.start(alice)
    path, ids = path_of(process, started), (started.session.org_id, started.session.id)
    path.rmdir()
    assert await process.book.directory(*ids) == path
    # The host lacked it, where another one made the session.
    assert path.is_dir()
    await process.book.end(alice, started.session.id)
    process.directories.remove(*ids)
    assert await process.book.directory(*ids) == path
    assert not path.exists()


async def test_what_runs_of_a_session_ends_before_its_directory_goes(process: Process, clock: Clock) -> None:
    closed: list[tuple[SessionId, bool]] = []
    alice = await process.member()
    started = await process.start(alice)

    async def close(session_id: SessionId) -> None:
        if session_id == started.session.id:
            closed.append((session_id, path_of(process, started).is_dir()))

    process.book.before_removal(close)
    clock.advance(timedelta(days=2))
    await process.book.expire()
    assert closed == [(started.session.id, True)]
    await process.book._remove({"org": str(started.session.org_id), "session": str(started.session.id)})
    assert closed == [(started.session.id, True)] * 2
    assert not path_of(process, started).exists()
