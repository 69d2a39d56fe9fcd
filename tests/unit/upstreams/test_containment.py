"""Attacks of a stdio server on its host: each is contained, and a neighbour's server still answers.

Every attack is small enough to be harmless where it succeeds.
"""

from __future__ import annotations

import asyncio
import os
import socket
import textwrap
from dataclasses import replace
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING

import pytest

from agentapi.errors import UpstreamError
from unit.upstreams.arena import EVERY_WAY, HOST, SEPARATED, SMALL, UNDER_BUBBLEWRAP, arena, victim
from unit.upstreams.doubles import Clock

if TYPE_CHECKING:
    from agentapi.upstreams.sandbox import SandboxSupport

SECRET = f"planted-{token_hex(8)}"
"""Made anew, since a command may read these very sources where they are below a directory that is open to all."""

every_way = pytest.mark.parametrize("support", EVERY_WAY.values(), ids=EVERY_WAY)
under_bubblewrap = pytest.mark.parametrize("support", UNDER_BUBBLEWRAP.values(), ids=UNDER_BUBBLEWRAP)
COUNTED = {name: way for name, way in SEPARATED.items() if way.own_user or way.cgroup is not None or os.geteuid() != 0}
counted = pytest.mark.parametrize("support", COUNTED.values(), ids=COUNTED)
separated = pytest.mark.parametrize("support", SEPARATED.values(), ids=SEPARATED)


def code(text: str) -> str:
    return textwrap.dedent(text)


def test_this_host_has_what_the_tests_are_about() -> None:
    assert HOST.bubblewrap is not None, "install bubblewrap: make sandbox"
    assert HOST.call_filter, "install libseccomp2: make sandbox"
    assert HOST.own_network
    assert HOST.missing() == ()


# Everybody forks until nobody can, for two seconds; 400 would be the end of it in any case.
BOMB = code("""
    import os, time
    ends = time.monotonic() + 2
    def explode():
        for _ in range(20):
            try:
                if os.fork() == 0:
                    explode()
            except OSError:
                pass
        time.sleep(max(0, ends - time.monotonic()))
        os._exit(0)
    for _ in range(20):
        try:
            if os.fork() == 0:
                explode()
        except OSError:
            pass
    print("lit")
""")


@counted
async def test_a_fork_bomb(support: SandboxSupport) -> None:
    async with arena(support) as held:
        assert await held.attack(BOMB) == "lit\n"
        most = 0
        async with asyncio.timeout(20):
            # Children without a parent are buried by bubblewrap, or by nobody until the server ends.
            while (now := len(held.processes())) > 8:
                most = max(most, now)
                await held.neighbour_answers()
        # Both servers with their bubblewraps, and what the bomb was allowed.
        assert 20 < most <= SMALL.processes + 8


@every_way
async def test_a_memory_hog(support: SandboxSupport) -> None:
    async with arena(support) as held:
        assert (await held.attack("held = bytearray(200 << 20); print('got it')")).startswith("MemoryError")
        assert await held.attack("print('still here')") == "still here\n"


HOGS = code("""
    import mmap, os, signal
    for _ in range(10):
        if os.fork() == 0:
            SHARED
            signal.pause()
    signal.pause()
""")


@every_way
@pytest.mark.parametrize(
    "memory", ["held = b'x' * (24 << 20)", "held = mmap.mmap(-1, 24 << 20); held.write(b'x' * (24 << 20))"]
)
async def test_a_memory_hog_of_many_processes(support: SandboxSupport, memory: str) -> None:
    async with arena(support) as held:
        with pytest.raises(UpstreamError, match=r"it used more than 128 MB of memory"):
            await held.attack(HOGS.replace("SHARED", memory))


@under_bubblewrap
async def test_memory_that_no_process_has_mapped(support: SandboxSupport) -> None:
    fill = code("""
        import os
        written = 0
        try:
            for number in range(32):
                with open(f"PLACE/{number}", "wb") as file:
                    file.write(bytes(1 << 20))
                written += 1
        except OSError as error:
            print(error.strerror, written)
    """)
    async with arena(replace(support, cgroup=None)) as held:
        for place in ("/dev/shm", "/tmp"):
            assert await held.attack(fill.replace("PLACE", place)) == "No space left on device 4\n"
        for place in ("/dev", "/run", "/", str(held.base / "state"), "/var/tmp"):
            assert (await held.attack(f"open('{place}/x', 'w')")).startswith(
                ("OSError: [Errno 30]", "PermissionError", "FileNotFoundError")
            )
        assert "Function not implemented" in await held.attack("import os; os.memfd_create('x')")
        shm = (
            "import ctypes; c = ctypes.CDLL(None, use_errno=True); print(c.shmget(0, 4096, 0o1600), ctypes.get_errno())"
        )
        assert await held.attack(shm) == "-1 38\n"


