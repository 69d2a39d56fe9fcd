from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from agentapi import folders
from agentapi.folders import measure, remove

PLENTY = 1 << 40


def test_measures_what_the_disk_holds_and_what_an_entry_costs(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    empty = measure(folder, at_most=PLENTY)
    (folder / "inner" / "file").write_bytes(bytes(1 << 20))
    full = measure(folder, at_most=PLENTY)
    assert (1 << 20) <= full - empty < (1 << 20) + 8192
    (folder / "none").touch()
    assert measure(folder, at_most=PLENTY) - full == 4096
    with (folder / "sparse").open("wb") as file:
        file.truncate(1 << 30)
    assert measure(folder, at_most=PLENTY) < full + 16_384
    assert measure(tmp_path / "gone", at_most=PLENTY) == 0


def test_a_measurement_ends_where_it_is_too_much(tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / str(number)).touch()
    assert measure(tmp_path, at_most=10_000) == 12_288


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "folder"
    for each in (outside, folder):
        each.mkdir()
    (outside / "large").write_bytes(bytes(1 << 20))
    outside.chmod(0o500)
    (folder / "link").symlink_to(outside)
    (folder / "file").symlink_to(outside / "large")
    os.mkfifo(folder / "pipe")
    assert measure(folder, at_most=PLENTY) < 16_384
    assert remove(folder)
    assert (outside / "large").stat().st_size == 1 << 20
    assert outside.stat().st_mode & 0o777 == 0o500
    # The directory itself may be a link by now.
    folder.symlink_to(outside)
    with pytest.raises(OSError, match=r"Not a directory|Too many levels"):
        measure(folder, at_most=PLENTY)
    assert remove(folder)
    assert not folder.is_symlink()
    assert (outside / "large").exists()


def test_modes_keep_nobody_out(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "file").write_bytes(bytes(1 << 20))
    for each in (folder / "a" / "b", folder / "a"):
        each.chmod(0)
    assert measure(folder, at_most=PLENTY) > 1 << 20
    (folder / "a").chmod(0)
    folder.chmod(0)
    assert remove(folder)
    assert not folder.exists()


CLOSED = f"""
import importlib.util, os, pathlib, tempfile
spec = importlib.util.spec_from_file_location("folders", {folders.__file__!r})
folders = importlib.util.module_from_spec(spec)
spec.loader.exec_module(folders)
folder = pathlib.Path(tempfile.mkdtemp(dir="/var/tmp"))
(folder / "a" / "b").mkdir(parents=True)
(folder / "a" / "b" / "file").write_bytes(bytes(1 << 20))
for each in (folder / "a" / "b", folder / "a", folder):
    each.chmod(0)
print(folders.measure(folder, at_most=1 << 40) > 1 << 20)
folder.chmod(0)
print(folders.remove(folder), folder.exists())
"""


def test_modes_keep_an_owner_out_as_little_as_root() -> None:
    nobody = 65_534 if os.geteuid() == 0 else None
    done = subprocess.run(
        ["/usr/bin/python3", "-c", CLOSED], user=nobody, capture_output=True, text=True, timeout=30, check=True
    )
    assert done.stdout.split() == ["True", "True", "False"]


def test_nests_are_too_much_to_measure_and_not_too_deep_to_remove(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    # A name that would be too long in one piece, and deeper than a process may recurse or hold descriptors.
    here = os.open(folder, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir(".1", dir_fd=here)
        inner = os.open(".1", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    assert measure(folder, at_most=PLENTY) > PLENTY
    assert remove(folder)
    assert not folder.exists()
    assert remove(folder)


def test_what_cannot_be_removed_is_told(tmp_path: Path) -> None:
    assert not remove(Path("/proc/1/fd"))
    assert not remove(tmp_path / ("x" * 300))
