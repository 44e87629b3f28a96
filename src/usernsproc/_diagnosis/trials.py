"""What can be done with user namespaces: each thing is done once, in a child that goes again."""

from __future__ import annotations

import sys
from collections.abc import Callable
from errno import EIO, ENOENT
from subprocess import DEVNULL
from typing import NamedTuple

from .._caller import CAP_SETGID, CAP_SETUID, Caller
from .._errors import userns_error
from .._mounts.idmapped import open_idmapped
from .._mounts.userns_like import Path
from .._namespaces.new import create_userns
from .._processes.process import UsernsProcess
from .._processes.run import run


class Trial(NamedTuple):
    """One ability, and how to find out whether it is there: an exception says why not."""

    name: str
    meaning: str
    attempt: Callable[[Path], None]
    """Called with a path, which one of them needs."""


def _userns(_: Path) -> None:
    UsernsProcess(uid_map="root", gid_map="root").close()


def _many_ids(_: Path) -> None:
    """What root has without further ado, others have from their subordinate ids."""
    caller = Caller.now()
    may_map = caller.has(CAP_SETUID) and caller.has(CAP_SETGID)
    preset = "all" if may_map else "rootless"
    create_userns(preset, preset).close()


def _mount(_: Path) -> None:
    """The first mount(2) in there: that of `/`, made private."""
    UsernsProcess(uid_map="root", gid_map="root", namespaces=["mnt"], propagation="private").close()


def _proc(_: Path) -> None:
    UsernsProcess(uid_map="root", gid_map="root", namespaces=["pid"], mount_proc=True).close()


# struct ifreq: the name, and the flags that are read, changed and written.
_LOOPBACK_UP = """
import fcntl, socket, struct, sys
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
    try:
        request = fcntl.ioctl(any_socket, SIOCGIFFLAGS, struct.pack("16sh22x", b"lo", 0))
        flags = struct.unpack("16sh22x", request)[1]
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh22x", b"lo", flags | IFF_UP))
    except OSError as error:
        sys.exit(100 + error.errno)
"""
_ERRNO_FROM = 100  # lower ones are the interpreter's own


def _net(_: Path) -> None:
    if not sys.executable:
        raise userns_error("exec", ENOENT, note="Python knows no interpreter (sys.executable) to try it with.")
    program = [sys.executable, "-I", "-S", "-c", _LOOPBACK_UP]
    ended = run(
        program,
        uid_map="root",
        gid_map="root",
        namespaces=["net"],
        cwd="/",
        stdin=DEVNULL,
        stdout=DEVNULL,
        stderr=DEVNULL,
    )
    status = ended.returncode
    if status > _ERRNO_FROM:
        raise userns_error("loopback", status - _ERRNO_FROM)
    if status:
        raise userns_error(
            "loopback", EIO, note=f"The interpreter to try it with, {sys.executable}, ended with {status}."
        )


def _idmapped_mount(path: Path) -> None:
    with create_userns("root", "root") as userns:
        open_idmapped(path, userns).close()


TRIALS = (
    Trial("userns", "a user namespace in which the own id is root", _userns),
    Trial("many-ids", "a user namespace with many ids", _many_ids),
    Trial("mount", "mounts, in a mount namespace of its own", _mount),
    Trial("proc", "a /proc for a pid namespace of its own", _proc),
    Trial("net", "a network namespace of its own, and its loopback interface", _net),
    Trial("idmapped-mount", "an idmapped mount of {path}", _idmapped_mount),
)
"""The first is what all the others need."""
