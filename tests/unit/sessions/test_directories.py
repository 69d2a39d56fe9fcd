"""Directories of sessions on a real file system, with an agent in them that puts links wherever it can."""

from __future__ import annotations

import os
import stat
from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from agentapi.principal import OrgId, SessionId
from agentapi.sessions.directories import SessionDirectories, Usage
from support.directories import open_directory

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MUCH = 10**9


@pytest.fixture
def directories(tmp_path: Path) -> SessionDirectories:
    return SessionDirectories(tmp_path / "sessions")


@pytest.fixture
def ids() -> tuple[OrgId, SessionId]:
    return OrgId(uuid4()), SessionId(uuid4())


def measured(
    directories: SessionDirectories, ids: tuple[OrgId, SessionId], *, size: int = MUCH, entries: int = MUCH
) -> Usage:
    return directories.measure(*ids, max_size=size, max_entries=entries)


@contextmanager
def as_somebody(place: Path) -> Iterator[None]:
    """Be a user without privileges, whom ``place`` belongs to, where the tests run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.chown(place, 65534, 65534)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_directory_is_its_owners_alone_and_where_its_ids_say(
    directories: SessionDirectories, ids: tuple[OrgId, SessionId], tmp_path: Path
) -> None:
    path = directories.make(*ids)
    assert path == directories.of(*ids) == tmp_path / "sessions" / str(ids[0]) / str(ids[1])
    modes = [stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent, path.parent.parent)]
    assert modes == [0o700, 0o711, 0o711]
    (path / "kept").write_text("x")
    assert directories.make(*ids) == path
    assert (path / "kept").exists()
    assert [(each.org_id, each.session_id) for each in directories.found()] == [ids]


def test_removal_takes_all_that_is_inside_and_nothing_that_a_link_names(
    directories: SessionDirectories, ids: tuple[OrgId, SessionId], tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    path = directories.make(*ids)
    (path / "a" / "b").mkdir(parents=True)
    (path / "a" / "b" / "file").write_text("x")
    (path / "a" / ".1").mkdir()
    (path / ".1").mkdir()
    (path / "link").symlink_to(outside)
    (path / "a" / "link").symlink_to(outside, target_is_directory=True)
    (path / "a" / "b" / "up").symlink_to("../../../..")
    os.mkfifo(path / "pipe")
    locked = path / "locked"
    (locked / "inner").mkdir(parents=True)
    (locked / "inner").chmod(0)
    locked.chmod(0)
    directories.remove(*ids)
    assert not path.exists()
    assert not path.parent.exists()
    assert (outside / "precious").exists()
    directories.remove(*ids)


def test_modes_keep_nobody_out_who_is_not_root_either(ids: tuple[OrgId, SessionId]) -> None:
    """With the modes that ``chmod`` gave back by name, a link in the way would have been followed."""
    with open_directory() as place, as_somebody(place):
        directories = SessionDirectories(place / "sessions")
        path = directories.make(*ids)
        (path / "locked" / "inner").mkdir(parents=True)
        (path / "locked" / "inner" / "file").write_text("x")
        (path / "locked" / "inner").chmod(0)
        (path / "locked").chmod(0)
        path.chmod(0)
        assert measured(directories, ids).entries == 3
        (path / "locked").chmod(0)
        path.chmod(0o500)
        directories.remove(*ids)
        assert not path.exists()


def test_removal_goes_deeper_than_paths_and_recursion_do(
    directories: SessionDirectories, ids: tuple[OrgId, SessionId]
) -> None:
    path = directories.make(*ids)
    folder = os.open(path, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("deep", dir_fd=folder)
        inner = os.open("deep", os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = inner
    os.close(folder)
    assert measured(directories, ids, entries=100).entries > 100
    directories.remove(*ids)
    assert not path.exists()


@pytest.mark.parametrize("level", ["session", "organization", "root"])
def test_a_link_in_the_place_of_a_directory_leads_nowhere(
    directories: SessionDirectories, ids: tuple[OrgId, SessionId], tmp_path: Path, level: str
) -> None:
    outside = tmp_path / "outside"
    (outside / str(ids[0]) / str(ids[1])).mkdir(parents=True)
    (outside / str(ids[1])).mkdir()
    precious = [outside / "precious", outside / str(ids[1]) / "precious", outside / str(ids[0]) / "precious"]
    for each in precious:
        each.write_text("x" * 100_000)
    path = directories.of(*ids)
    link = {"session": path, "organization": path.parent, "root": path.parent.parent}[level]
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(outside, target_is_directory=True)
    if level == "session":
        with pytest.raises(NotADirectoryError):
            directories.make(*ids)
        directories.remove(*ids)
        assert not path.is_symlink()
    else:
        for act in (directories.make, directories.remove):
            with pytest.raises(NotADirectoryError):
                act(*ids)
        with pytest.raises(NotADirectoryError):
            measured(directories, ids)
        assert link.is_symlink()
    assert all(each.exists() for each in precious)


def test_what_a_directory_holds_is_measured_without_following_links(
    directories: SessionDirectories, ids: tuple[OrgId, SessionId], tmp_path: Path
) -> None:
    path = directories.make(*ids)
    (tmp_path / "large").write_bytes(b"x" * 1_000_000)
    (path / "link").symlink_to(tmp_path / "large")
    (path / "folder").mkdir()
    (path / "folder" / "loop").symlink_to("..")
    small = measured(directories, ids)
    assert small.entries == 3
    assert small.size < 100_000
    (path / "folder" / "file").write_bytes(b"x" * 500_000)
    (path / "folder").chmod(0)
    full = measured(directories, ids)
    assert full.entries == 4
    assert full.size >= small.size + 500_000
    assert measured(directories, ids, size=200_000).size > 200_000
    assert measured(directories, ids, entries=2).entries == 3


def test_a_hole_in_a_file_takes_no_room(directories: SessionDirectories, ids: tuple[OrgId, SessionId]) -> None:
    path = directories.make(*ids)
    with (path / "sparse").open("wb") as file:
        file.truncate(10**12)
    assert measured(directories, ids).size < 100_000


def test_what_is_no_id_is_left_alone(directories: SessionDirectories, ids: tuple[OrgId, SessionId]) -> None:
    path = directories.make(*ids)
    for odd in ("readme", str(uuid4()).upper(), "{" + str(uuid4()) + "}"):
        (path.parent / odd).mkdir()
        (path.parent.parent / odd).mkdir()
    assert [each.session_id for each in directories.found()] == [ids[1]]


def test_an_agent_cannot_make_its_directory_look_young(
    directories: SessionDirectories, ids: tuple[OrgId, SessionId]
) -> None:
    path = directories.make(*ids)
    os.utime(path, (10**10, 10**10))
    assert 0 <= directories.found()[0].age_s < 60


def test_one_of_a_host_sweeps(directories: SessionDirectories, tmp_path: Path) -> None:
    beside = SessionDirectories(tmp_path / "sessions")
    with directories.alone() as first:
        with beside.alone() as second:
            assert (first, second) == (True, False)
        with beside.alone() as second:
            assert not second
    with beside.alone() as second:
        assert second


def test_a_directory_that_is_gone_is_nothing_to_measure_or_find(
    directories: SessionDirectories, ids: tuple[OrgId, SessionId]
) -> None:
    assert directories.found() == []
    assert measured(directories, ids).entries == 0
    directories.make(*ids)
    directories.remove(*ids)
    assert measured(directories, ids).entries == 0
