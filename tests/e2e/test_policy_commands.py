"""``agentapi explain`` and ``agentapi upstreams import`` against a running gateway, and the how-to that shows them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support.clients import list_tools
from support.gateway import Gateway, dev_environment
from support.node import REPOSITORY
from support.processes import free_port, naming
from support.readme import commands, parse, run

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def gateway(module_directory: Path) -> Iterator[Gateway]:
    with Gateway.start(data_dir=module_directory / "data") as running:
        yield running


def asked(
    gateway: Gateway, *args: str, token: str | None = None, url: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command with the announced token, or with ``token``; an empty one is none."""
    given = gateway.token if token is None else token
    command = [sys.executable, "-m", "agentapi", *args, "--url", url or gateway.base_url]
    return subprocess.run(
        command,
        env=dev_environment({"AGENTAPI_TOKEN": given} if given else {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def minted(gateway: Gateway, subject: str, role: str) -> str:
    command = [sys.executable, "-m", "agentapi", "token", "mint", "--data", gateway.data_dir]
    command += ["--base-url", gateway.base_url, "--subject", subject, "--role", role]
    done = subprocess.run(command, env=dev_environment(), capture_output=True, text=True, timeout=60, check=True)
    return done.stdout.strip()


async def test_explain_says_why_check_by_check(gateway: Gateway) -> None:
    policy = {"rules": [{"effect": "deny", "tools": ["notes__add_*"], "description": "Read only"}]}
    assert gateway.api.put("/api/v1/mcp/policy", json=policy).status_code == 200
    try:
        done = asked(gateway, "explain", "notes__add_note")
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert lines[0] == "notes__add_note in main, for developer (org_admin):"
        assert "  - rule: Rule 1, deny: tools notes__add_* (Read only)." in lines
        assert lines[-1] == "  - decision: The tool is neither visible nor callable."
        told = json.loads(asked(gateway, "explain", "clock__current_time", "--json").stdout)
        assert (told["visible"], told["callable"]) == (True, True)
        async with gateway.mcp("auto") as client:
            assert "notes__add_note" not in [tool.name for tool in await list_tools(client)]
    finally:
        gateway.api.put("/api/v1/mcp/policy", json={})


async def test_explain_as_somebody_else_takes_an_admin(gateway: Gateway) -> None:
    bob = minted(gateway, "bob", "viewer")
    unseen = asked(gateway, "explain", "clock__current_time", "--as", "bob")
    assert (unseen.returncode, "never seen" in unseen.stderr) == (1, True)
    async with gateway.mcp("auto", token=bob) as client:
        await list_tools(client)
    done = asked(gateway, "explain", "clock__current_time", "--as", "bob")
    assert done.stdout.splitlines()[-1] == "  - decision: The tool is visible and not callable."
    refused = asked(gateway, "explain", "clock__current_time", "--as", "developer", token=bob)
    assert refused.returncode == 1
    assert "lacks the permission 'explain:others'" in refused.stderr


def test_import_registers_what_a_file_declares(gateway: Gateway, tmp_path: Path) -> None:
    file = tmp_path / "mcp.json"
    servers = {
        "Tickets": {"url": f"{gateway.base_url}/nowhere", "headers": {"Authorization": "Bearer s3cret-value"}},
        "shell": {"command": "bash", "args": ["-c", "id"]},
    }
    file.write_text(json.dumps({"mcpServers": servers}))
    dry = asked(gateway, "upstreams", "import", str(file), "--dry-run")
    first, second, last = dry.stdout.splitlines()
    assert first == "Tickets: would become the upstream 'tickets'."
    assert second.startswith("shell: not imported. A stdio server must name")
    assert last.endswith("would be: 1 imported into the workspace 'main', 0 there already, 1 not imported.")
    assert (dry.returncode, "1 of the 2 entries cannot be imported as they are" in dry.stderr) == (1, True)

    def names() -> set[str]:
        return {item["name"] for item in gateway.api.get("/api/v1/mcp/configurations").json()["items"]}

    assert "tickets" not in names()
    done = json.loads(asked(gateway, "upstreams", "import", str(file), "--json").stdout)
    assert {server["entry"]: server["status"] for server in done["servers"]} == {
        "Tickets": "created",
        "shell": "refused",
    }
    assert "tickets" in names()
    assert done["servers"][0]["test"]["ok"] is False
    secret = {"url": f"{gateway.base_url}/demo/notes/mcp", "headers": {"Authorization": "Bearer wrong"}}
    file.write_text(json.dumps({"mcpServers": {"Clock again": {"command": "clock"}, "Wrong": secret}}))
    wrong = asked(gateway, "upstreams", "import", str(file))
    first, second, last = wrong.stdout.splitlines()
    assert first == "Clock again: is now the upstream 'clock-again'. It answers, with 2 tools."
    assert second.startswith(
        "Wrong: is now the upstream 'wrong'. It was tried and does not work yet. It answered HTTP 401,"
    )
    assert "PUT /api/v1/mcp/configurations/" in second
    assert last == (
        "2 imported into the workspace 'main', of which 1 does not work yet, 0 there already, 0 not imported."
    )
    file.write_text(json.dumps({"mcpServers": {"Tickets": servers["Tickets"]}}))
    again = asked(gateway, "upstreams", "import", str(file))
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines() == [
        "Tickets: left alone, since the workspace has an upstream 'tickets' already.",
        "0 imported into the workspace 'main', 1 there already, 0 not imported.",
    ]
    assert "s3cret-value" not in gateway.stderr + done["servers"][0]["status"] + dry.stdout + dry.stderr


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"token": ""}, "AGENTAPI_TOKEN"),
        ({"token": "nonsense"}, "refuses the token"),
        ({"token": "line\nbreak"}, "is no token"),
        ({"url": "http://127.0.0.1:9"}, "does not answer"),
        ({"url": "nonsense"}, "--url"),
        ({"url": "http://[bad"}, "--url"),
    ],
)
def test_what_goes_wrong_is_one_sentence_with_a_next_step(gateway: Gateway, given: dict[str, str], words: str) -> None:
    done = asked(gateway, "explain", "clock__current_time", **given)
    assert done.returncode == 1
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stdout == ""


