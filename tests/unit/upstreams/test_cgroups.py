from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

import pytest

from agentapi.errors import StartupError
from agentapi.upstreams.cgroups import Cgroup, CgroupParent, _candidates
from unit.upstreams.arena import HOST

if TYPE_CHECKING:
    from pathlib import Path

LINE = "30 23 0:26 {root} {mount} rw,nosuid shared:4 - cgroup2 cgroup2 rw"


def proc(tmp_path: Path, own: str, mount: Path, root: str = "/") -> Path:
    folder = tmp_path / "proc"
    folder.mkdir()
    other = "29 23 0:25 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"
    (folder / "mountinfo").write_text(other + LINE.format(root=root, mount=mount) + "\n")
    (folder / "cgroup").write_text(f"8:pids:/elsewhere\n0::{own}\n")
    return folder


def test_only_a_group_that_is_the_gateways_is_filled(tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    (mount / "system.slice" / "agentapi.service" / "gateway").mkdir(parents=True)
    service = "/system.slice/agentapi.service"
    assert list(_candidates(proc(tmp_path, service, mount))) == []
    (tmp_path / "proc" / "cgroup").write_text("0::/\n")
    assert list(_candidates(tmp_path / "proc")) == [mount]


@pytest.mark.parametrize("own", ["/system.slice/agentapi.service", "/system.slice/agentapi.service/gateway"])
def test_a_delegated_group_is_the_gateways(tmp_path: Path, own: str, monkeypatch: pytest.MonkeyPatch) -> None:
    service = tmp_path / "mount" / "system.slice" / "agentapi.service"

    def attribute(path: Path, name: str) -> bytes:
        # As systemd marks it; not every file system of a test keeps such attributes.
        if (path, name) == (service, "user.delegate"):
            return b"1"
        raise OSError(errno.ENODATA, "none", str(path))

    monkeypatch.setattr(os, "getxattr", attribute)
    assert list(_candidates(proc(tmp_path, own, tmp_path / "mount"))) == [service]


def test_a_machine_without_the_unified_hierarchy_has_none(tmp_path: Path) -> None:
    folder = proc(tmp_path, "/", tmp_path, root="/elsewhere")
    assert CgroupParent.detect(proc=folder) is None
    (folder / "mountinfo").unlink()
    (folder / "cgroup").unlink()
    assert CgroupParent.detect(proc=folder) is None


def test_a_group_that_was_asked_for_and_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="AGENTAPI_STDIO_CGROUP"):
        CgroupParent.detect(tmp_path)
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    (tmp_path / "cgroup.subtree_control").write_text("memory pids\n")
    # A directory that only looks like one bounds nothing: the kernel puts no files into what is made below it.
    with pytest.raises(StartupError, match="AGENTAPI_STDIO_CGROUP"):
        CgroupParent.detect(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cgroup.controllers", "cgroup.subtree_control"]


def test_says_what_ended_a_run(tmp_path: Path) -> None:
    group = Cgroup(tmp_path, 64)
    assert group.ended_by() is None
    (tmp_path / "memory.events").write_text("low 0\noom 1\noom_kill 0\n")
    assert group.ended_by() is None
    (tmp_path / "memory.events").write_text("low 0\noom 1\noom_kill 3\n")
    assert group.ended_by() == "it used more than 64 MB of memory"


def test_the_host_says_how_far_its_bounds_go() -> None:
    told = HOST.in_force("auto")
    if HOST.cgroup is None:
        assert (told["memory"], told["processes"]) == ("process, tree watched", "user")
    else:
        assert (told["memory"], told["processes"]) == ("tree", "tree")
        group = HOST.cgroup.make(memory_mb=64, processes=8, cpus=0.5)
        try:
            read = {name: (group.path / name).read_text().strip() for name in ("memory.max", "pids.max")}
            assert read == {"memory.max": str(64 << 20), "pids.max": "10"}
        finally:
            assert group.remove()
            assert group.remove()
