from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.directories import open_directory
from support.kinds import all_upstreams

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.kinds import Upstream


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """The fixture of pytest, made of a directory that the gateway's database may be in."""
    with open_directory() as directory:
        yield directory


@pytest.fixture(scope="module")
def module_directory() -> Iterator[Path]:
    """A directory for the whole module that the gateway's database may be in."""
    with open_directory() as directory:
        yield directory


@pytest.fixture(scope="session")
def upstreams(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Upstream]]:
    """Every kind of upstream, running; each asked directly or through a gateway."""
    with all_upstreams(tmp_path_factory.mktemp("upstreams")) as found:
        yield found
