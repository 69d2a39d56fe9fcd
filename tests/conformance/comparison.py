"""The suite against the gateway, as a server and as a client: ``make conformance`` writes the tables."""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from conformance.suite import REVISIONS, Findings, Run, required, run, suite_version
from conformance.upstream_side import UpstreamSide, measure_upstream_side, succeeded
from support.bearer_proxy import bearer_proxy
from support.directories import open_directory
from support.gateway import Gateway
from support.processes import free_port
from support.upstreams import announced

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

__all__ = ["TABLE", "Comparison", "measure", "render"]

TABLE = Path(__file__).resolve().parents[2] / "docs" / "conformance.md"
_EXTENSION = "tasks-"
"""Scenarios of an optional extension that the fixture does not have."""
_OPTIONAL = frozenset({"server-sse-streams-functional"})
"""Checks of what a server may do or leave. The gateway answers a list as JSON, so there is no stream to look at; that
several streams at once are told apart is tested with progress in tests/e2e/test_two_eras.py."""
_INTRODUCTION = """\
# Conformance

Made by `make conformance`; do not edit. The conformance suite of the Model Context Protocol asks a server made with
the official SDK (`tests/conformance/everything_server.py`), once directly and once through the gateway, in a workspace
that has this one upstream and bare tool names. A scenario is passed when every check that succeeds directly succeeds
through the gateway, none fails, warns or is skipped either way, and the same checks were made. `make test` fails when
this table is out of date.

A check may end with a remark in place of a success. `server-sse-multiple-streams` has one where a list is answered as
JSON, which a server is free to do: the fixture does so for modern clients, the gateway for all.
"""
_AS_A_CLIENT = """\
# The gateway as a client

To its upstreams the gateway is the client that authorization is about. For each of the suite's scenarios of
authorization `tests/conformance/client.py` registers the suite's server as an upstream with `"auth": "oauth"`, calls
its tool through the gateway's endpoint, and follows the link that the gateway answers with, as often as it does:
discovery, registration, scopes, step-up and giving up are the gateway's own. A scenario is passed when no check fails
or warns. The suite's other scenarios for clients are about what an end client does.
"""


@dataclass(frozen=True, slots=True)
class Comparison:
    """One revision: the same server asked directly and through the gateway."""

    revision: str
    direct: Run
    through: Run

    @property
    def unscored(self) -> tuple[str, ...]:
        """Scenarios that the suite runs without requiring them."""
        run_too = (*self.direct.scenarios, *self.through.scenarios)
        wanted = dict.fromkeys(name for name in run_too if not name.startswith(_EXTENSION))
        return tuple(name for name in wanted if name not in required(self.revision))

    def faults(self, scenario: str) -> list[str]:
        """Return what keeps ``scenario`` from being passed in both ways and alike."""
        direct, through = self.direct.scenarios.get(scenario), self.through.scenarios.get(scenario)
        if direct is None or through is None:
            return ["it was not run"]
        faults = [f"directly: {complaint}" for complaint in direct.complaints]
        faults += [f"through the gateway: {complaint}" for complaint in through.complaints]
        if missing := direct.checks - through.checks:
            faults.append(f"not made through the gateway: {dict(missing)}")
        if added := through.checks - direct.checks:
            faults.append(f"made through the gateway only: {dict(added)}")
        weaker = direct.having("SUCCESS") - through.having("SUCCESS") - missing
        if unexcused := set(weaker) - _OPTIONAL:
            faults.append(f"no success through the gateway: {sorted(unexcused)}")
        return faults


@asynccontextmanager
async def _gateway_before(port: int, directory: Path) -> AsyncIterator[str]:
    """Run a gateway whose workspace has one upstream, at ``port``; yield a URL that needs no token."""
    proxy_port = free_port()
    env = {
        "AGENTAPI_BARE_TOOL_NAMES": "true",
        # The suite sends the origin of the address that it was given, which is the proxy's.
        "AGENTAPI_ALLOWED_ORIGINS": f'["http://127.0.0.1:{proxy_port}"]',
    }
    arguments = ("--upstream", f"http://127.0.0.1:{port}/mcp")
    with Gateway.start(*arguments, data_dir=directory / "data", env=env) as gateway:
        listed = gateway.api.get("/api/v1/mcp/configurations").json()["items"]
        for item in listed:
            if item["name"] in {"clock", "notes"}:
                gateway.api.delete(f"/api/v1/mcp/configurations/{item['id']}").raise_for_status()
        gateway_port = int(gateway.base_url.rpartition(":")[2])
        async with bearer_proxy(gateway_port, gateway.token, proxy_port):
            yield gateway.mcp_url.replace(f":{gateway_port}/", f":{proxy_port}/")
        assert gateway.tracebacks == []


