"""The wheel that ``make wheel`` builds, installed where there is no Rust and nothing else of ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import zipfile
from typing import TYPE_CHECKING

import pytest

from support.gateway import dev_environment
from support.node import REPOSITORY
from support.processes import end_group
from support.raw import modern_call

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def wheel(module_directory: Path) -> Path:
    """The wheel of this checkout; the extension itself is compiled already."""
    command = [sys.executable, "-m", "maturin", "build", "--release", "--locked", "--quiet", "--out"]
    subprocess.run([*command, str(module_directory / "dist")], cwd=REPOSITORY, check=True, timeout=600)
    (built,) = (module_directory / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, module_directory: Path) -> Path:
    """An environment with the wheel and what it depends on."""
    environment = module_directory / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True, timeout=120)
    python = environment / "bin" / "python"
    rustless = {**os.environ, "PATH": "/usr/bin:/bin", "CARGO_HOME": "/nonexistent"}
    # The versions are those of the lock; its hashes are left out, since the wheel itself has none there.
    versions = module_directory / "versions.txt"
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    versions.write_text("\n".join(line.split()[0] for line in lines if "==" in line and not line.startswith(" ")))
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]
    subprocess.run([*command, "-c", str(versions), str(wheel)], env=rustless, check=True, timeout=600)
    return environment


def test_wheel_is_for_every_python_from_3_11_and_holds_no_test(wheel: Path) -> None:
    assert "-cp311-abi3-" in wheel.name
    names = zipfile.ZipFile(wheel).namelist()
    assert "agentapi/_core.abi3.so" in names
    assert "agentapi/py.typed" in names
    assert "agentapi/_core.pyi" in names
    assert any(name.startswith("agentapi/migrations/0001") for name in names)
    assert not [name for name in names if name.startswith(("tests/", "bench/", "rust/"))]


@pytest.fixture
def process(installed: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen(
            [str(installed / "bin" / "agentapi"), "dev", "--json", "--port", "0", "--data", str(tmp_path / "data")],
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=tmp_path,
            env={**dev_environment(), "PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "PYTHONPATH": ""},
            start_new_session=True,
        )
    with running:
        yield running
        end_group(running)


@pytest.mark.timeout(300)
def test_installed_gateway_serves_both_demo_servers(process: subprocess.Popen[bytes], tmp_path: Path) -> None:
    if process.stdout is None:
        raise AssertionError
    line = process.stdout.readline()
    assert line, (tmp_path / "log").read_text()
    said = json.loads(line)
    assert {"base_url", "mcp_url", "token", "organization", "workspace", "data_dir"} <= said.keys()
    tools = modern_call(said["mcp_url"], said["token"], "tools/list").json()["result"]["tools"]
    assert {tool["name"].partition("__")[0] for tool in tools} == {"clock", "notes"}
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert process.stdout.read() == b""
