"""The suite's scenarios of authorization for clients, driven at what the gateway is to its upstreams."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from conformance import client
from conformance.suite import REVISIONS, Run, required, run_client
from support.gateway import Gateway

if TYPE_CHECKING:
    from pathlib import Path

    from conformance.suite import Findings

__all__ = ["UpstreamSide", "measure_upstream_side"]

_OF_AUTHORIZATION = "auth/"
_COMMAND = ('"$CONFORMANCE_PYTHON"', "-m", "conformance.client")
_DOCUMENT = "https://conformance-test.local/client-metadata.json"
"""The client id that the suite expects where a server takes metadata documents; nobody reads it there."""
_USERS = 4
"""The suite runs all scenarios at once, and one user may have 20 flows under way."""


@dataclass(frozen=True, slots=True)
class UpstreamSide:
    """One revision's scenarios."""

    revision: str
    run: Run

    @property
    def scored(self) -> tuple[str, ...]:
        """The scenarios of authorization that the revision requires of a client."""
        return tuple(name for name in required(self.revision, "client") if name.startswith(_OF_AUTHORIZATION))

    @property
    def unscored(self) -> tuple[str, ...]:
        """The scenarios of authorization that the suite runs without requiring them: those of extensions."""
        ran = (name for name in self.run.scenarios if name.startswith(_OF_AUTHORIZATION))
        return tuple(name for name in ran if name not in self.scored)

    def faults(self, scenario: str) -> list[str]:
        """Return what keeps ``scenario`` from being passed: anything but a success, a warning too."""
        findings = self.run.scenarios.get(scenario)
        if findings is None:
            return ["it was not run"]
        return list(findings.complaints) if succeeded(findings) or findings.complaints else ["nothing was checked"]


def succeeded(findings: Findings) -> int:
    """Return how many checks had a success; how often each was made depends on how often a server is asked."""
    return len(findings.having("SUCCESS"))


async def measure_upstream_side(directory: Path) -> list[UpstreamSide]:
    """Run the scenarios of both revisions through one gateway."""
    settings = {"AGENTAPI_OAUTH_CLIENT_METADATA_URL": _DOCUMENT}
    with Gateway.start(data_dir=directory / "data", env=settings) as gateway:
        users = [
            await asyncio.to_thread(gateway.mint, "--role", "org_admin", "--subject", f"user-{number}")
            for number in range(_USERS)
        ]
        env = {
            "CONFORMANCE_PYTHON": sys.executable,
            "PYTHONPATH": os.pathsep.join(sys.path),
            client.BASE_URL: gateway.base_url,
            client.MCP_URL: gateway.mcp_url,
            client.TOKENS: " ".join(users),
        }
        found = [UpstreamSide(revision, await run_client(_COMMAND, revision, env)) for revision in REVISIONS]
        assert gateway.tracebacks == []
        return found
