"""Listing of namespaces, and programs that create namespaces to be found."""

from __future__ import annotations

import errno
import os
import resource
import socket
import sys
import threading
import time

import alone
import native
from entering import enter_own_userns
from leaks import close_kept
from mounting import own_mount_namespace

from usernsproc import PIPE, Namespace, NamespaceInfo, UsernsError, UsernsProcess, create_userns


def info_of(inode: int) -> NamespaceInfo:
    return next(info for info in Namespace.list() if info.inode == inode)


def enter_nested(depth: int) -> None:
    """Enter that many user namespaces, each nested in the previous one, and wait for the end of standard input."""
    for _ in range(depth):
        enter_own_userns()
    print("ready", flush=True)
    sys.stdin.read()


def maps_of_nested_ones_are_shown_as_seen_from_here_with_and_without_a_process() -> None:
    with UsernsProcess(uid_map="0:100000:1000", gid_map="0:200000:1000") as outer:
        owner = os.stat(outer.namespace_path()).st_ino
        ready, write = os.pipe()
        stay, stop = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                with outer.namespace() as userns:
                    userns.enter()
                os.setgroups([])
                os.setgid(0)
                os.setuid(0)
                native.prctl(native.PR_SET_DUMPABLE, 1)
                _held = create_userns("5:10:20", "5:10:20")
                os.write(write, b"ready")
                os.close(stop)
                os.read(stay, 1)
            finally:
                os._exit(1)
        os.close(write)
        assert os.read(ready, 5) == b"ready"
        info = next(info for info in Namespace.list("user") if info.owner == owner)
        print(info.pids, info.owner_uid, info.uid_map, info.gid_map)
        with info.open() as inner:
            print(inner.uid_map)
        os.close(stop)
        os.waitpid(child, 0)


def pin_and_wait(path: str) -> None:
    """Pin a new user namespace and print its inode; end with standard input."""
    with create_userns("root", "root") as userns:
        userns.pin(path)
        print(userns.inode, flush=True)
    sys.stdin.read()


def a_pin_is_shown_by_its_path(folder: str) -> None:
    path = folder + "/a pin\\ with\ttabs"
    command = alone.command(pin_and_wait, path)
    with UsernsProcess(command, uid_map="root", namespaces=["mnt"], stdin=PIPE, stdout=PIPE) as process:
        assert process.stdin
        assert process.stdout
        info = info_of(int(process.stdout.readline()))
        assert info.pids == (), info
        assert info.pins == (f"/proc/{process.pid}/root{path}",), info
        with info.open() as namespace:
            assert namespace.inode == info.inode
        process.stdin.close()
    os.unlink(path)
    enter_own_userns()
    native.unshare(native.CLONE_NEWNS)
    with create_userns("root", "root") as userns:
        userns.pin(path)
        inode = userns.inode
    info = info_of(inode)
    assert (info.pids, info.pins, info.routes) == ((), (path,), ((path,),)), info
    assert info.uid_map == "0:0:1"
    with info.open() as namespace:
        assert namespace.inode == inode
    Namespace.unpin(path)


def a_pin_that_two_roots_show_is_listed_once(folder: str) -> None:
    enter_own_userns()
    native.unshare(native.CLONE_NEWNS)
    path = folder + "/pin"
    with create_userns("root", "root") as userns:
        userns.pin(path)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        os.chroot(folder)
        os.read(read, 1)
        os._exit(0)
    while os.stat(f"/proc/{child}/root/").st_ino != os.stat(folder).st_ino:
        time.sleep(0.001)
    assert info_of(os.stat(path).st_ino).pins == (path,)
    os.close(write)
    os.waitpid(child, 0)
    Namespace.unpin(path)


def a_thread_in_another_namespace_counts_for_its_process() -> None:
    enter_own_userns()
    inside, done = threading.Event(), threading.Event()
    seen: list[int] = []

    def visit() -> None:
        native.unshare(native.CLONE_NEWNET)
        seen.append(Namespace.current("net").detach())
        inside.set()
        done.wait()

    thread = threading.Thread(target=visit)
    thread.start()
    inside.wait()
    inode = os.fstat(seen[0]).st_ino
    os.close(seen[0])
    info = next(info for info in Namespace.list("net") if info.inode == inode)
    assert info.pids == (os.getpid(),)
    assert len(info.routes) == 1
    done.set()
    thread.join()


