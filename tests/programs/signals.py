"""The programs of `test_signals.py`."""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from alone import command, environment

from usernsproc import PIPE, UsernsProcess, create_userns, run

SIGNALS = 40
"""The number of signals that are sent for each byte."""


def send_signals(pid: int) -> None:
    """Send `SIGNALS` signals for each byte of standard input, over a few milliseconds."""
    while os.read(0, 1):
        for number in range(SIGNALS):
            os.kill(pid, signal.SIGRTMIN)
            if number % 4 == 0:
                time.sleep(0.0001)


def receive(reader: int) -> int:
    """Return the number of signals that have come."""
    try:
        return len(os.read(reader, 65536))
    except BlockingIOError:
        return 0


def spawn_while_signals_come(options: dict[str, Any]) -> None:
    """Spawn at least 125 times, and until signals have come during some of the calls."""
    reader, writer = os.pipe2(os.O_NONBLOCK)
    signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGRTMIN, lambda *_: None)
    sender = subprocess.Popen(command(send_signals, os.getpid()), stdin=PIPE, env=environment())
    assert sender.stdin is not None
    times = received = during = 0
    while times < 125 or during <= 10:
        times += 1
        os.write(sender.stdin.fileno(), b".")
        received += receive(reader)
        assert UsernsProcess(["true"], **options).wait() == 0
        create_userns("root", "root").close()
        caught = receive(reader)
        received += caught
        during += caught > 0
    sender.stdin.close()
    assert sender.wait() == 0
    received += receive(reader)
    assert received == times * SIGNALS, (received, times)


def signal_the_child(options: dict[str, Any]) -> None:
    ran: list[int] = []
    harmless = [signal.SIGURG, signal.SIGWINCH, signal.SIGCONT]  # by default ignored
    for signum in harmless:
        signal.signal(signum, lambda signum, _: ran.append(signum))

    def send(process: UsernsProcess[bytes]) -> None:
        for signum in harmless:
            os.kill(process.pid, signum)

    for _ in range(200):
        assert UsernsProcess(["true"], on_created=send, **options).wait() == 0
    assert not ran, ran


def wait_while_signals_come() -> None:
    seen = 0

    def handler(*_: object) -> None:
        nonlocal seen
        seen += 1
        if seen == 10:
            assert process.stdin is not None
            process.stdin.close()

    signal.signal(signal.SIGALRM, handler)
    for limit in (None, 500):
        with UsernsProcess(["cat"], stdin=PIPE) as process:
            signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
            assert process.wait(timeout=limit) == 0
            signal.setitimer(signal.ITIMER_REAL, 0)
        assert seen >= 10
        seen = 0


CLASSES: dict[str, type[subprocess.Popen[Any]]] = {"Popen": subprocess.Popen, "UsernsProcess": UsernsProcess}
WAITS: dict[str, Callable[[subprocess.Popen[Any]], object]] = {
    "wait": lambda process: process.wait(),
    "communicate": lambda process: process.communicate(),
    "wait with timeout": lambda process: process.wait(timeout=60),
}


def interrupt_the_group(of_class: str, how: str) -> None:
    os.setpgid(0, 0)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    shell = "trap 'echo child; sleep 0.5; exit 5' INT; echo ready >&2; while :; do sleep 0.01; done"
    process = CLASSES[of_class](shell, shell=True, stderr=PIPE)
    assert process.stderr is not None
    process.stderr.readline()
    # From outside: if a thread of this process sent it, that thread might get it.
    # And not before the block is entered.
    kill = f"read line; sleep 0.1; kill -INT -{os.getpid()}"
    sender = subprocess.Popen(["sh", "-c", kill], stdin=PIPE, start_new_session=True)
    assert sender.stdin is not None
    try:
        sender.stdin.close()
        WAITS[how](process)
    except KeyboardInterrupt:
        print("parent", process.wait(), flush=True)
    sender.wait()
    process.stderr.close()


KEPT: list[UsernsProcess[bytes]] = []
"""Processes whose objects live until the interpreter ends."""


def end_with_live_ones() -> None:
    """Print the PIDs of processes that are alive when the interpreter ends."""
    KEPT.extend([UsernsProcess(["sleep", "1000"], uid_map="root"), UsernsProcess(uid_map="root")])
    thread = threading.Thread(target=lambda: KEPT.append(UsernsProcess(["sleep", "1000"])))
    thread.start()
    thread.join()
    print(*(process.pid for process in KEPT))


