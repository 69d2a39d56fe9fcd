"""``agentapi dev`` as a newcomer runs it: start, stop, start again, and what goes wrong."""

from __future__ import annotations

import json
import os
import queue
import re
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import pytest

from support.clients import list_tools
from support.gateway import Gateway, run_dev
from support.plain import PLAIN
from support.processes import accepts, descendants, free_port, in_session, naming, still_alive, wait_until
from support.upstreams import dead_port, time_command

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from support.processes import ProcessId

_GONE_S = 5.0


@pytest.fixture
def stdio_config(tmp_path: Path) -> Path:
    command, *arguments = time_command()
    path = tmp_path / "claude_desktop_config.json"
    path.write_text(json.dumps({"mcpServers": {"World Time": {"command": command, "args": arguments}}}))
    return path


@pytest.fixture(scope="module")
def running(module_directory: Path) -> Iterator[Gateway]:
    with Gateway.start(data_dir=module_directory / "data") as gateway:
        yield gateway


def _started_by(gateway: Gateway) -> frozenset[ProcessId]:
    """Everything that belongs to the gateway: its children, its session, whoever names its data directory."""
    pid = gateway.process.pid
    return descendants(pid) | in_session(pid) | naming(gateway.data_dir)


def _assert_one_sentence(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode > 0, (done.returncode, done.stderr)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert lines[0].rstrip().endswith(".")
    for word in words:
        assert word in lines[0]


def test_announces_itself_on_one_line(running: Gateway) -> None:
    said = running.announcement
    assert (said["organization"], said["workspace"]) == ("demo", "main")
    assert said["mcp_url"] == f"{said['base_url']}/mcp/demo/main"
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", said["base_url"])
    assert Path(said["data_dir"]).is_absolute()
    assert Path(said["data_dir"]).is_dir()
    with pytest.raises(queue.Empty):
        running.later_lines.get_nowait()


def test_keeps_its_secrets_to_the_user(running: Gateway) -> None:
    # As root the database runs as another user, whose group may pass through and no more.
    assert Path(running.data_dir).stat().st_mode & 0o067 == 0
    assert running.token not in running.stderr
    assert running.token.encode() not in Path(f"/proc/{running.process.pid}/cmdline").read_bytes()


async def test_both_demo_upstreams_work(running: Gateway) -> None:
    async with running.mcp("auto") as client:
        names = {tool.name.split("__")[0] for tool in await list_tools(client)}
    assert names == {"notes", "clock"}


def test_listens_on_loopback_alone(running: Gateway) -> None:
    """Neither the gateway nor the database it started is reachable from another machine."""
    ours = {process.pid for process in _started_by(running)} | {running.process.pid}
    inodes = set()
    for pid in ours:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            try:
                name = str(descriptor.readlink())
            except OSError:
                continue
            if name.startswith("socket:["):
                inodes.add(name[8:-1])
    listening = "0A"
    addresses = []
    for table in ("tcp", "tcp6"):
        path = Path(f"/proc/net/{table}")
        for line in path.read_text().splitlines()[1:] if path.exists() else []:
            fields = line.split()
            if fields[3] == listening and fields[9] in inodes:
                addresses.append(fields[1].split(":")[0])
    assert addresses
    loopback = {"0100007F", "00000000000000000000000001000000"}
    assert set(addresses) <= loopback


@pytest.mark.parametrize("path", ["/health", "/ready", "/live"])
def test_probes_answer_without_a_token(running: Gateway, path: str) -> None:
    answer = httpx2.get(running.base_url + path, **PLAIN)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("host", ["169.254.169.254", "169.254.1.1", "[::ffff:169.254.169.254]", "[fd00:ec2::254]"])
def test_what_is_link_local_or_a_metadata_service_is_no_upstream(running: Gateway, host: str) -> None:
    """Private addresses are allowed here, and these are not."""
    body = {"workspace": "main", "name": "metadata", "transport": "http", "endpoint": f"http://{host}/mcp"}
    answer = running.api.post("/api/v1/mcp/configurations", json=body)
    assert answer.status_code == 422, answer.text
    assert "metadata" not in [item["name"] for item in running.api.get("/api/v1/mcp/configurations").json()["items"]]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_the_demo_notes_want_the_token_that_the_gateway_keeps(running: Gateway, method: str) -> None:
    for given in (None, "guess", running.token):
        headers = {} if given is None else {"Authorization": f"Bearer {given}"}
        answer = httpx2.request(method, f"{running.base_url}/demo/notes/mcp", headers=headers, **PLAIN)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer"), given


@pytest.mark.parametrize("whole_group", [False, True], ids=["kill -INT", "Ctrl-C in a terminal"])
async def test_interrupt_leaves_nothing_behind(tmp_path: Path, stdio_config: Path, whole_group: bool) -> None:
    arguments = ("--mcp-config", str(stdio_config), "--yes")
    with Gateway.start(*arguments, data_dir=tmp_path / "data") as gateway:
        async with gateway.mcp("auto") as client:
            # A call, so that the stdio upstreams really run.
            names = [tool.name for tool in await list_tools(client)]
            clock = next(name for name in names if name.endswith("__get_current_time") and "world" in name)
            result = await client.call_tool(clock, {"timezone": "Etc/UTC"})
            assert not result.is_error
        started = _started_by(gateway)
        assert any("postgres" in _command(process) for process in started)
        port = int(gateway.base_url.rsplit(":", 1)[1])
        assert accepts(port)
        code = gateway.stop(signal.SIGINT, whole_group=whole_group)
        assert code in {0, 130}, gateway.stderr[-2000:]
        wait_until(
            lambda: not still_alive(started | _started_by(gateway)),
            within_s=_GONE_S,
            what=f"all processes end: {[_command(p) for p in still_alive(started | _started_by(gateway))]}",
        )
        assert not accepts(port)
        assert gateway.tracebacks == []
        assert gateway.later_lines.get(timeout=5) is None


def _command(process: ProcessId) -> str:
    try:
        return Path(f"/proc/{process.pid}/cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
    except OSError:
        return ""


async def test_interrupt_while_a_client_is_connected(tmp_path: Path) -> None:
    """An open connection does not hold the exit back."""
    with (
        Gateway.start(data_dir=tmp_path / "data") as gateway,
        socket.create_connection(("127.0.0.1", int(gateway.base_url.rsplit(":", 1)[1]))) as idle,
    ):
        idle.sendall(b"POST /mcp/demo/main HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert gateway.stop() in {0, 130}


def test_terminate_leaves_nothing_behind(tmp_path: Path) -> None:
    with Gateway.start(data_dir=tmp_path / "data") as gateway:
        started = _started_by(gateway)
        assert gateway.stop(signal.SIGTERM) in {0, -signal.SIGTERM, 128 + signal.SIGTERM}
        wait_until(lambda: not still_alive(started), within_s=_GONE_S, what="all processes end")


def _create(gateway: Gateway, name: str) -> str:
    with dead_port() as nobody:
        body = {
            "workspace": "main",
            "name": name,
            "transport": "http",
            "endpoint": nobody.url,
            "auth": "bearer",
        }
        answer = gateway.api.post("/api/v1/mcp/configurations", json={**body, "secret": "s3cret-value"})
    assert answer.status_code == 201, answer.text
    assert "s3cret-value" not in answer.text
    return str(answer.json()["id"])


def test_second_start_keeps_the_data(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Gateway.start(data_dir=data) as gateway:
        made = _create(gateway, "kept")
        seen = gateway.api.get(f"/api/v1/mcp/configurations/{made}").json()
        first = gateway.announcement
        assert gateway.stop() in {0, 130}
    with Gateway.start(data_dir=data) as gateway:
        assert gateway.api.get(f"/api/v1/mcp/configurations/{made}").json() == seen
        assert gateway.data_dir == first["data_dir"]
        # The demo upstreams are not registered a second time.
        names = [item["name"] for item in gateway.api.get("/api/v1/mcp/configurations").json()["items"]]
        assert sorted(names) == sorted(set(names))
        assert {"notes", "clock", "kept"} <= set(names)


def test_start_after_kill_keeps_the_data(tmp_path: Path) -> None:
    """Kill -9 of the gateway may leave its database running; the next start on that directory copes."""
    data = tmp_path / "data"
    with Gateway.start(data_dir=data) as gateway:
        made = _create(gateway, "survivor")
        left = _started_by(gateway)
        os.kill(gateway.process.pid, signal.SIGKILL)
        gateway.process.wait(5)
        # Inside the block, so that what the killed one left is still there if it stays by itself.
        with Gateway.start(data_dir=data, stderr_path=tmp_path / "second.stderr") as second:
            assert second.api.get(f"/api/v1/mcp/configurations/{made}").json()["name"] == "survivor"
            left |= _started_by(second)
            assert second.stop() in {0, 130}
            wait_until(lambda: not still_alive(left), within_s=_GONE_S, what="all processes of both end")


def test_leftovers_of_a_killed_run_are_swept(tmp_path: Path) -> None:
    state = tmp_path / "data" / "state"
    left = state / "stdio" / "clock-1"
    left.mkdir(parents=True)
    (left / "scratch").write_text("of a run that was killed")
    with Gateway.start(data_dir=tmp_path / "data") as gateway:
        assert gateway.api.get("/ready").status_code == 200
        assert not left.exists()
        assert gateway.stop() in {0, 130}


def test_port_taken(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = str(holder.getsockname()[1])
        done = run_dev(["--json", "--port", port, "--data", str(tmp_path / "data")], cwd=tmp_path)
    _assert_one_sentence(done, port)
    assert not naming(str(tmp_path / "data"))


def test_data_directory_in_use(tmp_path: Path, running: Gateway) -> None:
    done = run_dev(["--json", "--port", "0", "--data", running.data_dir], cwd=tmp_path)
    _assert_one_sentence(done, running.data_dir)
    # And the one that uses it goes on.
    assert running.process.poll() is None
    assert running.api.get("/ready").status_code == 200
    assert running.api.get("/api/v1/mcp/configurations").status_code == 200


def test_data_directory_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_text("mine")
    done = run_dev(["--json", "--port", "0", "--data", str(path)], cwd=tmp_path)
    assert done.returncode > 0
    assert "Traceback" not in done.stderr
    assert str(path) in done.stderr
    assert path.read_text() == "mine"


def test_a_chosen_port_is_used(tmp_path: Path) -> None:
    port = free_port()
    with Gateway.start(data_dir=tmp_path / "data", port=port) as gateway:
        assert gateway.base_url == f"http://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--mcp-config", "no-such-file.json"], "no-such-file.json"),
        (["--mcp-config", "bad.json"], "bad.json"),
        (["--mcp-config", "list.json"], "list.json"),
        (["--upstream", "ftp://example.org/x"], "ftp://example.org/x"),
        (["--upstream", "not a url"], "not a url"),
    ],
)
def test_wrong_arguments(tmp_path: Path, arguments: list[str], word: str) -> None:
    (tmp_path / "bad.json").write_text('{"mcpServers": ')
    (tmp_path / "list.json").write_text("[]")
    done = run_dev([*arguments, "--json", "--port", "0", "--data", str(tmp_path / "data")], cwd=tmp_path)
    assert done.returncode > 0
    assert "Traceback" not in done.stderr
    assert word in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("arguments", [["--no-such-option"], ["--port", "70000"], ["--port", "web"]])
def test_wrong_options(tmp_path: Path, arguments: list[str]) -> None:
    done = run_dev([*arguments, "--data", str(tmp_path / "data")], cwd=tmp_path)
    assert done.returncode > 0
    assert "Traceback" not in done.stderr


def test_broken_environment(tmp_path: Path) -> None:
    env = {"AGENTAPI_ISSUERS": '[{"issuer": 5, "surplus": true}]'}
    done = run_dev(["--json", "--port", "0", "--data", str(tmp_path / "data")], cwd=tmp_path, env=env)
    assert done.returncode > 0
    assert "Traceback" not in done.stderr
    assert "AGENTAPI_ISSUERS" in done.stderr


def test_stdio_entry_without_consent_is_refused_and_shown(tmp_path: Path, stdio_config: Path) -> None:
    arguments = ["--json", "--port", "0", "--data", str(tmp_path / "data"), "--mcp-config", str(stdio_config)]
    done = run_dev(arguments, cwd=tmp_path)
    assert done.returncode > 0
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert " ".join(time_command()[1:]) in done.stderr
    assert "--yes" in done.stderr
    assert not naming(str(tmp_path / "data"))


async def test_stdio_entry_with_consent_works(tmp_path: Path, stdio_config: Path) -> None:
    with Gateway.start("--mcp-config", str(stdio_config), "--yes", data_dir=tmp_path / "data") as gateway:
        async with gateway.mcp("auto") as client:
            names = {tool.name for tool in await list_tools(client)}
            upstreams = {name.split("__")[0] for name in names if name.endswith("__convert_time")}
            # The name of the file, "World Time", as a slug.
            assert upstreams - {"clock"} <= {"world-time", "world_time"}
            assert len(upstreams - {"clock"}) == 1
    # The same once more on the same data: registered again, not twice.
    with Gateway.start("--mcp-config", str(stdio_config), "--yes", data_dir=tmp_path / "data") as gateway:
        async with gateway.mcp("auto") as client:
            assert {tool.name for tool in await list_tools(client)} == names
