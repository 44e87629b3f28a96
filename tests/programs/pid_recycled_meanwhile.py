"""The programs of `test_pid_recycled_meanwhile.py`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from itertools import count
from typing import Any, NamedTuple

from commands import SLEEP
from recycle import OtherProcess
from stepping import Stepped, wait_until

from usernsproc import IdMap, Namespace, UsernsProcess, create_userns

SUBORDINATE = "0:100000:65536"
MAPS: dict[str, Any] = {"uid_map": SUBORDINATE, "gid_map": SUBORDINATE}
OF_THE_STRANGER = "0 300000 1"
FEWEST_STEPS = 4


def exited_or(call: Callable[[], object]) -> None:
    """Raises an exception other than `ProcessLookupError`."""
    try:
        call()
    except ProcessLookupError:
        pass


def at_each_step(one: Callable[[int], bool]) -> None:
    steps = next(steps for steps in count() if not one(steps))
    assert steps >= FEWEST_STEPS, steps


def other_process_with(pid: int, id_map: str) -> OtherProcess:
    """Create it as soon as the PID is free, which is a moment after the process has left `/proc`."""
    found: list[OtherProcess] = []

    def is_created() -> bool:
        try:
            found.append(OtherProcess(pid, id_map))
        except FileExistsError:
            pass
        return bool(found)

    wait_until(is_created)
    return found[0]


def recycle_and_go_on(stepped: Stepped, pid: int, id_map: str = "") -> bool:
    """Return false if the call has ended the process already."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    other = other_process_with(pid, id_map)
    untouched = other.traces()
    try:
        assert stepped.ends_with() == 0
        assert other.traces() == untouched
    finally:
        assert other.end() == -signal.SIGKILL
    return True


# ---- while it is created ----

CREATIONS: dict[str, Callable[[], object]] = {
    "command": lambda: UsernsProcess(SLEEP, uid_map="root"),
    "command with other ids": lambda: UsernsProcess(SLEEP, **MAPS),
    "holder": lambda: UsernsProcess(**MAPS),
    "namespace": lambda: create_userns(SUBORDINATE, SUBORDINATE),
}


def create(name: str) -> None:
    def one(steps: int) -> bool:
        with Stepped(lambda: None, lambda _: exited_or(CREATIONS[name]), reaps=True) as stepped:
            pid = stepped.step_until_it_has_a_child()
            is_at_work = all(stepped.step() for _ in range(steps))
            return is_at_work and recycle_and_go_on(stepped, pid)

    at_each_step(one)


# ---- while it is inspected ----


class Look(NamedTuple):
    look: Callable[[UsernsProcess[Any]], Any]
    maps: dict[str, Any]


def inode(process: UsernsProcess[Any], kind: str) -> int:
    with Namespace.of(process, kind) as namespace:
        return namespace.inode


LOOKS: dict[str, Look] = {
    "uid_map": Look(lambda process: process.uid_map, MAPS),
    "namespace": Look(lambda process: inode(process, "user"), MAPS),
    "namespace uts": Look(lambda process: inode(process, "uts"), MAPS),
    "write_gid_map": Look(lambda process: process.write_gid_map(IdMap([(0, 0, 1)])), {}),
}


def look_at(name: str) -> None:
    look, maps = LOOKS[name]

    def prepared() -> object:
        process = UsernsProcess(namespaces=["uts"], **maps)
        return process, look(process) if maps else None

    def look_again(prepared: Any) -> None:
        process, expected = prepared

        def compare() -> None:
            assert look(process) == expected

        exited_or(compare)
        os._exit(0)  # before the process is closed

    def one(steps: int) -> bool:
        with Stepped(prepared, look_again, reaps=True) as stepped:
            [pid] = filter(is_in_another_namespace, stepped.first_children)
            is_at_work = all(stepped.step() for _ in range(steps))
            return is_at_work and recycle_and_go_on(stepped, pid, OF_THE_STRANGER if maps else "")

    at_each_step(one)


def is_in_another_namespace(pid: int) -> bool:
    return os.readlink(f"/proc/{pid}/ns/user") != os.readlink("/proc/self/ns/user")
