"""User namespaces as descriptors, and programs that enter them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import native
from entering import be_root, enter_own_mounts, enter_own_userns

from usernsproc import Namespace, UsernsProcess, create_userns, run


def the_namespace_stays_usable_without_any_process() -> None:
    userns = create_userns("root", "root")
    assert str(userns.uid_map) == f"0:{os.geteuid()}:1"
    userns.enter()
    print(os.geteuid(), Path("/proc/self/uid_map").read_text().split()[0::2])


def a_bind_mounted_namespace_file_can_be_opened() -> None:
    enter_own_mounts()
    fd, path = tempfile.mkstemp()
    os.close(fd)
    with create_userns("root", "root") as userns:
        native.must(native.libc.mount(userns.path.encode(), path.encode(), None, native.MS_BIND, None))
        inode = userns.inode
    with Namespace.open(path) as pinned:
        assert pinned.inode == inode
        assert str(pinned.uid_map) == f"0:{os.geteuid()}:1"
    native.must(native.libc.umount2(path.encode(), 0))
    os.unlink(path)


def a_number_that_is_two_processes_is_refused() -> None:
    with UsernsProcess(uid_map="root") as holder:
        os.dup2(holder.pidfd, 1)
        try:
            Namespace.of(1)
        except ValueError as error:
            assert "both a pid and an open pidfd" in str(error)
        else:
            raise AssertionError("it was guessed")


def what_is_above_is_out_of_sight() -> None:
    enter_own_userns()
    with Namespace.current() as current:
        try:
            current.parent()
        except PermissionError as error:
            assert "visible" in error.__notes__[0]
        else:
            raise AssertionError("the parent is visible")


def print_setgroups_inside(asked: str | None) -> None:
    with create_userns("root", "root", setgroups=asked) as userns:
        userns.enter()
    print(Path("/proc/self/setgroups").read_text())


def setgroups_cannot_be_allowed() -> None:
    try:
        create_userns("root", "root", setgroups="allow")
    except PermissionError as error:
        assert "setgroups must be" in str(error), error
    else:
        raise AssertionError("it was allowed")


def a_proc_of_another_pid_namespace_leads_to_no_other_process() -> None:
    be_root()
    native.unshare(native.CLONE_NEWPID)
    child = os.fork()
    if child == 0:
        assert os.getpid() == 1
        assert os.readlink("/proc/self") != "1"
        own = f"0:{os.geteuid()}:1"
        with create_userns("root", "root") as userns:
            assert str(userns.uid_map) == own
        assert run(["cat", "/proc/self/uid_map"], uid_map="root", capture_output=True).stdout.split()[0] == b"0"
        with UsernsProcess(uid_map="root") as holder:
            assert str(holder.uid_map) == own
            assert os.stat(holder.namespace_path()).st_ino == Namespace.of(holder).inode
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
