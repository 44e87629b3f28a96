"""Commands in new namespaces, started by programs that have changed their own, and some of these commands."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import native
from entering import be_root, enter_own_mounts, enter_own_userns

from usernsproc import PIPE, UsernsError, UsernsProcess, check_output, run


def after_the_next_children_were_sent_to_another_pid_namespace() -> None:
    be_root()
    native.unshare(native.CLONE_NEWPID)
    ways: list[dict[str, Any]] = [{"user": 0}, {"init": True}]
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE):
        for options in ways:
            process = UsernsProcess(["sleep", "1000"], uid_map="root", namespaces=["pid"], **options)
            info = Path(f"/proc/self/fdinfo/{process.pidfd}").read_text().split()
            numbers = info[info.index("NSpid:") + 1 :][:3]
            assert numbers[::2] == [str(process.pid), "1"], (numbers, process.pid)
            assert os.getpgid(process.pid) == os.getpgrp()
            process.kill()
            assert process.wait() == -9
            process.close()


def leave_orphans_until(processes: int, zombies: int) -> None:
    """Start five processes that exit before their children. Return when that many processes are visible."""
    for _ in range(5):
        if (pid := os.fork()) == 0:
            os.fork()
            os._exit(0)
        os.waitpid(pid, 0)
    while True:
        states = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            try:
                states.append(path.read_text().split()[2])
            except (FileNotFoundError, ProcessLookupError):
                pass
        if [len(states), states.count("Z")] == [processes, zombies]:
            return
        time.sleep(0.01)


def print_signals(*numbers: int) -> None:
    """Print the names of as many arriving signals as there are arguments."""
    wanted = [signal.Signals(number) for number in numbers]
    signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    print("ready", flush=True)
    for _ in wanted:
        print(signal.Signals(signal.sigwait(wanted)).name, flush=True)


def init_where_sigchld_is_ignored_and_blocked() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    show = ["grep", "-E", "SigBlk|SigIgn|No such line", "/proc/self/status"]
    found = run(show, uid_map="root", namespaces=["pid"], init=True, stdout=PIPE, text=True)
    assert found.returncode in (0, 255), found
    masks = [int(line.split()[1], 16) for line in found.stdout.splitlines()]
    assert [mask >> signal.SIGCHLD - 1 & 1 for mask in masks] == [1, 1], found


def the_namespace_ends_with_the_creating_process(death: str) -> None:
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        act = "trap 'echo ended; exit' TERM; echo ready; while :; do sleep 0.01; done"
        _process = UsernsProcess(
            ["sh", "-c", act],
            stdout=writer,
            uid_map="root",
            namespaces=["pid"],
            init=True,
            pdeathsig=signal.Signals[death],
        )
        os.close(writer)
        while b"ready" not in os.read(reader, 100):
            pass
        os.kill(os.getpid(), signal.SIGKILL)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader, "rb") as file:
        assert file.read() == (b"ended\n" if death == "SIGTERM" else b"")


def a_masked_proc_is_not_unmasked() -> None:
    enter_own_mounts()
    native.must(native.libc.mount(b"tmpfs", b"/proc/sys", b"tmpfs", 0, None))
    ways: list[dict[str, Any]] = [{}, {"user": 0}, {"init": True}]
    for options in ways:
        try:
            UsernsProcess(["true"], uid_map="root", namespaces=["pid"], mount_proc=True, **options)
        except PermissionError as error:
            assert isinstance(error, UsernsError)
            assert (error.errno, error.step, error.cause) == (1, "mount_proc", "proc-masked"), error
        else:
            sys.exit("mounted")


def print_propagation(asked: str | None, init: bool) -> None:
    """Print that of a command's root directory, when the program's own mounts are shared."""
    enter_own_mounts(native.MS_SHARED)
    more: dict[str, Any] = {} if asked is None else {"propagation": asked}
    more |= {"namespaces": ["mnt", "pid"], "init": True} if init else {"namespaces": ["mnt"]}
    shown = check_output(["cat", "/proc/self/mountinfo"], uid_map="root", text=True, **more)
    root = next(line for line in shown.splitlines() if line.split()[4] == "/")
    print(" ".join(field for field in root.split()[6:] if field.startswith(("shared:", "master:"))))


def a_limit_of_a_kind_is_reported(kind: str) -> None:
    enter_own_userns()
    Path(f"/proc/sys/user/max_{kind}_namespaces").write_text("0")
    ways: list[dict[str, Any]] = [
        {"namespaces": [kind]},
        {"namespaces": [kind], "user": 0},
        {"namespaces": [kind, "pid"], "init": True},
    ]
    for options in ways:
        try:
            UsernsProcess(["true"], uid_map="root", **options)
        except UsernsError as error:
            assert (error.errno, error.step) == (errno.ENOSPC, "clone"), error
        else:
            sys.exit("made")
