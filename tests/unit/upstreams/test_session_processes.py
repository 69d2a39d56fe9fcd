"""What runs for an agent's session: in its directory, nobody else's, and ended with it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from agentapi.errors import UpstreamError
from agentapi.principal import SessionId
from agentapi.upstreams.credentials import NO_CREDENTIAL
from unit.upstreams.arena import EVERY_WAY, HOSTILE, NEIGHBOUR, SEPARATED, arena
from unit.upstreams.doubles import ORG
from unit.upstreams.servers import ALICE, call, http, text_of

if TYPE_CHECKING:
    from pathlib import Path

    from agentapi.upstreams.link import Caller
    from agentapi.upstreams.models import Upstream
    from agentapi.upstreams.sandbox import SandboxSupport
    from unit.upstreams.arena import Arena

FIRST, SECOND = (replace(ALICE, session_id=SessionId(UUID(int=number))) for number in (11, 12))
every_way = pytest.mark.parametrize("support", EVERY_WAY.values(), ids=EVERY_WAY)
separated = pytest.mark.parametrize("support", SEPARATED.values(), ids=SEPARATED)


def directory(held: Arena, number: int) -> Path:
    """Make the directory of a session as the room of sessions does, among directories that can be passed."""
    folder = held.base / "sessions" / str(UUID(int=number))
    folder.parent.mkdir(mode=0o711, exist_ok=True)
    folder.mkdir(mode=0o700)
    return folder


async def run(held: Arena, caller: Caller, code: str, upstream: Upstream = HOSTILE) -> str:
    return text_of(await call(held.made.client, upstream, caller, "run", code=code)).strip()


WHERE = "import os; print(os.getcwd(), os.environ['HOME'], os.getpid())"


@every_way
async def test_the_commands_of_a_session_share_its_directory(support: SandboxSupport) -> None:
    async with arena(support) as held:
        mine = directory(held, 11)
        cwd, home, _ = (await run(held, FIRST, WHERE)).split()
        assert (cwd, home) == (str(mine), str(mine))
        await run(held, FIRST, "open('notes', 'w').write('of the session')")
        # Another server of the same session, at the same time.
        assert await run(held, FIRST, "print(open('notes').read())", NEIGHBOUR) == "of the session"
        assert (mine / "notes").read_text() == "of the session"
        assert not (mine / "tmp").exists()
        await held.made.client.close_session(SessionId(UUID(int=11)))
        # And in a later run of it, whoever it ran as before.
        assert await run(held, FIRST, "print(open('notes').read())") == "of the session"
        assert await run(held, FIRST, "open('more', 'w').write('x'); print('written')") == "written"


@separated
async def test_no_other_session_nor_the_user_without_one_gets_there(support: SandboxSupport) -> None:
    async with arena(support) as held:
        mine = directory(held, 11)
        directory(held, 12)
        await run(held, FIRST, "open('notes', 'w').write('planted-secret')")
        for other in (SECOND, ALICE):
            said = await run(held, other, f"print(open({str(mine / 'notes')!r}).read())")
            assert said.startswith(("PermissionError", "FileNotFoundError"))
            assert str(mine) not in await run(held, other, WHERE)
        climb = "import os; os.symlink('../' + {other!r}, 'there'); print(os.listdir('there'))"
        assert "notes" not in await run(held, SECOND, climb.format(other=mine.name))


@every_way
async def test_a_session_has_processes_of_its_own_that_end_with_it(support: SandboxSupport) -> None:
    async with arena(support) as held:
        mine, others = directory(held, 11), directory(held, 12)
        callers = (FIRST, SECOND, ALICE)
        before = {caller.session_id: await run(held, caller, WHERE) for caller in callers}
        assert len(held.made.pool) == 4
        assert len({where.split()[0] for where in before.values()}) == 3
        # What it started besides, in a session of its own.
        daemon = "import os, signal\nif os.fork() == 0:\n    os.setsid()\n    signal.pause()\nprint('left')"
        if support in SEPARATED.values():
            assert await run(held, FIRST, daemon) == "left"
        count = len(held.processes())
        await held.made.client.close_session(SessionId(UUID(int=11)))
        assert len(held.made.pool) == 3
        assert len(held.processes()) < count
        assert {key.session_id for key in held.made.pool._connections} == {SECOND.session_id, None}
        # They are gone by now, and the directory is whoever's it was to remove.
        assert mine.is_dir()
        assert mine.stat().st_uid != others.stat().st_uid or not support.own_user
        for caller in (SECOND, ALICE):
            assert await run(held, caller, WHERE) == before[caller.session_id]


async def test_a_session_whose_directory_is_gone_runs_nothing() -> None:
    async with arena(EVERY_WAY["bubblewrap"]) as held:
        with pytest.raises(UpstreamError, match="The session has no directory any more"):
            await run(held, FIRST, WHERE)


@every_way
async def test_what_a_session_holds_counts_over_all_its_runs(support: SandboxSupport) -> None:
    async with arena(support) as held:
        directory(held, 11)
        fill = "for n in range(3): open(f'NAME{n}', 'wb').write(bytes(2 << 20))\nprint('filled')"
        assert await run(held, FIRST, fill.replace("NAME", "a")) == "filled"
        with pytest.raises(UpstreamError, match="its directory held more than 12 MB"):
            await run(held, FIRST, fill.replace("NAME", "b") + "\nimport signal; signal.pause()", NEIGHBOUR)


async def test_a_server_elsewhere_is_not_connected_to_once_for_each_session() -> None:
    async with arena(EVERY_WAY["bubblewrap"]) as held:
        far = http("https://upstream.example/mcp")
        keys = {held.made.client._shared(far, caller, NO_CREDENTIAL).key for caller in (FIRST, SECOND, ALICE)}
        assert len(keys) == 1
        near = {held.made.client._shared(HOSTILE, caller, NO_CREDENTIAL).key for caller in (FIRST, SECOND, ALICE)}
        assert len(near) == 3
        assert {key.org_id for key in near} == {ORG}
