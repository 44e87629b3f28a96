"""Files seen through an idmapped mount."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import native
from mounting import MAP, create_as, errno_as, has_maps, own_file_system, owners

from usernsproc import Namespace, create_userns, idmapped_mount

A, B, UNMAPPED = 100001, 100002, 5
"""Ids as seen; on the disk A and B are 1 and 2."""
ACL = "system.posix_acl_access"
USER_OBJ, USER, GROUP_OBJ, MASK, OTHER = 1, 2, 4, 16, 32
NOBODY = 0xFFFFFFFF
NET_RAW, EFFECTIVE, REVISION_2 = 1 << 13, 1, 0x02000000


@contextmanager
def shifted(kind: str) -> Iterator[tuple[Path, Path, Path]]:
    """A directory on a new file system, where it is mounted with other IDs, and another mount point."""
    work, source, target = own_file_system(kind)
    second = work / "second"
    second.mkdir()
    mount = idmapped_mount(source, target, (MAP, MAP))
    yield source, target, second
    mount.unmount()


def acl(uid: int) -> bytes:
    """Return an access control list that lets that user read, in the form of its extended attribute."""
    rest = [(GROUP_OBJ, 0, NOBODY), (MASK, 4, NOBODY), (OTHER, 0, NOBODY)]
    entries = [(USER_OBJ, 6, NOBODY), (USER, 4, uid), *rest]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def status_of(program: Path, uid: int) -> tuple[int, str]:
    """Return the capabilities and the effective user ID that a copy of cat(1) has if that user runs it."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(write, 1)
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        os.execv(program, ["cat", "/proc/self/status"])
    os.close(write)
    os.waitpid(pid, 0)
    with open(read) as file:
        lines = dict(line.split(":\t", 1) for line in file.read().splitlines())
    return int(lines["CapEff"], 16), lines["Uid"].split()[1]


def fsids_mapped_and_unmapped(kind: str) -> None:
    with shifted(kind) as (source, target, _):
        makers: dict[str, Callable[[Path], object]] = {
            "file": lambda path: path.touch(exist_ok=False),
            "directory": os.mkdir,
            "symlink": lambda path: path.symlink_to("anywhere"),
            "fifo": os.mkfifo,
        }
        for name, make in makers.items():
            assert errno_as(A, partial(make, target / name)) == 0
            assert owners(target / name) == (A, A)
            assert owners(source / name) == (1, 1)
            assert errno_as(UNMAPPED, partial(make, target / f"{name}-2")) == errno.EOVERFLOW
            assert errno_as(0, partial(make, target / f"{name}-2")) == errno.EOVERFLOW
            assert not (source / f"{name}-2").exists()


def chown(kind: str) -> None:
    with shifted(kind) as (source, target, _):
        os.chown(target / "of-0", A, B)
        assert owners(source / "of-0") == (1, 2)
        for ids in ((UNMAPPED, -1), (-1, UNMAPPED), (200000, -1)):
            try:
                os.chown(target / "of-0", *ids)
            except OSError as error:
                assert error.errno == errno.EOVERFLOW
            else:
                raise AssertionError(ids)
        assert owners(source / "of-0") == (1, 2)
        assert errno_as(A, lambda: os.chown(target / "of-0", B, -1)) == errno.EPERM


def hardlink_and_rename_crossing(kind: str) -> None:
    with (
        shifted(kind) as (source, target, second),
        idmapped_mount(source, second, ("0:200000:1001", "0:200000:1001")),
    ):
        for function in (os.link, os.rename):
            for pair in ((target, second), (target, source), (source, target)):
                try:
                    function(pair[0] / "of-0", pair[1] / "elsewhere")
                except OSError as error:
                    assert error.errno == errno.EXDEV
                else:
                    raise AssertionError(pair)


def hardlink_from_rename_from_and_truncate(kind: str) -> None:
    with shifted(kind) as (source, target, _):
        assert create_as(A, target / "file") == 0
        (target / "file").chmod(0o600)
        for uid, expected in ((A, 0), (B, errno.EACCES), (1, errno.EACCES)):
            assert errno_as(uid, lambda: os.truncate(target / "file", 3)) == expected
        assert errno_as(A, lambda: os.link(target / "file", target / "link")) == 0
        assert errno_as(A, lambda: os.rename(target / "file", target / "renamed")) == 0
        assert owners(source / "renamed") == owners(source / "link") == (1, 1)
        assert (source / "renamed").stat().st_nlink == 2


