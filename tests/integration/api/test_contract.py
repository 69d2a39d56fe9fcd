"""Schemathesis asks the running gateway whatever its OpenAPI document allows, and much that it does not.

It fails on an answer of 500, on one that is not documented, on one of another shape than is documented, on input that
is accepted and should not be, on a route that forgets to ask who calls, and on methods that are answered and are none.
The seed and the number of examples are fixed.

One check is left out: that whatever fits a schema is accepted. Rules that hold between two fields, cursors, and
versions that somebody else has changed are not for a schema to say.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agentapi.api_routes import OPERATIONS
from agentapi.principal import Role
from integration.api.harness import CONFIGURATIONS, Api, configuration, served

if TYPE_CHECKING:
    from starlette.applications import Starlette

_ALWAYS = (
    "--checks=all",
    "--exclude-checks=positive_data_acceptance",
    "--continue-on-failure",
    "--generation-deterministic",
    "--request-timeout=30",
    "--no-color",
    "--warnings=off",
    "--report=json",
    "--report-json-path=report.json",
)
LEAVING = "--exclude-path=/api/v1/members/me"
"""Whoever leaves is told by everything else that they are nobody here; another test leaves."""
KEEPING = "--exclude-method=DELETE"
"""Of what the platform admin may do; it lists all organisations, and would delete its own. Other tests delete."""
RUNS: dict[Role, tuple[str, ...]] = {
    Role.ORG_ADMIN: ("--phases=examples,coverage,fuzzing,stateful", "--max-examples=8", LEAVING),
    Role.MEMBER: ("--phases=examples,fuzzing", "--max-examples=4", LEAVING),
    Role.PLATFORM_ADMIN: (
        "--phases=examples,coverage,fuzzing",
        "--max-examples=8",
        "--include-path-regex=^/api/v1/platform",
        KEEPING,
    ),
}

_MAKING = {operation.route for operation in OPERATIONS if operation.creates}
_OF_THE_PLATFORM = {route for route in _MAKING if "/platform/" in route}
MADE = {
    Role.ORG_ADMIN: _MAKING - _OF_THE_PLATFORM,
    Role.MEMBER: {"POST /api/v1/api-keys", "POST /api/v1/prompts"},
    Role.PLATFORM_ADMIN: _OF_THE_PLATFORM,
}


async def schemathesis(url: str, token: str, directory: Path, *options: str) -> tuple[int, str, dict[str, Any]]:
    """Run Schemathesis against the gateway at ``url``; return its exit code, what it printed, and its report."""
    process = await asyncio.create_subprocess_exec(
        str(Path(sys.executable).parent / "schemathesis"),
        "run",
        f"{url}/openapi.json",
        f"--url={url}",
        f"--header=Authorization: Bearer {token}",
        *_ALWAYS,
        *options,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=directory,
        env={**os.environ, "NO_PROXY": "*", "COLUMNS": "160"},
    )
    printed, _ = await process.communicate()
    report = directory / "report.json"
    return process.returncode or 0, printed.decode(), json.loads(report.read_text()) if report.exists() else {}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("role", RUNS)
async def test_the_gateway_answers_as_it_is_documented(
    gateway: Starlette, api: Api, tmp_path: Path, role: Role
) -> None:
    caller = api.caller(role, f"{role}")
    # Somebody else is the admin whom an organisation has to keep.
    made = await api.caller().request("POST", CONFIGURATIONS, json=configuration(name="seed"))
    assert made.status_code == 201
    async with served(gateway) as url:
        code, printed, report = await schemathesis(url, caller.token, tmp_path, *RUNS[role])
    assert code == 0, printed[-8000:]
    assert report["operations"]["tested"] == report["operations"]["selected"] > 0
    assert (await caller.request("GET", "/api/v1/workspaces")).status_code == 200, "it was somebody to the end"
    accepted = {
        name: sum(phase["accepted"] for phase in phases.values()) for name, phases in report["valid_rates"].items()
    }
    assert {name for name in MADE[role] if not accepted.get(name)} == set(), "nothing that it sent was taken"