async def measure() -> list[Comparison]:
    """Run both requirement sets in both ways."""
    with open_directory() as directory, announced("conformance.everything_server", log=directory / "log") as port:
        async with _gateway_before(port, directory) as url:
            return [
                Comparison(revision, await run(f"http://127.0.0.1:{port}/mcp", revision), await run(url, revision))
                for revision in REVISIONS
            ]


def _cell(findings: Findings | None) -> str:
    if findings is None:
        return "not run"
    return f"{findings.having('SUCCESS').total()} of {findings.checks.total()}"


def _row(comparison: Comparison, scenario: str, verdict: Mapping[bool, str]) -> str:
    direct, through = (way.scenarios.get(scenario) for way in (comparison.direct, comparison.through))
    passed = verdict[not comparison.faults(scenario)]
    return f"| {scenario} | {_cell(direct)} | {_cell(through)} | {passed} |"


def _section(comparison: Comparison) -> list[str]:
    scored = required(comparison.revision)
    passed = [name for name in scored if not comparison.faults(name)]
    totals = [
        sum(way.scenarios[name].checks.total() for name in scored if name in way.scenarios)
        for way in (comparison.direct, comparison.through)
    ]
    return [
        f"## {comparison.revision}",
        "",
        f"**{len(passed)} of {len(scored)} required scenarios**; {totals[0]} checks directly, {totals[1]} through.",
        "",
        "| scenario | checks direct | checks through | verdict |",
        "| --- | --- | --- | --- |",
        *(_row(comparison, name, {True: "passed", False: "**failed**"}) for name in scored),
        "",
        "Run by the suite and not required by the revision:",
        "",
        "| scenario | checks direct | checks through | verdict |",
        "| --- | --- | --- | --- |",
        *(_row(comparison, name, {True: "passed", False: "not passed"}) for name in comparison.unscored),
        "",
    ]


def _client_section(side: UpstreamSide) -> list[str]:
    def rows(scenarios: tuple[str, ...], failed: str) -> list[str]:
        found = {name: side.run.scenarios.get(name) for name in scenarios}
        return [
            f"| {name} | {0 if findings is None else succeeded(findings)} | "
            f"{failed if side.faults(name) else 'passed'} |"
            for name, findings in found.items()
        ]

    passed = [name for name in side.scored if not side.faults(name)]
    return [
        f"## {side.revision}, as a client",
        "",
        f"**{len(passed)} of {len(side.scored)} required scenarios of authorization**.",
        "",
        "| scenario | successful checks | verdict |",
        "| --- | --- | --- |",
        *rows(side.scored, "**failed**"),
        "",
        "Of extensions that the gateway does not have, run by the suite and not required by the revision:",
        "",
        "| scenario | successful checks | verdict |",
        "| --- | --- | --- |",
        *rows(side.unscored, "not passed"),
        "",
    ]


def render(comparisons: list[Comparison], sides: list[UpstreamSide]) -> str:
    """Return the tables as they stand in the documentation."""
    versions = f"Suite: `@modelcontextprotocol/conformance` {suite_version()}; SDK: `mcp` {version('mcp')}."
    lines = [_INTRODUCTION, versions, ""]
    for comparison in comparisons:
        lines += _section(comparison)
    lines.append(_AS_A_CLIENT)
    for side in sides:
        lines += _client_section(side)
    return "\n".join(lines).rstrip() + "\n"


async def _measure_both() -> tuple[list[Comparison], list[UpstreamSide]]:
    with open_directory() as directory:
        return await measure(), await measure_upstream_side(directory)


def main() -> int:
    """Write the tables and return 1 where a required scenario is not passed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=TABLE)
    arguments = parser.parse_args()
    comparisons, sides = asyncio.run(_measure_both())
    arguments.out.write_text(render(comparisons, sides))
    failed = [
        f"{comparison.revision} {scenario}: {fault}"
        for comparison in comparisons
        for scenario in required(comparison.revision)
        for fault in comparison.faults(scenario)
    ]
    failed += [
        f"{side.revision} {scenario}: {fault}"
        for side in sides
        for scenario in side.scored
        for fault in side.faults(scenario)
    ]
    sys.stdout.write("\n".join([*failed, f"Wrote {arguments.out}."]) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
