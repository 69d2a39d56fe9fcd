"""Allowed commands as processes of their own directory; a tenant names one, never a command line."""

from __future__ import annotations

import contextlib
import os
import secrets
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Self

import anyio
import anyio.to_thread
import structlog
from mcp import StdioServerParameters
from mcp.client.stdio import get_default_environment

from agentapi import folders
from agentapi.errors import FieldError, InvalidRequestError, UpstreamError
from agentapi.upstreams.guard import Guard, Watched
from agentapi.upstreams.identities import Identities
from agentapi.upstreams.sandbox import Mode, SandboxLimits, SandboxSupport, is_own_user_possible, require, wrap

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

    from pydantic import SecretStr

    from agentapi.settings import Settings, StdioCommand

__all__ = ["Run", "SessionPlace", "StdioCommands"]

_log = structlog.get_logger(__name__)
_REMOVAL_ATTEMPTS: Final = 3


@dataclass(frozen=True, slots=True)
class SessionPlace:
    """Where the commands of one session run, and whose they are."""

    owner: str
    """A name that no other session has."""
    directory: Path
    """Its own, which is there, and stays when the command ends."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a command, ready to be started."""

    parameters: StdioServerParameters
    """What ``mcp.client.stdio`` starts it with."""
    guard: Guard


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
        watched: Watched | None = None,
    ) -> None:
        """Take the allow-list.

        Args:
            commands: By name.
            root: Where the commands' directories are made; shared by the processes of one gateway.
            limits: Bounds on each command.
            support: What the host offers, from ``SandboxSupport.detect()``.
            mode: How much of it is used.
            hidden: Directories and files of the gateway that no command may see; ``root`` is always among them.
            path: ``PATH`` of the commands; by default the gateway's own, as the SDK would pass it on.
            watched: How the guards look; by default once a second.

        Raises:
            StartupError: The mode asks for more than the host has.
        """
        require(mode, support)
        self._commands = dict(commands)
        self._root = root.resolve()
        self._limits = limits
        self._support = support
        self._mode = mode
        users = self._root.with_name(f"{self._root.name}-users")
        self._hidden = tuple(dict.fromkeys((self._root, users, *(folder.resolve() for folder in hidden))))
        self._path = path or get_default_environment().get("PATH", os.defpath)
        self._watched = watched or Watched()
        self._identities = Identities(users)

    @classmethod
    def from_settings(cls, settings: Settings, *, root: Path, support: SandboxSupport) -> Self:
        """Build from ``stdio_*`` and ``sandbox``; what holds the gateway's data, settings and keys is hidden.

        Raises:
            StartupError: ``sandbox`` asks for more than the host has.
        """
        files = (settings.keyring_file, settings.issuers_file)
        return cls(
            settings.stdio_commands,
            root=root,
            limits=SandboxLimits.from_settings(settings),
            support=support,
            mode=settings.sandbox,
            hidden=(settings.state_dir.parent, *(path for path in files if path is not None)),
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
    async def run(
        self,
        name: str,
        environment: Mapping[str, SecretStr] = MappingProxyType({}),
        session: SessionPlace | None = None,
    ) -> AsyncIterator[Run]:
        """Make ready one run of a command, in a directory of its own or that of a session.

        The run's own directory is removed on leaving, and what still runs is ended, so leave only once the process has
        ended::

            async with commands.run("time") as run, stdio_client(run.parameters) as streams: ...

        Args:
            name: Of the command.
            environment: Variables besides the command's own and those of every command, which win.
            session: The session that it is run for.

        Raises:
            InvalidRequestError: The command is not on the list.
            UpstreamError: The directory of the session is gone, or no user id is left.
        """
        self.get(name)
        stack = contextlib.ExitStack()
        try:
            yield await anyio.to_thread.run_sync(self._prepare, name, environment, session, stack)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(stack.close)

    def _prepare(
        self,
        name: str,
        environment: Mapping[str, SecretStr],
        session: SessionPlace | None,
        stack: contextlib.ExitStack,
    ) -> Run:
        command = self._commands[name]
        own = self._make_directory()
        stack.callback(_remove, own, command=name)
        if session is not None and not session.directory.is_dir():
            raise UpstreamError("The session has no directory any more.")
        home = session.directory if session is not None else own
        directories = tuple(dict.fromkeys((home, own)))
        argv = (command.command, *command.args)
        uid = self._own_user(argv, session, directories, stack)
        # The SDK merges these over six variables of the gateway (HOME, LOGNAME, PATH, SHELL, TERM, USER). Two
        # are set here; the launcher drops the rest, since it passes on only the names it is told.
        env = {
            **{name: value.get_secret_value() for name, value in environment.items()},
            "PATH": self._path,
            "HOME": str(home),
            "TMPDIR": str(own / "tmp"),
            "LANG": "C.UTF-8",
            **{name: value.get_secret_value() for name, value in command.env.items()},
        }
        wrapped = wrap(
            argv,
            directories=directories,
            env=env,
            limits=self._limits,
            support=self._support,
            mode=self._mode,
            uid=uid,
            hidden=self._hidden,
            readable=command.readable,
            network=command.network,
        )
        line = (wrapped.command, *wrapped.args)
        cgroup = None
        if self._support.cgroup is not None and self._mode != "off":
            limits = self._limits
            cgroup = self._support.cgroup.make(memory_mb=limits.memory_mb, processes=limits.processes, cpus=limits.cpus)
            stack.callback(cgroup.remove)
            line = cgroup.entering(line)
        parameters = StdioServerParameters(
            command=line[0], args=list(line[1:]), env=env, cwd=str(home), encoding_error_handler="replace"
        )
        # The id of a session is that of its other runs as well, which are none of this guard's business.
        guard = Guard(self._limits, self._watched, directories, uid if session is None else None, cgroup)
        return Run(parameters, guard)

    def _make_directory(self) -> Path:
        self._root.mkdir(mode=0o711, parents=True, exist_ok=True)
        directory = self._root / secrets.token_hex(8)
        directory.mkdir(mode=0o700)
        (directory / "tmp").mkdir(mode=0o700)
        return directory

    def _own_user(
        self,
        argv: tuple[str, ...],
        session: SessionPlace | None,
        directories: tuple[Path, ...],
        stack: contextlib.ExitStack,
    ) -> int | None:
        """Return the user id of the run, which then owns its directories; None for the gateway's own."""
        parents = tuple(directory.parent for directory in directories)
        if not is_own_user_possible(argv, path=self._path, folders=parents, support=self._support, mode=self._mode):
            return None
        own = directories[-1]
        identity = self._identities.take(session.owner if session is not None else own.name, directories[0])
        stack.callback(self._identities.release, identity)
        for owned in (own / "tmp", own):
            os.chown(owned, identity.uid, identity.uid)
        return identity.uid


def _remove(directory: Path, *, command: str) -> None:
    for _ in range(_REMOVAL_ATTEMPTS):
        if folders.remove(directory):
            return
    _log.warning("stdio_directory_left_behind", command=command)
