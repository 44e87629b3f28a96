"""A minimal FUSE file system: an empty directory of user 0, with or without idmapped mounts."""

from __future__ import annotations

import os
import signal
import struct
from errno import ENOENT, ENOSYS
from pathlib import Path

import native

FORGET, GETATTR, LOOKUP, INIT, DESTROY, BATCH_FORGET, INTERRUPT = 2, 3, 1, 26, 38, 42, 36
FUSE_INIT_EXT, FUSE_ALLOW_IDMAP = 1 << 30, 1 << 40
REQUEST = struct.Struct("=IIQQIIIHH")
REPLY = struct.Struct("=IiQ")
DIRECTORY = 0o40755


def mount_fuse(target: Path, *, allows_idmap: bool) -> int:
    """Mount it and return the PID of its server, a child that exits when it is unmounted."""
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other"
    native.must(native.libc.mount(b"tiny", bytes(target), b"fuse", 0, options.encode()))
    server = os.fork()
    if server == 0:
        try:
            native.prctl(native.PR_SET_PDEATHSIG, signal.SIGKILL)
            _serve(device, FUSE_INIT_EXT | FUSE_ALLOW_IDMAP if allows_idmap else 0)
        except BaseException:
            os._exit(1)
        os._exit(0)
    os.close(device)
    os.stat(target)  # answered after INIT
    return server


def _serve(device: int, flags: int) -> None:
    while True:
        try:
            request = os.read(device, 1 << 17)
        except OSError:  # ENODEV: unmounted
            return
        _, opcode, unique, *_ = REQUEST.unpack_from(request)
        if opcode in (FORGET, BATCH_FORGET, INTERRUPT):
            continue
        error, body = answer(opcode, flags)
        os.write(device, REPLY.pack(REPLY.size + len(body), -error, unique) + body)
        if opcode == DESTROY:
            return


def answer(opcode: int, flags: int) -> tuple[int, bytes]:
    if opcode == INIT:
        low, high = flags & 0xFFFFFFFF, flags >> 32
        return 0, struct.pack("=4IHHIIHHI32x", 7, 40, 0, low, 0, 0, 4096, 1, 0, 0, high)[:64]
    if opcode == GETATTR:
        attributes = struct.pack("=6Q10I", 1, 0, 0, 0, 0, 0, 0, 0, 0, DIRECTORY, 2, 0, 0, 0, 4096, 0)
        return 0, struct.pack("=QII", 0, 0, 0) + attributes
    if opcode == LOOKUP:
        return ENOENT, b""
    return (0 if opcode == DESTROY else ENOSYS), b""
