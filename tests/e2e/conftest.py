from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from support.kinds import all_upstreams

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.kinds import Upstream


@pytest.fixture(scope="session")
def upstreams(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Upstream]]:
    """Every kind of upstream, running; each asked directly or through a gateway."""
    with all_upstreams(tmp_path_factory.mktemp("upstreams")) as found:
        yield found
