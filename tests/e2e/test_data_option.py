"""``agentapi keys`` and ``agentapi audit`` on the data directory of ``agentapi dev``, once that has stopped."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from support.gateway import Gateway, dev_environment

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def data_dir(module_directory: Path) -> Path:
    """A directory on which a gateway ran, twice."""
    path = module_directory / "data"
    for _ in range(2):
        with Gateway.start(data_dir=path) as gateway:
            refused = agentapi("keys", "status", "--data", str(path))
            assert (refused.returncode, "is in use by another agentapi" in refused.stderr) == (1, True), refused.stderr
            assert gateway.stop() == 0
    return path


def agentapi(*args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agentapi", *args],
        env=dev_environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def done(*args: str) -> str:
    ended = agentapi(*args)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.mark.timeout(240)
def test_the_demo_organisation_is_in_the_audit_log(data_dir: Path) -> None:
    rows = [json.loads(line) for line in done("audit", "export", "demo", "--data", str(data_dir)).splitlines()]
    made = {row["action"] for row in rows}
    assert {"organization.created", "workspace.created", "upstream.created", "upstream.updated"} <= made
    created = [row["details"]["name"] for row in rows if row["action"] == "upstream.created"]
    assert sorted(created) == ["clock", "notes"]
    verified = json.loads(done("audit", "verify", "--json", "--data", str(data_dir)))
    assert verified["intact"]
    assert sum(each["rows"] for each in verified["organizations"]) >= len(rows)
    assert json.loads(done("audit", "keys", "--data", str(data_dir)))
    assert done("audit", "retain", "--data", str(data_dir)) == "nothing to drop\n"


@pytest.mark.timeout(240)
def test_a_key_is_replaced_in_a_data_directory(data_dir: Path) -> None:
    keyring, where = data_dir / "keyring.json", ("--data", str(data_dir))

    def status() -> dict[str, int]:
        told = json.loads(done("keys", "status", "--json", *where))
        counted: dict[str, int] = dict.fromkeys(told["keys"], 0)
        for found in told["sealed"].values():
            for key_id, count in found.items():
                counted[key_id] += count
        return counted

    before = status()["dev"]
    assert before > 0
    keyring.write_text(done("keys", "add", "k2", *where))
    keyring.write_text(done("keys", "activate", "k2", *where))
    refused = agentapi("keys", "remove", "dev", *where)
    assert (refused.returncode, "dev is still needed" in refused.stderr) == (1, True)
    assert "to seal anew" in done("keys", "rotate", "--dry-run", *where)
    done("keys", "rotate", *where)
    assert status() == {"dev": 0, "k2": before}
    keyring.write_text(done("keys", "remove", "dev", *where))
    assert status() == {"k2": before}


def test_a_directory_without_a_deployment_is_told_and_left_alone(tmp_path: Path) -> None:
    for command in (["keys", "status"], ["audit", "verify"], ["audit", "export", "demo"], ["audit", "keys"]):
        ended = agentapi(*command, "--data", str(tmp_path / "none"))
        assert ended.returncode == 1
        assert "start `agentapi dev` there once, or give another --data" in ended.stderr
        assert len(ended.stderr.splitlines()) == 1
    assert not (tmp_path / "none").exists()
