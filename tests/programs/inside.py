"""Functions that run in a namespace, by `usernsproc.multiprocessing`. Processes of the tests import this module."""

from __future__ import annotations

import os
import signal
import sys
import time
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from typing import Any


def identity(_: object = None) -> tuple[int, str]:
    """Return the user ID and the user namespace."""
    return os.getuid(), os.readlink("/proc/self/ns/user")


def namespace(kind: str) -> str:
    return os.readlink(f"/proc/self/ns/{kind}")


def put(queue: Any, value: object) -> None:
    queue.put((identity(), value))


def send_identity(pipe: Connection) -> None:
    pipe.send(identity())


def exit_with(status: int) -> None:
    sys.exit(status)


def raise_error() -> None:
    raise LookupError("in the namespace")


def wait_for_ever(ready: Connection) -> None:
    ready.send(os.getpid())
    time.sleep(1000)


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def count(lock: Any, value: Any, times: int) -> None:
    for _ in range(times):
        with lock:
            value.value += 1


def write_shared(name: str) -> None:
    memory = SharedMemory(name)
    assert memory.buf is not None
    memory.buf[:5] = b"hello"
    memory.close()


def facts(pipe: Connection) -> None:
    pipe.send({"cwd": os.getcwd(), "host": os.uname().nodename, "pid": os.getpid(), "env": os.environ.get("WHERE")})


def ignore(_: object) -> None:
    pass


def print_and_write(fd: int) -> None:
    print("printed")
    os.write(fd, b"written")
