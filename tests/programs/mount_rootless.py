"""Idmapped mounts by root of a user namespace, in a mount namespace that it owns."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from mounting import failure, has_maps, run

from usernsproc import Namespace, UsernsError, idmapped_mount, open_idmapped, supports_idmap


def prepared(folder: str) -> tuple[Path, Path, Path]:
    """Mount a file system on *folder*. Return that directory, and in it one with a file and a mount point."""
    work = Path(folder)
    run("mount", "-t", "tmpfs", "own", work)
    source, target = work / "source", work / "target"
    source.mkdir()
    target.mkdir()
    (source / "file").touch()
    return work, source, target


def a_file_system_of_its_own_can_be_idmapped(folder: str) -> None:
    _, source, target = prepared(folder)
    answer = supports_idmap(source)
    assert answer
    assert answer.file_system == "tmpfs"
    with idmapped_mount(source, target, ("0:0:1", "0:0:1")) as mount:
        assert os.stat(target).st_uid == 0
        assert has_maps(mount, "0:0:1")
        (target / "new").touch()
        assert os.stat(source / "new").st_uid == 0
    with idmapped_mount(source, target, ("5:0:1", "6:0:1"), read_only=True, nosuid=True) as mount:
        assert os.stat(target / "file").st_uid == 65534  # 0 of the file system is not mapped
        assert has_maps(mount, "5:0:1", "6:0:1")
    with idmapped_mount(source, target, ("5:0:1", "6:0:1")):
        try:
            (target / "newer").touch()
        except OSError as error:
            assert error.errno == errno.EOVERFLOW  # 5 and 6 are not IDs of the file system
        else:
            raise AssertionError
    assert not list(target.iterdir())


def a_tree_of_its_own_is_mounted_and_unmounted_as_a_whole(folder: str) -> None:
    _, source, target = prepared(folder)
    (source / "sub").mkdir()
    run("mount", "-t", "tmpfs", "sub", source / "sub")
    (source / "sub" / "file").touch()
    mount = idmapped_mount(source, target, ("0:0:1", "0:0:1"), recursive=True)
    assert (target / "sub" / "file").exists()
    with open(target / "sub" / "file"):
        try:
            mount.unmount()
        except UsernsError as error:
            assert error.cause == "mount-in-use"
            assert f"process {os.getpid()}" in error.__notes__[0]
        else:
            raise AssertionError
    mount.unmount()
    with open_idmapped(source, ("0:0:1", "0:0:1"), recursive=True) as detached:
        detached.attach(target).unmount()
    assert not list(target.iterdir())
    run("umount", source / "sub")


def the_namespace_that_mounted_it_cannot_give_the_maps(folder: str) -> None:
    work, source, target = prepared(folder)
    with Namespace.current() as own:
        error = failure(idmapped_mount, source, target, own)
    assert (error.step, error.errno, error.cause) == ("mount_setattr", errno.EINVAL, "same-user-namespace")
    assert f"the tmpfs at {work}" in error.__notes__[0]


def a_file_system_of_the_host_cannot_be_idmapped(folder: str) -> None:
    work, _, _ = prepared(folder)
    etc = "/etc/passwd"
    (work / "file").touch()
    run("mount", "--bind", etc, work / "file")
    run("umount", work / "file")
    error = failure(idmapped_mount, etc, work / "file", ("0:0:1", "0:0:1"))
    answer = supports_idmap(etc)
    assert not answer
    if answer.file_system == "overlay":  # in a container
        assert (error.errno, error.cause) == (errno.EINVAL, "no-idmap-support")
    else:
        assert (error.errno, error.cause) == (errno.EPERM, "no-rights-over-file-system")
        assert f"user namespace that mounted the {answer.file_system} at " in error.__notes__[0]
    assert answer.cause == error.cause
    assert error.step == "mount_setattr"
    assert failure(open_idmapped, "/proc/self/status", ("0:0:1", "0:0:1")).cause == "no-idmap-support"


def submounts_that_came_with_the_mount_namespace_are_locked(folder: str) -> None:
    _, _, target = prepared(folder)
    error = failure(idmapped_mount, "/", target, ("0:0:1", "0:0:1"))
    assert (error.step, error.errno, error.cause) == ("open_tree", errno.EINVAL, "locked-submounts")
    error = failure(idmapped_mount, "/", target, ("0:0:1", "0:0:1"), recursive=True)
    assert error.step == "mount_setattr"
