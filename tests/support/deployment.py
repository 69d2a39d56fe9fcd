"""``agentapi serve`` as a process, and the command line that a deployment is set up with."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx2

from agentapi._core import Keyring
from support.gateway import dev_environment
from support.plain import PLAIN
from support.processes import end_group, free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from agentapi.storage.embedded import EmbeddedPostgres

__all__ = ["agentapi", "deployment_environment", "serving"]


def agentapi(*arguments: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command with the variables of a deployment."""
    return subprocess.run(
        [sys.executable, "-m", "agentapi", *arguments],
        env=dev_environment(env),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def deployment_environment(postgres: EmbeddedPostgres, directory: Path, issuers: str) -> dict[str, str]:
    """Return the variables of a deployment with a new keyring; ``issuers`` is JSON."""
    keyring = directory / "keyring.json"
    keyring.write_text(Keyring.generate("k1"))
    return {
        "AGENTAPI_DATABASE_URL": postgres.app_dsn,
        "AGENTAPI_MIGRATION_DATABASE_URL": postgres.owner_dsn,
        "AGENTAPI_KEYRING_FILE": str(keyring),
        "AGENTAPI_STATE_DIR": str(directory / "state"),
        "AGENTAPI_ISSUERS": issuers,
        # Tests ask more often than people do.
        "AGENTAPI_RATE_LIMIT_PER_MINUTE": "0",
    }


@contextmanager
def serving(
    env: Mapping[str, str], log: Path, *arguments: str, port: int = 0
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Serve on ``port``, or a free one, until the end of the context; yield the address once it is ready."""
    port = port or free_port()
    url = f"http://127.0.0.1:{port}"
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [sys.executable, "-m", "agentapi", "serve", "--port", str(port), *arguments],
            env=dev_environment({**env, "AGENTAPI_PUBLIC_URL": url}),
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )

    def ready() -> bool | None:
        assert process.poll() is None, log.read_text()
        try:
            return httpx2.get(f"{url}/ready", **PLAIN).status_code == 200 or None
        except httpx2.TransportError:
            return None

    try:
        wait_until(ready, within_s=30, what="the server is ready")
        yield url, process
    finally:
        end_group(process)
