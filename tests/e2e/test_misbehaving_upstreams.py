"""Upstreams that hang, dribble, send garbage, 100 MB or without an end, or die in the midst of an answer.

Whatever one does, the caller gets a clear error within the time limit, the gateway serves on, and it holds no
more tasks, sockets, descriptors or processes than before.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio
from mcp.shared.exceptions import MCPError

from support.clients import list_tools
from support.counting import counted_gateway
from support.eras import MODES
from support.misbehaving import HTTP_FAULTS, HUGE_BYTES, STDIO_FAULTS, misbehaving_http
from support.upstreams import sdk_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from support.clients import Mode
    from support.counting import Census, Holdings
    from support.gateway import Gateway

CALL_TIMEOUT_S = 1.0
CONNECT_TIMEOUT_S = 1.0
MARGIN_S = 3.0
SPARE_BYTES = 96 * 1024 * 1024
"""How far memory may rise while 100 MB come twice at once: as far as the limit on an answer, 32 MB, and some."""
SPARE_SOCKETS = 6
"""For idle connections, of some 120 calls in this module that go wrong."""
STABLE_FOR_S = 2.0

HUGE = ("huge_body", "huge_event", "huge_line")
FLOODS = ("comment_flood", "notification_flood", "late_answer")
SMALL = tuple(fault for fault in HTTP_FAULTS if fault not in {*HUGE, *FLOODS})
INSIDE = ("Traceback", "httpx", "aiohttp", "asyncio", "ExceptionGroup", "127.0.0.1", "169.254", "html", "xxxx")
"""What no error may show of the inside of the gateway, or of what it got."""


class Scene:
    """A gateway with one good upstream among the bad ones, and what it holds at rest."""

    def __init__(self, gateway: Gateway, census: Census) -> None:
        self.gateway = gateway
        self.census = census
        self.at_rest: Holdings | None = None

    async def serves(self) -> None:
        """Fail unless clients of both eras get a good answer from the good upstream."""
        answers = await asyncio.gather(*(self._echo(mode) for mode in MODES))
        assert answers == ["still here", "still here"]

    async def _echo(self, mode: Mode) -> str:
        async with self.gateway.mcp(mode) as client:
            result = await client.call_tool("good__echo", {"message": "still here"})
        return str(result.content[0].model_dump()["text"])

    async def call(self, upstream: str, fault: str, mode: Mode) -> str | None:
        """Return what is wrong with how a call ends, if anything."""
        begun = time.monotonic()
        async with self.gateway.mcp(mode) as client:
            try:
                result = await client.call_tool(f"{upstream}__{fault}", {})
            except MCPError as error:
                complaint = None if upstream in error.message else "does not name the upstream"
                if any(inside in error.message for inside in INSIDE):
                    complaint = "tells too much"
                took_s = time.monotonic() - begun
                if took_s > CALL_TIMEOUT_S + CONNECT_TIMEOUT_S + MARGIN_S:
                    complaint = f"took {took_s:.1f} s"
                return complaint and f"{complaint}: {error.message}"
        # Whole and unchanged it may pass; a part of it may not.
        passed = result.content[0].model_dump().get("text", "")
        return None if len(passed) == HUGE_BYTES else f"answered {passed[:40]!r}"

    async def called(self, upstream: str, *faults: str) -> dict[tuple[str, Mode], str]:
        """Call all of ``faults`` at once in both eras, and return what was wrong with them."""
        cases = [(fault, mode) for fault in faults for mode in MODES]
        found = await asyncio.gather(*(self.call(upstream, fault, mode) for fault, mode in cases))
        return {case: complaint for case, complaint in zip(cases, found, strict=True) if complaint}

    async def rest(self) -> Holdings:
        """Return what the gateway holds when it has nothing to do."""
        if self.at_rest is None:
            async with self.gateway.mcp("2026-07-28") as client:
                names = {tool.name.partition("__")[0] for tool in await list_tools(client)}
            assert {"good", "modern", "legacy", "stdio"} <= names
            await self.serves()
            self.at_rest = await asyncio.to_thread(self._stable)
        return self.at_rest

    def _stable(self) -> Holdings:
        last, since = self.census.take(), time.monotonic()
        while time.monotonic() < since + STABLE_FOR_S:
            now = self.census.take()
            if now != last:
                last, since = now, time.monotonic()
        return last


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def scene(module_directory: Path) -> AsyncIterator[Scene]:
    directory = module_directory
    path = os.environ.get("PYTHONPATH", "")
    tests = str(__file__).rpartition("/e2e/")[0]
    stdio = {
        "command": sys.executable,
        "args": ["-m", "support.misbehaving"],
        "env": {"PYTHONPATH": f"{tests}{os.pathsep}{path}"},
    }
    async with misbehaving_http(modern=True) as modern, misbehaving_http(modern=False) as legacy:
        with sdk_server("http", directory / "sdk.log") as good:
            servers = {
                "good": {"url": good.url},
                "modern": {"url": modern.url},
                "legacy": {"url": legacy.url},
                "stdio": stdio,
            }
            config = directory / "mcp.json"
            config.write_text(json.dumps({"mcpServers": servers}))
            env = {
                "AGENTAPI_UPSTREAM_CONNECT_TIMEOUT_S": str(CONNECT_TIMEOUT_S),
                "AGENTAPI_UPSTREAM_CALL_TIMEOUT_S": str(CALL_TIMEOUT_S),
                "AGENTAPI_UPSTREAM_MESSAGE_MB": "8",
                "AGENTAPI_UPSTREAM_STREAM_MB": "16",
                # What is not needed is let go of while a test waits for it.
                "AGENTAPI_UPSTREAM_IDLE_S": "1",
            }
            arguments = ("--mcp-config", str(config), "--yes")
            with counted_gateway(*arguments, directory=directory, env=env) as (gateway, census):
                yield Scene(gateway, census)


@pytest.mark.parametrize(
    ("upstream", "faults"),
    [
        ("modern", SMALL),
        ("legacy", SMALL),
        *(("modern", (fault,)) for fault in HUGE),
        *(("legacy", (fault,)) for fault in HUGE),
        *(("modern", (fault,)) for fault in FLOODS),
        *(("legacy", (fault,)) for fault in FLOODS),
        # A process that ends takes its other calls with it, so each has its turn.
        *(("stdio", (fault,)) for fault in STDIO_FAULTS),
    ],
    ids=lambda value: value if isinstance(value, str) else (value[0] if len(value) == 1 else "all"),
)
async def test_caller_gets_an_error_in_time_and_the_gateway_serves_on(
    scene: Scene, upstream: str, faults: tuple[str, ...]
) -> None:
    at_rest = await scene.rest()
    scene.census.reset_peak()
    resident = scene.census.resident_bytes()
    calling = asyncio.ensure_future(scene.called(upstream, *faults))
    await scene.serves()
    assert await calling == {}
    await scene.serves()
    assert scene.census.peak_bytes() - resident < SPARE_BYTES
    await asyncio.to_thread(scene.census.settles_to, at_rest, spare_sockets=SPARE_SOCKETS)


def test_the_log_holds_no_traceback(scene: Scene) -> None:
    """Last in the module, so that the log covers everything above."""
    assert scene.gateway.tracebacks == []
