"""The conformance suite run against a server or a client, and what it found."""

from __future__ import annotations

import asyncio
import json
import os
import re
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from support.node import REPOSITORY, install, node

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["REVISIONS", "Findings", "Leg", "Run", "required", "run", "run_client", "suite_version"]

REVISIONS = ("2025-11-25", "2026-07-28")
_TIMEOUT_S = 60.0
_DIRECTORY = re.compile(r"(?:server-)?(?P<scenario>.+)-\d{4}-\d\d-\d\dT[\d-]+Z")

Leg = Literal["server", "client"]


@dataclass(frozen=True, slots=True)
class Findings:
    """The checks of one scenario."""

    outcomes: Counter[tuple[str, str]]
    """How often each check had which status: a scenario makes some checks more than once."""
    complaints: tuple[str, ...]
    """What the suite said of those that are neither a success nor for information."""

    @property
    def checks(self) -> Counter[str]:
        """How often each check was made."""
        return self.having(*{status for _, status in self.outcomes})

    def having(self, *statuses: str) -> Counter[str]:
        """Return how often each check had one of ``statuses``."""
        found: Counter[str] = Counter()
        for (check, status), times in self.outcomes.items():
            if status in statuses:
                found[check] += times
        return found


@dataclass(frozen=True, slots=True)
class Run:
    """All scenarios of one revision against one URL."""

    exit_code: int
    scenarios: Mapping[str, Findings]
    output: str


def _package() -> Path:
    return install(REPOSITORY / "tests" / "conformance") / "node_modules" / "@modelcontextprotocol" / "conformance"


@cache
def suite_version() -> str:
    """Return the version of the suite that is installed."""
    return str(json.loads((_package() / "package.json").read_text())["version"])


@cache
def required(revision: str, leg: Leg = "server") -> tuple[str, ...]:
    """Return the scenarios that ``revision`` requires of a server or a client, from the suite's own list."""
    lines = (_package() / "requirements" / f"{revision}.yaml").read_text().splitlines()
    start = lines.index(f"{leg}:") + 1
    names = []
    for line in lines[start:]:
        if not line.startswith("  - "):
            break
        names.append(line.removeprefix("  - "))
    return tuple(names)


def _findings(path: Path) -> Findings:
    checks: list[dict[str, Any]] = json.loads(path.read_text())
    complaints = [
        f"{check['id']} {check['status']}: {check.get('errorMessage', '')}"
        for check in checks
        if check["status"] not in {"SUCCESS", "INFO"}
    ]
    return Findings(Counter((check["id"], check["status"]) for check in checks), tuple(complaints))


def _read(directory: Path) -> dict[str, Findings]:
    scenarios = {}
    # A scenario may be called "auth/...", which makes a directory of the first part.
    for path in sorted(directory.rglob("checks.json")):
        found = _DIRECTORY.fullmatch(path.parent.relative_to(directory).as_posix())
        assert found is not None, path
        scenarios[found["scenario"]] = _findings(path)
    return scenarios


async def _run(arguments: Sequence[str], env: Mapping[str, str] | None = None) -> Run:
    with tempfile.TemporaryDirectory(prefix="agentapi-conformance-") as directory:
        process = await asyncio.create_subprocess_exec(
            str(node()),
            str(_package() / "dist" / "index.js"),
            *arguments,
            "--output-dir",
            directory,
            env={**os.environ, **(env or {})},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            output, _ = await asyncio.wait_for(process.communicate(), _TIMEOUT_S)
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        scenarios = _read(Path(directory))
    assert process.returncode is not None
    return Run(process.returncode, scenarios, output.decode(errors="replace"))


async def run(url: str, revision: str) -> Run:
    """Run the scenarios of ``revision``, required or not, against the server at ``url``."""
    return await _run(["server", "--url", url, "--requirements", revision])


async def run_client(command: Sequence[str], revision: str, env: Mapping[str, str]) -> Run:
    """Run the scenarios of ``revision``, required or not, against the client that ``command`` is, all at once."""
    # The suite splits what it is given at spaces and hands it to a shell, which knows the environment.
    return await _run(["client", "--command", " ".join(command), "--requirements", revision], env)
