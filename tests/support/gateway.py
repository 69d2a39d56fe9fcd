"""``agentapi dev`` as a process."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import httpx2

from support.clients import mcp_client
from support.plain import PLAIN
from support.processes import end_group, in_session, naming

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from mcp import Client

    from support.clients import Mode

__all__ = ["Gateway", "dev_command", "dev_environment", "run_dev"]

_READY_S = 60.0
_STOP_S = 15.0
_ANNOUNCED = ("base_url", "mcp_url", "token", "organization", "workspace", "data_dir")


def dev_command(args: Sequence[str]) -> list[str]:
    """Return the command line of ``agentapi dev`` with ``args``."""
    return [sys.executable, "-m", "agentapi", "dev", *args]


def dev_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this environment with no ``AGENTAPI_*`` variable but those of ``extra``."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("AGENTAPI_")}
    return {**inherited, **(extra or {})}


def run_dev(
    args: Sequence[str], *, cwd: Path, env: Mapping[str, str] | None = None, within_s: float = 30.0
) -> subprocess.CompletedProcess[str]:
    """Run ``agentapi dev`` where it is expected to end by itself, with no terminal on its standard input."""
    return subprocess.run(
        dev_command(args),
        cwd=cwd,
        env=dev_environment(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=within_s,
        check=False,
        start_new_session=True,
    )


@dataclass
class Gateway:
    """A running ``agentapi dev --json``: what it announced, and how to stop it."""

    process: subprocess.Popen[bytes]
    stderr_path: Path
    announcement: dict[str, Any]
    ready_s: float
    """Seconds from the start of the process to its announcement."""
    later_lines: queue.SimpleQueue[bytes | None] = field(repr=False)
    """Lines of standard output after the announcement, then None at its end."""
    _api: httpx2.Client | None = None

    @property
    def base_url(self) -> str:
        return str(self.announcement["base_url"]).rstrip("/")

    @property
    def mcp_url(self) -> str:
        return str(self.announcement["mcp_url"])

    @property
    def token(self) -> str:
        return str(self.announcement["token"])

    @property
    def data_dir(self) -> str:
        return str(self.announcement["data_dir"])

    @property
    def stderr(self) -> str:
        return self.stderr_path.read_text(encoding="utf-8", errors="replace")

    @property
    def tracebacks(self) -> list[str]:
        """Return the ends of the log lines that hold a traceback."""
        return [line[:300] + " ... " + line[-1500:] for line in self.stderr.splitlines() if "Traceback" in line]

    @property
    def api(self) -> httpx2.Client:
        """A client of the REST interface that carries the announced token."""
        if self._api is None:
            self._api = httpx2.Client(
                base_url=self.base_url,
                headers={"Authorization": f"Bearer {self.token}"},
                timeout=30.0,
                **PLAIN,
            )
        return self._api

    def mcp(self, mode: Mode, *, token: str | None = None, **options: Any) -> AbstractAsyncContextManager[Client]:
        """Connect the SDK's client to the announced workspace."""
        return mcp_client(self.mcp_url, token or self.token, mode, **options)

    def mint(self, *arguments: str) -> str:
        """Return a token for somebody else, from the command line."""
        where = ["--data", self.data_dir, "--base-url", self.base_url]
        command = [sys.executable, "-m", "agentapi", "token", "mint", *where, *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True, env=dev_environment(), timeout=30)
        return done.stdout.strip()

    def stop(self, kind: signal.Signals = signal.SIGINT, *, whole_group: bool = False) -> int:
        """Send ``kind`` and return the exit code; ``whole_group`` as a terminal's Ctrl-C does it."""
        self._close_api()
        with suppress(ProcessLookupError):
            if whole_group:
                os.killpg(self.process.pid, kind)
            else:
                self.process.send_signal(kind)
        try:
            return self.process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            end_group(self.process)
            message = f"not ended {_STOP_S:g} s after {kind.name}: {self.stderr[-2000:]}"
            raise AssertionError(message) from None

    def _close_api(self) -> None:
        if self._api is not None:
            self._api.close()
            self._api = None

    @classmethod
    @contextmanager
    def start(
        cls,
        *args: str,
        data_dir: Path,
        env: Mapping[str, str] | None = None,
        port: int = 0,
        stderr_path: Path | None = None,
    ) -> Iterator[Gateway]:
        """Start ``agentapi dev --json``, wait until it serves, and end it in any case.

        The working directory is the parent of ``data_dir``, so that nothing depends on a checkout.
        """
        data_dir.parent.mkdir(parents=True, exist_ok=True)
        log = stderr_path or data_dir.parent / f"{data_dir.name}.stderr"
        command = dev_command(["--json", "--port", str(port), "--data", str(data_dir), *args])
        lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        begun = time.monotonic()
        with log.open("ab") as errors:
            process = subprocess.Popen(
                command,
                cwd=data_dir.parent,
                env=dev_environment(env),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
            )
        output = process.stdout
        assert output is not None

        def read() -> None:
            for line in output:
                lines.put(line)
            lines.put(None)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        gateway: Gateway | None = None
        try:
            try:
                line = lines.get(timeout=_READY_S)
            except queue.Empty:
                message = f"no announcement within {_READY_S:g} s: {log.read_text(errors='replace')[-3000:]}"
                raise AssertionError(message) from None
            ready_s = time.monotonic() - begun
            assert line is not None, f"ended before it served: {log.read_text(errors='replace')[-3000:]}"
            announcement = json.loads(line)
            assert set(_ANNOUNCED) <= set(announcement), announcement
            gateway = cls(process, log, announcement, ready_s, lines)
            yield gateway
        finally:
            if gateway is not None:
                gateway._close_api()
            end_group(process, within_s=_STOP_S)
            # What a failed test left behind does not outlive it.
            for straggler in in_session(process.pid) | naming(str(data_dir)):
                with suppress(ProcessLookupError):
                    os.kill(straggler.pid, signal.SIGKILL)
            # A child that outlives the gateway may hold the pipe; the test of that says so itself.
            reader.join(2.0)
            if not reader.is_alive():
                output.close()
