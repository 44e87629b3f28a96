"""The programs of `test_threads.py`."""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import native
from leaks import assert_unchanged, state

from usernsproc import PIPE, UsernsError, UsernsProcess, create_userns, run

Result = TypeVar("Result")
SWITCH_INTERVAL = 1e-4
"""Seconds. Threads that compute let go of the GIL after 5 ms each by default: waiting for it would be
all that is measured."""


def with_ids(changes_ids: bool) -> dict[str, Any]:
    """Return the options of a command that changes its IDs, or does not."""
    return {"uid_map": "root", "user": 0, "group": 0} if changes_ids else {"uid_map": "root"}


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def run_beside_others(functions: list[Callable[[], object]]) -> None:
    """Run each function in a thread of its own, while eight further threads compute."""
    stop = threading.Event()

    def compute() -> None:
        number = 0
        while not stop.is_set():
            for _ in range(1000):
                number += 1

    computing = [threading.Thread(target=compute) for _ in range(8)]
    running = [threading.Thread(target=function) for function in functions]
    for thread in computing + running:
        thread.start()
    for thread in running:
        thread.join()
    stop.set()
    for thread in computing:
        thread.join()


def create_in_eight_threads() -> None:
    sys.setswitchinterval(SWITCH_INTERVAL)

    def create(count: int) -> None:
        for _ in range(count):
            create_userns("root", "root").close()

    before = state()
    run_beside_others([lambda: create(100)] * 8)
    memory = resident()
    run_beside_others([lambda: create(1250)] * 8)
    assert_unchanged(before)
    assert resident() - memory < 4 << 20, resident() - memory


def run_in_eight_threads() -> None:
    sys.setswitchinterval(SWITCH_INTERVAL)
    failures = []

    def run_sixty(number: int) -> None:
        for i in range(60):
            word = f"{number}-{i}".encode()
            process = UsernsProcess(["cat"], stdin=PIPE, stdout=PIPE, uid_map="root")
            output: tuple[object, object] = process.communicate(word)
            if output != (word, None) or process.returncode:
                failures.append(word)

    before = state()
    run_beside_others([lambda number=number: run_sixty(number) for number in range(8)])  # type: ignore[misc]
    assert not failures, failures
    assert_unchanged(before)


def create_beside_a_reaper() -> None:
    found: list[tuple[int, int]] = []
    stop = threading.Event()

    def reap() -> None:
        while not stop.is_set():
            try:
                found.append(os.waitpid(-1, 0))
            except ChildProcessError:
                pass

    thread = threading.Thread(target=reap)
    thread.start()
    for _ in range(1_000):
        create_userns("root", "root").close()
    stop.set()
    thread.join()
    assert not found, found


def create_with_sigchld_ignored() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for _ in range(1_000):
        create_userns("root", "root").close()


def create_with_a_handler_of_sigchld() -> None:
    seen = []
    signal.signal(signal.SIGCHLD, lambda *_: seen.append(1))
    for _ in range(100):
        create_userns("root", "root").close()
        try:
            UsernsProcess(["/nonexistent"], uid_map="root")
        except FileNotFoundError:
            pass
    assert not seen
    UsernsProcess(["true"], uid_map="root").wait()
    assert seen  # a command sends it, as with Popen


def in_a_thread(function: Callable[[], Result]) -> Result:
    results: list[Result] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def thread_ends(args: list[str] | None) -> None:
    """Start a process in a thread, which ends; then end the process that had the thread."""
    reader, writer = os.pipe()
    creator = os.fork()
    if creator == 0:
        started: UsernsProcess[bytes] = in_a_thread(lambda: UsernsProcess(args, uid_map="root"))
        assert not select.select([started], [], [], 0.3)[0], "it ended with its thread"
        os.write(writer, b"%d\n" % started.pid)
        signal.pause()
    pidfd = os.pidfd_open(int(os.read(reader, 100)))
    assert not select.select([pidfd], [], [], 0)[0]
    os.kill(creator, signal.SIGKILL)
    os.waitpid(creator, 0)
    assert select.select([pidfd], [], [], 60)[0], "it outlives the process"


