"""The environment of this process, as far as it affects user namespaces: `/proc` and `/sys`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from .._maps.idmap import IdMap
from .._proc import MountEntry, read_link, read_proc, read_sysctl
from .container import container_name, link_names, service_name

SECCOMP_FILTER = 2
_PROC = Path("/proc")
_SYSCTL = _PROC / "sys"
_INITIAL_USERNS = 0xEFFFFFFD  # its inode, PROC_USER_INIT_INO of the kernel
_KINDS = ("mnt", "pid", "net", "ipc", "uts", "cgroup", "time")

# Empty directories that the kernel provides to mount on: nothing is hidden there.
_MADE_FOR_MOUNTS = ("/proc/sys/fs/binfmt_misc", "/proc/fs/nfsd")


class Environment(NamedTuple):
    """The values as they were read; `None` if a value could not be determined."""

    kernel: str | None
    """The release, as `uname -r` prints it."""
    has_user_namespaces: bool
    """Whether the kernel was built with user namespaces."""
    in_initial_userns: bool
    """Whether this process is in the initial user namespace."""
    own_ids_mapped: bool
    """Whether the user and group ID of this process are mapped in its user namespace."""
    capabilities: int
    """The effective capabilities, a bit for each."""
    bounding: int
    """The capabilities that this process can have at most, a bit for each."""
    no_new_privs: bool
    seccomp: bool
    """Whether this process has a seccomp filter."""
    label: str | None
    """The label of this process in a security module."""
    selinux_enforces: bool
    apparmor_restricts: bool
    """`kernel.apparmor_restrict_unprivileged_userns` (Ubuntu)."""
    unprivileged_userns_clone: bool | None
    """`kernel.unprivileged_userns_clone` (Debian)."""
    max_user_namespaces: int | None
    """`user.max_user_namespaces` of this user namespace; each outer one has its own."""
    forbidden_kinds: tuple[str, ...]
    """The other kinds of namespaces whose limit here is 0, such as `net` for `user.max_net_namespaces`."""
    chroot: bool | None
    """Whether this process runs in a chroot."""
    container: str | None
    """The engine of the container that this process runs in, if the engine has left its name."""
    service: str | None
    """The systemd service that this process belongs to."""
    proc_mounts: tuple[str, ...]
    """The mount points below `/proc`, which hide parts of it."""

    @classmethod
    def read(cls, root: Path = Path("/")) -> Environment:
        """Read the values of this process, or those that are recorded below another directory."""
        proc = root / "proc"
        status = _fields(_text(proc / "self/status"))
        limit = _text(proc / "sys/user/max_user_namespaces")
        unprivileged = _text(proc / "sys/kernel/unprivileged_userns_clone")
        entries = [MountEntry(line) for line in (_text(proc / "self/mountinfo") or "").split("\n") if line]
        mounts = [entry.point for entry in entries]
        return cls(
            kernel=_text(proc / "sys/kernel/osrelease"),
            has_user_namespaces=os.path.lexists(proc / "self/ns/user") or not os.path.isdir(proc),
            in_initial_userns=_target(proc / "self/ns/user") == f"user:[{_INITIAL_USERNS}]",
            own_ids_mapped=_is_mapped(proc, status, "uid") and _is_mapped(proc, status, "gid"),
            capabilities=int(status.get("CapEff", "0"), 16),
            bounding=int(status.get("CapBnd", "0"), 16),
            no_new_privs=status.get("NoNewPrivs") == "1",
            seccomp=status.get("Seccomp") == str(SECCOMP_FILTER),
            label=_text(proc / "self/attr/current") or None,
            selinux_enforces=_text(root / "sys/fs/selinux/enforce") == "1",
            apparmor_restricts=_text(proc / "sys/kernel/apparmor_restrict_unprivileged_userns") == "1",
            unprivileged_userns_clone=None if unprivileged is None else unprivileged != "0",
            max_user_namespaces=None if limit is None else int(limit),
            forbidden_kinds=tuple(kind for kind in _KINDS if _text(proc / f"sys/user/max_{kind}_namespaces") == "0"),
            chroot=_is_chroot(root, mounts),
            container=container_name(
                lambda path: _text(root / path),
                lambda path: os.path.exists(root / path),
                link_names(str(proc / "self/ns"), lambda path: _link(Path(path))),
                [(entry.point, entry.fs_type) for entry in entries],
            ),
            service=service_name(_text(proc / "self/cgroup")),
            proc_mounts=tuple(
                place for place in mounts if place.startswith("/proc/") and place not in _MADE_FOR_MOUNTS
            ),
        )


def _text(path: Path) -> str | None:
    try:
        return _read(path).strip("\0\n")
    except OSError:
        return None  # absent, forged, or not readable by this process


def _read(path: Path) -> str:
    """Files recorded below another directory are read without a proof."""
    if path.is_relative_to(_SYSCTL):
        return read_sysctl(str(path.relative_to(_SYSCTL)))
    if path.is_relative_to(_PROC):
        return read_proc(str(path.relative_to(_PROC)))
    return path.read_text(encoding="utf-8", errors="replace")


def _target(path: Path) -> str | None:
    try:
        return _link(path)
    except OSError:
        return None


def _link(path: Path) -> str:
    if path.is_relative_to(_PROC):
        return read_link(-1, str(path.relative_to(_PROC)))
    return os.readlink(path)


def _fields(text: str | None, between: str = ":") -> dict[str, str]:
    """The values by name, of lines with both."""
    lines = [line.partition(between) for line in (text or "").splitlines()]
    return {name: value.strip() for name, _, value in lines}


def _is_mapped(proc: Path, status: dict[str, str], kind: str) -> bool:
    """An ID that is not mapped is shown as the overflow ID, and so is one mapped to that: the map
    determines which it is."""
    effective = status.get(kind.capitalize(), "").split()[1:2]
    overflow = _text(proc / f"sys/kernel/overflow{kind}")
    written = _text(proc / f"self/{kind}_map")
    if overflow is None or written is None or effective != [overflow]:
        return True
    return int(overflow) in IdMap.from_kernel(written)


def _is_chroot(root: Path, mounts: list[str]) -> bool | None:
    """`mountinfo` shows only mounts below the root of this process. Otherwise its root is compared
    with that of process 1, if both are in the same mount namespace."""
    if not mounts:
        return None
    if "/" not in mounts:
        return True
    try:
        if _link(root / "proc/self/ns/mnt") != _link(root / "proc/1/ns/mnt"):
            return None
        return not os.path.samestat(os.stat(root), os.stat(root / "proc/1/root"))
    except OSError:
        return None
