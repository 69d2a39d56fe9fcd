"""Write token_bucket.json: decisions of the model in tests/core/gcra.py, to be replayed by whatever limits rates.

Run as ``python tests/vectors/make_token_bucket.py``. A case is a list of steps on buckets that begin full; a step
asks for all its requests at once, at ``now_ns``. Every time is a whole number of microseconds below 2**53 ns, so
that a Lua script can replay them in microseconds. Any constant may be added to all times of a case.
"""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from core.gcra import US, Ask, Model, Plan

TARGET = Path(__file__).with_name("token_bucket.json")
MS, SECOND, MINUTE = 1000 * US, 10**9, 60 * 10**9
DEFAULT = Plan(60, MINUTE, 10)
PAID = Plan(600, MINUTE, 100)
UNEVEN = Plan(7, SECOND, 3)
ONCE = Plan(1, MINUTE, 1)

Steps = list[tuple[int, list[Ask]]]


def written_by_hand() -> dict[str, Steps]:
    def one(now: int, plan: Plan = DEFAULT, cost: int = 1, key: str = "user:1") -> tuple[int, list[Ask]]:
        return now, [Ask(key, plan, cost)]

    both = [Ask("user:1", DEFAULT), Ask("tool:1", ONCE)]
    return {
        "a burst, a refusal, and a token each second": [
            *[one(SECOND)] * 11,
            one(2 * SECOND - US),
            one(2 * SECOND),
            one(2 * SECOND),
            one(4 * SECOND + 500 * MS),
            one(60 * SECOND, cost=10),
        ],
        "a cost above the burst never fits and takes nothing": [one(0, cost=11), one(0, cost=10), one(0, cost=11)],
        "a cost of zero only looks": [one(0, cost=0), one(0, cost=3), one(0, cost=0), one(0, cost=8)],
        "a clock that steps back gives nothing and takes nothing": [
            one(100 * SECOND, cost=8),
            one(90 * SECOND),
            one(50 * SECOND),
            one(0),
            one(100 * SECOND),
            one(101 * SECOND),
        ],
        "a refusal moves the time of the bucket": [
            one(100 * SECOND, cost=10),
            one(105 * SECOND, cost=6),
            one(101 * SECOND, cost=5),
        ],
        "a larger plan at run time keeps what was taken": [
            one(0, cost=10),
            one(0, PAID, cost=90),
            one(0, PAID, cost=1),
            one(SECOND, PAID, cost=10),
        ],
        "a smaller plan at run time keeps what was taken": [
            one(0, PAID, cost=100),
            one(0),
            one(SECOND),
            one(10 * SECOND, cost=10),
            one(11 * SECOND, ONCE),
            one(100 * SECOND, ONCE),
        ],
        "an interval is rounded up to a microsecond": [
            *[one(0, UNEVEN)] * 4,
            one(142_857 * US, UNEVEN),
            one(142_858 * US, UNEVEN),
        ],
        "all or nothing": [
            (0, both),
            (0, both),
            one(0, cost=9),
            (60 * SECOND, [*both, Ask("address:1", UNEVEN, 4)]),
            (60 * SECOND, both),
        ],
        "one key twice is served in order": [
            (0, [Ask("user:1", DEFAULT, 6), Ask("user:1", DEFAULT, 5)]),
            (0, [Ask("user:1", DEFAULT, 6), Ask("user:1", DEFAULT, 4)]),
        ],
        "no limits": [(0, [])],
    }


def drawn(seed: int) -> Steps:
    random_ = random.Random(seed)  # noqa: S311
    plans = [DEFAULT, PAID, UNEVEN, ONCE, Plan(1000, SECOND, 50), Plan(3, 10 * MS, 1)]
    steps: Steps = []
    now = random_.randrange(10**6) * US
    for _ in range(50):
        now = max(0, now + random_.choice([0, 0, 1, 100, 10**4, 10**6, 10**7, 10**8, -(10**5)]) * US)
        keys = random_.choices(["a", "b", "c"], k=random_.choice([1, 1, 1, 2, 3]))
        steps.append((now, [Ask(key, random_.choice(plans), random_.choice([1, 1, 1, 0, 2, 5, 20])) for key in keys]))
    return steps


def replay(steps: Steps) -> list[dict[str, Any]]:
    model = Model()
    return [
        {
            "now_ns": now,
            "requests": [
                {
                    "key": ask.key,
                    "count": ask.plan.count,
                    "period_ns": ask.plan.period_ns,
                    "burst": ask.plan.burst,
                    "cost": ask.cost,
                }
                for ask in asks
            ],
            **model.acquire_many(asks, now),
        }
        for now, asks in steps
    ]


def document() -> str:
    cases = {**written_by_hand(), **{f"drawn with seed {seed}": drawn(seed) for seed in range(8)}}
    parts = [{"name": name, "steps": replay(steps)} for name, steps in cases.items()]
    about = "Decisions about rate limits; see make_token_bucket.py, which wrote this file."
    lines = ",\n".join(json.dumps(part, separators=(",", ":")) for part in parts)
    return f'{{"about":{json.dumps(about)},"cases":[\n{lines}\n]}}\n'


if __name__ == "__main__":
    TARGET.write_text(document(), encoding="utf-8")
