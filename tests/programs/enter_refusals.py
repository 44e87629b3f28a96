"""Programs whose threads cannot enter other namespaces, and `setns(2)` as the kernel's own tests use it."""

from __future__ import annotations

import errno
import os
import threading
from typing import Any

import native
from entering import (
    ALL_BUT_USER,
    become_root_with_namespaces,
    holding,
    in_child,
    in_thread,
    link,
    links,
)
from errors import error_of
from leaks import descriptors

from usernsproc import Namespace, NamespaceKind, UsernsError, UsernsProcess, lowlevel

CLONE_VM = 0x100


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
