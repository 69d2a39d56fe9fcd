"""The pages about API keys and sessions, run as their readers would."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from support.gateway import dev_environment
from support.node import REPOSITORY
from support.processes import free_port
from support.readme import commands, parse, run


@pytest.mark.timeout(120)
@pytest.mark.parametrize("page", ["api-keys.md", "sessions.md"])
def test_every_command_of_the_how_to_runs(tmp_path: Path, page: str) -> None:
    document = (REPOSITORY / "docs" / "how-to" / page).read_text(encoding="utf-8")
    blocks = parse(document.replace(":8000", f":{(port := free_port())}").replace("--port 8000", f"--port {port}"))
    assert commands(blocks)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    env = {**dev_environment(), "PATH": path, "AGENTAPI_PUBLIC_URL": f"http://127.0.0.1:{port}"}
    printed = run(blocks, tmp_path, env, within_s=100)
    assert '"clock__current_time"' in printed
    assert re.search(r"agentapi_[0-9A-Za-z]{43}_", printed) is None
