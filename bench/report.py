"""Write docs/benchmarks.md from the figures that ``make bench`` left in target/."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
import subprocess
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from instructions import COUNTED, RECORDED
from measure import OURS
from targets import CLAIMS, KNOWN_MISSES, MOST_OF_BARE, ROOT, cold, growth, python_turns, ratio, rust_medians

if TYPE_CHECKING:
    from collections.abc import Iterable

    from targets import Turns

TARGET = ROOT / "docs" / "benchmarks.md"
PEERS = ("PyJWT", "joserfc", "cryptography", "limits", "purgatory", "pybreaker", "prometheus-client")

INTRODUCTION = """\
# Benchmarks of the policy core

Made by `make bench`; do not edit. A time belongs to the machine and the moment; the claim is the *ratio* to a named
peer, measured in the same run. `make bench-check` fails when a ratio falls below what is asked of it, or when a
decision takes over 10 % more instructions than recorded.
"""

THROUGH_PYTHON = """\
## Against the targets, through Python

Medians of pytest-benchmark (`bench/test_*.py`). The code stands in the loop of `timeit`, garbage collection off, ours
and every peer's alike, and the time of a round is divided by its calls; so nothing counts but what a caller pays, and
some 2 ns for the loop. Our decisions read the clock themselves, as they do in service. A ratio says how many
times longer the peer takes. All benchmarks run in turns (`bench/conftest.py`); a time and a ratio are the medians of
the turns', so that a machine which grows slower between two turns moves no ratio.

A circuit is compared by key with a factory that is asked by key, and at hand with an object that is at hand.
"""

MISSED_HEAD = """\
Known misses: targets that are not reached, and the ratio below which `make bench-check` fails all the same
(`KNOWN_MISSES` in `bench/targets.py`). Every other ratio has to reach its target.
"""

BARE_TEXT = f"""\
## A token that was never seen, beside its bare signature check

In Rust (`benches/cold.rs`): the whole verification (base64, two strict JSON parses, choice of the key, claim rules,
audience and time) and `ParsedPublicKey::verify_sig` of aws-lc-rs over the same bytes with the same, already
parsed key, measured in turn. At most {MOST_OF_BARE:g} times is the target.
"""

ENVELOPE_TEXT = """\
## Reading the envelope of a message, beside serde_json

In Rust (criterion): the scan, and a parse of the same bytes into a tree of `serde_json::Value`.
"""

GROWTH_TEXT = """\
## How cost grows

In Rust, keys visited in an order that no cache can foresee: the time in which one thread gets a decision, and millions
of decisions a second by all threads together, from the first start to the last end. With one key all threads want one
lock, or for a circuit at hand, which has none, one word; with more keys than the
processor's caches hold, the time is that of reading main memory: a lookup of a bucket reads two or three lines
that are not cached; a recalled token some 17 (cache simulation of callgrind, once, with 4000
tokens), most of them the two copies of the token, which are compared byte for byte.
More threads than processors only wait for each other, so that more of them decide no more.
"""

INSTRUCTIONS_TEXT = """\
## Instructions

