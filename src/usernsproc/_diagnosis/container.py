"""Which container engine has started this process, by the signs that `systemd-detect-virt(1)` reads and two more.

An engine leaves its name in a file of its own or in the environment of process 1. `/.dockerenv` and
`/run/.containerenv` alone are not enough: a virtual machine whose root file system was made from an image has
them, too. They count if the namespaces and the mounts are those of a container.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

NAMED_IN = ("run/host/container-manager", "run/systemd/container")
"""Files whose text is the name."""
_MARKS = (("run/.containerenv", "podman"), (".dockerenv", "docker"))
_INITIAL = {"uts": 0xEFFFFFFE, "ipc": 0xEFFFFFFF, "pid": 0xEFFFFFFC, "cgroup": 0xEFFFFFFB}
"""The inodes of the initial namespaces, which the kernel does not give to others (`proc_ns.h`)."""
_MOUNTED_BY_ENGINES = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")


def container_name(
    text: Callable[[str], str | None],
    exists: Callable[[str], bool],
    namespaces: Sequence[str],
    mounts: Sequence[tuple[str, str]],
) -> str | None:
    """The name of the engine, `None` if nothing shows that this is a container.

    Args:
        text: the text of a file by its path below the root directory, `None` if there is none.
        exists: whether there is such a file.
        namespaces: the links of this process' namespaces, such as `pid:[4026531836]`.
        mounts: mount points, and the file system on each.
    """
    for path in NAMED_IN:
        if named := text(path):
            return named.splitlines()[0]
    for variable in (text("proc/1/environ") or "").split("\0"):
        name, _, value = variable.partition("=")
        if name == "container" and value:
            return value
    if "microsoft" in (text("proc/sys/kernel/osrelease") or "").lower() and exists("run/WSL"):
        return "wsl"
    if _has_own_namespaces(namespaces) and _has_mounts_of_engine(mounts):
        return next((name for path, name in _MARKS if exists(path)), None)
    return None


def _has_own_namespaces(links: Sequence[str]) -> bool:
    """Whether one of the namespaces that each engine creates is not the initial one."""
    found = (link.removesuffix("]").partition(":[") for link in links)
    return any(kind in _INITIAL and int(inode) != _INITIAL[kind] for kind, _, inode in found)


def _has_mounts_of_engine(mounts: Sequence[tuple[str, str]]) -> bool:
    """Whether the root is an overlay, or files of `/etc` are mounts."""
    return any(
        point in _MOUNTED_BY_ENGINES or (point, fs_type) in (("/", "overlay"), ("/", "fuse.fuse-overlayfs"))
        for point, fs_type in mounts
    )


def service_name(cgroups: str | None) -> str | None:
    """The service of the system's systemd that this process belongs to, from `/proc/self/cgroup`."""
    for line in (cgroups or "").splitlines():
        parts = line.split("/")
        if any(part.startswith("user@") for part in parts):  # a service of the user's own systemd
            return None
        for part in reversed(parts):
            if part.endswith(".service"):
                return part
    return None


def link_names(directory: str, read: Callable[[str], str]) -> list[str]:
    """The links of `/proc/self/ns` that can be read."""
    found: list[str] = []
    for kind in _INITIAL:
        try:
            found.append(read(os.path.join(directory, kind)))
        except OSError:
            pass
    return found
