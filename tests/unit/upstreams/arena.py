"""A hostile stdio server in its sandbox, a neighbour beside it, and somebody who looks on from outside."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import stat
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil  # type: ignore[import-untyped]

from agentapi.settings import StdioCommand
from agentapi.upstreams.guard import Watched
from agentapi.upstreams.sandbox import SandboxLimits, SandboxSupport
from agentapi.upstreams.stdio import StdioCommands
from unit.upstreams.servers import ALICE, BOB, World, call, stdio, text_of, world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from agentapi.principal import OrgId, SessionId
    from agentapi.upstreams.link import Caller

HOST: Final = SandboxSupport.detect()
WITHOUT_BUBBLEWRAP: Final = replace(HOST, bubblewrap=None, own_network=False)
ONE_USER: Final = replace(HOST, own_user=False)
UNDER_BUBBLEWRAP: Final = {"bubblewrap": HOST, "one user": ONE_USER}
EVERY_WAY: Final = {**UNDER_BUBBLEWRAP, "without bubblewrap": WITHOUT_BUBBLEWRAP}
SEPARATED: Final = EVERY_WAY if HOST.own_user else UNDER_BUBBLEWRAP
"""Without bubblewrap files and processes are out of reach of another user alone, and that takes a gateway of root's."""
SMALL: Final = SandboxLimits(memory_mb=128, cpu_s=20, processes=32, file_mb=4, directory_mb=12, tmp_mb=4, life_s=60)
USUAL_S: Final = 5.0
"""The time in which a neighbour answers, whatever happens beside it; a call may take 60 s by default."""
HOSTILE, NEIGHBOUR = stdio("hostile", 1), stdio("neighbour", 2)


def _is_open(path: str) -> bool:
    real = Path(path).resolve()
    return real.exists() and all(place.stat().st_mode & stat.S_IXOTH for place in (real, *real.parents))


PYTHON: Final = next(filter(_is_open, (sys.executable, "/usr/bin/python3")), sys.executable)
"""One that a user without rights can start: the interpreter of a root's virtual environment may be in its home."""


@dataclass(frozen=True, slots=True)
class Arena:
    """Where it happens."""

    made: World
    base: Path
    """Holds all that is part of the test; passable to everybody, like ``/var/lib``."""

    async def attack(self, code: str, *, caller: Caller = ALICE, timeout_s: float = 30.0) -> str:
        """Have the hostile server run ``code`` and return what it printed."""
        return text_of(await call(self.made.client, HOSTILE, caller, "run", code=code, timeout_s=timeout_s))

    async def neighbour_answers(self) -> None:
        async with asyncio.timeout(USUAL_S):
            answer = await call(self.made.client, NEIGHBOUR, BOB, "echo", text="unharmed")
        assert text_of(answer) == "unharmed"

    async def ask_neighbour(self, code: str) -> str:
        return text_of(await call(self.made.client, NEIGHBOUR, BOB, "run", code=code))

    def close_hostile(self) -> None:
        self.made.client.close_upstream(HOSTILE.id, HOSTILE.version)

    def processes(self) -> list[int]:
        """Return what runs of this arena: it is told by the path of its code on the command line."""
        every = psutil.process_iter(["cmdline", "status"])
        mine = [one for one in every if any(str(self.base) in part for part in one.info["cmdline"] or ())]
        return [one.pid for one in mine if one.info["status"] != psutil.STATUS_ZOMBIE]

    async def until(self, happened: Callable[[], bool], within_s: float = 10.0) -> None:
        async with asyncio.timeout(within_s):
            while not happened():  # noqa: ASYNC110 - it happens in other processes
                await asyncio.sleep(0.02)


@contextlib.asynccontextmanager
async def arena(
    support: SandboxSupport,
    limits: SandboxLimits = SMALL,
    *,
    network: bool = False,
    hidden: tuple[str, ...] = ("state",),
    clock: Callable[[], float] = time.monotonic,
) -> AsyncIterator[Arena]:
    """Set up both servers; on leaving, nothing of them may be left: no process, no directory."""
    base = Path("/var/tmp") / f"agentapi-arena-{os.getpid()}"
    shutil.rmtree(base, ignore_errors=True)
    (base / "code").mkdir(parents=True)
    (base / "state").mkdir()
    for folder in (base, base / "code"):
        folder.chmod(0o755)
    for name in ("tiny_server.py", "hostile_server.py"):
        shutil.copy(Path(__file__).with_name(name), base / "code")
        (base / "code" / name).chmod(0o644)
    command = StdioCommand(
        command=PYTHON,
        args=("-S", "-E", str(base / "code" / "hostile_server.py")),
        readable=(base / "code",),
        network=network,
    )
    allowed = StdioCommands(
        {"hostile": command, "neighbour": command},
        root=base / "stdio",
        limits=limits,
        support=support,
        hidden=tuple(base / name for name in hidden),
        watched=Watched(clock=clock, interval_s=0.1),
    )

    async def directory(_: OrgId, session: SessionId) -> Path:
        return base / "sessions" / str(session)

    async with world(allowed=allowed, session_directory=directory) as made:
        held = Arena(made, base)
        await held.neighbour_answers()
        yield held
        await held.neighbour_answers()
    assert held.processes() == []
    assert list((base / "stdio").iterdir()) == []
    assert [path.name for path in base.glob("stdio-users/*") if path.name != "lock"] == []
    shutil.rmtree(base)


@contextlib.contextmanager
def victim(secret: str) -> Iterator[int]:
    """A process that is the gateway's, with a secret in its environment and its memory, hidden as a gateway hides."""
    code = (
        "import sys; from agentapi.upstreams.sandbox import hide_this_process; hide_this_process(); "
        "print('up', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "PLANTED": secret},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid
        assert process.poll() is None
        process.communicate()
