"""Idmapped mounts of a directory on an ext4 file system."""

from __future__ import annotations

import errno
import os
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import native
from errors import error_of
from leaks import descriptors, state
from mounting import (
    MAP,
    create_as,
    failure,
    mount_again,
    own_file_system,
    owners,
    run,
)

from usernsproc import Namespace, UsernsProcess, create_userns, idmapped_mount


@contextmanager
def own_ext4() -> Iterator[tuple[Path, Path, Path]]:
    """An empty directory, one on a new file system, and a mount point; nothing uses them at the end of the block."""
    work, source, target = own_file_system("ext4")
    yield work, source, target
    run("umount", source.parent)
    os.chdir("/")
    run("umount", work)


def a_shifted_directory() -> None:
    with own_ext4() as (work, source, target):
        before = state()
        with create_userns(MAP, MAP) as userns, idmapped_mount(source, target, userns) as mount:
            assert mount.target == str(target)
            assert owners(target / "of-0") == (100000, 100000)
            assert owners(target / "of-1000") == (101000, 101000)
            assert create_as(100007, target / "new") == 0
            assert owners(target / "new") == (100007, 100007)
            assert owners(source / "new") == (7, 7)
            assert repr(mount) == f"<Mount at {target}>"
        assert state() == before
        assert list(target.iterdir()) == []
        mount_again("ext4", work)
        assert owners(source / "new") == (7, 7)


def the_namespace_may_be_closed_once_it_is_mounted() -> None:
    with own_ext4() as (_, source, target):
        userns = create_userns(MAP, MAP)
        with idmapped_mount(source, target, userns):
            userns.close()
            assert owners(target / "of-0") == (100000, 100000)


def an_unmapped_id_cannot_create_files_through_it() -> None:
    with own_ext4() as (_, source, target), idmapped_mount(source, target, (MAP, MAP)):
        assert create_as(0, target / "new") == errno.EOVERFLOW
        assert create_as(5, target / "new") == errno.EOVERFLOW


def three_ranges_at_once() -> None:
    with own_ext4() as (_, source, target):
        ranges = "0:100000:10,1000:200000:1,10:300000:990"
        with idmapped_mount(source, target, (ranges, ranges)):
            assert owners(target / "of-0") == (100000, 100000)
            assert owners(target / "of-1000") == (200000, 200000)
            assert create_as(300005, target / "new") == 0
        assert owners(source / "new") == (15, 15)


def read_only() -> None:
    with own_ext4() as (_, source, target):
        with idmapped_mount(source, target, (MAP, MAP), read_only=True):
            assert create_as(100001, target / "new") == errno.EROFS
            assert owners(target / "of-0") == (100000, 100000)
        run("mount", "--bind", "-o", "ro", source, source)
        with idmapped_mount(source, target, (MAP, MAP)):
            assert create_as(100001, target / "new") == errno.EROFS
        with idmapped_mount(source, target, (MAP, MAP), read_only=False):
            assert create_as(100001, target / "new") == 0
        run("umount", source)


def a_single_file_and_relative_paths() -> None:
    with own_ext4() as (work, _source, _target):
        (work / "file").touch()
        os.chdir(work)
        with idmapped_mount("disk-ext4/source/of-0", "file", (MAP, MAP)) as mount:
            os.chdir("/")
            assert mount.target == str(work / "file")
            assert owners(work / "file") == (100000, 100000)


def a_user_namespace_by_whatever_stands_for_it() -> None:
    with (
        own_ext4() as (_, source, target),
        UsernsProcess(uid_map=MAP, gid_map=MAP) as holder,
        holder.namespace() as userns,
    ):
        for userns_like in (userns, holder, userns.fileno(), userns.path, holder.namespace_path(), (MAP, MAP)):
            before = descriptors()
            with idmapped_mount(source, target, userns_like):
                assert owners(target / "of-0") == (100000, 100000)
            assert descriptors() == before


