"""Limit this process, then become the command.

Run by ``sandbox`` as ``python -I -S _launch.py SPEC COMMAND [ARGUMENT]...``, as its own program rather than
between fork and exec, where no Python may run in a threaded process. Imports the standard library alone:
under bubblewrap nothing of AgentAPI is in sight.

Order matters: death signal before the check of the parent, limits before the identity (raising a hard limit
needs privileges), no_new_privs before the filter of system calls, which needs it. Whatever fails, the command does
not run.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import resource
import signal
import sys
from typing import Any

_PR_SET_PDEATHSIG = 1
_PR_SET_SECCOMP = 22
_PR_SET_NO_NEW_PRIVS = 38
_SECCOMP_MODE_FILTER = 2
_INSTRUCTION_BYTES = 8
_FAILED = 126
_MOST_DESCRIPTORS = 1 << 20


class _Program(ctypes.Structure):
    """``struct sock_fprog`` (seccomp(2))."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def _prctl(option: int, value: int, more: object = 0) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), more, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def _limit(limits: dict[str, int]) -> None:
    for name, wanted in limits.items():
        which = getattr(resource, name)
        _, hard = resource.getrlimit(which)
        value = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(which, (value, value))


def _filter_calls(compiled: bytes) -> None:
    program = _Program(len(compiled) // _INSTRUCTION_BYTES, compiled)
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program))


def main(argv: list[str]) -> None:
    """Apply the specification in ``argv[1]`` and execute ``argv[2:]``."""
    spec: dict[str, Any] = json.loads(argv[1])
    command = argv[2:]
    linux = sys.platform == "linux"
    uid = spec["uid"]
    _limit(spec["limits"])
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    if linux:
        # After the change of identity, which clears it.
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if spec["parent"] is not None and os.getppid() != spec["parent"]:
            raise SystemExit(_FAILED)
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        if spec["calls"] is not None:
            _filter_calls(base64.b64decode(spec["calls"]))
    # Only now: its directory is closed to root without CAP_DAC_OVERRIDE, which bubblewrap took away.
    os.chdir(spec["cwd"])
    os.umask(0o077)
    # uvloop does not close what the gateway left inheritable: its listening socket, pipes to its other workers.
    os.closerange(3, _MOST_DESCRIPTORS)
    environment = {name: os.environ[name] for name in spec["env"]}
    os.execvpe(command[0], command, environment)  # noqa: S606 - no shell is what is wanted


if __name__ == "__main__":
    try:
        main(sys.argv)
    except (OSError, ValueError) as error:
        sys.stderr.write(f"agentapi: cannot start the command: {error}\n")
        sys.exit(_FAILED)
