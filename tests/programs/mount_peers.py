"""Tests of idmapped mounts from other projects."""

from __future__ import annotations

import errno
import os
import resource
import warnings
from collections.abc import Callable
from functools import partial

import native
from leaks import state
from mounting import MAP, errno_as, failure, has_maps, mounts_below, own_file_system, owners, run

from usernsproc import Namespace, UsernsProcess, _system_calls, create_userns, idmapped_mount, lowlevel, open_idmapped

AT_FDCWD, AT_EMPTY_PATH, AT_RECURSIVE, OPEN_TREE_CLONE = -100, 0x1000, 0x8000, 1
IDMAP, NOSYMFOLLOW = 0x100000, 0x200000


def errno_of(function: Callable[..., object], *arguments: object, **options: object) -> int | None:
    try:
        function(*arguments, **options)
    except OSError as error:
        return error.errno
    return 0


def idmap(fd: int, userns: Namespace, flags: int = 0) -> int | None:
    options = {"attr_set": IDMAP, "userns_fd": userns.fileno()}
    return errno_of(lowlevel.mount_setattr, fd, "", AT_EMPTY_PATH | flags, **options)


def attached_mount_inside_and_outside_current_mount_namespace() -> None:
    _, source, _ = own_file_system("ext4")
    attached = lowlevel.open_tree(AT_FDCWD, source.parent, os.O_CLOEXEC)
    with create_userns(MAP, MAP) as userns:
        assert idmap(attached, userns) == errno.EINVAL
        native.unshare(native.CLONE_NEWNS)
        assert idmap(attached, userns) == errno.EINVAL
    assert owners(source / "of-0") == (0, 0)


def detached_mount_inside_and_outside_current_mount_namespace() -> None:
    _, source, _ = own_file_system("ext4")
    trees = [lowlevel.open_tree(AT_FDCWD, source, OPEN_TREE_CLONE | os.O_CLOEXEC) for _ in range(2)]
    with create_userns(MAP, MAP) as userns:
        assert idmap(trees[0], userns) == 0
        native.unshare(native.CLONE_NEWNS)
        assert idmap(trees[1], userns) == 0
    for tree in trees:
        assert os.stat("of-0", dir_fd=tree).st_uid == 100000


def change_idmapping() -> None:
    _, source, _ = own_file_system("ext4")
    with (
        create_userns(MAP, MAP) as userns,
        create_userns("0:1:1", "0:1:1") as other,
        open_idmapped(source, userns) as detached,
    ):
        assert idmap(detached.fileno(), other) == errno.EPERM
        assert idmap(detached.fileno(), userns) == errno.EPERM
        copy = lowlevel.open_tree_attr(
            detached.fileno(),
            "",
            AT_EMPTY_PATH | OPEN_TREE_CLONE | os.O_CLOEXEC,
            attr_set=IDMAP,
            userns_fd=other.fileno(),
        )
        assert os.stat("of-0", dir_fd=copy).st_uid == 1
        assert os.stat("of-0", dir_fd=detached.fileno()).st_uid == 100000


def wrong_user_namespace_and_wrong_mount_namespace() -> None:
    _, source, _ = own_file_system("ext4")
    tree = lowlevel.open_tree(AT_FDCWD, source, OPEN_TREE_CLONE | os.O_CLOEXEC)
    attached = lowlevel.open_tree(AT_FDCWD, source.parent, os.O_CLOEXEC)
    with create_userns(MAP, MAP) as userns:
        pid = os.fork()
        if pid == 0:
            userns.enter()
            assert errno_of(lowlevel.mount_setattr, tree, "", AT_EMPTY_PATH, attr_set=1) == errno.EPERM
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
    native.unshare(native.CLONE_NEWNS)
    assert errno_of(lowlevel.mount_setattr, attached, "", AT_EMPTY_PATH, attr_set=1) == errno.EINVAL


def mount_attr_nosymfollow() -> None:
    _, source, target = own_file_system("ext4")
    (source / "link").symlink_to("of-0")
    with idmapped_mount(source, target, (MAP, MAP)):
        assert (target / "link").read_text() == "of 0"
        lowlevel.mount_setattr(AT_FDCWD, target, 0, attr_set=NOSYMFOLLOW)
        assert errno_of(os.stat, target / "link") == errno.ELOOP
        assert os.readlink(target / "link") == "of-0"
        lowlevel.mount_setattr(AT_FDCWD, target, 0, attr_clr=NOSYMFOLLOW)
        assert (target / "link").read_text() == "of 0"


def a_recursive_change_of_a_tree_is_all_or_nothing() -> None:
    _, source, _ = own_file_system("ext4")
    for name, kind in (("a", "tmpfs"), ("b", "proc"), ("c", "tmpfs")):
        (source / name).mkdir()
        run("mount", "-t", kind, kind, source / name)
    tree = lowlevel.open_tree(AT_FDCWD, source, OPEN_TREE_CLONE | AT_RECURSIVE | os.O_CLOEXEC)
    with create_userns(MAP, MAP) as userns:
        assert idmap(tree, userns, AT_RECURSIVE) == errno.EINVAL
    assert [os.stat(name, dir_fd=tree).st_uid for name in (".", "a", "b", "c")] == [0] * 4


def the_child_is_killed_before_it_is_asked_for_its_namespace(reaped: bool) -> None:
    _, source, target = own_file_system("ext4")
    with UsernsProcess(uid_map=MAP, gid_map=MAP) as holder:
        holder.kill()
        os.waitid(os.P_PIDFD, holder.pidfd, os.WEXITED | (0 if reaped else os.WNOWAIT))
        if reaped:
            error = failure(idmapped_mount, source, target, holder)
            assert isinstance(error, ProcessLookupError)
            assert (error.step, error.cause) == ("open_proc", "process-gone")
        else:
            with idmapped_mount(source, target, holder):
                assert owners(target / "of-0") == (100000, 100000)
        if reaped:
            warnings.simplefilter("ignore")


