"""The bare system calls for mounts, in a new mount namespace."""

from __future__ import annotations

from pathlib import Path

import native
from mounting import own_mount_namespace

from usernsproc import lowlevel

AT_FDCWD = -100
LSMT_ROOT = 0xFFFFFFFFFFFFFFFF


def listmount_in_pieces() -> None:
    work = own_mount_namespace()
    for _ in range(600):
        native.must(native.libc.mount(b"tmpfs", bytes(work), b"tmpfs", 0, None))
    top = lowlevel.unique_mount_id(AT_FDCWD, work)
    found: list[int] = []
    last = 0
    while piece := lowlevel.listmount(LSMT_ROOT, last_mnt_id=last):
        assert len(piece) <= 512
        found += piece
        last = piece[-1]
    lines = Path("/proc/self/mountinfo").read_text().count("\n")
    assert len(set(found)) == len(found) >= lines > 600
    assert top in found
