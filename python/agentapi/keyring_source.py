"""Where the keyring comes from: a variable, a file, or a command that asks a KMS or a vault."""

from __future__ import annotations

import os
import select
import shlex
import signal
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from agentapi._core import Keyring, KeyringError
from agentapi.errors import StartupError

if TYPE_CHECKING:
    from agentapi.settings import Settings

__all__ = ["has_keyring", "load_keyring", "load_keyring_text"]

_COMMAND_S: Final = 30.0
_MAX_OUTPUT: Final = 64 * 1024
_NO_KEYRING: Final = "holds no keyring; `agentapi keys generate` makes one."


def has_keyring(settings: Settings) -> bool:
    """Return whether the settings say where a keyring comes from."""
    return any(each is not None for each in (settings.keyring, settings.keyring_file, settings.keyring_command))


def load_keyring(settings: Settings) -> Keyring:
    """Return the deployment's keyring.

    Raises:
        StartupError: There is none, or it cannot be used; no message holds a part of it.
    """
    try:
        return Keyring.parse(load_keyring_text(settings))
    except KeyringError as error:
        raise StartupError(f"The keyring cannot be used: {error}.") from None


def load_keyring_text(settings: Settings) -> str:
    """Return the keyring as text.

    Raises:
        StartupError: There is none, or more than one, or it cannot be read.
    """
    given = [
        name
        for name, value in (
            ("AGENTAPI_KEYRING", settings.keyring),
            ("AGENTAPI_KEYRING_FILE", settings.keyring_file),
            ("AGENTAPI_KEYRING_COMMAND", settings.keyring_command),
        )
        if value is not None
    ]
    if len(given) > 1:
        raise StartupError(f"{' and '.join(given)} are set; keep the one that the keyring is to come from.")
    if settings.keyring is not None:
        return settings.keyring.get_secret_value()
    if settings.keyring_file is not None:
        try:
            return settings.keyring_file.read_text(encoding="utf-8")
        except OSError as error:
            raise StartupError(f"AGENTAPI_KEYRING_FILE cannot be read: {error.strerror}.") from error
        except UnicodeDecodeError:
            raise StartupError(f"AGENTAPI_KEYRING_FILE {_NO_KEYRING}") from None
    if settings.keyring_command is not None:
        return _printed(settings.keyring_command)
    raise StartupError(
        "Set AGENTAPI_KEYRING, AGENTAPI_KEYRING_FILE or AGENTAPI_KEYRING_COMMAND;"
        " `agentapi keys generate` makes a keyring."
    )


def _printed(command_line: str, *, timeout_s: float = _COMMAND_S) -> str:
    """Run the command once, in this environment and without a shell, and return what it printed.

    Neither that nor what it says on standard error is ever repeated: both may hold keys or the vault's own secrets.
    """
    variable = "AGENTAPI_KEYRING_COMMAND"
    try:
        arguments = shlex.split(command_line)
    except ValueError:
        raise StartupError(f"{variable} is not a command line: a quotation does not end.") from None
    if not arguments:
        raise StartupError(f"{variable} names no command.")
    try:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise StartupError(f"{variable} cannot be run: {error.strerror}.") from None
    with process:
        try:
            printed, status = _output(process, deadline=time.monotonic() + timeout_s)
        except TimeoutError:
            raise StartupError(f"{variable} did not end within {timeout_s:g} s.") from None
        finally:
            _end(process)
    if len(printed) > _MAX_OUTPUT:
        raise StartupError(f"{variable} printed more than {_MAX_OUTPUT // 1024} KiB, which is no keyring.")
    if status != 0:
        raise StartupError(f"{variable} failed with exit status {status}; run it by hand to see why.")
    try:
        return printed.decode()
    except UnicodeDecodeError:
        raise StartupError(f"{variable} printed what is no keyring.") from None


def _output(process: subprocess.Popen[bytes], *, deadline: float) -> tuple[bytes, int]:
    """Return what the command printed, as far as it is looked at, and its exit status.

    Raises:
        TimeoutError: The command, or one that it started and that holds its output open, takes too long.
    """
    assert process.stdout is not None  # noqa: S101 - for the type checker
    source = process.stdout.fileno()
    printed = b""
    while len(printed) <= _MAX_OUTPUT:
        if not select.select([source], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise TimeoutError
        chunk = os.read(source, _MAX_OUTPUT)
        if not chunk:
            break
        printed += chunk
    else:
        return printed, 0
    try:
        return printed, process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise TimeoutError from None


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the command and what it started in its group."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
