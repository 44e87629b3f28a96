"""A program with a secret that starts commands in a namespace whose root is hostile.

It runs in a separate process (see test_joiner_attack.py), because it has the secret in its environment, and a
mount that the namespace does not have.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self

import native
from leaks import assert_unchanged, state

from usernsproc import DEVNULL, PIPE, Namespace, UsernsProcess, create_userns, run

TRUE = ("/bin/true",)
MS_PRIVATE_ALL = 0x4000 | 1 << 18
NAME_OF_SECRET = b"PURSUED_SECRET"
THREADS = 3


class Secret(NamedTuple):
    text: bytes
    memory: Any
    fd: int
    path: str

    @property
    def address(self) -> int:
        return ctypes.addressof(self.memory)


def own_mount_namespace() -> None:
    if os.geteuid():
        create_userns("root", "root").enter()
    native.unshare(native.CLONE_NEWNS)
    native.must(native.libc.mount(b"none", b"/", None, MS_PRIVATE_ALL, None))


def hide(secret: bytes, *, in_a_mount: bool) -> Secret:
    """Hide it in memory, in an open file, and in a mount that no other process has."""
    folder = tempfile.mkdtemp()
    if in_a_mount:
        native.must(native.libc.mount(b"tmpfs", folder.encode(), b"tmpfs", 0, None))
    path = Path(folder, "outside")
    path.write_bytes(secret)
    os.chmod(folder, 0o755)
    os.chmod(path, 0o644)
    fd = os.open(path, os.O_RDONLY)
    return Secret(secret, ctypes.create_string_buffer(secret, len(secret)), fd, str(path))


class Pursuer:
    """Pursues each process that it finds in the namespaces of a holder, in a block."""

    def __init__(self, program: str, mode: str, secret: Secret, holder: UsernsProcess[Any], *, mnt: bool) -> None:
        kinds = ("user", "pid", "mnt") if mnt else ("user", "pid")
        with ExitStack() as stack:
            fds = [stack.enter_context(holder.namespace(kind)).fileno() for kind in kinds]
            numbers = [str(fd) for fd in (*fds, -1)[:3]]
            arguments = [program, mode, secret.text[::-1].hex(), str(secret.address), secret.path, *numbers]
            self.process = subprocess.Popen(arguments, stdin=PIPE, stdout=PIPE, text=True, pass_fds=fds, env={})

    def __enter__(self) -> Self:
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"
        return self

    def __exit__(self, *exc: object) -> None:
        output, _ = self.process.communicate()
        assert self.process.returncode == 0
        self.report = {word: int(number) for word, number in (line.split() for line in output.splitlines())}


def joined(join: Any, count: int) -> dict[str, int]:
    """Return how often each result occurred."""
    outcomes: dict[str, int] = {}

    def one(_: int) -> str:
        try:
            return str(run(TRUE, join=join, env={}, stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL, cwd="/").returncode)
        except OSError as error:
            return str(getattr(error, "cause", error))

    with ThreadPoolExecutor(THREADS) as pool:
        for outcome in pool.map(one, range(count)):
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
    return outcomes


def joined_by_fork(join: Any, count: int) -> dict[str, int]:
    """The wrong way to join: a copy of this process that enters the namespaces."""
    flags = {"user": 1 << 28, "mnt": 1 << 17, "pid": 1 << 29}
    for _ in range(count):
        if (pid := os.fork()) == 0:
            try:
                for namespace in join:
                    native.must(native.libc.setns(namespace.fileno(), flags[namespace.kind]))
                if (inner := os.fork()) == 0:
                    os.execve(*TRUE, TRUE, {})
                os.waitpid(inner, 0)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
    return {"0": count}


WAYS: dict[str, Callable[[Any, int], dict[str, int]]] = {"usernsproc": joined, "fork": joined_by_fork}


def main() -> None:
    program, mode, way, who, id_map, kinds, count = sys.argv[1:]
    if who == "in own mounts":
        own_mount_namespace()
    options: dict[str, Any] = {"uid_map": id_map, "gid_map": id_map}
    everything = kinds == "all"
    with UsernsProcess(namespaces=("mnt", "pid", "net", "uts", "ipc", "cgroup"), **options) as holder:
        secret = hide(os.environb[NAME_OF_SECRET], in_a_mount=who == "in own mounts")
        names: tuple[str, ...] = (
            ("user", "mnt", "pid", "net", "uts", "ipc", "cgroup") if everything else ("user", "pid")
        )
        if way == "fork":
            names = ("user", "mnt", "pid") if everything else names
        with ExitStack() as stack:
            join: list[Namespace] = [stack.enter_context(holder.namespace(name)) for name in names]
            with Pursuer(program, mode, secret, holder, mnt=everything) as pursuer:
                before = state()
                outcomes = WAYS[way](join, int(count))
                assert_unchanged(before)
    print(json.dumps({"outcomes": outcomes, "report": pursuer.report}))


if __name__ == "__main__":
    main()
