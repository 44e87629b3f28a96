"""Programs for how a command ends: one that a seccomp filter kills, a forked copy, a forged report."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from typing import Any

import native

from usernsproc import UsernsProcess, _system_calls

WITH_INIT: dict[str, Any] = {"uid_map": "root", "namespaces": ["pid"], "init": True}
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
BPF_RETURN, SECCOMP_RET_KILL_PROCESS = 6, 0x80000000


def killed_by_seccomp() -> None:
    """A filter that refuses everything."""
    instruction = ctypes.create_string_buffer(struct.pack("=HBBI", BPF_RETURN, 0, 0, SECCOMP_RET_KILL_PROCESS))
    program = struct.pack("@HP", 1, ctypes.addressof(instruction))
    native.must(native.libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    native.libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program)


def read_in_a_copy_first() -> None:
    with UsernsProcess(["sh", "-c", "read line; kill -9 $$"], stdin=-1, **WITH_INIT) as process:
        read, write = os.pipe()
        copy = os.fork()
        if copy == 0:
            os.close(write)
            assert process.stdin is not None
            process.stdin.close()
            os.read(read, 1)
            os._exit(0 if process.poll() == -signal.SIGKILL else 1)
        process.communicate(b"\n")
        os.close(write)
        os.close(read)
    assert process.returncode == -signal.SIGKILL
    assert os.waitpid(copy, 0)[1] == 0


def forge() -> None:
    for forged in (struct.pack("=6q", 9, 0, 0, 0, 0, -1), b"x", struct.pack("=6q", -1, -1, -1, -1, -1, -1), b"x" * 100):
        with UsernsProcess(["sh", "-c", "read line; exit 7"], stdin=-1, **WITH_INIT) as process:
            assert process._child is not None
            pidfd_getfd = native.libc.syscall(_system_calls.NR["pidfd_getfd"], process.pidfd, 1, 0)
            assert pidfd_getfd >= 0
            assert os.write(pidfd_getfd, forged) == len(forged)
            os.close(pidfd_getfd)
            process.communicate(b"\n")
        assert process.returncode == 7, (forged, process.returncode)
