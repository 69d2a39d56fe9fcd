from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from agentapi.errors import UpstreamError
from agentapi.upstreams import identities as module
from agentapi.upstreams.identities import FIRST_UID, UIDS, Identities

if TYPE_CHECKING:
    from pathlib import Path

ROOT = os.geteuid() == 0


def made(tmp_path: Path, name: str) -> Path:
    folder = tmp_path / name
    folder.mkdir(mode=0o700)
    (folder / "tmp").mkdir()
    return folder


@pytest.fixture
def chowned(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Who owns what: only root can give a directory away, and the tests are not always root's."""
    given: dict[str, int] = {}
    if not ROOT:
        monkeypatch.setattr(os, "chown", lambda path, uid, _gid, **_: given.__setitem__(str(path), uid))
    return given


@pytest.mark.usefixtures("chowned")
def test_no_two_owners_have_one_id_and_the_runs_of_one_do(tmp_path: Path) -> None:
    # Two gateways on one state directory.
    one, other = Identities(tmp_path / "users"), Identities(tmp_path / "users")
    directory = made(tmp_path, "session")
    first = one.take("session", directory)
    held = [(one, first)]
    if ROOT:
        # It is found by whom its directory belongs to.
        second = other.take("session", directory)
        assert second.uid == first.uid
        held.append((other, second))
    strangers = [(each, each.take(f"run-{n}", made(tmp_path, f"run-{n}"))) for n, each in enumerate([one, other] * 20)]
    taken = [identity.uid for _, identity in strangers]
    assert len({*taken, first.uid}) == 41
    assert all(FIRST_UID <= uid < FIRST_UID + UIDS for uid in taken)
    for by, identity in (*held, *strangers):
        by.release(identity)
    assert [path.name for path in (tmp_path / "users").iterdir()] == ["lock"]


@pytest.mark.usefixtures("chowned")
def test_an_id_that_somebody_else_has_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "UIDS", 2)
    users = Identities(tmp_path / "users")
    taken = [users.take(str(n), made(tmp_path, str(n))) for n in range(2)]
    with pytest.raises(UpstreamError, match="Every user id"):
        users.take("third", made(tmp_path, "third"))
    for identity in taken:
        users.release(identity)
    again = users.take("third", tmp_path / "third")
    users.release(again)


def test_what_is_in_the_directory_changes_hands_and_nothing_outside(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("kept")
    directory = made(tmp_path, "session")
    (directory / "file").write_text("x")
    (directory / "link").symlink_to(outside)
    os.link(outside, directory / "second name")
    before = outside.stat().st_uid
    users = Identities(tmp_path / "users")
    if not ROOT:
        with pytest.raises(PermissionError):
            users.take("session", directory)
        return
    identity = users.take("session", directory)
    users.release(identity)
    owners = {path.name: path.lstat().st_uid for path in (directory, *directory.iterdir())}
    assert owners.pop("second name") == before
    assert set(owners.values()) == {identity.uid}
    assert outside.stat().st_uid == before


def test_who_still_runs_when_the_last_lets_go_is_ended(tmp_path: Path) -> None:
    if not ROOT:
        assert os.geteuid() != 0
        return
    users, directory = Identities(tmp_path / "users"), made(tmp_path, "session")
    first, second = users.take("session", directory), users.take("session", directory)
    linger = subprocess.Popen(["/bin/sleep", "60"], user=first.uid, group=first.uid, extra_groups=[], cwd="/")
    users.release(first)
    assert linger.poll() is None
    users.release(second)
    assert linger.wait(timeout=10) == -9


def test_an_id_is_free_again_when_its_gateway_was_killed(tmp_path: Path) -> None:
    code = f"""
import os
from pathlib import Path
from agentapi.upstreams import identities
identities.os.chown = lambda *_, **__: None
identities.UIDS = 1
print(identities.Identities(Path({str(tmp_path / "users")!r})).take("run", Path({str(made(tmp_path, "run"))!r})).uid)
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert (tmp_path / "users" / str(FIRST_UID)).exists()
    descriptor = os.open(tmp_path / "users" / str(FIRST_UID), os.O_RDWR)
    assert module._lock(descriptor, fcntl.LOCK_EX)
    os.close(descriptor)
