"""What ``make bench-check`` fails at: not at a turn that went wrong, but at what every turn says."""

from __future__ import annotations

from measure import OURS
from targets import CLAIMS, KNOWN_MISSES, Turns, known_miss, shortfalls

COLD = [{"alg": alg, "ratio": 1.1} for alg in ("RS256", "ES256", "EdDSA")]


def measured(slowdowns: list[float]) -> Turns:
    """Every ratio 5 % better than it has to be, but for ours slowed down in each turn."""
    turns: Turns = {}
    for claim in CLAIMS:
        of_row = turns.setdefault(claim.row, {})
        of_row[claim.subject] = [100 * slowdown for slowdown in slowdowns]
        for peer, wanted in claim.peers.items():
            miss = known_miss(claim.row, peer)
            of_row[peer] = [105 * (miss.floor if miss else wanted)] * len(slowdowns)
    return turns


def test_turns_that_went_wrong_fail_no_check() -> None:
    assert shortfalls(measured([1, 9, 1, 1, 0.1]), COLD) == []


def test_a_lasting_regression_of_a_tenth_fails_every_claim() -> None:
    found = shortfalls(measured([1.1, 1.1, 1.1, 1, 1]), COLD)
    assert len(found) == sum(len(claim.peers) for claim in CLAIMS)


def test_a_drift_of_ours_and_the_peers_moves_no_ratio() -> None:
    turns = measured([1] * 5)
    for of_row in turns.values():
        for subject, times in of_row.items():
            of_row[subject] = [time * (turn + 1) for turn, time in enumerate(times)]
    assert shortfalls(turns, COLD) == []


def test_a_miss_that_is_none_any_more_fails() -> None:
    turns = measured([1] * 5)
    for miss in KNOWN_MISSES:
        turns[miss.row][miss.peer] = [time * 100 for time in turns[miss.row][OURS]]
    assert len(shortfalls(turns, COLD)) == len(KNOWN_MISSES)
