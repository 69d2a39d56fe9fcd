"""The conformance suite run against a URL, and what it found."""

from __future__ import annotations

import asyncio
import json
import re
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.node import REPOSITORY, install, node

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["REVISIONS", "Findings", "Run", "required", "run", "suite_version"]

REVISIONS = ("2025-11-25", "2026-07-28")
_TIMEOUT_S = 60.0
_DIRECTORY = re.compile(r"server-(?P<scenario>.+)-\d{4}-\d\d-\d\dT[\d-]+Z")


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
def required(revision: str) -> tuple[str, ...]:
    """Return the scenarios that ``revision`` requires of a server, from the suite's own list."""
    lines = (_package() / "requirements" / f"{revision}.yaml").read_text().splitlines()
    start = lines.index("server:") + 1
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
    for path in sorted(directory.iterdir()):
        found = _DIRECTORY.fullmatch(path.name)
        assert found is not None, path.name
        scenarios[found["scenario"]] = _findings(path / "checks.json")
    return scenarios


async def run(url: str, revision: str) -> Run:
    """Run the scenarios of ``revision``, required or not, against the server at ``url``."""
    command = [str(_package() / "dist" / "index.js"), "server", "--url", url, "--requirements", revision]
    with tempfile.TemporaryDirectory(prefix="agentapi-conformance-") as directory:
        process = await asyncio.create_subprocess_exec(
            str(node()),
            *command,
            "--output-dir",
            directory,
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