@every_way
async def test_a_disk_filler_with_one_file(support: SandboxSupport) -> None:
    async with arena(support) as held:
        assert "File too large" in await held.attack("open('big', 'wb').write(bytes(8 << 20))")
        assert await held.attack("import os; print(os.path.getsize('big') <= 4 << 20)") == "True\n"


MANY = """
import mmap, os, signal
kept = []
for number in range(20):
    file = open(f"{number}", "w+b")
    file.write(bytes(2 << 20))
    file.flush()
    THEN
signal.pause()
"""


@every_way
@pytest.mark.parametrize(
    "then",
    [
        "file.close()",
        "os.unlink(file.name); kept.append(file)",
        "os.unlink(file.name); kept.append(mmap.mmap(file.fileno(), 2 << 20)); file.close()",
        "os.mkdir(f'd{number}'); os.rename(file.name, f'd{number}/x'); os.chmod(f'd{number}', 0)",
    ],
    ids=["named", "deleted", "mapped", "closed off"],
)
async def test_a_disk_filler_with_many_files(support: SandboxSupport, then: str) -> None:
    async with arena(support) as held:
        with pytest.raises(UpstreamError, match=r"its directory held more than 12 MB"):
            await held.attack(MANY.replace("THEN", then))


@every_way
@pytest.mark.parametrize(
    "filler",
    [
        "import signal\nfor n in range(20_000): open(f'{n}', 'w').close()\nsignal.pause()",
        "import os, signal\nfor n in range(250): os.mkdir('d'); os.chdir('d')\nsignal.pause()",
    ],
    ids=["empty files", "a deep nest"],
)
async def test_a_filler_of_what_is_no_byte(support: SandboxSupport, filler: str) -> None:
    async with arena(support) as held:
        with pytest.raises(UpstreamError, match=r"its directory held more than 12 MB"):
            await held.attack(filler)


@every_way
async def test_a_nest_too_deep_for_recursion_is_removed(support: SandboxSupport) -> None:
    async with arena(support, replace(SMALL, directory_mb=64)) as held:
        # In one step, since the watch ends what nests so deep; the directory has to go all the same.
        nest = "import os\nfor n in range(3000): os.mkdir('d'); os.chdir('d')\nos._exit(0)"
        with pytest.raises(UpstreamError):
            await held.attack(nest)


@every_way
async def test_a_burner_of_processor_time(support: SandboxSupport) -> None:
    async with arena(support, replace(SMALL, cpu_s=2)) as held:
        burning = asyncio.ensure_future(held.attack("while True: pass"))
        while not burning.done():
            await held.neighbour_answers()
            await asyncio.wait({burning}, timeout=0.2)
        with pytest.raises(UpstreamError, match=r"ended by signal|exit code 1(37|52)"):
            await burning


async def outlived(support: SandboxSupport, attack: str) -> None:
    clock = Clock()
    async with arena(support, clock=clock) as held:
        living = asyncio.ensure_future(held.attack(f"open('begun', 'w').close()\n{attack}"))
        await held.until(lambda: any(held.base.glob("stdio/*/begun")))
        await asyncio.wait({living}, timeout=0.3)
        assert not living.done()
        clock.advance(SMALL.life_s)
        with pytest.raises(UpstreamError, match=r"it had run for 60 s"):
            await living
        # The neighbour is as old. It is started again for the call that follows, and not in the midst of it.
        await held.until(lambda: held.processes() == [])


@every_way
async def test_one_that_lives_too_long(support: SandboxSupport) -> None:
    await outlived(support, "import signal; signal.pause()")


