"""Sections of a Markdown page that a benchmark writes, each between two comments with its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["write_section"]


def write_section(page: Path, name: str, text: str) -> None:
    """Put ``text`` into the section ``name`` of ``page``, or at its end where there is none of that name."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
    old = page.read_text()
    before, found, rest = old.partition(begin)
    after = rest.partition(end)[2] if found else ""
    start = before if found else f"{before.rstrip()}\n\n"
    page.write_text(f"{start}{begin}{text}{end}{after}")
