"""Holders, and the IDs that they have as seen from outside."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import alone
import native
import remote
from leaks import assert_unchanged, state
from unprivileged import FIRST

from usernsproc import UsernsProcess, check_output, create_userns

CAP_SYS_PTRACE = 19
NR_OPENAT, AT_FDCWD = 257, -100


def ids(process: UsernsProcess[Any]) -> list[list[str]]:
    """Return the user IDs, group IDs and supplementary groups, each one once."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    found = dict(line.split(":", 1) for line in lines)
    return [sorted(set(found[name].split())) for name in ("Uid", "Gid", "Groups")]


def a_holder_of_subordinate_ids_alone_has_none_of_the_user() -> None:
    before = state()
    with UsernsProcess(uid_map="subids", namespaces=["net"]) as holder:
        print(ids(holder))
        print(holder.uid_map.to_outside(0), holder.gid_map.to_outside(0))
        with holder.namespace() as userns, holder.namespace("net") as net:
            print(userns.owner_uid, net.owner() == userns)
            print(check_output(["id", "-u"], join=[userns, net], text=True).strip())
        print(check_output(["id", "-u"], join=holder, text=True).strip())
        holder.terminate()
        print(holder.wait())
    holder = UsernsProcess(uid_map="subids")
    holder.close()
    print(holder.returncode)
    assert_unchanged(before)


def each_age_of_newuidmap_writes_its_maps() -> None:
    seen: list[str] = []
    with UsernsProcess(uid_map="subids", on_created=lambda process: seen.append(str(process.uid_map))) as holder:
        print(ids(holder)[0], seen == [str(holder.uid_map)])


def with_a_pid_namespace_too_and_after_an_exception_nothing_is_left() -> None:
    before = state()
    with UsernsProcess(uid_map="subids", namespaces=["pid", "time"]) as holder:
        print(ids(holder)[0])
    kinds: list[list[str]] = [[], ["pid"]]
    for namespaces in kinds:
        try:
            UsernsProcess(uid_map="subids", namespaces=namespaces, on_created=lambda _: 1 / 0)
        except ZeroDivisionError:
            print("raised")
    assert_unchanged(before)


def a_holder_that_joins_is_like_a_command_there() -> None:
    with create_userns("subids", "subids") as userns, UsernsProcess(join=userns) as holder:
        print(ids(holder))


def without_a_mapped_0_it_is_the_first_id_of_the_map() -> None:
    with UsernsProcess(uid_map=f"7:{FIRST + 3}:2", gid_map=f"8:{FIRST + 5}:2") as holder:
        print(ids(holder))


def print_ids_with_each(*uid_maps: str) -> None:
    for uid_map in uid_maps:
        with UsernsProcess(uid_map=uid_map) as holder:
            print(ids(holder))


def maps_that_are_written_later_find_the_ids_of_the_caller() -> None:
    with UsernsProcess() as holder:
        holder.write_gid_map("subids")
        holder.write_uid_map("subids")
        print(ids(holder))


def groups_that_are_not_mapped_are_dropped_where_they_can_be() -> None:
    for uid_map in ("root", "rootless", "subids"):
        with UsernsProcess(uid_map=uid_map) as holder:
            print(ids(holder)[2])


def root_that_cannot_trace_all_processes_is_such_a_user() -> None:
    options: dict[str, Any] = {"uid_map": "0:100000:65536", "gid_map": "0:100000:65536"}
    with UsernsProcess(**options) as holder:
        print(ids(holder)[0])
    native.drop_capability(CAP_SYS_PTRACE)
    with UsernsProcess(**options) as holder:
        print(ids(holder)[0])


class Foreign(remote.There):
    """A process that is not a child of the calling one."""

    def _wait(self) -> None:
        time.sleep(0.3)


def open_through(pid: int, path: str) -> None:
    """Make that process open the file; print the descriptor or the negative errno."""
    with Foreign(pid) as there:
        print(there.call(NR_OPENAT, AT_FDCWD, path.encode(), 0)[0])


def root_inside_opens_a_file_of_the_user_through_the_holder(joins: bool) -> None:
    """The holder joins a namespace, or is created in a new one."""
    with tempfile.TemporaryDirectory() as folder, create_userns("subids", "subids") as userns:
        os.chmod(folder, 0o755)
        with open(folder + "/secret", "w") as file:
            os.fchmod(file.fileno(), 0o600)
        options: dict[str, Any] = {"join": userns} if joins else {"uid_map": "subids"}
        with UsernsProcess(**options) as holder:
            command = alone.command(open_through, holder.pid, file.name)
            print(check_output(command, join=holder, text=True).strip())