@every_way
async def test_a_reader_of_the_environment_of_others(support: SandboxSupport) -> None:
    read = code("""
        import os
        found = ""
        for pid in {*map(int, filter(str.isdecimal, os.listdir("/proc"))), 1, PIDS}:
            for name in ("environ", "mem", "maps", "cwd/x", "root/etc/shadow", "fd/0"):
                try:
                    with open(f"/proc/{pid}/{name}", "rb") as file:
                        if name == "environ":
                            found += file.read().decode(errors="replace")
                        elif pid in (PIDS):
                            found += f"[opened {pid} {name}]"
                except OSError:
                    pass
        print(found)
    """)
    with victim(SECRET) as pid:
        async with arena(support) as held:
            found = await held.attack(read.replace("PIDS", f"{pid}, {os.getpid()}"))
            assert SECRET not in found
            assert "AGENTAPI_" not in found
            assert f"[opened {pid}" not in found


@separated
async def test_a_reader_of_the_gateways_files_and_of_other_directories(support: SandboxSupport) -> None:
    async with arena(support, hidden=("state", "code/keyring.json")) as held:
        state = held.base / "state"
        state.chmod(0o700)
        for file in (state / "dev.db", held.base / "code" / "keyring.json"):
            file.write_text(SECRET)
            file.chmod(0o600)
        await held.neighbour_answers()
        other = Path((await held.ask_neighbour("import os; print(os.getcwd())")).strip())
        (other / "notes").write_text(SECRET)
        tries = [state / "dev.db", held.base / "code" / "keyring.json", other / "notes"]
        for path in tries:
            said = await held.attack(f"print(open({str(path)!r}).read())")
            assert SECRET not in said
            assert said.strip() == "" or "Error" in said
        walk = code(f"""
            import os
            for place in ({str(held.base)!r}, "/home", "/var", "/tmp", "/run", "/dev/shm"):
                for folder, _, files in os.walk(place):
                    for name in files:
                        try:
                            if {SECRET!r} in open(os.path.join(folder, name), errors="replace").read(10_000):
                                print("found in", folder, name)
                        except OSError:
                            pass
        """)
        assert await held.attack(walk) == ""


@separated
async def test_an_escape_by_links(support: SandboxSupport) -> None:
    async with arena(support) as held:
        state = held.base / "state"
        (state / "inner").mkdir()
        (state / "inner" / "kept").write_text(SECRET)
        state.chmod(0o700)
        before = [(path, path.stat().st_mode, path.stat().st_uid) for path in (state, *state.rglob("*"))]
        link = code(f"""
            import os
            os.symlink({str(state)!r}, "out")
            os.symlink({str(state / "inner" / "kept")!r}, "file")
            os.makedirs("a/b")
            os.symlink("../../../state", "a/b/up")
            os.symlink("/", "root")
            for way in (lambda: os.link({str(state / "inner" / "kept")!r}, "hard"),):
                try:
                    way()
                except OSError:
                    pass
            for path in ("out/inner/kept", "file", "a/b/up/inner/kept", "root" + {str(state / "inner" / "kept")!r}):
                try:
                    print(open(path).read())
                except OSError as error:
                    print(type(error).__name__)
            os.chmod("a", 0)
        """)
        said = await held.attack(link)
        assert SECRET not in said
        assert set(said.split()) <= {"PermissionError", "FileNotFoundError"}
        # Over its quota by what the links lead to, if they were followed.
        (state / "large").write_bytes(bytes(32 << 20))
        assert await held.attack("print('not stopped')") == "not stopped\n"
        held.close_hostile()
        await held.until(lambda: len(list((held.base / "stdio").iterdir())) == 1)
        (state / "large").unlink()
        assert [(path, path.stat().st_mode, path.stat().st_uid) for path in (state, *state.rglob("*"))] == before


REACH = code("""
    import socket
    for family, kind, address in ADDRESSES:
        try:
            with socket.socket(family, kind) as one:
                one.settimeout(2)
                one.connect(address)
                print("reached", address)
        except OSError as error:
            print(type(error).__name__)
""")


