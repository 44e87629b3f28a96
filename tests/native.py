"""The kernel that the tests run on: its version, and system calls that Python lacks, by ctypes."""

from __future__ import annotations

import ctypes
import os
import re
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)


def kernel_version(text: str) -> tuple[int, int]:
    major, minor = re.findall(r"\d+", text)[:2]
    return int(major), int(minor)


KERNEL = kernel_version(os.uname().release)
MACHINE = os.uname().machine

CLONE_FS = 0x00000200
CLONE_NEWNS = 0x00020000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
CLONE_NEWPID = 0x20000000
CLONE_NEWTIME = 0x00000080

MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE, MS_SHARED = 1, 0x20, 0x1000, 0x4000, 1 << 18, 1 << 20
MNT_DETACH = 2

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE, PR_GET_DUMPABLE = 4, 3
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_SET_MODE_FILTER = 1
NR_CLONE = {"x86_64": 56, "aarch64": 220, "riscv64": 220, "s390x": 120, "ppc64le": 120}[os.uname().machine]
NR_SECCOMP = {"x86_64": 317, "aarch64": 277, "riscv64": 277, "s390x": 348, "ppc64le": 358}[os.uname().machine]
NR_IOCTL = {"x86_64": 16, "aarch64": 29, "riscv64": 29, "s390x": 54, "ppc64le": 54}[os.uname().machine]
NR_LANDLOCK_CREATE_RULESET, NR_LANDLOCK_RESTRICT_SELF = 444, 446
LANDLOCK_ACCESS_FS_MAKE_DIR = 1 << 7


def must(result: int) -> int:
    if result < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, os.strerror(errno))
    return result


def prctl(option: int, argument: int = 0) -> int:
    return must(libc.prctl(option, argument, 0, 0, 0))


def unshare(flags: int) -> None:
    must(libc.unshare(flags))


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def refuse_system_call(number: int, errno: int) -> None:
    """Make system call *number* fail with *errno* in the calling thread and its descendants."""
    _install(
        struct.pack("HBBI", 0x20, 0, 0, 0),  # load the number
        struct.pack("HBBI", 0x15, 0, 1, number),  # equal? else skip one
        struct.pack("HBBI", 0x06, 0, 0, 0x00050000 | errno),  # SECCOMP_RET_ERRNO
        struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000),  # SECCOMP_RET_ALLOW
    )


def refuse_argument(number: int, index: int, value: int, errno: int) -> None:
    """Refuse system call *number* with that value of an argument, like `refuse_system_call`."""
    low = 16 + 8 * index + (0 if sys.byteorder == "little" else 4)  # half of it, in struct seccomp_data
    _install(
        struct.pack("HBBI", 0x20, 0, 0, 0),
        struct.pack("HBBI", 0x15, 0, 3, number),
        struct.pack("HBBI", 0x20, 0, 0, low),
        struct.pack("HBBI", 0x15, 0, 1, value),
        struct.pack("HBBI", 0x06, 0, 0, 0x00050000 | errno),
        struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000),
    )


def refuse_flag(number: int, index: int, flag: int, errno: int) -> None:
    """Refuse system call *number* if an argument has that bit, like `refuse_system_call`."""
    low = 16 + 8 * index + (0 if sys.byteorder == "little" else 4)
    _install(
        struct.pack("HBBI", 0x20, 0, 0, 0),
        struct.pack("HBBI", 0x15, 0, 3, number),
        struct.pack("HBBI", 0x20, 0, 0, low),
        struct.pack("HBBI", 0x45, 0, 1, flag),  # a bit in common?
        struct.pack("HBBI", 0x06, 0, 0, 0x00050000 | errno),
        struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000),
    )


def _install(*instructions: bytes) -> None:
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    program = _Program(len(instructions), b"".join(instructions))
    must(libc.syscall(NR_SECCOMP, SECCOMP_SET_MODE_FILTER, 0, ctypes.byref(program)))


def forbid_making_directories() -> None:
    """Enter a Landlock domain with the calling thread and its descendants."""
    handled = struct.pack("Q", LANDLOCK_ACCESS_FS_MAKE_DIR)
    ruleset = must(libc.syscall(NR_LANDLOCK_CREATE_RULESET, handled, len(handled), 0))
    prctl(PR_SET_NO_NEW_PRIVS, 1)
    must(libc.syscall(NR_LANDLOCK_RESTRICT_SELF, ruleset, 0))
    os.close(ruleset)


def drop_capability(number: int) -> None:
    """Remove it from the effective and permitted capabilities of the calling thread."""
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    must(libc.capget(header, data))
    data[0] &= ~(1 << number)
    data[1] &= ~(1 << number)
    must(libc.capset(header, data))
