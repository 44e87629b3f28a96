"""Programs whose threads enter other namespaces, and leave them."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, NoReturn
from unittest.mock import patch

import native
from entering import enter_own_userns
from errors import error_of

from usernsproc import Namespace, NamespaceKind, UsernsError, UsernsProcess, _core, create_userns, lowlevel

ALL_BUT_USER = [kind for kind in NamespaceKind if kind != "user"]
CLONE_VM = 0x100
SIOCGSKNS = 0x894C


def become_root_with_namespaces() -> None:
    """Become root of a new user namespace that owns the other current namespaces, so that the thread can return."""
    enter_own_userns()
    native.unshare(native.CLONE_NEWNET | native.CLONE_NEWUTS | native.CLONE_NEWIPC | native.CLONE_NEWNS)


def link(kind: str) -> str:
    return os.readlink(f"/proc/thread-self/ns/{kind}")


def links() -> dict[str, str]:
    return {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in os.listdir("/proc/self/ns")}


def descriptors() -> list[str]:
    return os.listdir("/proc/self/fd")


def holding(*kinds: str) -> UsernsProcess[bytes]:
    return UsernsProcess(uid_map="root", namespaces=kinds)


def in_child(action: Callable[[], None]) -> None:
    child = os.fork()
    if child == 0:
        action()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def in_thread(action: Callable[[], None]) -> None:
    thread = threading.Thread(target=action)
    thread.start()
    thread.join()


# ---- there and back ----


def a_with_block(kind: str) -> None:
    become_root_with_namespaces()
    before = link(kind)
    with holding(kind) as holder, holder.namespace(kind) as other:
        opened = descriptors()
        for _ in range(2):
            with other.enter() as entered:
                assert entered.kind == other.kind
                assert link(kind) == f"{kind}:[{other.inode}]" != before
                assert "with a way back" in repr(entered)
            assert link(kind) == before
            assert "no way back" in repr(entered)
        assert descriptors() == opened


def root_enters(kind: str) -> None:
    path = "/proc/self/ns/pid_for_children" if kind == "pid" else f"/proc/self/ns/{kind}"
    before = os.readlink(path)
    with holding(kind) as holder, holder.namespace(kind) as other:
        with other.enter():
            assert os.readlink(path) == f"{kind}:[{other.inode}]" != before
        assert os.readlink(path) == before


def pids_of_children() -> None:
    with holding("pid") as holder, holder.namespace("pid") as other:
        with other.enter():
            inside = int(subprocess.check_output(["sh", "-c", "echo $$"]))
        outside = int(subprocess.check_output(["sh", "-c", "echo $$"]))
    assert inside == 2
    assert outside > os.getpid()


def nested_blocks() -> None:
    become_root_with_namespaces()
    own = link("net"), link("uts")
    with (
        holding("net", "uts") as one,
        holding("net", "uts") as two,
        one.namespace("net") as net1,
        two.namespace("net") as net2,
        one.namespace("uts") as uts1,
        net1.enter(),
        uts1.enter(),
    ):
        at_one = link("net")
        with net2.enter():
            assert link("net") == f"net:[{net2.inode}]"
        assert link("net") == at_one == f"net:[{net1.inode}]"
    assert (link("net"), link("uts")) == own


def a_plain_call() -> None:
    become_root_with_namespaces()
    warnings.simplefilter("error")
    with holding("net") as holder, holder.namespace("net") as net:
        opened = descriptors()
        net.enter()
        assert descriptors() == opened
        assert link("net") == f"net:[{net.inode}]"
        net.enter()  # entering it again is allowed


def leave() -> None:
    become_root_with_namespaces()
    before = link("net")
    with holding("net") as holder, holder.namespace("net") as net:
        entered = net.enter()
        entered.leave()
        assert link("net") == before
        net.enter()
        entered.leave()
        assert link("net") == f"net:[{net.inode}]"


def close() -> None:
    become_root_with_namespaces()
    with holding("net") as holder, holder.namespace("net") as net:
        entered = net.enter()
        entered.close()
        entered.close()
        entered.leave()
        assert link("net") == f"net:[{net.inode}]"
        assert error_of(entered.__enter__).cause == "no-way-back"


def an_exception_in_the_block() -> None:
    become_root_with_namespaces()
    before = link("net")
    with holding("net") as holder, holder.namespace("net") as net:
        try:
            with net.enter():
                raise KeyError
        except KeyError:
            assert link("net") == before


def a_socket() -> None:
    become_root_with_namespaces()
    with holding("net") as holder, holder.namespace("net") as net:
        with net.enter():
            visitor = socket.socket()
        with visitor, Namespace(fcntl.ioctl(visitor, SIOCGSKNS)) as of_socket:
            assert of_socket == net


def root_and_working_directory() -> None:
    become_root_with_namespaces()
    with tempfile.TemporaryDirectory() as root:
        below = f"{root}/below"
        os.mkdir(below)
        native.must(native.libc.mount(b"/proc", below.encode(), None, native.MS_BIND | native.MS_REC, None))
        os.symlink("below", f"{root}/proc")
        with holding("mnt") as holder, holder.namespace("mnt") as mnt:
            before = link("mnt")

            def visit() -> None:
                os.chroot(root)
                os.chdir("/below")
                with mnt.enter():
                    assert os.getcwd() == "/"
                    assert os.path.isdir("/usr")
                    assert link("mnt") != before
                assert os.getcwd() == "/below"
                assert not os.path.isdir("/usr")
                assert sorted(os.listdir("/")) == ["below", "proc"]
                assert link("mnt") == before

            in_child(visit)
        native.must(native.libc.umount2(below.encode(), native.MNT_DETACH))


def leave_in_another_thread() -> None:
    become_root_with_namespaces()
    seen = []
    with holding("net") as holder, holder.namespace("net") as net, net.enter() as entered:

        def try_to_leave() -> None:
            try:
                entered.leave()
            except RuntimeError as error:
                seen.append(str(error))

        in_thread(try_to_leave)
    assert "another thread" in seen[0]


def other_threads() -> None:
    become_root_with_namespaces()
    with holding("net") as holder, holder.namespace("net") as net:
        before, entered, look = link("net"), threading.Event(), threading.Event()
        seen = []

        def visit() -> None:
            with net.enter():
                entered.set()
                look.wait()
            seen.append(link("net"))

        thread = threading.Thread(target=visit)
        thread.start()
        entered.wait()
        assert link("net") == before
        look.set()
        thread.join()
        assert seen == [before]


# ---- no way back ----


def block_is_not_begun(namespace: Namespace) -> PermissionError:
    try:
        with namespace.enter():
            raise AssertionError("the block was begun")
    except PermissionError as error:
        assert isinstance(error, UsernsError)
        assert (error.step, error.cause) == ("setns", "no-way-back")
        return error


def from_a_user_namespace() -> None:
    with create_userns("root", "root") as userns:
        note = block_is_not_begun(userns).__notes__[0]
        assert "stays in it" in note
        assert "child process" in note
        with Namespace.current() as current:
            assert current == userns


def without_rights_where_it_came_from() -> None:
    enter_own_userns()
    with holding("net") as holder, holder.namespace("net") as net:
        opened = descriptors()
        assert "owner of the net namespace" in block_is_not_begun(net).__notes__[0]
        assert os.readlink("/proc/self/ns/net") == f"net:[{net.inode}]"
        assert descriptors() == opened


def rights_lost_in_the_block() -> None:
    become_root_with_namespaces()
    with holding("net") as holder, holder.namespace("net") as net:
        opened = descriptors()
        try:
            with net.enter():
                enter_own_userns()
        except PermissionError as error:
            assert isinstance(error, UsernsError)
            assert (error.step, error.cause) == ("setns", "no-way-back")
        else:
            raise AssertionError("it came back")
        assert link("net") == f"net:[{net.inode}]"
        assert descriptors() == opened


def without_proc_and_back() -> None:
    become_root_with_namespaces()
    with (
        holding("net") as holder,
        holder.namespace("net") as net,
        tempfile.TemporaryDirectory() as empty,
        Namespace.current("net") as before,
    ):

        def visit() -> None:
            os.chroot(empty)
            with net.enter(), Namespace.current("net") as current:
                assert current == net != before
            with Namespace.current("net") as current:
                assert current == before

        in_child(visit)


def without_proc_and_no_way_back() -> None:
    become_root_with_namespaces()
    with holding("net") as holder, holder.namespace("net") as net, tempfile.TemporaryDirectory() as empty:

        def visit() -> None:
            os.chroot(empty)
            error = error_of(net.enter().__enter__)
            assert error.cause == "no-way-back"
            assert "No such file" in error.__notes__[0]

        in_child(visit)


def threads_started_meanwhile() -> None:
    become_root_with_namespaces()
    before = link("mnt")
    with holding("mnt") as holder, holder.namespace("mnt") as mnt:
        entered, done = mnt.enter(), threading.Event()
        thread = threading.Thread(target=done.wait)
        thread.start()
        error = error_of(entered.leave)
        assert (error.errno, error.step, error.cause) == (errno.EINVAL, "setns", "shared-fs")
        assert "started meanwhile" in error.__notes__[0]
        done.set()
        thread.join()
        while len(os.listdir("/proc/self/task")) > 1:
            time.sleep(0.001)  # join() returns a little before the thread has ended
        entered.leave()
        assert link("mnt") == before


# ---- refusals ----


def a_thread_that_shares_its_directory() -> None:
    become_root_with_namespaces()
    with holding("mnt") as holder, holder.namespace("mnt") as mnt:
        before, seen, errors = link("mnt"), list[str](), list[UsernsError]()

        def visit() -> None:
            errors.append(error_of(mnt.enter))
            native.unshare(native.CLONE_FS)
            with mnt.enter():
                seen.append(link("mnt"))
            seen.append(link("mnt"))

        in_thread(visit)
        [error] = errors
        assert (error.errno, error.step, error.cause) == (errno.EINVAL, "setns", "shared-fs")
        assert "CLONE_FS" in error.__notes__[0]
        assert "join=" in error.__notes__[0]
        assert seen == [f"mnt:[{mnt.inode}]", before]


def a_threaded_program(kind: str) -> None:
    become_root_with_namespaces()
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    with holding("time") as holder, holder.namespace(kind) as other:
        before = link(kind), descriptors()
        error = error_of(other.enter)
        assert error.errno in (errno.EINVAL, errno.EUSERS)
        assert error.cause == "threads"
        assert "join=" in error.__notes__[0]
        assert (link(kind), descriptors()) == before
    done.set()
    thread.join()


def a_sibling_pid_namespace() -> None:
    become_root_with_namespaces()
    with (
        holding("pid") as one,
        holding("pid") as two,
        one.namespace("pid") as inner,
        two.namespace("pid") as sibling,
    ):
        inner.enter()

        def visit() -> None:
            error = error_of(sibling.enter)
            assert (error.errno, error.cause) == (errno.EINVAL, "not-below"), error

        in_child(visit)


def without_rights_in_its_owner() -> None:
    with holding(*ALL_BUT_USER) as one, holding(*ALL_BUT_USER) as two:
        of_two = {kind: two.namespace(kind) for kind in NamespaceKind}
        with one.namespace() as userns:
            userns.enter()
        before = links()
        for kind, namespace in of_two.items():
            error = error_of(namespace.enter)
            assert isinstance(error, PermissionError), kind
            assert (error.step, error.cause) == ("setns", "no-setns-rights")
            assert "CAP_SYS_ADMIN" in error.__notes__[0]
            assert ("CAP_SYS_CHROOT" in error.__notes__[0]) == (kind == "mnt")
            assert links() == before
            namespace.close()


def one_after_the_other() -> None:
    with holding(*ALL_BUT_USER) as holder:
        opened = [holder.namespace(kind) for kind in ["user", *ALL_BUT_USER]]
        for namespace in opened:
            namespace.enter()
            if namespace.kind not in ("pid", "mnt"):
                assert os.readlink(f"/proc/self/ns/{namespace.kind}") == f"{namespace.kind}:[{namespace.inode}]"
            with Namespace.current(namespace.kind) as current:
                assert (current == namespace) == (namespace.kind != "pid")
            namespace.close()
        assert os.getuid() == os.getgid() == 0


# ---- setns(2) with a pidfd ----


def errno_of(pidfd: int, flags: int) -> int | None:
    try:
        lowlevel.setns(pidfd, flags)
    except OSError as error:
        return error.errno
    return 0


def pidfd_with_wrong_flags() -> None:
    with holding(*ALL_BUT_USER) as holder:
        before, user = links(), NamespaceKind.USER.flag
        for flags in (0, -1, CLONE_VM, user | CLONE_VM):
            assert errno_of(holder.pidfd, flags) == errno.EINVAL, flags
            assert links() == before


def links_of(process: UsernsProcess[Any]) -> dict[str, str]:
    """Return the links that a program has after it has entered all namespaces of *process*."""
    names: dict[str, str] = {kind: os.readlink(f"/proc/{process.pid}/ns/{kind}") for kind in NamespaceKind}
    # A PID namespace is entered by children that are created later.
    return names | {f"{kind}_for_children": names[kind] for kind in ("pid", "time")} | {"pid": links()["pid"]}


def pidfd_incremental_and_one_shot() -> None:
    every = [kind.flag for kind in NamespaceKind]
    # A command: a holder created by root cannot be inspected from the namespace, as the second step requires.
    with UsernsProcess(["sleep", "60"], uid_map="root", namespaces=ALL_BUT_USER) as process:
        expected = links_of(process)
        for steps in (every, [sum(every)]):

            def visit(steps: list[int] = steps) -> None:
                for flags in steps:
                    lowlevel.setns(process.pidfd, flags)
                proc = os.open("/proc/self/ns", os.O_RDONLY)  # in its mount namespace, where /proc is the same
                assert {kind: os.readlink(kind, dir_fd=proc) for kind in os.listdir(proc)} == expected

            in_child(visit)
        process.kill()


def pidfd_of_a_sibling_and_of_an_exited_child() -> None:
    with holding(*ALL_BUT_USER) as one, holding(*ALL_BUT_USER) as two:
        lowlevel.setns(one.pidfd, NamespaceKind.USER.flag)
        before = links()
        for kind in NamespaceKind:
            assert errno_of(two.pidfd, kind.flag) == errno.EPERM, kind
        assert links() == before
        child, pidfd = exited_child()
        for reaped in (False, True):
            if reaped:
                os.waitpid(child, 0)
            for kind in ALL_BUT_USER:
                assert errno_of(pidfd, kind.flag) == errno.ESRCH, kind
        assert links() == before


def exited_child() -> tuple[int, int]:
    """Return the PID and a pidfd of a zombie."""
    child = os.fork()
    if child == 0:
        os._exit(0)
    pidfd = os.pidfd_open(child)
    os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
    return child, pidfd


def namespaces_of_an_exited_child() -> None:
    before = links()
    child, pidfd = exited_child()
    for reaped in (False, True):
        if reaped:
            os.waitpid(child, 0)
        for kind in NamespaceKind:
            if kind in ("user", "pid") and not reaped:
                continue  # a zombie still has these
            error = error_of(Namespace.of, pidfd, kind)
            assert isinstance(error, (ProcessLookupError, FileNotFoundError)), kind
            assert error.step == ("open_proc" if reaped else "open_ns")
    assert links() == before


# ---- interruptions and faults ----


def interrupted_while_entering() -> None:
    become_root_with_namespaces()
    before, setns = link("net"), _core.setns

    def interrupted(fd: int | _core.OwnedFd, nstype: int, /) -> NoReturn:
        setns(fd, nstype)
        _core.setns = setns
        raise KeyboardInterrupt

    with holding("net") as holder, holder.namespace("net") as net:
        opened = descriptors()
        _core.setns = interrupted
        try:
            net.enter()
        except KeyboardInterrupt:
            pass
        else:
            raise AssertionError("it was not interrupted")
        assert link("net") == before
        assert descriptors() == opened


def with_what_was_left() -> None:
    become_root_with_namespaces()
    with holding("uts") as holder, holder.namespace("uts") as uts:
        before = link("uts")
        with uts.enter() as entered:
            pass
        try:
            with entered:
                raise AssertionError("the block was begun")
        except ValueError as error:
            assert "has left this uts namespace" in str(error)
        assert link("uts") == before


def a_failing_way_back() -> None:
    become_root_with_namespaces()
    with holding("mnt") as holder, holder.namespace("mnt") as mnt:
        opened = descriptors()
        try:
            with patch.object(os, "chdir", os.fsync), mnt.enter():  # EBADF, of such a descriptor
                pass
        except UsernsError as error:
            assert (error.step, error.errno) == ("chroot", errno.EBADF)
        else:
            raise AssertionError("it did not fail")
        assert descriptors() == opened