def one_that_waits_for_children_is_found() -> None:
    enter_own_userns()
    native.unshare(native.CLONE_NEWTIME)
    inode = os.stat("/proc/self/ns/time_for_children").st_ino
    info = next(info for info in Namespace.list("time") if info.inode == inode)
    assert info.pids == ()


def processes_that_may_not_be_looked_into_are_counted() -> None:
    with UsernsProcess(["sleep", "1000"], uid_map="root") as process, create_userns("root", "root") as mine:
        assert any(process.pid in info.pids for info in Namespace.list("user"))
        before = Namespace.list()
        child = os.fork()
        if child == 0:
            mine.enter()
            found = Namespace.list()
            assert found.unseen_processes > before.unseen_processes
            assert not [info for info in found if process.pid in info.pids]
            own = next(info for info in found if info.kind == "user" and os.getpid() in info.pids)
            assert (own.parent, own.owner) == (None, None)
            assert next(info for info in found if info.kind == "net" and os.getpid() in info.pids).owner is None
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        process.kill()


def where_descriptors_are_short_it_fails_and_nothing_is_left_out() -> None:
    with UsernsProcess(uid_map="0:0:1" if not os.geteuid() else "root", namespaces=["net"]) as holder:
        held = create_userns("root", "root")

        def look() -> list[tuple[object, ...]]:
            found = (i for i in Namespace.list() if i.inode == held.inode or holder.pid in i.pids)
            return [(*i[:6], i.uid_map, i.gid_map) for i in found]

        whole, errors = look(), 0
        assert len(whole) == 9  # eight of the holder, and the one that is held
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest = max(map(int, os.listdir("/proc/self/fd")))
        for limit in range(lowest, lowest + 12):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            try:
                assert look() == whole
            except OSError as error:
                assert error.errno == errno.EMFILE, error
                errors += 1
        assert 1 <= errors < 12, errors


def without_proc_it_says_so(folder: str) -> None:
    Namespace.list()
    enter_own_userns()
    close_kept()
    os.chroot(folder)
    try:
        Namespace.list()
    except FileNotFoundError as error:
        assert isinstance(error, UsernsError)
        assert error.step == "open_proc"
        assert "/proc" in error.__notes__[0]
    else:
        raise AssertionError("it listed")


def pin_and_send_mounts(channel: socket.socket) -> None:
    """Pin a user namespace in a new mount namespace; send its inode, and a descriptor of the mount namespace."""
    mine = own_mount_namespace()
    with create_userns("root", "root") as userns, Namespace.current("mnt") as mounts:
        userns.pin(mine / "pin")
        channel.send(str(userns.inode).encode())
        socket.send_fds(channel, [b"x"], [mounts.fileno()])


def the_kernel_lists_what_is_mounted_where_no_process_is() -> None:
    ours, theirs = socket.socketpair()
    if (pid := os.fork()) == 0:
        pin_and_send_mounts(theirs)
        os._exit(0)
    inode = int(ours.recv(100))
    _, (mounts,), _, _ = socket.recv_fds(ours, 1, 1)
    os.waitpid(pid, 0)

    def routes() -> list[object]:
        return [info.routes for info in Namespace.list("user") if info.inode == inode]

    [[[number]]] = [info.routes for info in Namespace.list("user") if info.inode == inode]
    assert isinstance(number, int)
    os.close(mounts)
    end = time.monotonic() + 10
    while routes():
        assert time.monotonic() < end  # a mount namespace ends a moment later
        time.sleep(0.05)


def send_a_socket_of_a_new_network(fd: int) -> None:
    """Send it through the socket *fd*; nothing else refers to the network namespace."""
    enter_own_userns()
    native.unshare(native.CLONE_NEWNET)
    with socket.socket(fileno=fd) as channel, socket.socket() as held:
        socket.send_fds(channel, [b"x"], [held.fileno()])
