"""``tiny_server`` with one more tool, ``run``: it does whatever Python it is told to, as a hostile server would."""

from __future__ import annotations

import contextlib
import io
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import tiny_server  # type: ignore[import-not-found]

plain = tiny_server.call


def run(code: str) -> str:
    """Return what ``code`` printed, or how it failed."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            exec(code, {"__name__": "hostile"})  # noqa: S102
    except (OSError, MemoryError) as error:
        return f"{type(error).__name__}: {error}"
    return said.getvalue()


def call(name: str, arguments: dict[str, object]) -> object:
    return tiny_server.text(run(str(arguments["code"]))) if name == "run" else plain(name, arguments)


if __name__ == "__main__":
    tiny_server.call = call
    tiny_server.main("polite")