def process_ends(from_thread: bool, changes_ids: bool) -> None:
    """End a process whose command has no parent-death signal."""
    reader, writer = os.pipe()
    creator = os.fork()
    if creator == 0:

        def start() -> None:
            process = UsernsProcess(["sleep", "1000"], pdeathsig=None, **with_ids(changes_ids))
            os.write(writer, b"%d\n" % process.pid)

        if from_thread:
            in_a_thread(start)
        else:
            start()
        signal.pause()
    pidfd = os.pidfd_open(int(os.read(reader, 100)))
    os.kill(creator, signal.SIGKILL)
    os.waitpid(creator, 0)
    assert not select.select([pidfd], [], [], 0.2)[0], "it ended with the process"
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)


def command_catches_death_signal(changes_ids: bool) -> None:
    reader, writer = os.pipe()
    creator = os.fork()
    if creator == 0:
        shell = f"trap 'echo caught >&{writer}; exit' TERM; echo ready >&{writer}; while :; do sleep 0.01; done"
        UsernsProcess(shell, shell=True, pdeathsig=signal.SIGTERM, pass_fds=[writer], **with_ids(changes_ids))
        signal.pause()
    os.close(writer)
    assert os.read(reader, 100) == b"ready\n"
    os.kill(creator, signal.SIGKILL)
    os.waitpid(creator, 0)
    assert os.read(reader, 100) == b"caught\n"


def enter_own_userns() -> None:
    """Enter a new user namespace, unless the caller is root already."""
    if os.geteuid():
        with create_userns("root", "root") as userns:
            userns.enter()


def run_in_a_new_pid_namespace() -> None:
    enter_own_userns()
    native.unshare(native.CLONE_NEWPID)
    with UsernsProcess(["sh", "-c", "exit $$"], uid_map="root") as process:
        assert process.wait() == 1, "it is pid 1 of the new namespace"


# ---- attributes that a command inherits from the calling thread ----


def said_by(changes_ids: bool, *command: str) -> str:
    process = UsernsProcess(command, stdout=PIPE, stderr=PIPE, text=True, **with_ids(changes_ids))
    out, err = process.communicate()
    said: str = out or err
    return said


def status(changes_ids: bool, name: str) -> str:
    """Return a value from the status of a command."""
    lines = said_by(changes_ids, "cat", "/proc/self/status").splitlines()
    return dict(line.split(":", 1) for line in lines)[name].strip()


def inherits_affinity(changes_ids: bool) -> None:
    def differ() -> tuple[str, set[str]]:
        os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
        return status(changes_ids, "Cpus_allowed_list"), {str(cpu) for cpu in os.sched_getaffinity(0)}

    assert len(os.sched_getaffinity(0)) > 1
    inside, wanted = in_a_thread(differ)
    assert {inside} == wanted
    assert status(changes_ids, "Cpus_allowed_list") not in wanted


def inherits_network_namespace(changes_ids: bool) -> None:
    enter_own_userns()

    def net_of_command() -> str:
        return said_by(changes_ids, "readlink", "/proc/self/ns/net").strip()

    def differ() -> tuple[str, str]:
        native.unshare(native.CLONE_NEWNET)
        return net_of_command(), os.readlink("/proc/thread-self/ns/net")

    inside, wanted = in_a_thread(differ)
    assert inside == wanted != os.readlink("/proc/self/ns/net")
    assert net_of_command() == os.readlink("/proc/self/ns/net")


def inherits_seccomp_filter(changes_ids: bool) -> None:
    def differ() -> tuple[str, str]:
        native.refuse_system_call(native.NR_SECCOMP, errno.ENOSYS)
        return status(changes_ids, "Seccomp_filters"), status(changes_ids, "NoNewPrivs")

    before = int(status(changes_ids, "Seccomp_filters"))
    assert in_a_thread(differ) == (str(before + 1), "1")
    assert status(changes_ids, "Seccomp_filters") == str(before)


