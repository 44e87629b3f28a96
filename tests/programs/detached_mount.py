"""Detached mounts of an ext4 file system, in a new mount namespace."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import Any, Self

import native
from leaks import state
from mounting import MAP, failure, has_maps, mounts_below, own_file_system, owners, run

from usernsproc import DetachedMount, UsernsError, _system_calls, create_userns, idmapped_mount, lowlevel, open_idmapped
from usernsproc._mounts.mount import _statmount_copy

AT_FDCWD = -100
OPEN_TREE_CLONE = 1
NR_OPEN_TREE, NR_STATMOUNT = 428, 457


def seen_by_its_descriptor_alone() -> None:
    _, source, _ = own_file_system("ext4")
    before = state()
    with open_idmapped(source, (MAP, MAP), read_only=True) as detached:
        assert state()["mounts"] == before["mounts"]
        status = os.stat("of-1000", dir_fd=detached.fileno())
        assert (status.st_uid, status.st_gid) == (101000, 101000)
        try:
            os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=detached.fileno())
        except OSError as error:
            assert error.errno == errno.EROFS
        else:
            raise AssertionError("it is writable")
        assert repr(detached) == f"<DetachedMount fd {detached.fileno()}>"
    assert detached.closed
    assert repr(detached) == "<DetachedMount closed>"
    detached.close()
    assert state() == before


def attached_once() -> None:
    work, source, target = own_file_system("ext4")
    detached = open_idmapped(source, (MAP, MAP))
    for nowhere in (work / "nothing", work / "image-ext4"):
        assert failure(detached.attach, nowhere).step == "move_mount"
    with detached.attach(target) as mount:
        assert detached.closed
        assert mount.target == str(target)
        assert has_maps(mount, MAP)
        assert owners(target / "of-0") == (100000, 100000)
        try:
            detached.attach(target)
        except ValueError as error:
            assert "closed" in str(error)
        else:
            raise AssertionError("it was attached again")
    assert mounts_below(target) == []


def attached_by_another_process() -> None:
    _, source, target = own_file_system("ext4")
    ours, theirs = socket.socketpair()
    (source / "sub").mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", source / "sub")
    with create_userns(MAP, MAP) as userns:
        pid = os.fork()
        if pid == 0:
            userns.enter()
            native.unshare(native.CLONE_NEWNS)
            os.setgid(0)
            os.setuid(0)
            _, [fd], _, _ = socket.recv_fds(theirs, 1, 1)
            attach_inside(target, fd)
            os._exit(0)
        with open_idmapped(source, userns, recursive=True) as detached:
            socket.send_fds(ours, [b"."], [detached.fileno()])
    assert os.waitpid(pid, 0)[1] == 0
    assert owners(source / "new") == (0, 0)
    assert mounts_below(target) == []


def attach_inside(target: Path, fd: int) -> None:
    with DetachedMount(fd, propagation="private") as detached, detached.attach(target) as mount:
        assert detached.closed
        assert owners(target / "of-0") == (0, 0)
        assert owners(target / "of-1000") == (1000, 1000)
        assert owners(target / "sub") == (0, 0)
        (target / "new").touch()
        assert owners(target / "new") == (0, 0)
        assert has_maps(mount, "0:0:65536")
        assert len(mounts_below(target)) == 2
    assert mounts_below(target) == []


def what_is_mounted_is_not_moved() -> None:
    work, source, target = own_file_system("ext4")
    disk = source.parent
    (work / "elsewhere").mkdir()
    with DetachedMount(lowlevel.open_tree(AT_FDCWD, disk, os.O_CLOEXEC)) as not_detached:
        error = failure(not_detached.attach, target)
        assert (error.step, error.errno, error.cause) == ("move_mount", errno.EINVAL, "attached")
        native.refuse_system_call(NR_STATMOUNT, errno.ENOSYS)  # which older kernels lack
        assert failure(not_detached.attach, target).cause == "attached"
    with open_idmapped(disk, (MAP, MAP)) as detached:
        inner = os.open("source", os.O_PATH | os.O_CLOEXEC, dir_fd=detached.fileno())
        with DetachedMount(inner) as part:
            error = failure(part.attach, target)
            assert (error.step, error.errno) == ("move_mount", errno.EINVAL)


def maps_of_a_shared_mount() -> None:
    _, source, _ = own_file_system("ext4")
    native.must(native.libc.mount(None, bytes(source.parent), None, native.MS_SHARED, None))
    before = state()["mounts"]
    with open_idmapped(source, (MAP, MAP), propagation="shared") as detached:
        try:
            _statmount_copy(detached.fileno())
        except UsernsError as error:
            assert error.step == "statmount"
            assert native.KERNEL < (7, 0)
        assert state()["mounts"] == before


def maps_or_an_error() -> None:
    _, source, target = own_file_system("ext4")
    with open_idmapped(source, (MAP, "5:6:7")) as detached:
        try:
            assert (str(detached.uid_map), str(detached.gid_map)) == (MAP, "5:6:7")
        except UsernsError as error:
            assert (error.step, error.cause) == ("statmount", "kernel-too-old")
            assert "7.0" in error.__notes__[0]
            assert native.KERNEL < (7, 0)
        else:
            assert native.KERNEL >= (7, 0)
        with detached.attach(target) as mount:
            assert has_maps(mount, MAP, "5:6:7")


def maps_with_submounts_and_without() -> None:
    _, source, _ = own_file_system("ext4")
    (source / "sub").mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", source / "sub")
    for recursive in (True, False):
        with open_idmapped(source, (MAP, "5:6:7"), recursive=recursive) as detached:
            before = state()
            assert has_maps(detached, MAP, "5:6:7")
            assert state() == before
            inner = os.open(".", os.O_PATH | os.O_CLOEXEC, dir_fd=detached.fileno())
            with DetachedMount(inner) as again:
                assert has_maps(again, MAP, "5:6:7")
    with DetachedMount(lowlevel.open_tree(AT_FDCWD, source, os.O_CLOEXEC | OPEN_TREE_CLONE)) as plain:
        assert (list(plain.uid_map), list(plain.gid_map)) == ([], [])
    with open_idmapped(source, (MAP, MAP)) as detached:
        native.refuse_system_call(NR_OPEN_TREE, errno.EPERM)
        error = failure(lambda: detached.uid_map)
        assert (error.step, error.errno, error.cause) == ("statmount", errno.EPERM, None)
        assert "CAP_SYS_ADMIN" in error.__notes__[0]


class Interrupted:
    """Raises `KeyboardInterrupt` in place of one call of a system call, or just after it."""

    def __init__(self, name: str, number: int, *, is_done: bool) -> None:
        self.name, self.number, self.is_done = name, number, is_done
        self.original = getattr(_system_calls, name)
        self.calls = 0

    def __enter__(self) -> Self:
        setattr(_system_calls, self.name, self)
        return self

    def __exit__(self, *exc: object) -> None:
        setattr(_system_calls, self.name, self.original)

    def __call__(self, *arguments: Any) -> Any:
        self.calls += 1
        if self.calls != self.number + 1:
            return self.original(*arguments)
        if self.is_done:
            self.original(*arguments)
        raise KeyboardInterrupt


def interrupts(recursive: bool) -> None:
    work, source, target = own_file_system("ext4")
    for directory in (source / "a", source / "a" / "b"):
        directory.mkdir()
        run("mount", "-t", "tmpfs", "tmpfs", directory)
    run("mount", "--make-shared", work)  # so that all steps are taken
    with create_userns(MAP, MAP) as userns:
        before, points = state(), 0
        for name in ("open_tree", "mount_setattr", "move_mount", "umount2"):
            for is_done in (False, True):
                if name == "open_tree" and is_done:
                    continue  # its result would be lost to this test, not to the program
                for number in range(100):
                    mount = None
                    with Interrupted(name, number, is_done=is_done) as interrupted:
                        try:
                            mount = idmapped_mount(source, target, userns, recursive=recursive)
                        except KeyboardInterrupt:
                            points += 1
                    if mount is not None:
                        mount.unmount()
                    assert state() == before, (name, is_done, number)
                    if interrupted.calls <= number:
                        break
        assert points >= (20 if recursive else 9), points
