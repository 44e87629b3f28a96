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
from typing import NoReturn
from unittest.mock import patch

import native
from entering import (
    become_root_with_namespaces,
    enter_own_userns,
    holding,
    in_child,
    in_thread,
    link,
)
from errors import error_of
from leaks import descriptors

from usernsproc import Namespace, UsernsError, _core, _system_calls, create_userns

SIOCGSKNS = 0x894C


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
                from usernsproc import _preload  # noqa: F401, the new root does not contain it

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


# ---- interruptions and faults ----


def interrupted_while_entering() -> None:
    become_root_with_namespaces()
    before, setns = link("net"), _system_calls.setns

    def interrupted(fd: int | _core.OwnedFd, nstype: int, /) -> NoReturn:
        setns(fd, nstype)
        _system_calls.setns = setns
        raise KeyboardInterrupt

    with holding("net") as holder, holder.namespace("net") as net:
        opened = descriptors()
        _system_calls.setns = interrupted
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