def test_another_server_is_told_from_a_gateway(gateway: Gateway) -> None:
    done = asked(gateway, "explain", "x", url=f"{gateway.base_url}/nowhere")
    assert (done.returncode, "no such route" in done.stderr) == (1, True)


def test_a_token_may_come_from_a_file(gateway: Gateway, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(f"{gateway.token}\n")
    done = asked(gateway, "explain", "clock__current_time", "--token-file", str(file), token="")
    assert done.returncode == 0, done.stderr
    missing = asked(gateway, "explain", "clock__current_time", "--token-file", str(tmp_path / "none"), token="")
    assert missing.returncode != 0


@pytest.mark.timeout(300)
def test_every_command_of_the_how_to_runs(tmp_path: Path) -> None:
    document = (REPOSITORY / "docs" / "how-to" / "tool-policy.md").read_text(encoding="utf-8")
    blocks = parse(document.replace(":8000", f":{(port := free_port())}").replace("--port 8000", f"--port {port}"))
    assert commands(blocks)
    work = tmp_path / "work"
    work.mkdir()
    tools = Path(sys.executable).parent
    path = os.pathsep.join([str(tools), os.environ["PATH"]])
    printed = run(
        blocks,
        work,
        {**dev_environment(), "PATH": path, "AGENTAPI_PUBLIC_URL": f"http://127.0.0.1:{port}"},
        within_s=240,
    )
    assert "  - decision: The tool is neither visible nor callable." in printed
    assert '"callable": true' in printed
    assert "tickets: is now the upstream 'tickets'. It was tried and does not work yet" in printed
    assert "Traceback" not in printed
    assert not naming(str(tmp_path))