def work(number: int) -> int:
    with create_userns("root", "root") as userns:
        assert userns.owner_uid == os.geteuid()
    return run(["sh", "-c", f"exit {number}"], uid_map="root").returncode


def use_multiprocessing(method: str) -> None:
    with UsernsProcess(["cat"], stdin=PIPE, uid_map="root") as process, UsernsProcess(uid_map="root") as holder:
        with multiprocessing.get_context(method).Pool(4) as pool:
            assert pool.map(work, range(20)) == list(range(20))
        assert process.poll() is None
        assert holder.poll() is None


def start_in_a_forked_copy() -> None:
    process, holder = UsernsProcess(["cat"], stdin=PIPE, uid_map="root"), UsernsProcess(uid_map="root")
    copy = os.fork()
    if copy == 0:
        status = run(["true"], uid_map="root").returncode
        del process, holder  # neither kills nor waits
        os._exit(10 + status)
    assert os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1]) == 10
    assert process.poll() is None
    assert holder.poll() is None
    process.communicate()
    assert process.returncode == 0
    holder.close()


CREATIONS: dict[str, Callable[[], UsernsProcess[bytes]]] = {
    "command that waits": lambda: UsernsProcess(["cat"], stdin=PIPE, uid_map="root"),
    "command": lambda: UsernsProcess(["sleep", "100"], uid_map="root"),
    "holder": lambda: UsernsProcess(uid_map="root"),
}


def forked_copy_ends_as_a_program(what: str) -> None:
    warnings.simplefilter("error")
    with CREATIONS[what]() as process:
        atexit.register(process.terminate)
        copy = os.fork()
        if copy == 0:
            sys.exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1]) == 7
        time.sleep(0.05)
        assert process.poll() is None
        atexit.unregister(process.terminate)
        process.kill()
    assert process.returncode == -9
    print("the first")


def forked_copy_waits() -> None:
    process = UsernsProcess(["sleep", "60"], uid_map="root")
    threading.Thread(target=process.wait).start()  # that thread holds a lock, which is never released in the copy
    copy = os.fork()
    if copy == 0:
        waits: list[Callable[[], object]] = [
            process.wait,
            lambda: process.wait(timeout=60),
            process.communicate,
            process.waitid,
        ]
        for wait in waits:
            try:
                wait()
            except ChildProcessError:
                continue
            os._exit(1)
        for end in (process.terminate, process.kill, process.close):
            end()
        os._exit(7 if process.returncode is None else 2)
    assert os.waitstatus_to_exitcode(os.waitpid(copy, 0)[1]) == 7
    assert process.poll() is None
    process.kill()
    assert process.wait() == -9


def use_subinterpreters() -> None:
    name = "_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters"
    interpreters = import_module(name)
    source = "from programs.in_subinterpreter import create_and_run; create_and_run()"
    for _ in range(3):
        interpreter = interpreters.create()
        failed = interpreters.run_string(interpreter, source)
        assert not failed, failed
        interpreters.destroy(interpreter)


class Interrupt(Exception):
    pass


def handlers_raise_while_one_is_made(what: str) -> None:
    warnings.simplefilter("ignore")
    vars(sys)["unraisablehook"] = lambda *_: None
    create, calls, armed = CREATIONS[what], 1_000, False

    def interrupt(*_: object) -> None:
        if armed:  # Python may come to it only after setitimer() has returned
            raise Interrupt

    signal.signal(signal.SIGALRM, interrupt)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(calls):
        process, armed = None, True
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.00001 + 0.00002 * (number % 60))
            process = create()
            armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
        except Interrupt:
            pass
        if process is not None:
            process.close()
        process = None
    of_subprocess: Any = subprocess
    known = {process.pid for process in of_subprocess._active}
    children = set(map(int, Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()))
    for pid in children:
        os.kill(pid, signal.SIGKILL)
    assert len(children - known) <= calls // 50, len(children - known)
    for pid in children:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    gc.collect()
    of_subprocess._cleanup()
    assert len(os.listdir("/proc/self/fd")) - before <= calls // 50