def what_cannot_be_mounted_has_a_distinct_error_and_nothing_has_changed() -> None:
    with own_ext4() as (work, source, target):
        error = failure(idmapped_mount, work / "nothing", target, (MAP, MAP))
        assert (error.step, error.errno, error.filename) == ("open_tree", errno.ENOENT, str(work / "nothing"))
        error = failure(idmapped_mount, source, work / "nothing", (MAP, MAP))
        assert (error.step, error.errno, error.filename) == ("move_mount", errno.ENOENT, str(work / "nothing"))
        error = failure(idmapped_mount, source, work / "image-ext4", (MAP, MAP))
        assert (error.step, error.errno, error.cause) == ("move_mount", errno.EINVAL, "type-mismatch")
        error = failure(idmapped_mount, "/proc", target, (MAP, MAP))
        assert (error.step, error.errno, error.cause) == ("mount_setattr", errno.EINVAL, "no-idmap-support")
        with UsernsProcess() as holder:
            assert failure(idmapped_mount, source, target, holder).cause == "map-missing"
            holder.write_uid_map("root")
            assert failure(idmapped_mount, source, target, holder).cause == "map-missing"
        with Namespace.current("net") as net:
            assert failure(idmapped_mount, source, target, net).cause == "not-a-user-namespace"
        with Namespace.current() as initial:
            assert failure(idmapped_mount, source, target, initial).cause == "initial-user-namespace"


def a_busy_mount_stays() -> None:
    with own_ext4() as (_, source, target):
        mount = idmapped_mount(source, target, (MAP, MAP))
        with open(target / "of-0"):
            error = error_of(mount.unmount)
            assert (error.step, error.errno) == ("umount", errno.EBUSY)
            assert owners(target / "of-0") == (100000, 100000)
        mount.unmount()
        mount.unmount()
        assert repr(mount) == f"<Mount at {target}, unmounted>"


def the_mount_of_another_program_is_not_unmounted() -> None:
    with own_ext4() as (_, source, target):
        mount = idmapped_mount(source, target, (MAP, MAP))
        run("mount", "-t", "tmpfs", "tmpfs", target)
        error = error_of(mount.unmount)
        assert (error.errno, error.cause) == (errno.EBUSY, "mounted-over")
        run("umount", target)
        mount.unmount()


def an_unprivileged_user_is_refused_with_the_step() -> None:
    if os.geteuid() == 0:
        os.setresgid(65533, 65533, 65533)
        os.setresuid(65533, 65533, 65533)
        native.prctl(native.PR_SET_DUMPABLE, 1)
    with create_userns("root", "root") as userns:
        error = error_of(idmapped_mount, "/usr", "/mnt", userns)
        assert isinstance(error, PermissionError)
        assert (error.step, error.errno) == ("open_tree", errno.EPERM)


def an_unprivileged_user_mounts_a_tmpfs_in_a_mount_namespace_of_its_own() -> None:
    with create_userns("root", "root") as userns:
        userns.enter()
    native.unshare(native.CLONE_NEWNS)
    work = tempfile.mkdtemp()
    run("mount", "-t", "tmpfs", "tmpfs", work)
    os.mkdir(work + "/source")
    os.mkdir(work + "/target")
    with idmapped_mount(work + "/source", work + "/target", ("5:0:1", "6:0:1")):
        assert os.stat(work + "/target").st_uid == 65534  # 0 of the disk is not mapped
    run("umount", work)
    os.rmdir(work)


def at_the_limit_of_descriptors_nothing_is_mounted() -> None:
    with own_ext4() as (_, source, target):
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        mounts = Path("/proc/self/mountinfo").read_text()
        failures = 0
        for more in range(30):
            highest = max(int(fd) for fd in descriptors())
            resource.setrlimit(resource.RLIMIT_NOFILE, (highest + more, limits[1]))
            try:
                mount = idmapped_mount(source, target, (MAP, MAP))
            except OSError as error:
                assert error.errno == errno.EMFILE, error
                failures += 1
                mount = None
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            if mount is not None:
                mount.unmount()
            assert Path("/proc/self/mountinfo").read_text() == mounts
            if mount is not None:
                break
        assert failures > 1


def a_target_that_is_a_symbolic_link_is_followed() -> None:
    with own_ext4() as (work, source, target):
        (work / "link").symlink_to(target)
        with idmapped_mount(source, work / "link", (MAP, MAP)) as mount:
            assert mount.target == str(target)
            assert owners(target / "of-0") == (100000, 100000)
