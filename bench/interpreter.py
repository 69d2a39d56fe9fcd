"""Measure calls per second on several Python threads, which shows whether releasing the interpreter pays.

    PYTHONPATH=python:tests python bench/interpreter.py

One line of JSON for each case and number of threads: the median over rounds of the calls per second of all threads
together; and of one thread beside another that is busy in Python, which keeps the interpreter for its whole switch
interval once it gets it. What another variant of the extension gives, the same run with that one says.
"""

from __future__ import annotations

import json
import statistics
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

from agentapi._core import Keyring
from core.tokens import AUDIENCE, NOW, key, public_jwk, token, verifier

if TYPE_CHECKING:
    from collections.abc import Callable

THREADS = (1, 2, 4)
ROUNDS = 7
ROUND_S = 0.25
# So many calls between two looks at the clock that the look does not count.
BATCH_S = 0.002
AAD = b"oauth_tokens/0190f7a2/github/0190f7a3"


def calls_per_second(call: Callable[[], object], threads: int, batch: int) -> float:
    barrier = threading.Barrier(threads)
    rates: list[float] = []

    def work() -> None:
        calls = 0
        barrier.wait()
        start = time.perf_counter()
        while (spent := time.perf_counter() - start) < ROUND_S:
            for _ in range(batch):
                call()
            calls += batch
        rates.append(calls / spent)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return sum(rates)


def beside_a_busy_thread(call: Callable[[], object], batch: int) -> float:
    stop = threading.Event()

    def spin() -> None:
        while not stop.is_set():
            sum(range(1000))

    busy = threading.Thread(target=spin)
    busy.start()
    try:
        return calls_per_second(call, 1, batch)
    finally:
        stop.set()
        busy.join()


def cold(alg: str) -> Callable[[], object]:
    subject, shown = verifier(public_jwk(key(alg)), cache_entries=0), token(alg)
    return partial(subject.verify, shown, AUDIENCE, NOW)


def cases() -> dict[str, Callable[[], object]]:
    keyring = Keyring.parse(Keyring.generate("k1"))
    found = {f"verify {alg}": cold(alg) for alg in ("RS256", "ES256", "EdDSA")}
    for name, size in (("1 KiB", 1 << 10), ("64 KiB", 1 << 16), ("1 MiB", 1 << 20)):
        plaintext = bytes(size)
        sealed = keyring.seal(plaintext, AAD)
        found[f"seal {name}"] = partial(keyring.seal, plaintext, AAD)
        found[f"open {name}"] = partial(keyring.open, sealed, AAD)
    return found


def say(case: str, threads: str, rates: list[float]) -> None:
    print(json.dumps({"case": case, "threads": threads, "per_second": round(statistics.median(rates))}), flush=True)


def main() -> None:
    for name, call in cases().items():
        start = time.perf_counter()
        call()
        batch = max(1, int(BATCH_S / (time.perf_counter() - start)))
        for threads in THREADS:
            rates = [calls_per_second(call, threads, batch) for _ in range(ROUNDS)]
            say(name, str(threads), rates)
        # A batch of one, as each call may have to wait for the interpreter.
        say(name, "1 beside a busy one", [beside_a_busy_thread(call, 1) for _ in range(ROUNDS)])


if __name__ == "__main__":
    main()
