"""What it takes to start a session over HTTP with exact limits, into docs/performance.md.

    PYTHONPATH=python:tests:bench python bench/sessions.py [--seconds 3] [--out FILE]

A gateway as in production (`agentapi serve`, one worker) stands for each audit mode on a real PostgreSQL that writes to
disk, and all are measured in turn, so that a slow minute of the machine meets all of them. Each answer is that of a
session that is committed: row, counted limits, audit row, directory, composed prompt, signed token. All of them are of
one user of one organisation, whose limits make them wait for each other. The load, the gateway and the database share
the cores.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import httpx2

from agentapi.storage.embedded import embedded_postgres
from gateway import measure
from load import Job
from page import write_section
from support.deployment import agentapi, deployment_environment, serving
from support.directories import open_directory
from support.plain import PLAIN
from support.tokens import Issuer

if TYPE_CHECKING:
    from agentapi.storage.embedded import EmbeddedPostgres
    from gateway import Measured

MODES = ("buffered", "strict")
CONCURRENCIES = (1, 64)
_ISSUER = Issuer("https://issuer.example")
_COMMITS = 300
_PATH = "/api/v1/sessions"
_LIMITS = "UPDATE organizations SET max_sessions = 1000000, max_sessions_per_user = 1000000"
_PROMPT = {"name": "house", "text": "Answer in the language of the question.\n" * 20}


def _job(url: str, token: str) -> Job:
    head = [
        f"POST {_PATH} HTTP/1.1",
        f"host: {urlsplit(url).netloc}",
        f"authorization: Bearer {token}",
        "content-type: application/json",
        "content-length: 2",
    ]
    return Job(url, "\r\n".join([*head, "", "{}"]).encode(), needle=b'"system_prompt"', status=b"201")


async def _lift_limits(postgres: EmbeddedPostgres) -> None:
    connection = await asyncpg.connect(postgres.superuser_dsn)
    await connection.execute(_LIMITS)
    await connection.close()


async def _commit_ms(postgres: EmbeddedPostgres) -> float:
    """Return the median time of the least that is durable."""
    connection = await asyncpg.connect(postgres.superuser_dsn)
    await connection.execute("CREATE TABLE IF NOT EXISTS commits (id uuid PRIMARY KEY)")
    taken = []
    for _ in range(_COMMITS):
        begun = time.perf_counter()
        await connection.execute("INSERT INTO commits VALUES ($1)", uuid4())
        taken.append(time.perf_counter() - begun)
    await connection.close()
    return statistics.median(taken) * 1000


async def _measure_all(root: Path, seconds: float) -> tuple[dict[str, dict[int, Measured]], float]:
    measured: dict[str, dict[int, Measured]] = {mode: {} for mode in MODES}
    async with embedded_postgres(root / "data") as postgres:
        env = deployment_environment(postgres, root, json.dumps([_ISSUER.settings()]))
        for command in (("migrate",), ("organizations", "create", "demo")):
            done = agentapi(*command, env=env)
            assert done.returncode == 0, done.stderr
        await _lift_limits(postgres)
        with ExitStack() as stack:
            jobs = {}
            for mode in MODES:
                serving_env = {**env, "AGENTAPI_AUDIT_MODE": mode, "AGENTAPI_STATE_DIR": str(root / mode)}
                url, process = stack.enter_context(serving(serving_env, root / f"{mode}.log"))
                token = _ISSUER.sign(_ISSUER.claims(aud=url, role="org_admin"))
                headers = {"Authorization": f"Bearer {token}"}
                httpx2.post(f"{url}/api/v1/prompts", json=_PROMPT, headers=headers, timeout=30, **PLAIN)
                jobs[mode] = _job(url, token), process.pid
            commit_ms = await _commit_ms(postgres)
            for concurrency in CONCURRENCIES:
                for mode, (job, pid) in jobs.items():
                    measured[mode][concurrency] = await asyncio.to_thread(measure, job, pid, concurrency, seconds)
    return measured, commit_ms


def _markdown(measured: dict[str, dict[int, Measured]], commit_ms: float, seconds: float) -> str:
    lines = [
        "## Starting a session",
        "",
        f"`bench/sessions.py`, {seconds:g} s a figure: `POST /api/v1/sessions` of one user, with exact limits. What an",
        "answer tells of is on disk: session, directory, and the row in the audit log, which is committed with it in",
        "every audit mode. Load, gateway and database share the cores. The peer is one row in one table, committed",
        "over one connection by asyncpg in the same minute.",
        "",
        "| audit | c | sessions/s | p50 | p50, times the peer's | p95 | p99 | CPU per session of the gateway |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines.append(f"| peer: one row committed | 1 | {1000 / commit_ms:,.0f} | {commit_ms:.2f} ms | 1 | | | |")
    for mode, by_concurrency in measured.items():
        for concurrency, figures in by_concurrency.items():
            load = figures.load
            row = f"| {mode} | {concurrency} | {load.per_second:,.0f} | {load.p50_ms:.2f} ms |"
            row += f" {load.p50_ms / commit_ms:.1f} | {load.p95_ms:.2f} ms |"
            lines.append(f"{row} {load.p99_ms:.2f} ms | {figures.cpu_ms:.3f} ms |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--out", type=Path, help="Markdown file whose section is replaced; standard output without it")
    options = parser.parse_args()
    with open_directory() as scratch:
        text = _markdown(*asyncio.run(_measure_all(scratch, options.seconds)), options.seconds)
    if options.out:
        write_section(options.out, "bench-sessions", text)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