@every_way
async def test_a_reach_for_the_network(support: SandboxSupport) -> None:
    with socket.create_server(("127.0.0.1", 0)) as gateway:
        port = gateway.getsockname()[1]
        inet, inet6, stream, datagram = map(
            int, (socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM, socket.SOCK_DGRAM)
        )
        addresses = [
            (inet, stream, ("127.0.0.1", port)),
            (inet, datagram, ("192.0.2.1", 53)),
            (inet, stream, ("192.0.2.1", 80)),
            (inet, stream, ("169.254.169.254", 80)),
            (inet6, datagram, ("2001:db8::1", 53)),
        ]
        attack = REACH.replace("ADDRESSES", repr(addresses))
        async with arena(support) as held:
            said = (await held.attack(attack)).split()
            assert len(said) == len(addresses)
            assert "reached" not in said
        # A command that was given the network has it: what was seen above is the sandbox's doing.
        async with arena(support, network=True) as held:
            said_with = await held.attack(REACH.replace("ADDRESSES", repr(addresses[:1])))
            assert said_with == f"reached ('127.0.0.1', {port})\n"


async def test_a_reach_for_an_abstract_socket_and_odd_families() -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("\0agentapi-arena")
        listener.listen()
        async with arena(HOST) as held:
            reach = "import socket; socket.socket(socket.AF_UNIX).connect('\\0agentapi-arena'); print('reached')"
            assert "reached" not in await held.attack(reach)
            # AF_PACKET, AF_BLUETOOTH, AF_ALG and AF_VSOCK, which not every Python has names for.
            for family in (17, 31, 38, 40):
                said = await held.attack(f"import socket; socket.socket({family}, socket.SOCK_RAW); print('made')")
                assert "Address family not supported" in said


@separated
async def test_signals_to_others(support: SandboxSupport) -> None:
    with victim(SECRET) as pid:
        async with arena(support) as held:
            others = [pid, os.getpid(), os.getppid()]
            kill = code(f"""
                import os, signal
                for pid, number in ({pid}, signal.SIGKILL), *((other, 0) for other in {others}):
                    try:
                        os.kill(pid, number)
                        print("sent")
                    except OSError as error:
                        print(type(error).__name__)
            """)
            assert "sent" not in await held.attack(kill)


@every_way
async def test_tracing_others_and_what_widens_the_kernel(support: SandboxSupport) -> None:
    calls = code("""
        import ctypes, os
        libc = ctypes.CDLL(None, use_errno=True)
        def tried(name, *arguments):
            ctypes.set_errno(0)
            result = getattr(libc, name)(*arguments)
            print(name, result, ctypes.get_errno())
        buffer = ctypes.create_string_buffer(64)
        tried("ptrace", 16, VICTIM, 0, 0)
        tried("ptrace", 0, 0, 0, 0)
        tried("process_vm_readv", VICTIM, buffer, 1, buffer, 1, 0)
        tried("unshare", 0x10000000)
        tried("unshare", 0x40000000)
        tried("mount", b"none", b"/tmp", b"tmpfs", 0, 0)
        tried("chroot", b"/tmp")
        tried("prctl", 4, 0, 0, 0, 0)
        tried("syscall", 425, 8, buffer)
        tried("setuid", 0)
    """)
    with victim(SECRET) as pid:
        async with arena(support) as held:
            said = [line.split() for line in (await held.attack(calls.replace("VICTIM", str(pid)))).splitlines()]
            # EPERM, but for io_uring, which is said not to exist.
            uid_is_roots = not support.own_user and os.geteuid() == 0
            for name, result, error in said[:-1]:
                assert (result, error) == ("-1", "38" if name == "syscall" else "1"), name
            # EPERM, or EINVAL in a user namespace that has no root.
            assert uid_is_roots or said[-1][1:] in (["-1", "1"], ["-1", "22"])


@separated
async def test_it_cannot_outlive_its_connection(support: SandboxSupport) -> None:
    escape = code("""
        import os, signal
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                signal.signal(signal.SIGHUP, signal.SIG_IGN)
                signal.pause()
            os._exit(0)
        os.wait()
        print("escaped")
    """)
    async with arena(support) as held:
        assert await held.attack(escape) == "escaped\n"
        held.close_hostile()
        # The neighbour with its bubblewraps.
        await held.until(lambda: len(held.processes()) <= 3)


async def test_a_child_that_left_the_session_is_stopped_with_the_tree() -> None:
    """Also where nothing but the watch stands in its way: arena() asks whether anything is left."""
    leave = "import os, signal\nif os.fork() == 0:\n    os.setsid()\n    signal.pause()\nsignal.pause()"
    await outlived(replace(HOST, bubblewrap=None, own_user=False, cgroup=None), leave)
