"""What the core must reach (part B of the targets), and where the figures are found."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measure import OURS

ROOT = Path(__file__).parent.parent
PYTHON = ROOT / "target" / "bench" / "python.json"
GROWTH = ROOT / "target" / "bench" / "growth.jsonl"
CRITERION = ROOT / "target" / "criterion"


@dataclass(frozen=True, slots=True)
class Claim:
    """One row of the benchmarks, what it may take, and how many times faster than each peer it must be."""

    target: str
    row: str
    most_ns: float | None
    peers: dict[str, float] = field(default_factory=dict)
    # What bench/check.py accepts of ratios that fall short; docs/benchmarks.md says why they do.
    accepted: dict[str, float] = field(default_factory=dict)
    subject: str = OURS

    def least(self, peer: str) -> float:
        return self.accepted.get(peer, self.peers[peer])


WARM, COLD = "JWT already verified (warm)", "JWT first seen (cold)"
LIMIT, BREAKER, SEAL = "rate-limit decision, local", "breaker allow + record", "seal / open 1 KiB"
PURGATORY, AT_HAND, PYBREAKER = "purgatory", "purgatory, breaker at hand", "pybreaker"
FIXED, SLIDING, MOVING = "limits, fixed window", "limits, sliding window", "limits, moving window"

CLAIMS = (
    *(Claim(WARM, f"JWT verified already, {alg}", 200, {"PyJWT": 100}) for alg in ("RS256", "ES256", "EdDSA")),
    *(Claim(COLD, f"JWT first seen, {alg}", None, {"PyJWT": 1, "joserfc": 1}) for alg in ("RS256", "ES256", "EdDSA")),
    Claim("session mint", "Seal 160 bytes (session mint)", 3000, {"cryptography": 1}),
    Claim(LIMIT, "Rate limit, allowed", 200, {SLIDING: 20, FIXED: 20}, {FIXED: 12}),
    Claim(LIMIT, "Rate limit, refused", 200, {MOVING: 20}, {MOVING: 10}),
    Claim(
        BREAKER,
        "Circuit breaker, allow and record",
        250,
        {PURGATORY: 10, AT_HAND: 10, PYBREAKER: 10},
        {PURGATORY: 2, AT_HAND: 1, PYBREAKER: 2.5},
    ),
    Claim(BREAKER, "Circuit breaker, refused", 250, {PYBREAKER: 10}),
    Claim(SEAL, "Seal 1 KiB", 1500, {"cryptography": 1}),
    Claim(SEAL, "Open 1 KiB", 1500, {"cryptography": 1}),
    Claim(
        "one metric update",
        "One metric update",
        1000,
        subject="prometheus-client, counter at hand",
    ),
)

# A cold verification, beside the bare signature check of the library that it uses, both in Rust.
MOST_OF_BARE = 1.2
BARE = {"RS256": "jwt_rs256", "ES256": "jwt_es256", "EdDSA": "jwt_eddsa"}


def python_medians() -> dict[str, dict[str, float]]:
    """Nanoseconds by row and subject."""
    medians: dict[str, dict[str, float]] = {}
    for benchmark in json.loads(PYTHON.read_text(encoding="utf-8"))["benchmarks"]:
        by_subject = medians.setdefault(benchmark["group"], {})
        by_subject[benchmark["extra_info"]["subject"]] = benchmark["stats"]["median"] * 1e9
    return medians


def rust_medians() -> dict[str, float]:
    """Nanoseconds by ``group/benchmark``."""
    found = sorted(CRITERION.glob("*/*/new/estimates.json"))
    return {
        "/".join(path.parts[-4:-2]): json.loads(path.read_text(encoding="utf-8"))["median"]["point_estimate"]
        for path in found
    }


def growth() -> list[dict[str, Any]]:
    return [json.loads(line) for line in GROWTH.read_text(encoding="utf-8").splitlines()]


def shortfalls(python: dict[str, dict[str, float]], rust: dict[str, float]) -> list[str]:
    """The ratios that are worse than what is accepted."""
    found = []
    for claim in CLAIMS:
        medians = python[claim.row]
        for peer in claim.peers:
            ratio = medians[peer] / medians[claim.subject]
            if ratio < claim.least(peer):
                found.append(f"{claim.row}: {ratio:.2f}x {peer}, at least {claim.least(peer):g}x is wanted")
    for alg, group in BARE.items():
        ratio = rust[f"{group}/cold"] / rust[f"{group}/bare_signature"]
        if ratio < 1:
            found.append(f"JWT first seen, {alg}: {ratio:.2f}x the bare signature check is not credible, measure again")
        if ratio > MOST_OF_BARE:
            found.append(f"JWT first seen, {alg}: {ratio:.2f}x the bare signature check, at most {MOST_OF_BARE:g}x")
    return found
