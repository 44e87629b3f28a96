"""What the kernel and the system provide, and what the library uses instead if they do not. Each is determined by a
call that changes nothing; version numbers would not show what a filter refuses or a distribution has added."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from errno import EINVAL, ENOENT, ENOSYS, EPERM
from typing import NamedTuple

from .. import _core, _system_calls
from .._helper import find_tool
from .._proc import read_sysctl
from .._processes.process import UsernsProcess
from .._setup.call import Call
from .._uapi import AT_EMPTY_PATH

__all__ = ["Feature"]


class Feature(NamedTuple):
    """A part of the kernel or the system that the library uses if it is there."""

    name: str
    """Such as `open_tree_attr`: a system call, or a word that does not change between versions."""
    available: bool
    """Whether it is there and not refused by a filter."""
    used: str
    """What the library does, with it or without it."""


def _answers(call: Callable[..., object], *arguments: object, refusals: tuple[int, ...] = (ENOSYS,)) -> bool:
    """Arguments that are refused show that there is a call."""
    try:
        call(*arguments)
    except OSError as error:
        return error.errno not in refusals
    return True


def _has_namespace_ioctl() -> bool:
    with _system_calls.pidfd_open(os.getpid()) as pidfd:
        try:
            _core.namespace_of(pidfd, "user").close()
        except OSError:
            return False
    return True


def _has_clone3() -> bool:
    """A child makes the call, which refuses a structure of no bytes."""
    try:
        UsernsProcess(uid_map="root", setup=[Call(_system_calls.NR["clone3"], 0, 0)]).close()
    except OSError as error:
        return error.errno == EINVAL
    return True


def _has_executable_memory() -> bool:
    try:
        return read_sysctl("vm/memfd_noexec").strip() != "2"
    except OSError as error:
        return error.errno == ENOENT


def _landlock_version() -> int:
    try:
        return _system_calls.landlock_create_ruleset(1)  # LANDLOCK_CREATE_RULESET_VERSION
    except OSError:
        return 0


_TABLE: tuple[tuple[str, Callable[[], bool], str, str], ...] = (
    (
        "clone3",
        _has_clone3,
        "time namespaces, and processes that start in their cgroup",
        "clone(2) instead: no time namespaces, and a process is moved to its cgroup after its creation",
    ),
    (
        "executable-memory",
        _has_executable_memory,
        "the internal helper programs are executed from memory",
        "vm.memfd_noexec is 2: the internal helper programs are executed from an unlinked file",
    ),
    (
        "pidfd-namespaces",
        _has_namespace_ioctl,
        "namespaces of a process are opened by its pidfd",
        "namespaces of a process are opened in /proc",
    ),
    (
        "openat2",
        lambda: _answers(_system_calls.openat2, -1, b".", os.O_PATH, 0, refusals=(ENOSYS, EPERM)),
        "paths are looked up by the kernel without leaving their directory",
        "paths are looked up one component at a time",
    ),
    (
        "open_tree",
        lambda: _answers(_system_calls.open_tree, -1, b"", AT_EMPTY_PATH, refusals=(ENOSYS, EPERM)),
        "mounts are prepared before they are attached",
        "no set-up steps that mount",
    ),
    (
        "mount_setattr",
        lambda: _answers(_system_calls.mount_setattr, -1, b"", AT_EMPTY_PATH, 0, 0, 0, -1),
        "idmapped mounts; a tree becomes read-only at once",
        "no idmapped mounts; a tree becomes read-only mount by mount",
    ),
    (
        "open_tree_attr",
        lambda: _answers(_system_calls.open_tree_attr, -1, b"", AT_EMPTY_PATH, 0, 0, 0, -1),
        "a copy of an idmapped mount can have other maps",
        "an idmapped mount cannot be mounted again with other maps",
    ),
    (
        "statmount",
        lambda: _answers(_system_calls.statmount, 0, 0, 0, 0, 0, refusals=(ENOSYS, EPERM)),
        "mounts are read by their number",
        "mounts are read from /proc/self/mountinfo",
    ),
    (
        "listns",
        lambda: _answers(_system_calls.listns, 0),
        "the kernel lists namespaces",
        "namespaces are searched for in /proc",
    ),
)


def read_features(*, has_userns: bool) -> Iterator[Feature]:
    """Those that can be determined."""
    for name, ask, used, otherwise in _TABLE:
        if name == "clone3" and not has_userns:
            continue
        available = ask()
        yield Feature(name, available, used if available else otherwise)
    version = _landlock_version()
    yield Feature(
        "landlock", version > 0, f"Landlock, version {version} of its interface" if version else "no Landlock"
    )
    tools = [path for path in map(find_tool, ("newuidmap", "newgidmap")) if path]
    used = f"{' and '.join(tools)} write maps of subordinate IDs" if len(tools) > 1 else "no maps of subordinate IDs"
    yield Feature("newuidmap", len(tools) > 1, used)
