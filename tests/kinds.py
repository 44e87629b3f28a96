"""Every kind of call that creates a namespace, a command or a holder, with the usual properties of each."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from commands import SLEEP
from leaks import assert_unchanged, state

from usernsproc import Namespace, UsernsError, UsernsProcess, create_userns

IS_ROOT = os.geteuid() == 0
MISSING = "/nonexistent/program"
SHIFTED = {"uid_map": "0:100000:65536", "gid_map": "0:100000:65536"}
SETTLES_IN = 0.05
ENDS_WITHIN = 60.0
DIRECT: dict[str, Any] = {"uid_map": "root"}
WITH_IDS: dict[str, Any] = {"uid_map": "root", "user": 0, "group": 0}


def failure_of(call: Callable[..., Any], *args: Any, **options: Any) -> OSError:
    try:
        call(*args, **options)
    except OSError as error:
        return error
    raise AssertionError("it did not fail")


def traits(pid: int) -> dict[str, object]:
    """Return the properties of a process, as seen from outside."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    names = ("Uid", "Gid", "Groups", "Umask", "SigBlk", "SigIgn", "CapInh", "CapPrm", "CapEff", "CapAmb")
    return {
        **{name: status[name] for name in names},
        "descriptors": sorted(os.listdir(f"/proc/{pid}/fd")),
        "directory": os.readlink(f"/proc/{pid}/cwd"),
        "leads a session": os.getsid(pid) == pid,
        "runs": Path(f"/proc/{pid}/cmdline").read_bytes(),
        **{name: Path(f"/proc/{pid}/{name}").read_text() for name in ("uid_map", "gid_map", "setgroups")},
    }


def settled_traits(pid: int) -> dict[str, object]:
    """Return them when the process sleeps and they no longer change."""
    seen = traits(pid)
    end = time.monotonic() + SETTLES_IN
    while time.monotonic() < end:
        before, seen = seen, traits(pid)
        if seen != before or not is_asleep(pid):
            end = time.monotonic() + SETTLES_IN
    return seen


def is_asleep(pid: int) -> bool:
    """Return whether it sleeps, and is not only waiting for a processor."""
    return "\nState:\tS" in Path(f"/proc/{pid}/status").read_text()


