"""What a process does before it executes its program, as system calls in their order."""

from __future__ import annotations

import os
import sys
from errno import ENOSYS, EPERM
from functools import lru_cache
from operator import index

from .._spawn import NEW_SESSION, OWN_MEMORY, OWN_MEMORY_AND_MAPS, ROOT_DIRECTORY, Call, Setup
from .._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from typing import Any

    from .credentials import Credentials

_KEYCTL_JOIN_SESSION_KEYRING = 1
_MS_REC = 1 << 14
_PR_SET_NO_NEW_PRIVS = 38
_NOSUID_NODEV_NOEXEC = 2 | 4 | 8


def mounts(propagation: int, mount_proc: bool) -> tuple[Call, ...]:
    """In a new mount namespace; *propagation* is `MS_…`, 0: leave it as it is."""
    calls: tuple[Call, ...] = ()
    if propagation:
        calls += (Call("propagation", "mount", 0, b"/", 0, _MS_REC | propagation),)
    if mount_proc:
        calls += (Call("mount_proc", "mount", b"proc", b"/proc", b"proc", _NOSUID_NODEV_NOEXEC),)
    return calls


def session_keyring(value: str | None, *, joins: bool) -> tuple[Call, ...]:
    """The session keyring of a command (`session-keyring(7)`): whose keys it possesses.

    A command that *joins* a namespace has a new one unless it is asked for another: root there could
    read the caller's keys through it. Where the kernel or a filter refuses keyctl(2) the command
    cannot use a keyring either.

    Raises:
        ValueError: neither `"new"`, `"inherit"` nor `None`.
    """
    if value not in ("new", "inherit", None):
        raise ValueError(f'session_keyring must be "new", "inherit" or None, not {value!r}')
    if value == "inherit" or (value is None and not joins):
        return ()
    tolerated = (0, 0) if value == "new" else (ENOSYS, EPERM)
    call = Call("keyring", "keyctl", _KEYCTL_JOIN_SESSION_KEYRING, 0, needs=OWN_MEMORY, tolerated=tolerated)
    return (call,)


def no_new_privileges(wanted: bool) -> tuple[Call, ...]:
    return (Call("no_new_privs", "prctl", _PR_SET_NO_NEW_PRIVS, 1),) if wanted else ()


@lru_cache(maxsize=64)
def _ids(uid: int | None, gid: int | None, groups: tuple[int, ...] | None) -> tuple[Call, ...]:
    """Programs ask again and again for the same."""
    calls: list[Call] = []
    if groups is not None:
        packed = b"".join(group.to_bytes(4, sys.byteorder) for group in groups)
        calls.append(Call("setid", "setgroups", len(groups), packed, needs=OWN_MEMORY_AND_MAPS))
    if gid is not None:
        calls.append(Call("setid", "setresgid", gid, gid, gid, needs=OWN_MEMORY_AND_MAPS))
    if uid is not None:
        calls.append(Call("setid", "setresuid", uid, uid, uid, needs=OWN_MEMORY_AND_MAPS))
    return tuple(calls)


def _calls_of(credentials: Credentials) -> tuple[Call, ...]:
    return _ids(credentials.uid, credentials.gid, credentials.groups)


def holder_setup(first: tuple[Call, ...], credentials: Credentials, last: tuple[Call, ...]) -> Setup:
    calls = (*first, ROOT_DIRECTORY, *_calls_of(credentials), *last, NEW_SESSION)
    return Setup(calls, len(calls))


def command_setup(
    first: tuple[Call, ...],
    resolve: Callable[[int | None, int | None, Sequence[int] | None], Credentials],
    last: tuple[Call, ...],
    ambient_caps: int,
    *,
    uid: int | None,
    gid: int | None,
    groups: Sequence[int] | None,
    cwd: Any,
    umask: int,
    start_new_session: bool,
    process_group: int,
) -> Setup:
    """The parameters of `Popen`, between what comes before the IDs, and after."""
    shared = [*first]
    if cwd is not None:
        shared.append(Call("chdir", "chdir", _path(cwd), filename=cwd))
    if _c_int("umask", umask) >= 0:
        shared.append(Call("prepare", "umask", umask, tolerated=(ENOSYS, EPERM)))  # refused by a filter alone
    shared += (*_calls_of(resolve(uid, gid, groups)), *last)
    own: list[Call] = []
    if start_new_session:
        own.append(NEW_SESSION)
    if _c_int("process_group", process_group) >= 0:
        own.append(Call("setpgid", "setpgid", 0, process_group))
    return Setup((*shared, *own), len(shared), ambient_caps)


def _path(path: Any) -> bytes:
    encoded = os.fsencode(path)
    if b"\0" in encoded:
        raise ValueError("embedded null byte")
    return encoded


def _c_int(name: str, value: int) -> int:
    if not -(2**31) <= index(value) < 2**31:
        raise OverflowError(f"{name} does not fit into a C int")
    return value


# ---- capabilities by name (`capabilities(7)`) ----

_CAPABILITIES = (  # noqa: SIM905, one string reads better than 41
    "chown dac_override dac_read_search fowner fsetid kill setgid setuid setpcap linux_immutable net_bind_service "
    "net_broadcast net_admin net_raw ipc_lock ipc_owner sys_module sys_rawio sys_chroot sys_ptrace sys_pacct "
    "sys_admin sys_boot sys_nice sys_resource sys_time sys_tty_config mknod lease audit_write audit_control setfcap "
    "mac_override mac_admin syslog wake_alarm block_suspend audit_read perfmon bpf checkpoint_restore"
).split()
"""In the kernel's order, without `CAP_`."""

_HIGHEST_CAPABILITY = 62  # what fits in the word that the core gets; the kernel has 41


def capability_mask(capabilities: Iterable[str | int]) -> int:
    """A bit for each: by name, with or without `CAP_`, in any case, or by number.

    Raises:
        ValueError: no such capability.
        TypeError: one name in place of several.
    """
    if isinstance(capabilities, str):
        raise TypeError(f"capabilities are several names, not one string: ({capabilities!r},)")
    mask = 0
    for capability in capabilities:
        mask |= 1 << _number_of(capability)
    return mask


def _number_of(capability: str | int) -> int:
    if isinstance(capability, str):
        name = capability.lower().removeprefix("cap_")
        if name not in _CAPABILITIES:
            raise ValueError(f"{capability!r} is not a capability")
        return _CAPABILITIES.index(name)
    number = index(capability)
    if not 0 <= number <= _HIGHEST_CAPABILITY:
        raise ValueError(f"{number} is not a capability")
    return number
