"""Idmapped mounts of each kind of file system."""

from __future__ import annotations

import errno
import os

from fuse_server import mount_fuse
from leaks import state
from mounting import (
    MAP,
    MKFS,
    create_as,
    errno_as,
    failure,
    has_maps,
    make_file_system,
    mount_again,
    own_file_system,
    own_mount_namespace,
    owners,
    run,
)

from usernsproc import idmapped_mount, open_idmapped, supports_idmap


def owners_are_shifted_both_ways(kind: str) -> None:
    work, source, target = own_file_system(kind)
    assert supports_idmap(source)
    assert supports_idmap(source).file_system == kind
    with idmapped_mount(source, target, (MAP, MAP)) as mount:
        assert owners(target / "of-0") == (100000, 100000)
        assert owners(target / "of-1000") == (101000, 101000)
        assert has_maps(mount, MAP)
        assert create_as(100007, target / "new") == 0
        assert owners(target / "new") == (100007, 100007)
        os.chown(target / "of-1000", 100001, 100002)
        assert errno_as(100001, lambda: os.truncate(target / "of-1000", 0)) == 0
    assert list(target.iterdir()) == []
    if kind in MKFS:
        mount_again(kind, work)
    assert owners(source / "new") == (7, 7)
    assert owners(source / "of-1000") == (1, 2)


def three_ranges_an_unmapped_creator_and_read_only(kind: str) -> None:
    _, source, target = own_file_system(kind)
    ranges = "0:100000:10,1000:200000:1,10:300000:990"
    with idmapped_mount(source, target, (ranges, ranges)) as mount:
        assert has_maps(mount, ranges)
        assert owners(target / "of-0") == (100000, 100000)
        assert owners(target / "of-1000") == (200000, 200000)
        assert create_as(300005, target / "new") == 0
        assert create_as(0, target / "unmapped") == errno.EOVERFLOW
        assert create_as(100010, target / "unmapped") == errno.EOVERFLOW
    assert owners(source / "new") == (15, 15)
    assert not (source / "unmapped").exists()
    with idmapped_mount(source, target, (MAP, MAP), read_only=True):
        assert owners(target / "of-0") == (100000, 100000)
        assert create_as(100001, target / "refused") == errno.EROFS
    assert create_as(1, source / "allowed") == 0


def squashfs_is_shown_with_other_owners() -> None:
    _, source, target = own_file_system("squashfs")
    assert supports_idmap(source)
    assert supports_idmap(source).file_system == "squashfs"
    with idmapped_mount(source, target, (MAP, MAP)):
        assert owners(target / "of-0") == (100000, 100000)
        assert owners(target / "of-1000") == (101000, 101000)
        assert (target / "of-1000").read_text() == "of 1000"
        assert create_as(100001, target / "new") == errno.EROFS
    with idmapped_mount(source, target, (MAP, MAP), read_only=False):
        assert create_as(100001, target / "new") == errno.EROFS  # the file system itself


def an_overlay_of_idmapped_lower_layers() -> None:
    work = own_mount_namespace()
    one = make_file_system("ext4", work)
    other = make_file_system("xfs", work)
    (other / "of-1000").unlink()
    (other / "of-0").rename(other / "second")
    first, second, upper, scratch, target = (work / name for name in ("first", "second", "upper", "w", "target"))
    for directory in (first, second, upper, scratch, target):
        directory.mkdir()
    with idmapped_mount(one, first, (MAP, MAP)), idmapped_mount(other, second, (MAP, MAP)):
        layers = f"lowerdir={first}:{second},upperdir={upper},workdir={scratch}"
        run("mount", "-t", "overlay", "overlay", "-o", layers, target)
        assert owners(target / "second") == (100000, 100000)
        assert owners(target / "of-1000") == (101000, 101000)
        assert errno_as(101000, lambda: (target / "of-1000").write_text("changed")) == 0
        assert (target / "of-1000").read_text() == "changed"
        run("umount", target)
    assert owners(upper / "of-1000") == (101000, 101000)
    assert (one / "of-1000").read_text() == "of 1000"
    assert owners(one / "of-1000") == (1000, 1000)


def an_overlay_with_an_idmapped_upper_layer() -> None:
    work = own_mount_namespace()
    source, layers, target = make_file_system("ext4", work), work / "layers", work / "target"
    disk = source.parent
    for directory in (layers, target, disk / "upper", disk / "work"):
        directory.mkdir()
    (disk / "upper").chmod(0o777)
    ids = f"{MAP},65536:0:1"
    with idmapped_mount(disk, layers, (ids, ids)):
        lower, upper, scratch = layers / "source", layers / "upper", layers / "work"
        options = f"lowerdir={lower},upperdir={upper},workdir={scratch}"
        run("mount", "-t", "overlay", "overlay", "-o", options, target)
        assert owners(target / "of-1000") == (101000, 101000)
        assert create_as(100007, target / "new") == 0
        assert owners(target / "new") == (100007, 100007)
        assert errno_as(101000, lambda: (target / "of-1000").write_text("changed")) == 0
        run("umount", target)
    assert owners(disk / "upper" / "new") == (7, 7)
    assert owners(disk / "upper" / "of-1000") == (1000, 1000)
    assert (disk / "upper" / "of-1000").read_text() == "changed"
    assert (disk / "source" / "of-1000").read_text() == "of 1000"


def a_file_system_that_cannot_is_named(kind: str) -> None:
    work = own_mount_namespace()
    source, target, lower = work / "source", work / "target", work / "lower"
    source.mkdir()
    target.mkdir()
    lower.mkdir()
    server = None
    if kind == "overlay":
        run("mount", "-t", kind, kind, "-o", f"lowerdir={lower}:{target}", source)
    elif kind == "fuse":
        server = mount_fuse(source, allows_idmap=False)
    else:
        run("mount", "-t", kind, kind, source)
    for function, arguments in ((idmapped_mount, (source, target)), (open_idmapped, (source,))):
        error = failure(function, *arguments, (MAP, MAP))
        assert (error.step, error.errno, error.cause) == ("mount_setattr", errno.EINVAL, "no-idmap-support")
        assert error.filename == str(source)
        assert f"the {kind} at {source} cannot be idmapped" in error.__notes__[0], error.__notes__
    answer = supports_idmap(source)
    assert not answer
    assert answer.supported is False
    assert (answer.file_system, answer.cause) == (kind, "no-idmap-support")
    assert answer.reason in error.__notes__
    run("umount", source)
    if server:
        os.waitpid(server, 0)


def fuse_can_where_its_server_asks_for_it() -> None:
    work = own_mount_namespace()
    source, target = work / "source", work / "target"
    source.mkdir()
    target.mkdir()
    server = mount_fuse(source, allows_idmap=True)
    answer = supports_idmap(source)
    assert answer
    assert answer == (True, "fuse", None, None)
    with idmapped_mount(source, target, (MAP, MAP)):
        assert owners(target) == (100000, 100000)
        assert owners(source) == (0, 0)
    run("umount", source)
    os.waitpid(server, 0)


def asking_leaves_nothing_and_needs_a_path() -> None:
    work = own_mount_namespace()
    before = state()
    assert bool(supports_idmap(work)) is True
    assert bool(supports_idmap("/proc")) is False
    assert failure(supports_idmap, work / "nothing").step == "open_tree"
    assert state() == before
