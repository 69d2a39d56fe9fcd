"""What the audit log costs a call: strict against buffered against off, into docs/performance.md.

    PYTHONPATH=python:tests:bench python bench/audit.py [--seconds 3] [--out FILE]

Three gateways stand side by side and are measured in turn, so that a slow minute of the machine meets all of them. CPU
is the gateway's own; that of the database, which shares the cores, shows in the calls a second.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from gateway import measure, relay, started
from page import write_section
from relay_clients import fast_upstream
from support.directories import open_directory

if TYPE_CHECKING:
    from gateway import Measured

MODES = ("off", "buffered", "strict")
CONCURRENCIES = (1, 16, 64)


def _measure_all(root: Path, seconds: float) -> dict[str, dict[int, Measured]]:
    with ExitStack() as stack:
        servers = {"fast": {"type": "http", "url": stack.enter_context(fast_upstream())}}
        (root / "mcp.json").write_text(json.dumps({"mcpServers": servers}))
        jobs = {}
        for mode in MODES:
            gateway = started(stack, root, mode)
            jobs[mode] = relay(gateway, seconds), gateway.process.pid
        measured: dict[str, dict[int, Measured]] = {mode: {} for mode in MODES}
        for concurrency in CONCURRENCIES:
            for mode, (job, pid) in jobs.items():
                measured[mode][concurrency] = measure(job, pid, concurrency, seconds)
    return measured


def _markdown(measured: dict[str, dict[int, Measured]], seconds: float) -> str:
    lines = [
        "## The audit log",
        "",
        f"`bench/audit.py`, {seconds:g} s a figure: `tools/call` by the relay, a gateway for each audit mode.",
        "A strict call is answered once its row is on disk. Load, upstream, gateway and database share the cores.",
        "",
        "| mode | c | calls/s | p50 | p99 | CPU per call of the gateway |",
        "|---|---|---|---|---|---|",
    ]
    for mode, by_concurrency in measured.items():
        for concurrency, figures in by_concurrency.items():
            load = figures.load
            row = f"| {mode} | {concurrency} | {load.per_second:,.0f} | {load.p50_ms:.2f} ms | {load.p99_ms:.2f} ms |"
            lines.append(f"{row} {figures.cpu_ms:.3f} ms |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--out", type=Path, help="Markdown file whose section is replaced; standard output without it")
    options = parser.parse_args()
    with open_directory() as scratch:
        text = _markdown(_measure_all(scratch, options.seconds), options.seconds)
    if options.out:
        write_section(options.out, "bench-audit", text)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