def sticky_bit(kind: str) -> None:
    with shifted(kind) as (source, target, _):
        (source / "sticky").mkdir()
        (source / "sticky").chmod(0o1777)
        directory = target / "sticky"
        assert create_as(A, directory / "file") == 0
        for uid in (B, 1):
            assert errno_as(uid, lambda: os.unlink(directory / "file")) == errno.EPERM
            assert errno_as(uid, lambda: os.rename(directory / "file", directory / "x")) == errno.EPERM
        assert errno_as(A, lambda: os.rename(directory / "file", directory / "x")) == 0
        assert errno_as(A, lambda: os.unlink(directory / "x")) == 0


def setgid_create(kind: str) -> None:
    with shifted(kind) as (source, target, _):
        (source / "group").mkdir()
        os.chown(source / "group", 0, 2)
        (source / "group").chmod(0o2777)
        assert create_as(A, target / "group" / "file") == 0
        assert errno_as(A, lambda: os.mkdir(target / "group" / "directory")) == 0
        assert owners(source / "group" / "file") == (1, 2)
        assert owners(target / "group" / "file") == (A, B)
        assert (source / "group" / "directory").stat().st_mode & stat.S_ISGID


def acls(kind: str) -> None:
    with shifted(kind) as (source, target, _):
        os.setxattr(target / "of-0", ACL, acl(B))
        assert os.getxattr(source / "of-0", ACL) == acl(2)
        assert os.getxattr(target / "of-0", ACL) == acl(B)
        assert errno_as(B, (target / "of-0").read_text) == 0
        assert errno_as(A, (target / "of-0").read_text) == errno.EACCES
        try:
            os.setxattr(target / "of-0", ACL, acl(UNMAPPED))
        except OSError as error:
            assert error.errno == errno.EINVAL
        else:
            raise AssertionError


def fscaps_and_setid_binaries_give_no_rights_of_the_host(kind: str) -> None:
    with shifted(kind) as (source, target, _):
        shutil.copy("/bin/cat", source / "cat")
        os.setxattr(source / "cat", "security.capability", struct.pack("<5I", REVISION_2 | EFFECTIVE, NET_RAW, 0, 0, 0))
        (source / "cat").chmod(0o755)

        assert status_of(source / "cat", 1000) == (NET_RAW, "1000")
        assert status_of(target / "cat", 101000) == (0, "101000")
        os.removexattr(source / "cat", "security.capability")
        (source / "cat").chmod(0o4755)
        assert status_of(source / "cat", 1000)[1] == "0"
        assert status_of(target / "cat", 101000) == (0, "100000")


def device_node_in_userns(kind: str) -> None:
    with shifted(kind) as (_, target, _), create_userns(MAP, MAP) as userns:
        pid = os.fork()
        if pid == 0:
            userns.enter()
            os.setgid(0)
            os.setuid(0)
            try:
                os.mknod(target / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
            except OSError as error:
                os._exit(error.errno or 255)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == errno.EPERM


def nested_userns(kind: str) -> None:
    with shifted(kind) as (source, _, second):
        ours, theirs = socket.socketpair()
        with create_userns(MAP, MAP) as outer:
            pid = os.fork()
            if pid == 0:
                native.prctl(native.PR_SET_PDEATHSIG, 9)
                outer.enter()
                os.setgid(0)
                os.setuid(0)
                native.prctl(native.PR_SET_DUMPABLE, 1)
                with create_userns("0:1000:500", "0:1000:500") as inner:
                    socket.send_fds(theirs, [b"."], [inner.fileno()])
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        _, [fd], _, _ = socket.recv_fds(ours, 1, 1)
        with Namespace(fd) as inner, idmapped_mount(source, second, inner) as nested:
            assert owners(second / "of-0") == (101000, 101000)
            assert has_maps(nested, "0:101000:500")


def a_circular_mapping(kind: str) -> None:
    with shifted(kind) as (source, _, second):
        swap = "0:1000:1,1000:0:1"
        with idmapped_mount(source, second, (swap, swap)):
            assert owners(second / "of-0") == (1000, 1000)
            assert owners(second / "of-1000") == (0, 0)
            os.chown(second / "of-0", 0, 0)
            assert owners(source / "of-0") == (1000, 1000)
            assert create_as(1000, second / "new") == 0
            assert owners(source / "new") == (0, 0)
            assert owners(second / "new") == (1000, 1000)
