"""Children in cgroups with limits, and one whose memory another process of the same user reads."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import native

from usernsproc import UsernsError, UsernsProcess, run

NR_CLONE3 = 435


def a_child_that_runs_out_of_memory_ends_alone(args: list[str] | None, cgroup: str) -> None:
    def move(process: UsernsProcess[bytes]) -> None:
        Path(cgroup, "cgroup.procs").write_text(str(process.pid))

    ended = 0
    for _ in range(10):
        try:
            with UsernsProcess(args, uid_map="root", on_created=move) as process:
                pass
            ended += process.returncode == -9
        except ProcessLookupError:
            ended += 1
    print(ended)


def a_full_cgroup_ends_the_command_alone(cgroup: str, options: dict[str, Any]) -> None:
    for _ in range(10):
        try:
            assert run(["true"], uid_map="root", cgroup=cgroup, **options).returncode
        except UsernsError as error:
            print(error.cause)
        else:
            print("killed")


def the_limit_of_processes_is_obeyed(cgroup: str, refusal: int | None) -> None:
    if refusal:
        native.refuse_system_call(NR_CLONE3, refusal)
    for limit in (0, 1, 3):
        Path(cgroup, "pids.max").write_text(str(limit))
        started: list[UsernsProcess[bytes]] = []
        for _ in range(5):
            try:
                started.append(UsernsProcess(["sleep", "100"], uid_map="root", cgroup=cgroup))
            except BlockingIOError as error:
                assert isinstance(error, UsernsError)
                assert (error.step, error.errno) == ("clone", errno.EAGAIN)
        print(len(started))
        for process in started:
            process.close()


def run_and_hold_in(cgroup: str) -> None:
    for args in (["true"], None):
        with UsernsProcess(args, uid_map="root", cgroup=cgroup):
            pass


def read_memory(pid: int, address: int) -> None:
    fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    try:
        print(os.pread(fd, 6, address))
    except OSError as error:
        print(error.strerror)
