"""Idmapped mounts of whole trees, their attributes and their propagation."""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path

import native
from leaks import state
from mounting import (
    MAP,
    create_as,
    errno_as,
    failure,
    make_file_system,
    mounts_below,
    own_file_system,
    own_mount_namespace,
    owners,
    run,
)

from usernsproc import UsernsError, create_userns, idmapped_mount, open_idmapped

FIELDS: dict[str, list[str]] = {
    "private": [],
    "slave": ["master"],
    "shared": ["shared"],
    "unbindable": ["unbindable"],
}
"""Of a mount with that propagation, in the kernel's table."""


def prepared() -> tuple[Path, Path, Path]:
    """Like `own_file_system`, with two submounts of the source, at `sub` and `sub/deep`."""
    work, source, target = own_file_system("ext4")
    (source / "sub").mkdir()
    (source / "sub" / "covered").touch()
    run("mount", "-t", "tmpfs", "tmpfs", source / "sub")
    (source / "sub" / "deep").mkdir()
    run("mount", "-t", "tmpfs", "-o", "mode=711", "tmpfs", source / "sub" / "deep")
    return work, source, target


def is_mounted(path: Path) -> bool:
    return any(mount.split()[0] == str(path) for mount in mounts_below(path))


def fields_of(path: Path) -> list[str]:
    with open("/proc/self/mountinfo") as file:
        [line] = [line.split() for line in file if line.split()[4] == str(path)]
    return [field.split(":")[0] for field in line[6 : line.index("-")]]


def a_recursive_mount_shifts_all_of_the_tree() -> None:
    _, source, target = prepared()
    with idmapped_mount(source, target, (MAP, MAP), recursive=True):
        assert owners(target / "of-1000") == (101000, 101000)
        assert owners(target / "sub") == (100000, 100000)
        assert owners(target / "sub" / "deep") == (100000, 100000)
        assert (target / "sub" / "deep").stat().st_mode & 0o777 == 0o711
        assert len(mounts_below(target)) == 3
        assert all("idmapped" in mount for mount in mounts_below(target))
    assert mounts_below(target) == []
    assert len(mounts_below(source)) == 2


def without_recursive_the_submounts_stay_away() -> None:
    _, source, target = prepared()
    with idmapped_mount(source, target, (MAP, MAP)):
        assert len(mounts_below(target)) == 1
        assert (target / "sub" / "covered").exists()


def one_that_cannot_makes_all_of_it_fail_and_is_named() -> None:
    work, source, target = prepared()
    (source / "sub" / "deep" / "proc").mkdir()
    run("mount", "-t", "proc", "proc", source / "sub" / "deep" / "proc")
    before = mounts_below(work)
    culprit = str(source / "sub" / "deep" / "proc")
    for function, arguments in ((idmapped_mount, (source, target)), (open_idmapped, (source,))):
        error = failure(function, *arguments, (MAP, MAP), recursive=True, read_only=True)
        assert (error.step, error.errno, error.cause) == ("mount_setattr", errno.EINVAL, "no-idmap-support")
        assert error.filename == culprit
        assert f"the proc at {culprit} cannot be idmapped" in error.__notes__[0]
    assert mounts_below(work) == before
    with idmapped_mount(source, target, (MAP, MAP)):  # which does not include it
        assert owners(target / "of-0") == (100000, 100000)


def attributes_are_those_of_the_whole_tree() -> None:
    _, source, target = prepared()
    with idmapped_mount(
        source, target, (MAP, MAP), recursive=True, read_only=True, nosuid=True, nodev=True, noexec=True
    ):
        assert len(mounts_below(target)) == 3
        for mount in mounts_below(target):
            assert mount.split()[1].startswith("ro,nosuid,nodev,noexec"), mount
        for path in (target / "new", target / "sub" / "new", target / "sub" / "deep" / "new"):
            assert create_as(100000, path) == errno.EROFS
    assert not any("nosuid" in mount for mount in mounts_below(source))
    with idmapped_mount(source, target, (MAP, MAP), recursive=True):
        assert not any("ro," in mount or "nosuid" in mount for mount in mounts_below(target))


