"""Several processes under pressure are given together what one bucket has; `make bench-limits` does it for a minute."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from support.pressure import press

if TYPE_CHECKING:
    from support.valkey import Valkey

COUNT, BURST = 1800, 10
SECONDS = 3.0


def test_four_processes_are_given_what_one_bucket_has(mortal: Valkey) -> None:
    # The time-out is not what is tested here, and the machine may be busy.
    pressed = press(mortal.url, count=COUNT, burst=BURST, seconds=SECONDS, timeout_ms=10_000)
    assert pressed.theory == 100
    assert abs(pressed.admitted - pressed.theory) <= 1, pressed
    assert (pressed.asked > 5 * pressed.theory, pressed.unanswered) == (True, 0), pressed


def test_while_redis_is_away_each_process_has_its_own_and_no_more(mortal: Valkey) -> None:
    def away() -> None:
        # The processes count by real time, so that is what has to pass.
        time.sleep(SECONDS / 3)
        mortal.kill()
        time.sleep(SECONDS / 6)
        mortal.start()

    pressed = press(mortal.url, count=COUNT, burst=BURST, seconds=SECONDS, timeout_ms=500, meanwhile=away)
    assert pressed.away_s > SECONDS / 6
    assert pressed.theory - 1 <= pressed.admitted <= pressed.theory + pressed.extra, pressed
