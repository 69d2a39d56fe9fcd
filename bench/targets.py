"""What the core must reach (part B of the targets), and where the figures are found."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from measure import OURS

ROOT = Path(__file__).parent.parent
PYTHON = ROOT / "target" / "bench" / "python.json"
GROWTH = ROOT / "target" / "bench" / "growth.jsonl"
COLD_LINES = ROOT / "target" / "bench" / "cold.jsonl"
CRITERION = ROOT / "target" / "criterion"


@dataclass(frozen=True, slots=True)
class Claim:
    """One row of the benchmarks, what it may take, and how many times faster than each peer it must be."""

    target: str
    row: str
    most_ns: float | None
    peers: dict[str, float] = field(default_factory=dict)
    subject: str = OURS


@dataclass(frozen=True, slots=True)
class KnownMiss:
    """A ratio that falls short of its target, what it must not fall below even so, and why it does."""

    row: str
    peer: str
    floor: float
    reason: str


WARM, COLD = "JWT already verified (warm)", "JWT first seen (cold)"
LIMIT, BREAKER, SEAL = "rate-limit decision, local", "breaker allow + record", "seal / open 1 KiB"
BY_KEY, AT_HAND = "Circuit breaker by key, allow and record", "Circuit breaker at hand, allow and record"
FIXED, SLIDING, MOVING = "limits, fixed window", "limits, sliding window", "limits, moving window"

CLAIMS = (
    *(Claim(WARM, f"JWT verified already, {alg}", 200, {"PyJWT": 100}) for alg in ("RS256", "ES256", "EdDSA")),
    *(Claim(COLD, f"JWT first seen, {alg}", None, {"PyJWT": 1, "joserfc": 1}) for alg in ("RS256", "ES256", "EdDSA")),
    Claim("session mint", "Seal 160 bytes (session mint)", 3000, {"cryptography": 1}),
    Claim(LIMIT, "Rate limit, allowed", 200, {SLIDING: 20, FIXED: 20}),
    Claim(LIMIT, "Rate limit, refused", 200, {MOVING: 20}),
    Claim(BREAKER, BY_KEY, 250, {"purgatory": 10}),
    Claim(BREAKER, AT_HAND, 250, {"pybreaker": 10, "purgatory": 10}),
    Claim(BREAKER, "Circuit breaker at hand, refused", 250, {"pybreaker": 10}),
    Claim(SEAL, "Seal 1 KiB", 1500, {"cryptography": 1}),
    Claim(SEAL, "Open 1 KiB", 1500, {"cryptography": 1}),
    Claim(
        "one metric update",
        "One metric update",
        1000,
        subject="prometheus-client, counter at hand",
    ),
)

# The one list of targets that are not reached. Their verdict stays "missed"; nothing else may fall short.
KNOWN_MISSES: tuple[KnownMiss, ...] = (
    KnownMiss(
        AT_HAND,
        "purgatory",
        6,
        "Two calls of a method without arguments of an extension class and nothing else take some 25 ns in the loop, "
        "which leaves 3 ns for reading the clock, one atomic step and asking whether there is a ticket. What purgatory "
        "does here is a `with` block over one object of one thread: no lock, no clock, no window of failures and no "
        "limit of probes.",
    ),
)


def known_miss(row: str, peer: str) -> KnownMiss | None:
    return next((miss for miss in KNOWN_MISSES if (miss.row, miss.peer) == (row, peer)), None)


# A cold verification, beside the bare signature check of the library that it uses, both in Rust and in turn.
MOST_OF_BARE = 1.2


# Nanoseconds of one call, by row and subject, for each turn the median of its rounds.
Turns = dict[str, dict[str, list[float]]]


def python_turns() -> Turns:
    turns: Turns = {}
    for benchmark in json.loads(PYTHON.read_text(encoding="utf-8"))["benchmarks"]:
        info = benchmark["extra_info"]
        of_subject = turns.setdefault(benchmark["group"], {}).setdefault(info["subject"], [])
        of_subject.append(benchmark["stats"]["median"] * 1e9 / info["calls"])
    return turns


def ratio(turns: Turns, claim: Claim, peer: str) -> float:
    """How many times longer the peer takes: the median of what each turn says, which no drift between turns moves."""
    of_row = turns[claim.row]
    return median(theirs / ours for theirs, ours in zip(of_row[peer], of_row[claim.subject], strict=True))


def rust_medians() -> dict[str, float]:
    """Nanoseconds by ``group/benchmark``."""
    found = sorted(CRITERION.glob("*/*/new/estimates.json"))
    return {
        "/".join(path.parts[-4:-2]): json.loads(path.read_text(encoding="utf-8"))["median"]["point_estimate"]
        for path in found
    }


def growth() -> list[dict[str, Any]]:
    return [json.loads(line) for line in GROWTH.read_text(encoding="utf-8").splitlines()]


def cold() -> list[dict[str, Any]]:
    """One verification of a token never seen for each algorithm: ``verify_ns``, ``bare_ns``, ``ratio``, ``rounds``."""
    return [json.loads(line) for line in COLD_LINES.read_text(encoding="utf-8").splitlines()]


def shortfalls(python: Turns, cold: list[dict[str, Any]]) -> list[str]:
    """The ratios that are worse than their target, or than the floor of a known miss."""
    found = []
    for claim in CLAIMS:
        for peer, wanted in claim.peers.items():
            found_ratio = ratio(python, claim, peer)
            miss = known_miss(claim.row, peer)
            least = miss.floor if miss else wanted
            if found_ratio < least:
                found.append(f"{claim.row}: {found_ratio:.2f}x {peer}, at least {least:g}x is wanted")
            if miss and found_ratio >= wanted:
                found.append(f"{claim.row}: {found_ratio:.2f}x {peer} is no miss any more, take it off KNOWN_MISSES")
    found += [
        f"JWT first seen, {line['alg']}: {line['ratio']:.2f}x the bare signature check, at most {MOST_OF_BARE:g}x"
        for line in cold
        if line["ratio"] > MOST_OF_BARE
    ]
    missing = {"RS256", "ES256", "EdDSA"} - {line["alg"] for line in cold}
    return [
        *found,
        *(f"JWT first seen, {alg}: not measured beside the bare signature check" for alg in sorted(missing)),
    ]
