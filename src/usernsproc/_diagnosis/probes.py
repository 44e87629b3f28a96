"""Probes: what can be done with user namespaces, each tried once in a child that then exits."""

from __future__ import annotations

import sys
from collections.abc import Callable
from errno import EIO, ENOENT
from subprocess import DEVNULL
from typing import NamedTuple

from .._caller import CAP_SETGID, CAP_SETUID, Caller
from .._causes import userns_error
from .._mounts.idmapped import open_idmapped
from .._namespaces.new import create_userns
from .._processes.process import UsernsProcess
from .._processes.run import run
from .._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .._place import Path


class Probe(NamedTuple):
    """An ability, and how to try it."""

    name: str
    meaning: str
    attempt: Callable[[Path], None]
    """Called with the path of `diagnose`; raises if the ability is missing."""


def _userns(_: Path) -> None:
    UsernsProcess(uid_map="root").close()


def _many_ids(_: Path) -> None:
    """Root may map all its IDs; other users map their subordinate IDs."""
    caller = Caller.now()
    may_map = caller.has(CAP_SETUID) and caller.has(CAP_SETGID)
    preset = "all" if may_map else "rootless"
    create_userns(preset, preset).close()


def _mount(_: Path) -> None:
    """The first mount(2) in the namespace makes `/` private."""
    UsernsProcess(uid_map="root", namespaces=["mnt"], propagation="private").close()


def _proc(_: Path) -> None:
    UsernsProcess(uid_map="root", namespaces=["pid"], mount_proc=True).close()


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
_ERRNO_FROM = 100  # lower statuses are those of the interpreter


def _net(_: Path) -> None:
    if not sys.executable:
        raise userns_error("exec", ENOENT, note="sys.executable is empty. Set it to an interpreter.")
    program = [sys.executable, "-I", "-S", "-c", _LOOPBACK_UP]
    status = run(
        program, uid_map="root", namespaces=["net"], cwd="/", stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL
    ).returncode
    if status > _ERRNO_FROM:
        raise userns_error("loopback", status - _ERRNO_FROM)
    if status:
        note = f"The interpreter of the probe, {sys.executable}, exited with status {status}."
        raise userns_error("loopback", EIO, note=note)


def _idmapped_mount(path: Path) -> None:
    with create_userns("root", "root") as userns:
        open_idmapped(path, userns).close()


PROBES = {
    probe.name: probe
    for probe in (
        Probe("userns", "a user namespace in which the caller is root", _userns),
        Probe("many-ids", "a user namespace with many ids", _many_ids),
        Probe("mount", "mounts in a new mount namespace", _mount),
        Probe("proc", "a /proc for a new PID namespace", _proc),
        Probe("net", "a new network namespace and its loopback interface", _net),
        Probe("idmapped-mount", "an idmapped mount of {path}", _idmapped_mount),
    )
}
"""By name. All others require `userns`."""
