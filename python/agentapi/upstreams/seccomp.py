"""A filter of system calls for commands: what no MCP server needs, and what widens the kernel's surface, fails.

Compiled by libseccomp, which knows the numbers of every architecture, and set by the launcher behind
``no_new_privs``; so it holds with bubblewrap and without. What is not named here is allowed: this is a second line
behind namespaces and user ids, in the manner of container runtimes, not a list of what a command may do.

Sources: seccomp(2), libseccomp's seccomp.h, the default profiles of Docker and Flatpak.
"""

from __future__ import annotations

import ctypes
import errno
import os
from functools import cache
from typing import Final

__all__ = ["compile_filter"]

_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000
_NO_SUCH_CALL: Final = -1
_NOT_EQUAL, _EQUAL, _GREATER, _MASKED_EQUAL = 1, 4, 6, 7

_NEVER: Final = (
    # Other processes.
    *("ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd", "perf_event_open"),
    # Mounts and namespaces.
    *("mount", "umount", "umount2", "pivot_root", "chroot", "setns", "open_tree", "move_mount", "mount_setattr"),
    *("fsopen", "fsconfig", "fsmount", "fspick", "open_by_handle_at", "name_to_handle_at"),
    # Kernel keys, which belong to a user and not to a process.
    *("add_key", "keyctl", "request_key"),
    # The machine.
    *("acct", "bpf", "delete_module", "finit_module", "init_module", "ioperm", "iopl", "kexec_file_load"),
    *("kexec_load", "lookup_dcookie", "nfsservctl", "quotactl", "quotactl_fd", "reboot", "settimeofday"),
    *("clock_settime", "stime", "swapoff", "swapon", "syslog", "vhangup", "fanotify_init", "modify_ldt", "uselib"),
    # Known more for what was broken by them.
    *("userfaultfd", "vmsplice"),
)
_ABSENT: Final = ("clone3", "io_uring_setup", "io_uring_enter", "io_uring_register")
"""Said not to exist, so that programs fall back: a filter does not see the flags of the one, nor what the others do."""
_UNCOUNTED: Final = ("memfd_create", "memfd_secret", "shmget")
"""Memory that no process has mapped, which resource limits and the watch do not see."""
_NAMESPACES: Final = (0x00000080, 0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)
"""CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET (sched.h)."""
_CLONE_NEWTIME: Final = 0x00000080
"""Means something else to ``clone``: its lowest byte is a signal."""
_TERMINAL_INPUT: Final = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX, which type into the terminal of somebody else."""
_PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER = 4, 36
_UNIX, _INET, _INET6, _NETLINK = 1, 2, 10, 16


class _Compare(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


@cache
def compile_filter(*, network: bool, counted: bool) -> bytes | None:
    """Return the filter as the kernel takes it, or None where there is no libseccomp.

    Args:
        network: Whether the command may make internet sockets.
        counted: Whether a control group counts all memory of the command.
    """
    library = _library()
    context = library.seccomp_init(_ALLOW) if library is not None else None
    if library is None or not context:
        return None
    try:
        for refusal, name, compare in _rules(network=network, counted=counted):
            number = library.seccomp_syscall_resolve_name(name.encode())
            if number == _NO_SUCH_CALL:
                # One that a newer library knows.
                continue
            compared = (_Compare * len(compare))(*compare)
            if library.seccomp_rule_add_array(context, _ERRNO | refusal, number, len(compare), compared) != 0:
                return None
        return _exported(library, context)
    finally:
        library.seccomp_release(context)


def _rules(*, network: bool, counted: bool) -> list[tuple[int, str, tuple[_Compare, ...]]]:
    rules: list[tuple[int, str, tuple[_Compare, ...]]] = [(errno.EPERM, name, ()) for name in _NEVER]
    rules += [(errno.ENOSYS, name, ()) for name in (*_ABSENT, *(() if counted else _UNCOUNTED))]
    rules += [(errno.EPERM, "unshare", (_Compare(0, _MASKED_EQUAL, flag, flag),)) for flag in _NAMESPACES]
    clone = [flag for flag in _NAMESPACES if flag != _CLONE_NEWTIME]
    rules += [(errno.EPERM, "clone", (_Compare(0, _MASKED_EQUAL, flag, flag),)) for flag in clone]
    # Compared as the kernel does, which ignores the upper half.
    low = 0xFFFFFFFF
    rules += [(errno.EPERM, "ioctl", (_Compare(1, _MASKED_EQUAL, low, number),)) for number in _TERMINAL_INPUT]
    # A process that hides its files and memory from the watch, or takes its orphans out of sight.
    hiding = (_PR_SET_DUMPABLE, _PR_SET_CHILD_SUBREAPER)
    rules += [(errno.EPERM, "prctl", (_Compare(0, _MASKED_EQUAL, low, option),)) for option in hiding]
    families = {_UNIX, _NETLINK, *((_INET, _INET6) if network else ())}
    others = sorted(set(range(_NETLINK)) - families)
    rules += [(errno.EAFNOSUPPORT, "socket", (_Compare(0, _MASKED_EQUAL, low, family),)) for family in others]
    rules.append((errno.EAFNOSUPPORT, "socket", (_Compare(0, _GREATER, _NETLINK, 0),)))
    return rules


def _library() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
        library.seccomp_init.restype = ctypes.c_void_p
        library.seccomp_init.argtypes = (ctypes.c_uint32,)
        library.seccomp_release.argtypes = (ctypes.c_void_p,)
        library.seccomp_syscall_resolve_name.argtypes = (ctypes.c_char_p,)
        library.seccomp_rule_add_array.argtypes = (
            ctypes.c_void_p,
            ctypes.c_uint32,
            ctypes.c_int,
            ctypes.c_uint,
            ctypes.POINTER(_Compare),
        )
        library.seccomp_export_bpf.argtypes = (ctypes.c_void_p, ctypes.c_int)
    except (OSError, AttributeError):
        return None
    return library


def _exported(library: ctypes.CDLL, context: int) -> bytes | None:
    with os.fdopen(os.memfd_create("filter"), "r+b") as file:
        if library.seccomp_export_bpf(context, file.fileno()) != 0:
            return None
        file.seek(0)
        return file.read()
