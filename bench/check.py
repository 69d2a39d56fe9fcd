"""Fail if a ratio to a peer has fallen below its target, by the figures that ``make bench`` left in target/.

Times are not checked: they belong to the machine. Instructions are (bench/instructions.py --check).
"""

from __future__ import annotations

import sys

from targets import KNOWN_MISSES, cold, python_turns, shortfalls


def main() -> None:
    if found := shortfalls(python_turns(), cold()):
        sys.exit("\n".join(["Below target:", *found]))
    print("Every ratio is at or above its target but the known misses, which are at or above their floor:")
    print("\n".join(f"{miss.row}: {miss.peer}" for miss in KNOWN_MISSES) or "none")


if __name__ == "__main__":
    main()
