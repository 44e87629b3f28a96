"""Any system call of a process that writes a map may fail: no process is left, and no incomplete map.

A program of user 1000 creates namespaces and commands. Root follows it and its children
with strace, and lets the Nth call of a kind fail, in each of them: also in newuidmap.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import alone
import pytest
from alone import A_HANG
from programs import newidmap_faults
from unprivileged import COUNT, DROP, FIRST, UID, in_private_mounts, shadow

FAULTS = (
    "access:error=EACCES",
    "capget:error=EPERM",
    "chdir:error=EACCES",
    "clone:error=EAGAIN",
    "close_range:error=EPERM",
    "dup3:error=EBADF",
    "execve:error=ENOMEM",
    "fcntl:error=EMFILE",
    "getxattr:error=EIO",
    "mmap:error=ENOMEM",
    "mprotect:error=ENOMEM",
    "newfstatat:error=EACCES",
    "openat:error=EMFILE",
    "openat:error=EACCES",
    "openat2:error=EMFILE",
    "openat2:error=EACCES",
    "pidfd_open:error=EMFILE",
    "pipe2:error=EMFILE",
    "poll:error=EINTR",
    "pread64:error=EIO",
    "prctl:error=EPERM",
    "read:error=EIO",
    "statfs:error=EIO",
    "waitid:error=EINTR",
    "write:error=EPERM",
    "write:retval=1",
)
"""Not `close`, which would leave the descriptor open, nor what kills and reaps."""
WRITERS = [("bookworm", "namespace"), ("bookworm", "command"), ("bookworm", "holder"), ("bookworm", "late")]
WRITERS += [("trixie", "namespace")]
"""The child is named to newuidmap by its pid, and by fd:N."""
MAX_CALLS = 60
WHOLE = [f"0:{UID}:1,1:{FIRST}:{COUNT}"] * 2


class Server:
    """The program, which gets requests as messages."""

    def __init__(self, suite: str) -> None:
        self.requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.requests.settimeout(A_HANG)
        with theirs:
            command = in_private_mounts(*DROP, *alone.command(newidmap_faults.serve, theirs.fileno()))
            environment = {**alone.environment(), "PYTHONDONTWRITEBYTECODE": "1"}
            environment["PATH"] = f"{shadow(suite)}:{os.environ['PATH']}"
            self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd="/", env=environment)
        assert self.answer() == "ready"

    def answer(self) -> Any:
        message = self.requests.recv(100_000)
        assert message, "the program has ended"
        return json.loads(message)

    def ask(self, what: str) -> Any:
        self.requests.send(what.encode())
        return self.answer()

    def close(self) -> None:
        self.requests.close()
        assert self.process.wait(A_HANG) == 0


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    server = Server(request.param)
    yield server
    server.close()


@contextmanager
def tampered_with(pid: int, fault: str, when: int) -> Iterator[list[str]]:
    """Tamper with calls in the block. The lines with the tampered calls are available at its end."""
    struck: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        call = fault.partition(":")[0]
        strace = ["strace", "-f", "-qq", "-o", str(log), "-e", f"trace={call}", "-e", "signal=none"]
        tracer = subprocess.Popen([*strace, "-e", f"inject={fault}:when={when}", "-p", str(pid)])
        while "TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text():
            assert tracer.poll() is None
            time.sleep(0.002)
        try:
            yield struck
        finally:
            tracer.terminate()
            tracer.wait()
            struck += [line for line in log.read_text().splitlines() if "(INJECTED)" in line]


@pytest.mark.root
@pytest.mark.parametrize(("server", "kind"), WRITERS, indirect=["server"])
@pytest.mark.parametrize("fault", FAULTS)
def test_whatever_fails_it_is_all_or_nothing(kind: str, fault: str, server: Server) -> None:
    """Either both maps are whole, or an exception says what failed; and nothing is left."""
    for when in range(1, MAX_CALLS):
        server.ask("before")
        with tampered_with(server.process.pid, fault, when) as struck:
            answer = server.ask(kind)
        where = f"{fault}:when={when}: {answer}\n{struck}"
        if answer == "made":
            assert server.ask("look") == WHOLE, where
        else:
            assert answer["os"], where
            # Reading a pipe does not fail in practice, and is not reported more exactly.
            assert answer["step"] or answer["filename"] or fault.startswith("read:"), where
        changed = server.ask("after")
        assert changed == {}, f"{where}\n{changed}"
        if not struck:
            break
    assert when > 1, "it never happened"
    assert server.ask(kind) == "made"
    assert server.ask("look") == WHOLE
