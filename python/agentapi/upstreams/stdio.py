"""Allowed commands as processes of their own directory; a tenant names one, never a command line."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Self

import anyio
import anyio.to_thread
import structlog
from mcp import StdioServerParameters
from mcp.client.stdio import get_default_environment

from agentapi.errors import FieldError, InvalidRequestError
from agentapi.upstreams.sandbox import Mode, SandboxLimits, SandboxSupport, require, wrap

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from pydantic import SecretStr

    from agentapi.settings import Settings, StdioCommand

__all__ = ["StdioCommands"]

_log = structlog.get_logger(__name__)
_REMOVAL_ATTEMPTS: Final = 3


class StdioCommands:
    """The allow-list, and how each command on it is run."""

    def __init__(
        self,
        commands: Mapping[str, StdioCommand],
        *,
        root: Path,
        limits: SandboxLimits,
        support: SandboxSupport,
        mode: Mode = "auto",
        hidden: tuple[Path, ...] = (),
        path: str | None = None,
    ) -> None:
        """Take the allow-list.

        Args:
            commands: By name.
            root: Where the commands' directories are made; shared by the processes of one gateway.
            limits: Bounds on each command.
            support: What the host offers, from ``SandboxSupport.detect()``.
            mode: How much of it is used.
            hidden: Directories of the gateway that no command may see; ``root`` is always among them.
            path: ``PATH`` of the commands; by default the gateway's own, as the SDK would pass it on.

        Raises:
            StartupError: The mode asks for more than the host has.
        """
        require(mode, support)
        self._commands = dict(commands)
        self._root = root.resolve()
        self._limits = limits
        self._support = support
        self._mode = mode
        self._hidden = tuple(dict.fromkeys((self._root, *(folder.resolve() for folder in hidden))))
        self._path = path or get_default_environment().get("PATH", os.defpath)

    @classmethod
    def from_settings(
        cls, settings: Settings, *, root: Path, support: SandboxSupport, hidden: tuple[Path, ...] = ()
    ) -> Self:
        """Build from ``stdio_*`` and ``sandbox``.

        Raises:
            StartupError: ``sandbox`` asks for more than the host has.
        """
        return cls(
            settings.stdio_commands,
            root=root,
            limits=SandboxLimits.from_settings(settings),
            support=support,
            mode=settings.sandbox,
            hidden=hidden,
        )

    @property
    def names(self) -> tuple[str, ...]:
        """The names that tenants may use, sorted."""
        return tuple(sorted(self._commands))

    @property
    def user_variables(self) -> dict[str, frozenset[str]]:
        """The variables that users may bring to each command."""
        return {name: command.user_env for name, command in self._commands.items()}

    def get(self, name: str) -> StdioCommand:
        """Return the command called ``name``.

        Raises:
            InvalidRequestError: There is none; the message lists those there are.
        """
        command = self._commands.get(name)
        if command is None:
            allowed = ", ".join(self.names) or "none"
            raise InvalidRequestError(
                "The command is not allowed on this gateway.",
                (FieldError("/command", f"must be one of the allowed commands: {allowed}"),),
            )
        return command

    @asynccontextmanager
    async def parameters(
        self, name: str, environment: Mapping[str, SecretStr] = MappingProxyType({})
    ) -> AsyncIterator[StdioServerParameters]:
        """Make a directory for one run of a command and yield what ``mcp.client.stdio`` starts it with.

        The directory is removed on leaving, so leave only once the process has ended::

            async with commands.parameters("time") as parameters, stdio_client(parameters) as streams: ...

        Args:
            name: Of the command.
            environment: Variables besides the command's own and those of every command, which win.

        Raises:
            InvalidRequestError: The command is not on the list.
        """
        command = self.get(name)
        directory = await anyio.to_thread.run_sync(self._make_directory)
        try:
            yield await anyio.to_thread.run_sync(self._prepare, command, directory, environment)
        finally:
            with anyio.CancelScope(shield=True):
                removed = await anyio.to_thread.run_sync(_remove, directory)
            if not removed:
                _log.warning("stdio_directory_left_behind", command=name)

    def _make_directory(self) -> Path:
        self._root.mkdir(mode=0o711, parents=True, exist_ok=True)
        directory = self._root / secrets.token_hex(8)
        directory.mkdir(mode=0o700)
        (directory / "tmp").mkdir(mode=0o700)
        return directory

    def _prepare(
        self, command: StdioCommand, directory: Path, environment: Mapping[str, SecretStr]
    ) -> StdioServerParameters:
        # The SDK merges these over six variables of the gateway (HOME, LOGNAME, PATH, SHELL, TERM, USER). Two
        # are set here; the launcher drops the rest, since it passes on only the names it is told.
        env = {
            **{name: value.get_secret_value() for name, value in environment.items()},
            "PATH": self._path,
            "HOME": str(directory),
            "TMPDIR": str(directory / "tmp"),
            "LANG": "C.UTF-8",
            **{name: value.get_secret_value() for name, value in command.env.items()},
        }
        wrapped = wrap(
            (command.command, *command.args),
            directory=directory,
            env=env,
            limits=self._limits,
            support=self._support,
            mode=self._mode,
            hidden=self._hidden,
            readable=command.readable,
        )
        if wrapped.uid is not None:
            for owned in (directory / "tmp", directory):
                os.chown(owned, wrapped.uid, wrapped.uid)
        return StdioServerParameters(
            command=wrapped.command,
            args=list(wrapped.args),
            env=env,
            cwd=str(directory),
            encoding_error_handler="replace",
        )


def _remove(directory: Path) -> bool:
    """Remove a directory whatever modes the command left in it; return whether it is gone."""
    for _ in range(_REMOVAL_ATTEMPTS):
        shutil.rmtree(directory, ignore_errors=True)
        if not directory.exists():
            return True
        with contextlib.suppress(OSError):
            directory.chmod(0o700)
            for folder, names, _ in os.walk(directory):
                for inner in (Path(folder, name) for name in names):
                    if not inner.is_symlink():
                        inner.chmod(0o700)
    return False