def the_child_is_killed_at_each_point(call: str, reaped: bool) -> None:
    _, source, target = own_file_system("ext4")
    warnings.simplefilter("ignore")  # the exit status may be lost to the waitid below
    original = getattr(_system_calls, call)
    with UsernsProcess(uid_map=MAP, gid_map=MAP) as holder:

        def killing(*arguments: object) -> object:
            holder.kill()
            os.waitid(os.P_PIDFD, holder.pidfd, os.WEXITED | (0 if reaped else os.WNOWAIT))
            setattr(_system_calls, call, original)
            return original(*arguments)

        setattr(_system_calls, call, killing)
        with idmapped_mount(source, target, holder) as mount:
            assert getattr(_system_calls, call) is original
            assert owners(target / "of-1000") == (101000, 101000)
            assert has_maps(mount, MAP)
    assert mounts_below(target) == []


def a_bind_mounted_namespace_file_after_the_process_has_ended() -> None:
    work, source, target = own_file_system("ext4")
    pinned = work / "pinned"
    pinned.touch()
    with UsernsProcess(uid_map=MAP, gid_map=MAP) as holder:
        run("mount", "--bind", holder.namespace_path(), pinned)
    with idmapped_mount(source, target, pinned):
        assert owners(target / "of-0") == (100000, 100000)
        run("umount", pinned)
        assert owners(target / "of-0") == (100000, 100000)


def the_namespace_belongs_to_its_creator() -> None:
    _, source, target = own_file_system("ext4")
    ids = "0:100000:10,10:300000:20,30:700000:1"
    with create_userns(ids, ids) as userns:
        assert userns.owner_uid == 0
        with idmapped_mount(source, target, userns) as mount:
            assert has_maps(mount, ids)
            (source / "of-30").touch()
            os.chown(source / "of-30", 30, 29)
            assert owners(target / "of-30") == (700000, 300019)
            assert owners(target / "of-1000") == (65534, 65534)


def mount_source_fds_are_cleaned_up() -> None:
    work, source, _target = own_file_system("ext4")
    targets = [work / f"target-{number}" for number in range(20)]
    for directory in targets:
        directory.mkdir()
    before = state()
    resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
    mounts = [idmapped_mount(source, directory, (MAP, MAP)) for directory in targets]
    assert all(owners(directory / "of-0") == (100000, 100000) for directory in targets)
    for mount in mounts:
        mount.unmount()
    assert state() == before


def same_source_different_mappings() -> None:
    work, source, _target = own_file_system("ext4")
    bases = {work / f"target-{base}": base for base in (100000, 200000, 300000)}
    mounts = []
    for directory, base in bases.items():
        directory.mkdir()
        mounts.append(idmapped_mount(source, directory, (f"0:{base}:65536", f"0:{base + 1}:65536")))
    for directory, base in bases.items():
        assert owners(directory / "of-1000") == (base + 1000, base + 1001)
        assert errno_as(base + 1000, partial((directory / "of-1000").write_text, "x")) == 0
        assert errno_as(base + 1001, partial((directory / "of-1000").write_text, "x")) == errno.EACCES
    for mount in mounts:
        mount.unmount()


def simple_and_write_with_and_without_userns() -> None:
    _, source, target = own_file_system("ext4")
    with create_userns(MAP, MAP) as userns, idmapped_mount(source, target, userns):
        pid = os.fork()
        if pid == 0:
            userns.enter()
            os.setgid(0)
            os.setuid(0)
            assert owners(target / "of-0") == (0, 0)
            assert owners(target / "of-1000") == (1000, 1000)
            (target / "written").touch()
            assert owners(target / "written") == (0, 0)
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        assert owners(source / "written") == (0, 0)
        try:
            (target / "refused").touch()
        except OSError as error:
            assert "Value too large for defined data type" in str(error)
        else:
            raise AssertionError


def relative_path_and_bind_of_a_subdirectory() -> None:
    work, source, target = own_file_system("ext4")
    os.chdir(work)
    with idmapped_mount("disk-ext4/source/../source", "./target", (MAP, MAP)) as mount:
        assert mount.target == str(target)
        assert owners("target/of-0") == (100000, 100000)
    os.chdir(source)
    with idmapped_mount(".", b"../../target", (MAP, MAP)):
        assert owners(target / "of-0") == (100000, 100000)
    os.chdir(target)  # which a mount covers, but does not change
    with idmapped_mount(source, ".", (MAP, MAP)):
        assert owners(target / "of-0") == (100000, 100000)
        assert os.listdir(".") == []


def complicated_mapping() -> None:
    _, source, target = own_file_system("ext4")
    uids, gids = "0:100000:100,1000:200000:1,2000:300000:10", "0:5:1,1000:0:1"
    os.chown(source / "of-0", 2009, 1000)
    with idmapped_mount(source, target, (uids, gids)) as mount:
        assert owners(target / "of-1000") == (200000, 0)
        assert owners(target / "of-0") == (300009, 0)
        assert owners(target) == (100000, 5)
        assert has_maps(mount, uids, gids)


def the_most_ranges_that_the_kernel_takes() -> None:
    _, source, target = own_file_system("ext4")
    ids = ",".join(f"{number * 2}:{number * 2 + 100000}:1" for number in range(221))
    with idmapped_mount(source, target, (ids, ids)) as mount:
        assert has_maps(mount, ids)
        assert owners(target / "of-0") == (100000, 100000)
