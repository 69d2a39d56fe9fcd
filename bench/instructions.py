"""Count the instructions of one decision with callgrind, which no noise on the machine can change.

    python bench/instructions.py            count, print
    python bench/instructions.py --record   and write them to bench/instructions.json
    python bench/instructions.py --check    and fail if one has grown by more than 10 %

Each case runs twice, and the difference between many calls and few is divided by the number of calls more, so that
neither start-up nor the making of keys counts.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
RECORDED = ROOT / "bench" / "instructions.json"
COUNTED = ROOT / "target" / "bench" / "instructions.json"
CASES = ("warm_verify", "acquire", "refuse", "circuit_by_key", "circuit_at_hand", "seal", "open")
FEW, MANY = 1000, 6000
TOLERANCE_PERCENT = 10


def build() -> str:
    command = ["cargo", "build", "--release", "--locked", "-p", "agentapi-core", "--example", "instructions"]
    command += ["--message-format", "json-render-diagnostics"]
    built = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    messages = [json.loads(line) for line in built.stdout.splitlines()]
    return next(str(message["executable"]) for message in messages if message.get("executable"))


def total(binary: str, case: str, calls: int) -> int:
    with tempfile.NamedTemporaryFile() as out:
        command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={out.name}", binary, case, str(calls)]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    found = re.search(r"Collected : (\d+)", said)
    if found is None:
        sys.exit(f"valgrind did not say what it counted:\n{said}")
    return int(found[1])


def count(binary: str) -> dict[str, int]:
    return {case: (total(binary, case, MANY) - total(binary, case, FEW)) // (MANY - FEW) for case in CASES}


def grown(counted: dict[str, int], recorded: dict[str, int]) -> list[str]:
    return [
        f"{case}: {counted[case]} instructions, {recorded[case]} recorded"
        for case in CASES
        if counted[case] * 100 > recorded[case] * (100 + TOLERANCE_PERCENT)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if shutil.which("valgrind") is None:
        sys.exit("valgrind is not installed; it counts the instructions.")
    counted = count(build())
    text = json.dumps(counted, indent=2) + "\n"
    print(text, end="")
    COUNTED.parent.mkdir(parents=True, exist_ok=True)
    COUNTED.write_text(text, encoding="utf-8")
    if options.record:
        RECORDED.write_text(text, encoding="utf-8")
    if options.check and (complaints := grown(counted, json.loads(RECORDED.read_text(encoding="utf-8")))):
        sys.exit("\n".join(["More than 10 % more than recorded:", *complaints]))


if __name__ == "__main__":
    main()
