"""A process that gets the PID of one that has been reaped: deterministically, with `clone3(set_tid=…)`."""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

SYS_CLONE3 = 435
CLONE_NEWUSER = 0x10000000
SLEEP = ("/bin/sleep", "1000")
SLEEPS = "S"


class _CloneArgs(ctypes.Structure):
    """`struct clone_args` of Linux 5.5, the first with `set_tid`."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls", "set_tid",
            "set_tid_size",
        )
    )  # fmt: skip


_libc = ctypes.PyDLL(None, use_errno=True)  # keeps the GIL over the fork


class OtherProcess:
    """A child of the test with a given PID, which records what is done to it.

    It blocks all signals, so each signal that is sent to it stays pending, and it has a new user
    namespace, in which a map that is written can be seen.
    """

    def __init__(self, pid: int, id_map: str = "") -> None:
        self.pid = pid
        set_tid = ctypes.c_int32(pid)
        arguments = _CloneArgs(
            flags=CLONE_NEWUSER, exit_signal=signal.SIGCHLD, set_tid=ctypes.addressof(set_tid), set_tid_size=1
        )
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        got = _libc.syscall(SYS_CLONE3, ctypes.byref(arguments), ctypes.sizeof(arguments))
        if got == 0:
            try:
                os.execv(SLEEP[0], SLEEP)
            finally:
                os._exit(127)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if got < 0:
            raise OSError(ctypes.get_errno(), f"clone3: {os.strerror(ctypes.get_errno())}")
        assert got == pid
        while Path(f"/proc/{pid}/comm").read_text() != "sleep\n" or self._status()["State"] != SLEEPS:
            os.sched_yield()
        if id_map:
            for name in ("uid_map", "gid_map"):
                Path(f"/proc/{pid}/{name}").write_text(id_map)
        assert self.traces()["state"] == SLEEPS

    def _status(self) -> dict[str, str]:
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return {name: value.split()[0] for name, _, value in (line.partition(":") for line in lines) if value.split()}

    def traces(self) -> dict[str, str]:
        """Return whether it runs, the signals that were sent to it, and its maps."""
        status = self._status()
        return {
            "state": status["State"],
            "signals of the process": status["ShdPnd"],
            "signals of the thread": status["SigPnd"],
            **{name: Path(f"/proc/{self.pid}/{name}").read_text() for name in ("uid_map", "gid_map")},
            "setgroups": Path(f"/proc/{self.pid}/setgroups").read_text(),
        }

    def end(self) -> int:
        """Kill and reap it and return its exit code. Raises `ChildProcessError` if it has been reaped already."""
        os.kill(self.pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
