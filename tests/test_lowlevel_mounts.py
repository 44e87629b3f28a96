"""The bare system calls for mounts that `usernsproc.lowlevel` has."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from alone import run_alone
from programs import lowlevel_mounts

from usernsproc import lowlevel

pytestmark = pytest.mark.kernel("6.8")

AT_FDCWD = -100
LSMT_ROOT = 0xFFFFFFFFFFFFFFFF
STATMOUNT_MNT_BASIC, STATMOUNT_MNT_POINT, STATMOUNT_FS_TYPE = 0x2, 0x10, 0x20
NOBODYS_ID = 1 << 62


def test_statmount_of_a_unique_id() -> None:
    """The result is the kernel's structure, and the strings that it points to."""
    mount = lowlevel.unique_mount_id(AT_FDCWD, "/proc")
    assert mount == lowlevel.unique_mount_id(AT_FDCWD, b"/proc/self") > 1 << 31
    answer = lowlevel.statmount(mount, STATMOUNT_MNT_BASIC | STATMOUNT_MNT_POINT | STATMOUNT_FS_TYPE)
    (found,) = struct.unpack_from("=Q", answer, 40)
    (fs_type,) = struct.unpack_from("=I", answer, 36)
    (point,) = struct.unpack_from("=I", answer, 108)
    assert found == mount
    assert answer[512 + fs_type :].split(b"\0")[0] == b"proc"
    assert answer[512 + point :].split(b"\0")[0] == b"/proc"


def test_what_is_not_there_is_an_error() -> None:
    for function in (
        lambda: lowlevel.statmount(NOBODYS_ID, STATMOUNT_MNT_BASIC),
        lambda: lowlevel.listmount(NOBODYS_ID),
        lambda: lowlevel.unique_mount_id(AT_FDCWD, "/nothing/of/this/name"),
    ):
        with pytest.raises(FileNotFoundError):
            function()


def test_listmount_has_what_mountinfo_has() -> None:
    mounts = lowlevel.listmount(LSMT_ROOT)
    assert lowlevel.unique_mount_id(AT_FDCWD, "/proc") in mounts
    assert len(set(mounts)) == len(mounts) > 1
    root = lowlevel.unique_mount_id(AT_FDCWD, "/")
    assert set(lowlevel.listmount(root)) <= set(mounts) - {root}
    assert lowlevel.listmount(LSMT_ROOT, last_mnt_id=mounts[0]) == mounts[1:]


@pytest.mark.root
def test_listmount_in_pieces() -> None:
    """More mounts than fit into one answer."""
    run_alone(lowlevel_mounts.listmount_in_pieces)


@pytest.mark.kernel("6.15")
def test_open_tree_attr(tmp_path: Path) -> None:
    """Copying a mount requires capabilities; without them the kernel's error is raised."""
    if os.geteuid() == 0:
        tree = lowlevel.open_tree_attr(AT_FDCWD, tmp_path, os.O_CLOEXEC | 1, attr_set=1)
        with pytest.raises(OSError, match="Read-only file system"):
            os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=tree)
        os.close(tree)
    else:
        with pytest.raises(PermissionError):
            lowlevel.open_tree_attr(AT_FDCWD, tmp_path, os.O_CLOEXEC | 1, attr_set=1)