def inherits_landlock_domain(changes_ids: bool) -> None:
    def differ() -> tuple[str, str]:
        folder = tempfile.mkdtemp()
        native.forbid_making_directories()
        return folder, said_by(changes_ids, "mkdir", "-v", f"{folder}/new")

    folder, said = in_a_thread(differ)
    os.rmdir(folder)
    assert "Permission denied" in said, said
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        assert "created" in said_by(changes_ids, "mkdir", "-v", f"{folder}/new")


def inherits_signal_mask(changes_ids: bool) -> None:
    def differ() -> int:
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGRTMAX])
        return int(status(changes_ids, "SigBlk"), 16)

    wanted = 1 << signal.SIGUSR1 - 1 | 1 << signal.SIGRTMAX - 1
    assert in_a_thread(differ) == wanted
    assert int(status(changes_ids, "SigBlk"), 16) == 0


# ---- the calling process ----


def caller_stays_dumpable(changes_ids: bool) -> None:
    options: dict[str, Any] = {"uid_map": "root", "user": 0, "group": 0}
    if changes_ids and os.geteuid() == 0:
        options = {"uid_map": "0:100000:10", "gid_map": "0:100000:10", "user": 7}
    assert native.prctl(native.PR_GET_DUMPABLE) == 1
    for _ in range(2):
        assert UsernsProcess(["true"], **options).wait() == 0
        assert native.prctl(native.PR_GET_DUMPABLE) == 1
        create_userns("root", "root").close()
        with UsernsProcess(uid_map="root") as holder:
            holder.namespace().close()


def caller_stays_not_dumpable() -> None:
    native.prctl(native.PR_SET_DUMPABLE, 0)
    if os.geteuid() == 0:
        assert UsernsProcess(["true"], uid_map="0:100000:10", gid_map="0:100000:10").wait() == 0
    else:
        try:
            create_userns("root", "root")
        except PermissionError as error:
            assert isinstance(error, UsernsError)
            assert (error.cause, error.step) == ("not-dumpable", "setgroups")
        else:
            raise AssertionError("no error")
    assert native.prctl(native.PR_GET_DUMPABLE) == 0


def daemon_starts_several() -> None:
    os.setgroups([])
    os.setresgid(65533, 65533, 65533)
    os.setresuid(65533, 65533, 65533)
    native.prctl(native.PR_SET_DUMPABLE, 1)
    for _ in range(3):
        assert UsernsProcess(["true"], uid_map="root", user=0, group=0).wait() == 0
        assert native.prctl(native.PR_GET_DUMPABLE) == 1


def run_in_sixteen_threads() -> None:
    command = ["sh", "-c", "cat; echo /proc/self/fd/*"]
    listed = b" ".join(b"/proc/self/fd/%d" % fd for fd in range(4))  # and the descriptor that lists them
    failures = []

    def work(number: int) -> None:
        for i in range(500):
            word = b"%d-%d " % (number, i)
            process = UsernsProcess(command, stdin=PIPE, stdout=PIPE, close_fds=i % 2 == 0, uid_map="root")
            output = process.communicate(word)[0]
            if output != word + listed + b"\n" or process.returncode:
                failures.append((word, output, process.returncode))

    for fd in range(3, 20):  # the descriptors of the test runner
        try:
            os.set_inheritable(fd, False)
        except OSError:
            pass
    before = state()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, (len(failures), failures[:5])
    assert_unchanged(before)


def run_while_ids_change() -> None:
    stop = threading.Event()
    started = []

    def work() -> None:
        while not stop.is_set():
            assert run(["true"], uid_map="root").returncode == 0
            started.append(1)

    threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    began = time.monotonic()
    while time.monotonic() < began + 3 or len(started) <= 20:
        assert time.monotonic() < began + 300, len(started)
        os.setresuid(-1, -1, -1)
    stop.set()
    for thread in threads:
        thread.join(300)
        assert not thread.is_alive()
