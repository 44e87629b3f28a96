"""Commands in existing namespaces, started by programs in new namespaces."""

from __future__ import annotations

import errno
import os
import select
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import native
from entering import be_root, enter_own_mounts, enter_own_userns

from usernsproc import Namespace, UsernsError, UsernsProcess, check_output, run

KINDS = ("user", "mnt", "net", "uts", "ipc", "cgroup", "pid")


def a_path_where_one_is_pinned() -> None:
    enter_own_mounts()
    folder = tempfile.mkdtemp()
    paths = {}
    with UsernsProcess(uid_map="root", gid_map="root", namespaces=["net"]) as holder:
        for kind in ("user", "net"):
            paths[kind] = f"{folder}/{kind}"
            open(paths[kind], "w").close()
            source = holder.namespace_path(kind).encode()
            native.must(native.libc.mount(source, paths[kind].encode(), None, native.MS_BIND, None))
        inode = holder.namespace("net").inode
    shown = check_output(["sh", "-c", "id -u; stat -Lc %i /proc/self/ns/net"], join=paths.values(), text=True)
    assert shown == f"0\n{inode}\n", shown
    for path in paths.values():
        native.must(native.libc.umount2(path.encode(), 0))


def staying_in_the_callers_user_namespace_as_its_root() -> None:
    enter_own_userns()
    with (
        UsernsProcess(uid_map="root", gid_map="root", namespaces=["net"]) as holder,
        holder.namespace("net") as net,
        Namespace.current() as own,
    ):
        command = ["sh", "-c", "stat -Lc %i /proc/self/ns/user /proc/self/ns/net"]
        shown = check_output(command, join=[own, net], text=True)
        assert shown == f"{own.inode}\n{net.inode}\n", shown


def hold_a_namespace(id_map: str) -> None:
    """Print the PID of its holder. It exits at the end of standard input."""
    with UsernsProcess(uid_map=id_map, gid_map=id_map, namespaces=["net"]) as holder:
        print(holder.pid, flush=True)
        sys.stdin.read()


def it_ends_with_the_creating_process(pid: int) -> None:
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        userns = Namespace.of(pid)
        joins: tuple[int, Namespace] = (pid, userns)
        _commands = [UsernsProcess(["sleep", "1000"], join=join, pass_fds=[writer]) for join in joins]
        holders = [UsernsProcess(join=join) for join in joins]
        os.write(writer, b" ".join(str(holder.pid).encode() for holder in holders))
        os.kill(os.getpid(), signal.SIGKILL)
    os.close(writer)
    os.waitpid(child, 0)
    with open(reader, "rb") as file:
        pids = [int(number) for number in file.read().split()]
    for number in pids:
        try:
            pidfd = os.pidfd_open(number)
        except ProcessLookupError:
            continue
        assert select.select([pidfd], [], [], 60)[0]


def in_new_pid_namespace(work: Callable[[], object]) -> None:
    native.unshare(native.CLONE_NEWPID)
    if (pid := os.fork()) == 0:
        try:
            work()
            os._exit(7)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def a_pid_namespace_above_is_impossible() -> None:
    be_root()
    own = Namespace.current()

    def join(outer: Namespace) -> None:
        try:
            UsernsProcess(["true"], join=[own, outer])
        except UsernsError as error:
            assert (error.errno, error.step, error.cause) == (errno.EINVAL, "setns", "join-impossible"), error
        else:
            raise AssertionError

    def enter_another() -> None:
        outer = Namespace.current("pid")
        in_new_pid_namespace(lambda: join(outer))

    in_new_pid_namespace(enter_another)