def each_attribute_does_what_it_says() -> None:
    work, source, target = prepared()
    shutil.copy("/bin/sh", source / "program")
    os.mknod(source / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    (source / "null").chmod(0o666)
    (source / "program").chmod(0o4755)  # of user 0 on the disk, seen as 100000

    def effective() -> str:
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.dup2(write, 1)
            os.setgroups([])
            os.setresgid(100005, 100005, 100005)
            os.setresuid(100005, 100005, 100005)
            os.execv(target / "program", ["sh", "-p", "-c", "grep ^Uid /proc/self/status"])
        os.waitpid(pid, 0)
        os.close(write)
        with open(read) as file:
            return file.read().split()[2]

    def open_device() -> int:
        return errno_as(100005, lambda: os.open(target / "null", os.O_RDWR))

    def can_execute() -> int:
        return errno_as(100005, lambda: os.execv(target / "program", ["sh", "-c", ""]))

    with idmapped_mount(source, target, (MAP, MAP), nosuid=False, nodev=False, noexec=False):
        assert (effective(), open_device(), can_execute()) == ("100000", 0, 0)
    with idmapped_mount(source, target, (MAP, MAP), nosuid=True):
        assert (effective(), open_device(), can_execute()) == ("100005", 0, 0)
    with idmapped_mount(source, target, (MAP, MAP), nodev=True):
        assert (effective(), open_device(), can_execute()) == ("100000", errno.EACCES, 0)
    with idmapped_mount(source, target, (MAP, MAP), noexec=True):
        assert (open_device(), can_execute()) == (0, errno.EACCES)
    with idmapped_mount(source, work / "target", (MAP, MAP), nosuid=True, nodev=True, noexec=True):
        (work / "second").mkdir()
        with idmapped_mount(target, work / "second", (MAP, MAP)):
            assert mounts_below(work / "second")[0].split()[1].startswith("rw,nosuid,nodev,noexec")
        with idmapped_mount(target, work / "second", (MAP, MAP), noexec=False, nodev=False):
            assert mounts_below(work / "second")[0].split()[1].startswith("rw,nosuid,relatime")


def later_mounts_are_seen_as_the_propagation_says(propagation: str, at_target: bool, at_source: bool) -> None:
    work = own_mount_namespace()
    source = make_file_system("tmpfs", work)
    run("mount", "--make-shared", source.parent)
    (source / "one").mkdir()
    (source / "two").mkdir()

    for parent in ("private", "shared"):
        run("mount", f"--make-{parent}", work)
        target = work / f"target-{parent}"
        target.mkdir()
        mount = idmapped_mount(source, target, (MAP, MAP), propagation=propagation)
        assert fields_of(target) == FIELDS[propagation], (parent, fields_of(target))
        run("mount", "-t", "tmpfs", "tmpfs", source / "one")
        run("mount", "-t", "tmpfs", "tmpfs", target / "two")
        assert is_mounted(source / "one")
        assert is_mounted(target / "two")
        assert is_mounted(target / "one") == at_target, parent
        assert is_mounted(source / "two") == at_source, parent
        run("umount", target / "two")
        run("umount", source / "one")
        mount.unmount()
        if propagation == "unbindable":
            mount = idmapped_mount(source, target, (MAP, MAP), propagation=propagation)
            error = failure(idmapped_mount, target, work / "target-private", (MAP, MAP))
            assert (error.step, error.cause) == ("open_tree", "unbindable")
            mount.unmount()


def a_mount_below_a_shared_one_is_unmounted_everywhere(propagation: str, recursive: bool) -> None:
    work, source, target = own_file_system("tmpfs")
    (source / "sub").mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", source / "sub")
    (source / "sub" / "deep").mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", source / "sub" / "deep")
    run("mount", "--make-shared", work)
    question, ask = os.pipe()
    answer, reply = os.pipe()
    peer = os.fork()
    if peer == 0:  # in a mount namespace that is a peer of this one
        native.prctl(native.PR_SET_PDEATHSIG, 9)
        native.unshare(native.CLONE_NEWNS)
        while True:
            os.write(reply, str(len(mounts_below(target))).encode())
            os.read(question, 1)

    def number_in_peer() -> int:
        os.write(ask, b".")
        return int(os.read(answer, 1))

    assert os.read(answer, 1) == b"0"
    before = state()
    for use in range(2):
        mount = idmapped_mount(source, target, (MAP, MAP), propagation=propagation, recursive=recursive)
        assert number_in_peer() == 1
        assert len(mounts_below(target)) == (3 if recursive else 1)
        assert all("idmapped" in entry for entry in mounts_below(target))
        if recursive:
            assert owners(target / "sub" / "deep") == (100000, 100000)
            with open(source / "sub" / "deep" / "file", "w"), open(target / "sub" / "deep" / "file"):
                try:
                    mount.unmount()
                except UsernsError as error:
                    assert error.cause == "mount-in-use", error.cause
                else:
                    raise AssertionError
            assert number_in_peer() == 1
        mount.unmount(lazy=use == 1)
        assert number_in_peer() == 0
        assert state() == before
    os.kill(peer, 9)
    os.waitpid(peer, 0)


def two_hundred_mounts_leave_nothing() -> None:
    work = own_mount_namespace()
    source = make_file_system("tmpfs", work)
    targets = [work / f"target-{number}" for number in range(200)]
    for target in targets:
        target.mkdir()
    before = state()
    with create_userns(MAP, MAP) as userns:
        mounts = [idmapped_mount(source, target, userns) for target in targets]
    assert Path("/proc/self/mountinfo").read_text().count("idmapped") == 200
    assert all(owners(target / "of-0") == (100000, 100000) for target in targets)
    for mount in mounts:
        mount.unmount()
    for target in targets:
        with idmapped_mount(source, target, (MAP, MAP)):
            pass
    assert state() == before