Counted by callgrind (`bench/instructions.py`), which no other load on the machine can change.
"""


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def time(ns: float) -> str:
    if ns >= 1_000_000:
        return f"{ns / 1_000_000:.2f} ms"
    return f"{ns:.0f} ns" if ns < 1000 else f"{ns / 1000:.2f} µs" if ns < 100_000 else f"{ns / 1000:.0f} µs"


def verdict(*, met: bool) -> str:
    return "met" if met else "**missed**"


def claims(turns: Turns) -> str:
    rows = []
    for claim in CLAIMS:
        ours = median(turns[claim.row][claim.subject])
        if claim.most_ns is not None:
            subject = "" if claim.subject == OURS else f" ({claim.subject})"
            met = verdict(met=ours <= claim.most_ns)
            rows.append([claim.target, claim.row + subject, time(ours), "", "", "", time(claim.most_ns), met])
        for peer, wanted in claim.peers.items():
            times = ratio(turns, claim, peer)
            at_least = "faster" if wanted == 1 else f"{wanted:g}x"
            met = verdict(met=times >= wanted)
            peers = time(median(turns[claim.row][peer]))
            rows.append([claim.target, claim.row, time(ours), peer, peers, f"{times:.1f}x", at_least, met])
    return table(["target", "benchmark", "ours", "peer", "peer's", "ratio", "wanted", "verdict"], rows)


def everything(turns: Turns) -> str:
    rows = [[row, subject, time(median(ns))] for row, subjects in turns.items() for subject, ns in subjects.items()]
    return table(["benchmark", "subject", "median"], sorted(rows))


def missed() -> str:
    rows = [[miss.row, miss.peer, f"{miss.floor:g}x", miss.reason] for miss in KNOWN_MISSES]
    return "\n".join([MISSED_HEAD, table(["benchmark", "peer", "floor", "reason"], rows)])


def bare() -> str:
    rows = []
    for line in cold():
        met = verdict(met=line["ratio"] <= MOST_OF_BARE)
        times = [time(line["verify_ns"]), time(line["bare_ns"])]
        rows.append([line["alg"], *times, f"{line['ratio']:.2f}x", str(line["rounds"]), met])
    return table(["algorithm", "verification", "signature alone", "ratio", "rounds", "verdict"], rows)


def envelopes(rust: dict[str, float]) -> str:
    rows = []
    for name, parse_ns in rust.items():
        group, _, subject = name.partition("/")
        if group.startswith("envelope_") and subject == "serde_json":
            scan_ns = rust[f"{group}/scan"]
            message = group.removeprefix("envelope_").replace("_", " ")
            rows.append([message, time(scan_ns), time(parse_ns), f"{parse_ns / scan_ns:.1f}x"])
    return table(["message", "scan", "serde_json", "ratio"], rows)


def in_rust(rust: dict[str, float]) -> str:
    return table(["benchmark", "median"], ([name, time(ns)] for name, ns in rust.items()))


def grown() -> str:
    cells = {(cell["what"], cell["keys"], cell["threads"]): cell["ns"] for cell in growth()}
    threads = sorted({count for _, _, count in cells})
    rows = []
    for what, keys in dict.fromkeys((what, keys) for what, keys, _ in cells):
        row = [what, f"{keys:,}"]
        found = ((count, cells.get((what, keys, count))) for count in threads)
        row += [f"{time(ns)} ({count * 1000 / ns:.1f} M/s)" if ns else "not measured" for count, ns in found]
        rows.append(row)
    rows.sort(key=lambda row: row[0])
    return table(["decision", "keys", *(f"{count} thread{'s' * (count > 1)}" for count in threads)], rows)


def instructions() -> str:
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    counted = json.loads(COUNTED.read_text(encoding="utf-8"))
    return table(
        ["decision", "recorded", "this run"],
        ([f"`{case}`", f"{recorded[case]:,}", f"{counted[case]:,}"] for case in recorded),
    )


def machine() -> str:
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    rustc = subprocess.run(["rustc", "--version"], check=True, capture_output=True, text=True).stdout.split()[1]
    facts = {
        "processor": f"{cpu[1] if cpu else platform.machine()}, {len(os.sched_getaffinity(0))} usable",
        "system": f"{platform.system()} {platform.release().partition('-')[0]}",
        "Python": f"{platform.python_version()}; Rust {rustc}",
        "peers": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PEERS),
    }
    return table(["", ""], facts.items())


def main() -> None:
    python, rust = python_turns(), rust_medians()
    parts = [
        INTRODUCTION,
        machine(),
        THROUGH_PYTHON,
        claims(python),
        *([missed()] if KNOWN_MISSES else []),
        BARE_TEXT,
        bare(),
        ENVELOPE_TEXT,
        envelopes(rust),
        GROWTH_TEXT,
        grown(),
        INSTRUCTIONS_TEXT,
        instructions(),
        "## Every benchmark through Python\n",
        everything(python),
        "## Every benchmark in Rust\n",
        in_rust(rust),
    ]
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
