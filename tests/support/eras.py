"""Upstreams of both eras over every transport, and a client that answers what it is asked."""

from __future__ import annotations

import json
import os
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcp.types import CreateMessageResult, ElicitResult, ListRootsResult, Root, TextContent

from support.clients import mcp_client, sse_mcp_client, stdio_mcp_client
from support.processes import wait_until
from support.upstreams import announced

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractAsyncContextManager

    from mcp import Client
    from mcp.types import LoggingMessageNotificationParams

    from support.clients import Mode
    from support.era_server import EraName, TransportName

__all__ = ["KINDS", "MODES", "EraUpstream", "Respondent", "era_upstreams", "mcp_config"]

MODES: tuple[Mode, ...] = ("legacy", "2026-07-28")
KINDS: dict[str, tuple[TransportName, EraName]] = {
    "http-modern": ("http", "modern"),
    "http-legacy": ("http", "legacy"),
    "sse-legacy": ("sse", "legacy"),
    "stdio-modern": ("stdio", "modern"),
    "stdio-legacy": ("stdio", "legacy"),
}
_TESTS = Path(__file__).resolve().parents[1]
_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class EraUpstream:
    """A running upstream, or a stdio one that whoever connects starts."""

    name: str
    transport: TransportName
    era: EraName
    journal: Path
    port: int = 0

    @property
    def mode(self) -> Mode:
        """The mode in which it can be asked directly."""
        return "legacy" if self.era == "legacy" else "2026-07-28"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/{'sse' if self.transport == 'sse' else 'mcp'}"

    @property
    def command(self) -> list[str]:
        return [sys.executable, "-m", "support.era_server", self.transport, self.era, str(self.journal)]

    @property
    def entry(self) -> dict[str, Any]:
        """Its entry in ``mcpServers``."""
        if self.transport == "stdio":
            return {"command": self.command[0], "args": self.command[1:], "env": _stdio_environment()}
        return {"type": self.transport, "url": self.url}

    def connect(self, **options: Any) -> AbstractAsyncContextManager[Client]:
        """Connect the SDK's client without the gateway."""
        if self.transport == "stdio":
            return stdio_mcp_client(self.command, self.mode, _stdio_environment(), **options)
        if self.transport == "sse":
            return sse_mcp_client(self.url, **options)
        return mcp_client(self.url, None, self.mode, **options)

    def events(self, kind: str, **members: object) -> list[dict[str, Any]]:
        """Return what it wrote down of ``kind``, of that what has ``members``."""
        # What stands behind the last end of a line is being written.
        written = self.journal.read_text().rpartition("\n")[0] if self.journal.exists() else ""
        lines = written.splitlines()
        events: list[dict[str, Any]] = [json.loads(line) for line in lines]
        return [e for e in events if e["event"] == kind and members.items() <= e.items()]

    def wait_for(self, kind: str, **members: object) -> dict[str, Any]:
        """Return the first event of ``kind`` with ``members``, once there is one."""
        what = f"{self.name} writes {kind} {members}"
        return wait_until(lambda: self.events(kind, **members), within_s=_WITHIN_S, what=what)[0]


def _stdio_environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(_TESTS), os.environ.get("PYTHONPATH")]))
    return {"PYTHONPATH": path}


@contextmanager
def era_upstreams(directory: Path, kinds: Sequence[str] = tuple(KINDS)) -> Iterator[dict[str, EraUpstream]]:
    """Run the upstreams of ``kinds``, by name."""
    with ExitStack() as stack:
        found = {}
        for name in kinds:
            transport, era = KINDS[name]
            journal = directory / f"{name}.journal"
            port = 0
            if transport != "stdio":
                log = directory / f"{name}.log"
                port = stack.enter_context(announced("support.era_server", transport, era, str(journal), log=log))
            found[name] = EraUpstream(name, transport, era, journal, port)
        yield found


def mcp_config(directory: Path, upstreams: dict[str, EraUpstream]) -> tuple[str, ...]:
    """Write the ``mcpServers`` of ``upstreams`` and return the arguments of ``agentapi dev`` that read it."""
    path = directory / "mcp.json"
    path.write_text(json.dumps({"mcpServers": {name: upstream.entry for name, upstream in upstreams.items()}}))
    return ("--mcp-config", str(path), "--yes")


@dataclass
class Respondent:
    """The client's side: it answers all questions, and keeps what it was asked and told of progress."""

    name: str = "Ada"
    asked: list[str] = field(default_factory=list)
    logged: list[Any] = field(default_factory=list)
    progress: list[tuple[float, float | None, str | None]] = field(default_factory=list)

    @property
    def options(self) -> dict[str, Any]:
        """What makes a ``Client`` use this."""
        return {
            "elicitation_callback": self._elicit,
            "sampling_callback": self._sample,
            "list_roots_callback": self._roots,
            "logging_callback": self._log,
            "log_level": "info",
        }

    async def _elicit(self, _: Any, params: Any) -> ElicitResult:
        self.asked.append(params.message)
        return ElicitResult(action="accept", content={"name": f"{self.name} {len(self.asked)}"})

    async def _sample(self, _: Any, params: Any) -> CreateMessageResult:
        self.asked.append(params.messages[0].content.text)
        return CreateMessageResult(role="assistant", content=TextContent(text="Paris"), model="tests")

    async def _roots(self, _: Any) -> ListRootsResult:
        self.asked.append("roots")
        return ListRootsResult(roots=[Root(uri="file:///a"), Root(uri="file:///b")])

    async def _log(self, params: LoggingMessageNotificationParams) -> None:
        self.logged.append(params.data)

    async def on_progress(self, progress: float, total: float | None, message: str | None) -> None:
        self.progress.append((progress, total, message))
