"""What can be done with user namespaces, and how each is tried once, in children that then exit."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from errno import EACCES, EIO, ENOENT
from subprocess import DEVNULL

from .. import _cgroups
from .._caller import CAP_SETGID, CAP_SETUID, Caller
from .._causes import at_step, userns_error
from .._errors import UsernsError
from .._maps.idmap import IdMap, IdRange
from .._mounts.idmapped import open_idmapped
from .._namespaces.new import create_userns
from .._processes.process import UsernsProcess
from .._processes.run import run
from .._setup.file_systems import Bind, Root, Tmpfs
from .._setup.landlock import Landlock
from .._setup.names import Loopback
from .._setup.overlay import Overlay
from .._setup.seccomp import Seccomp
from .._setup.step import Step
from .._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .._place import Path


class Need(StrEnum):
    """How many programs use something: the class of the exit status."""

    ALL = "all"
    MANY = "many"
    SOME = "some"


@dataclass(frozen=True)
class Probe:
    """An ability, and how to try it."""

    name: str
    meaning: str
    need: Need
    attempt: Callable[[Path], object]
    """Called with the path of `diagnose`; raises if the ability is missing."""


IDMAPPED_MOUNT = "idmapped-mount"
_HERE = os.path.dirname(__file__)
"""A directory that exists, has no mounts below it and can be read."""
_COVERED = "/proc"
"""The mount point of the trials, each in a mount namespace of its own: it exists where maps can be written."""
_ALLOW_ALL = (0x06).to_bytes(2, sys.byteorder) + bytes(2) + (0x7FFF0000).to_bytes(4, sys.byteorder)
"""A program of seccomp(2): return SECCOMP_RET_ALLOW."""


def _hold(*namespaces: str, setup: tuple[Step, ...] = (), mount_proc: bool = False) -> None:
    UsernsProcess(uid_map="root", namespaces=namespaces, setup=setup, mount_proc=mount_proc).close()


def _many_ids(_: Path) -> None:
    """Root may map all its IDs; other users map their subordinate IDs. A user namespace with a single ID cannot have
    others below it that have more."""
    caller = Caller.now()
    may_map = caller.has(CAP_SETUID) and caller.has(CAP_SETGID)
    if may_map and sum(r.count for r in caller.uid_map) == 1:
        first = caller.uid_map[0].inside
        create_userns(IdMap([IdRange(0, first, 2)]), "all").close()
    preset = "all" if may_map else "rootless"
    create_userns(preset, preset).close()


def _join(_: Path) -> None:
    with UsernsProcess(uid_map="root", namespaces=["uts"]) as holder:
        UsernsProcess(join=holder).close()


def _run_with(step: Step) -> None:
    """A holder has no filter: a program that does nothing is run, if there is one."""
    program = next((path for path in ("/bin/true", "/usr/bin/true") if os.access(path, os.X_OK)), None)
    command = [program] if program else [sys.executable, "-I", "-S", "-c", ""]
    status = run(
        command, uid_map="root", setup=[step], cwd="/", stdin=DEVNULL, stdout=DEVNULL, stderr=DEVNULL
    ).returncode
    if status:
        note = f"The program of the trial ended with the return code {status}. Find out why it fails."
        raise userns_error("exec", EIO, command[0], note=note)


def _cgroup(_: Path) -> None:
    """A process is placed in the caller's own cgroup: that requires the same rights as one below it. None is created,
    since it would be left if this process were killed."""
    with _cgroups.own_cgroup("") as own:
        if own is None:
            note = (
                "The cgroup of this process is not in a cgroup2 file system that is mounted here. Mount one, or start "
                "the container with its own (docker, podman: --cgroupns=private)."
            )
            raise userns_error("cgroup", ENOENT, cause="no-cgroup2", note=note)
        path = os.readlink(f"/proc/self/fd/{own}")
        if not os.access(path, os.W_OK, effective_ids=True):
            with at_step("cgroup", path):
                raise OSError(EACCES, os.strerror(EACCES), path)
        UsernsProcess(uid_map="root", cgroup=own).close()


def _idmapped_mount(path: Path) -> None:
    """With the mounts below it, if the kernel does not separate them."""
    with create_userns("root", "root") as userns:
        try:
            open_idmapped(path, userns).close()
        except UsernsError as error:
            if error.cause != "locked-submounts":
                raise
            open_idmapped(path, userns, recursive=True).close()


PROBES = {
    probe.name: probe
    for probe in (
        Probe(
            "userns",
            "a user namespace in which the caller is root",
            Need.ALL,
            lambda _: create_userns("root", "root").close(),
        ),
        Probe("memfd-exec", "execution of the internal helper programs", Need.MANY, lambda _: _hold()),
        Probe("many-ids", "a user namespace with many IDs", Need.MANY, _many_ids),
        Probe("join", "entering the namespaces of another process", Need.MANY, _join),
        Probe("mount", "mounts in a new mount namespace", Need.MANY, lambda _: _hold("mnt")),
        Probe(
            "bind-read-only",
            "a directory mounted read-only at another place",
            Need.MANY,
            lambda _: _hold("mnt", setup=(Bind(_HERE, _COVERED, read_only=True),)),
        ),
        Probe("tmpfs", "a file system in memory", Need.MANY, lambda _: _hold("mnt", setup=(Tmpfs(_COVERED),))),
        Probe("new-root", "a root file system of its own", Need.MANY, lambda _: _hold("mnt", setup=(Root("tmpfs"),))),
        Probe("proc", "a /proc for a new PID namespace", Need.MANY, lambda _: _hold("pid", mount_proc=True)),
        Probe(
            "net",
            "a new network namespace and its loopback interface",
            Need.MANY,
            lambda _: _hold("net", setup=(Loopback(),)),
        ),
        Probe(
            "overlay",
            "directories on top of each other (overlayfs)",
            Need.SOME,
            lambda _: _hold("mnt", setup=(Overlay(_COVERED, _HERE, "tmpfs"),)),
        ),
        Probe("seccomp", "a filter of system calls for a command", Need.SOME, lambda _: _run_with(Seccomp(_ALLOW_ALL))),
        Probe(
            "landlock",
            "access rules of Landlock for a command",
            Need.SOME,
            lambda _: _run_with(Landlock(read=["/"], execute=["/"], tcp_bind=None, tcp_connect=None)),
        ),
        Probe("cgroup", "starting a process in a cgroup", Need.SOME, _cgroup),
        Probe(IDMAPPED_MOUNT, "an idmapped mount of {path}", Need.SOME, _idmapped_mount),
    )
}
"""By name. All others require `userns`."""