def beside_a_loop_that_reaps_everything() -> None:
    warnings.simplefilter("ignore", RuntimeWarning)
    done = False
    reaped = 0

    def reap() -> None:
        nonlocal reaped
        while not done:
            try:
                os.waitpid(-1, 0)
                reaped += 1
            except ChildProcessError:
                time.sleep(0.0001)

    holder = UsernsProcess(uid_map="root", gid_map="root", namespaces=["pid", "net"])
    thread = threading.Thread(target=reap)
    thread.start()
    for status in range(100):
        found = run(["/bin/sh", "-c", f"exit {status}"], join=holder).returncode
        assert found in (status, 255), (found, status)
    holder.kill()
    done = True
    thread.join()
    assert reaped > 0
    holder.close()


def where_sigchld_is_ignored() -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with UsernsProcess(uid_map="root", gid_map="root", namespaces=["pid"]) as holder:
        for status in range(20):
            assert run(["/bin/sh", "-c", f"exit {status}"], join=holder).returncode in (status, 255)


def where_standard_input_output_and_error_are_closed() -> None:
    reader, writer = os.pipe()
    with UsernsProcess(uid_map="root", gid_map="root", namespaces=["net", "pid"]) as holder:
        saved = [os.dup(number) for number in (0, 1, 2)]
        for number in (0, 1, 2):
            os.close(number)
        try:
            program = f"ls /proc/self/fd >&{writer}; exit 5"
            first = run(["bash", "-c", program], join=holder, pass_fds=[writer]).returncode
            with holder.namespace() as userns, holder.namespace("pid") as pid:
                low = (userns.fileno(), pid.fileno())
                second = run(["bash", "-c", "exit 6"], join=[userns, pid]).returncode
            with UsernsProcess(join=holder) as other:
                third = os.listdir(f"/proc/{other.pid}/fd")
        finally:
            for number, fd in enumerate(saved):
                os.dup2(fd, number)
    shown = os.read(reader, 1000).split()
    assert (first, second, third) == (5, 6, ["0"]), (first, second, third)
    assert min(low) < 3, low
    assert b"%d" % writer in shown
    assert len(shown) <= 3, shown


def processes_of_root_cannot_be_joined() -> None:
    """Processes of root, by another user."""
    try:
        UsernsProcess(["true"], join=1)
    except PermissionError as error:
        assert isinstance(error, UsernsError)
        assert (error.step, error.cause) == ("open_ns", "ptrace-denied")
    else:
        raise AssertionError("it was joined")
    with Namespace.current("net") as net:
        try:
            UsernsProcess(["true"], join=net, uid_map="root")
        except PermissionError as error:
            assert isinstance(error, UsernsError)
            assert (error.step, error.cause) == ("setns", "join-refused")
        else:
            raise AssertionError("it was joined")


def another_user_cannot_join() -> None:
    with UsernsProcess(uid_map="0:100000:10", gid_map="0:100000:10", namespaces=["net"]) as holder:
        userns, net = holder.namespace(), holder.namespace("net")
        if (pid := os.fork()) == 0:
            os.setgroups([])
            os.setresgid(1000, 1000, 1000)
            os.setresuid(1000, 1000, 1000)
            native.prctl(native.PR_SET_DUMPABLE, 1)
            joins: tuple[Any, Any] = (userns, [userns, net])
            for join in joins:
                try:
                    UsernsProcess(["true"], join=join)
                except PermissionError as error:
                    assert isinstance(error, UsernsError)
                    assert (error.step, error.cause) == ("setns", "join-refused")
                else:
                    os._exit(1)
            os._exit(7)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def try_to_join_each(*fds: int) -> None:
    """Try to join each namespace, given by descriptors in the order of `KINDS`."""
    for kind, fd in zip(KINDS, fds, strict=True):
        target, own = Namespace.open(f"/proc/self/fd/{fd}"), Namespace.current()
        for join in ([target],) if kind == "user" else ([target], [own, target]):
            try:
                UsernsProcess(["true"], join=join)
            except OSError as error:
                assert error.errno in (errno.EPERM, errno.EINVAL), error
            else:
                sys.exit(kind)
    print("refused")
