"""Temporary directories that a database server may enter."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["open_directory"]


@contextmanager
def open_directory() -> Iterator[Path]:
    """Make a directory, empty and removed at the end, that every user may enter.

    PostgreSQL refuses to run as root. Where the tests are root it runs as another user, who may not enter
    pytest's own temporary directories.
    """
    with tempfile.TemporaryDirectory(prefix="agentapi-e2e-") as name:
        directory = Path(name).resolve()
        directory.chmod(0o755)
        yield directory
