"""The audit log of a process: what was answered is recorded, whatever happens to the process next."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import httpx2

from agentapi.storage.embedded import embedded_postgres
from support.gateway import Gateway, dev_environment
from support.plain import PLAIN
from support.raw import good_headers, modern_headers, modern_message

if TYPE_CHECKING:
    from pathlib import Path

    from agentapi.storage.embedded import EmbeddedPostgres

CLIENTS = 8
CALLS = 200
"""Answered calls after which the process is killed, in the middle of others."""


async def test_no_acknowledged_call_is_lost_when_the_process_is_killed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    answered: list[str] = []
    enough = threading.Event()
    with Gateway.start(data_dir=data) as gateway:
        clients = [threading.Thread(target=_call, args=(gateway, answered, enough)) for _ in range(CLIENTS)]
        for client in clients:
            client.start()
        assert enough.wait(60)
        os.kill(gateway.process.pid, signal.SIGKILL)
        for client in clients:
            client.join(30)
        gateway.process.wait(10)
    assert len(answered) >= CALLS
    with Gateway.start(data_dir=data) as gateway:
        recorded = _recorded(gateway)
    async with embedded_postgres(data) as server:
        # The chains of the process that was killed are in order as well.
        verified = _verify(server, data)
    assert set(answered) <= recorded, f"{len(set(answered) - recorded)} of {len(answered)} are lost"
    assert verified["intact"], verified
    assert sum(report["rows"] for report in verified["organizations"]) >= len(answered)


def _call(gateway: Gateway, answered: list[str], enough: threading.Event) -> None:
    message = modern_message("tools/call", {"name": "clock__current_time", "arguments": {"time_zone": "UTC"}})
    with httpx2.Client(headers=good_headers(gateway.token), timeout=30.0, **PLAIN) as http:
        while True:
            try:
                answer = http.post(gateway.mcp_url, json=message, headers=modern_headers(message))
            except httpx2.TransportError:
                return
            assert answer.status_code == 200, answer.text
            answered.append(answer.headers["x-request-id"])
            if len(answered) >= CALLS:
                enough.set()


def _recorded(gateway: Gateway) -> set[str]:
    url = f"{gateway.base_url}/api/v1/audit/export"
    headers = {"Authorization": f"Bearer {gateway.token}"}
    answer = httpx2.get(url, params={"action": "tools.call"}, headers=headers, timeout=30.0, **PLAIN)
    assert answer.status_code == 200, answer.text
    return {json.loads(line)["request_id"] for line in answer.text.splitlines()}


def _verify(server: EmbeddedPostgres, data: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "agentapi", "audit", "verify", "--json"],
        env=dev_environment(
            {
                "AGENTAPI_MIGRATION_DATABASE_URL": server.owner_dsn,
                "AGENTAPI_KEYRING_FILE": str(data / "keyring.json"),
            }
        ),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    report: dict[str, Any] = json.loads(done.stdout or '{"intact": false}')
    assert done.returncode == (0 if report["intact"] else 1), done.stderr
    return report
