"""Where the time of a strictly audited call goes: CPU of every process, and how much of a core the gateway uses.

    PYTHONPATH=python:tests:bench python bench/strict_profile.py [--seconds 5] [--out FILE]

A gateway that uses less than a core while all its callers wait, waits itself: for the commit of their rows.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import psutil  # type: ignore[import-untyped]

from gateway import relay, started
from load import drive
from page import write_section
from relay_clients import fast_upstream
from support.directories import open_directory

if TYPE_CHECKING:
    from support.gateway import Gateway

CONCURRENCIES = (1, 16, 64)
MODES = ("off", "strict")
KINDS = ("gateway", "PostgreSQL", "upstream")


def cpu_by_kind(gateway: Gateway) -> dict[str, float]:
    """Return the CPU seconds of all processes that take part."""
    used: Counter[str] = Counter()
    children = psutil.Process(gateway.process.pid).children(recursive=True)
    for process in psutil.Process().children(recursive=True):
        try:
            words, times = " ".join(process.cmdline()), process.cpu_times()
        except psutil.Error:
            continue
        if process.pid == gateway.process.pid:
            kind = "gateway"
        elif process in children:
            kind = "PostgreSQL" if "postgres" in words else "other"
        elif "fast_upstream" in words:
            kind = "upstream"
        else:
            kind = "other"
        used[kind] += times.user + times.system
    return dict(used)


def _rows(root: Path, seconds: float) -> list[str]:
    lines = []
    with ExitStack() as stack:
        servers = {"fast": {"type": "http", "url": stack.enter_context(fast_upstream())}}
        (root / "mcp.json").write_text(json.dumps({"mcpServers": servers}))
        gateways = {mode: started(stack, root, mode) for mode in MODES}
        jobs = {mode: relay(gateway, 1.0) for mode, gateway in gateways.items()}
        for concurrency in CONCURRENCIES:
            for mode, gateway in gateways.items():
                drive(jobs[mode], concurrency, seconds=1.0)
                before = cpu_by_kind(gateway)
                load = drive(jobs[mode], concurrency, seconds=seconds)
                after = cpu_by_kind(gateway)
                used = {kind: (after.get(kind, 0.0) - before.get(kind, 0.0)) / load.calls for kind in KINDS}
                cells = [f"{used[kind] * 1000:.3f} ms" for kind in KINDS]
                busy = used["gateway"] * load.per_second
                row = [
                    mode,
                    str(concurrency),
                    f"{load.per_second:,.0f}",
                    f"{load.p50_ms:.2f} ms",
                    *cells,
                    f"{busy:.0%}",
                ]
                lines.append(f"| {' | '.join(row)} |")
    return lines


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--out", type=Path, help="Markdown file whose section is replaced; standard output without it")
    options = parser.parse_args()
    with open_directory() as scratch:
        rows = _rows(scratch, options.seconds)
    heads = ["audit", "c", "calls/s", "p50", *(f"CPU of {kind}" for kind in KINDS), "the gateway runs"]
    text = "\n".join(
        [
            "### What stands in the way of a strict call",
            "",
            f"`make bench-strict`, {options.seconds:g} s a figure. CPU is for each call; the last column tells how",
            "much of the time the gateway's one thread has something to do.",
            "",
            f"| {' | '.join(heads)} |",
            f"|{'---|' * len(heads)}",
            *rows,
            "",
        ]
    )
    if options.out:
        write_section(options.out, "bench-strict", text)
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
