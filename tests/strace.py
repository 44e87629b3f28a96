"""System calls that strace(1) lets fail, delays, or answers with a signal."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Self

import native

PR_SET_PTRACER, PR_SET_PTRACER_ANY = 0x59616D61, -1


def allow_tracers() -> None:
    """Let every process of the same user trace this one, if the Yama security module forbids it."""
    native.libc.prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0)


class Strace:
    """Follows this process in a block, and tampers with calls: the Nth call in each thread and each child."""

    def __init__(self, *faults: str) -> None:
        self.path = Path(tempfile.mkdtemp(), "log")
        calls = ",".join(fault.partition(":")[0] for fault in faults)
        self.options = ["-f", "-qq", "-o", str(self.path), "-e", f"trace={calls}"]
        for fault in faults:
            self.options += ["-e", f"inject={fault}"]
        threads = os.listdir("/proc/self/task")
        self.status = [os.open(f"/proc/self/task/{t}/status", os.O_RDONLY | os.O_CLOEXEC) for t in threads]

    def __enter__(self) -> Self:
        # It attaches after Popen has returned, whose system calls must not be tampered with.
        command = ["sh", "-c", 'read -r line && exec strace "$@"', "sh", *self.options, "-p", str(os.getpid())]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0)
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        while not all(map(self.is_followed, self.status)):
            assert self.process.poll() is None, "strace"
        return self

    @staticmethod
    def is_followed(status: int) -> bool:
        """Return whether strace follows. It makes no call that is tampered with."""
        try:
            return b"TracerPid:\t0\n" not in os.pread(status, 4096, 0)
        except ProcessLookupError:
            return True  # a thread that has ended

    def __exit__(self, *exc: object) -> None:
        self.process.terminate()
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()
        for fd in self.status:
            os.close(fd)
        log = self.path.read_text()
        self.has_struck = "(INJECTED)" in log or "--- stopped by SIGSTOP" in log
        shutil.rmtree(self.path.parent)
