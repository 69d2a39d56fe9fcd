"""Fail if a ratio to a peer has fallen below its target, by the figures that ``make bench`` left in target/.

Times are not checked: they belong to the machine. Instructions are (bench/instructions.py --check).
"""

from __future__ import annotations

import sys

from targets import python_medians, rust_medians, shortfalls


def main() -> None:
    if found := shortfalls(python_medians(), rust_medians()):
        sys.exit("\n".join(["Below target:", *found]))
    print("Every ratio is at or above what is asked of it.")


if __name__ == "__main__":
    main()
