"""Rate limits as a slow and obvious model: how much time a bucket owes, in exact fractions."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, floor
from typing import Any

Json = dict[str, Any]
US = 1000


@dataclass(frozen=True)
class Plan:
    """``count`` tokens in each ``period_ns``, at most ``burst`` at once."""

    count: int
    period_ns: int
    burst: int

    @property
    def interval(self) -> Fraction:
        """The time of one token; whole microseconds, so that Redis can count them."""
        return Fraction(ceil(Fraction(self.period_ns, self.count) / US) * US)


@dataclass(frozen=True)
class Ask:
    key: str
    plan: Plan
    cost: int = 1


@dataclass
class Bucket:
    owed: Fraction = Fraction(0)
    at: int = 0

    def advance(self, now: int) -> None:
        """Time never goes back for a bucket that owes; one that does not is like a new one."""
        self.owed = max(Fraction(0), self.owed - max(0, now - self.at))
        self.at = max(self.at, now) if self.owed else now


@dataclass
class Model:
    buckets: dict[str, Bucket] = field(default_factory=dict)

    def acquire_many(self, asks: list[Ask], now: int) -> Json:
        """Decide as the core must; a refused request takes nothing."""
        for ask in asks:
            self.buckets.setdefault(ask.key, Bucket()).advance(now)
        owed = {ask.key: self.buckets[ask.key].owed for ask in asks}
        each = [self._decide(ask, owed) for ask in asks]
        outcomes = {decision["outcome"] for decision in each}
        outcome = next(
            (name for name in ("never_fits", "refused") if name in outcomes),
            "allowed",
        )
        for ask, decision in zip(asks, each, strict=True):
            if outcome == "allowed":
                self.buckets[ask.key].owed = owed[ask.key]
            else:
                decision.update(self._left(ask.plan, self.buckets[ask.key].owed))
        wait = max((decision["retry_after_ns"] for decision in each), default=0) if outcome == "refused" else 0
        return {"outcome": outcome, "retry_after_ns": wait, "each": each}

    def _decide(self, ask: Ask, owed: dict[str, Fraction]) -> Json:
        plan, before = ask.plan, owed[ask.key]
        if ask.cost > plan.burst:
            return {"outcome": "never_fits", "retry_after_ns": 0, **self._left(plan, before)}
        after = before + ask.cost * plan.interval
        wait = after - plan.burst * plan.interval
        if wait > 0:
            return {"outcome": "refused", "retry_after_ns": int(wait), **self._left(plan, before)}
        owed[ask.key] = after
        return {"outcome": "allowed", "retry_after_ns": 0, **self._left(plan, after)}

    @staticmethod
    def _left(plan: Plan, owed: Fraction) -> Json:
        return {"remaining": max(0, floor(plan.burst - owed / plan.interval)), "reset_ns": int(owed)}