class Kind:
    """One kind of call: a namespace, or a process started with these options."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.usual: object = None

    def start(self) -> Any:
        return UsernsProcess(**self.options)

    def end(self, process: Any) -> None:
        process.close()

    def learn(self) -> None:
        process = self.start()
        self.usual = settled_traits(process.pid)
        self.end(process)

    def check(self, process: Any, *, allowed: frozenset[int] = frozenset()) -> None:
        """Check that the process has its usual properties, or has exited with an allowed return code."""
        end = time.monotonic() + ENDS_WITHIN
        try:
            while process.poll() is None and (seen := self.look(process)) != self.usual:
                assert time.monotonic() < end, f"not as usual: {seen}, but {self.usual}"
            assert process.returncode is None or process.returncode in allowed, f"it ended: {process.returncode}"
        finally:
            self.end(process)

    def look(self, process: Any) -> object:
        try:
            return traits(process.pid)
        except (FileNotFoundError, ProcessLookupError, PermissionError, KeyError):
            return None  # it is just ending


class ThreadedKind(Kind):
    """Started by a thread that exists already."""

    def learn(self) -> None:
        self.pool = ThreadPoolExecutor(1)
        self.pool.submit(os.getpid).result()
        self.threads = set(os.listdir("/proc/self/task"))
        super().learn()

    def end(self, process: Any) -> None:
        super().end(process)
        end = time.monotonic() + ENDS_WITHIN
        while set(os.listdir("/proc/self/task")) != self.threads and time.monotonic() < end:
            os.sched_yield()  # until the keeper has ended

    def start(self) -> Any:
        return self.pool.submit(super().start).result()


class JoiningKind(Kind):
    """Started in an existing user, network and PID namespace."""

    def learn(self) -> None:
        kinds = ("user", "net", "pid")
        self.holder = UsernsProcess(uid_map="root", gid_map="root", namespaces=kinds[1:])
        self.options["join"] = [self.holder.namespace(kind) for kind in kinds]
        super().learn()


class ThreadedJoiningKind(ThreadedKind, JoiningKind):
    pass


class KindOfNamespace(Kind):
    def start(self) -> Namespace:
        return create_userns("root", "root")

    def end(self, namespace: Namespace) -> None:
        namespace.close()

    def learn(self) -> None:
        with self.start() as namespace:
            self.usual = self.look(namespace)

    def check(self, namespace: Namespace, *, allowed: frozenset[int] = frozenset()) -> None:  # noqa: ARG002
        with namespace:
            assert self.look(namespace) == self.usual

    def look(self, namespace: Namespace) -> object:
        return namespace.uid_map, namespace.gid_map, namespace.owner_uid


class NamespaceOfAnotherKind(KindOfNamespace):
    def start(self) -> Namespace:
        return create_userns(SHIFTED["uid_map"], SHIFTED["gid_map"], owner=1000)


class MapsKind(KindOfNamespace):
    """Reading the maps of a namespace, by an internal helper program that enters it."""

    def start(self) -> Any:
        with create_userns("root", "root") as namespace:
            return namespace.uid_map

    def end(self, id_map: Any) -> None:
        pass

    def learn(self) -> None:
        self.usual = self.start()

    def check(self, id_map: Any, *, allowed: frozenset[int] = frozenset()) -> None:  # noqa: ARG002
        assert id_map == self.usual, f"another map: {id_map}"


COMMAND: dict[str, Any] = {"args": SLEEP, "cwd": "/", "umask": 0o027, "start_new_session": True}
KINDS = {
    "namespace": KindOfNamespace(),
    "maps": MapsKind(),
    "command": Kind(**COMMAND, **DIRECT),
    "command with ids": Kind(**COMMAND, **WITH_IDS),
    "holder": Kind(**DIRECT),
}
OTHER_IDS = "command with other ids"
if IS_ROOT:
    KINDS[OTHER_IDS] = Kind(**COMMAND, **SHIFTED)
ALL_KINDS = {
    **KINDS,
    "command of a thread": ThreadedKind(**COMMAND, **DIRECT),
    "command with init": Kind(**COMMAND, **DIRECT, namespaces=("pid",), init=True, mount_proc=True),
    "command that joins": JoiningKind(**COMMAND),
    "command that joins, of a thread": ThreadedJoiningKind(**COMMAND),
    "holder that joins": JoiningKind(),
}
if IS_ROOT:
    ALL_KINDS["command with another owner"] = Kind(**COMMAND, **SHIFTED, owner=1000)
    ALL_KINDS["namespace with another owner"] = NamespaceOfAnotherKind()
    ALL_KINDS["holder with another owner"] = Kind(**SHIFTED, owner=1000)


def failure(kind: Kind) -> OSError | None:
    """Start one and end it. Return the error, if there is one."""
    try:
        started = kind.start()
    except OSError as error:
        return error
    kind.end(started)
    return None


@contextmanager
def nothing_left() -> Iterator[None]:
    before = state()
    yield
    assert_unchanged(before)


def assert_is(name: str, error: BaseException | None, *expected: object, builtin: type[OSError] = OSError) -> None:
    assert isinstance(error, UsernsError), f"{name}: {error!r}"
    assert isinstance(error, builtin), name
    assert (error.errno, error.step, error.cause) == expected, name


def assert_all_fail(*expected: object, builtin: type[OSError] = OSError) -> None:
    for name, kind in KINDS.items():
        with nothing_left():
            assert_is(name, failure(kind), *expected, builtin=builtin)


def warm_up() -> None:
    """Import all modules before the process can no longer read files."""
    for kind in KINDS.values():
        assert failure(kind) is None
    failure_of(UsernsProcess, [MISSING], **DIRECT)
