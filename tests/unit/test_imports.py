from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import sys
import agentapi.app, agentapi.dev, agentapi.cli
loaded = [name for name in sys.modules if name.partition(".")[0] in {"rich", "pygments"}]
import rich.console
print(loaded)
"""


def test_the_gateway_holds_nothing_that_only_draws_and_leaves_it_to_others() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
