"""Steps that concern new namespaces other than those of mounts: names, the loopback device, clocks, keys."""

from __future__ import annotations

import math
import os
import socket
import struct

from .._proc import open_root
from .._typing import TYPE_CHECKING
from .._uapi import CLONE_NEWTIME, RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_XDEV
from .calls import ANY_MEMORY, OWN_MEMORY
from .step import Phase, Step, refuse

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, ClassVar

    from .compiler import Emitter, Process

_LONGEST_NAME = 64


class _Constant(Step):
    __slots__ = ()
    phase = Phase.NAMES

    def is_constant(self) -> bool:
        return True


class _Name(_Constant):
    __slots__ = ("name",)
    name: str
    namespace: ClassVar[str | None] = "uts"
    call: ClassVar[str]

    def __init__(self, name: str) -> None:
        if not isinstance(name, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"{type(self).__name__}: name is a string, not {name!r}")
        if "\0" in name or len(os.fsencode(name)) > _LONGEST_NAME:
            raise refuse(type(self), f"name has at most {_LONGEST_NAME} bytes, none of them null: {name!r}")
        self._set(name=name)

    def emit(self, calls: Emitter) -> None:
        name = os.fsencode(self.name)
        calls.add(self.call, name, len(name), needs=ANY_MEMORY)


class Hostname(_Name):
    """The host name of the UTS namespace, which is new or joined: `sethostname(2)`. At most 64 bytes.

    Linux 5.4 or later.
    """

    __slots__ = ()
    call = "sethostname"


class Domainname(_Name):
    """The NIS domain name of the UTS namespace, which is new or joined: `setdomainname(2)`. At most 64 bytes.

    It is not the domain of the Internet, which `hostname --fqdn` looks up. Linux 5.4 or later.
    """

    __slots__ = ()
    call = "setdomainname"


_SIOCSIFFLAGS = 0x8914
_IFF_UP = 1
_IFREQ = struct.Struct("16sh22x")
"""`struct ifreq`: the name of the device, and its flags."""


class Loopback(_Constant):
    """Start the loopback device of the network namespace, which is new or joined: 127.0.0.1 and ::1.

    In a new network namespace it is down, and nothing can be connected to. See `netdevice(7)`. Linux 5.4 or later.
    """

    __slots__ = ()
    namespace: ClassVar[str | None] = "net"

    def emit(self, calls: Emitter) -> None:
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
        any_socket = calls.add("socket", socket.AF_INET, kind, 0, needs=ANY_MEMORY)
        calls.add("ioctl", any_socket, _SIOCSIFFLAGS, _IFREQ.pack(b"lo", _IFF_UP), path="lo", needs=ANY_MEMORY)
        calls.add("close", any_socket, needs=ANY_MEMORY)


_NANOSECONDS = 10**9


def _offset(step: Step, name: str, value: Any) -> int | float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{type(step).__name__}: {name} is a number of seconds, not {value!r}")
    if not math.isfinite(value):
        raise refuse(type(step), f"{name} is a finite number of seconds, not {value!r}")
    return value


class TimeOffset(Step):
    """How many seconds the clocks of the time namespace, which has to be a new one, are ahead of the caller's.

    Args:
        monotonic: of `CLOCK_MONOTONIC`, an `int` or a `float`. Negative: behind.
        boottime: of `CLOCK_BOOTTIME`, which `uptime(1)` shows.

    Both count from the initial time namespace. Neither clock can become negative: `ERANGE`. Written to
    `/proc/self/timens_offsets`. See `time_namespaces(7)`, Linux 5.6.
    """

    __slots__ = ("boottime", "monotonic")
    monotonic: int | float | None
    boottime: int | float | None
    phase = Phase.NEW_NAMESPACES
    namespace: ClassVar[str | None] = "time"

    def __init__(self, *, monotonic: float | None = None, boottime: float | None = None) -> None:
        if monotonic is None and boottime is None:
            raise refuse(type(self), "neither monotonic nor boottime is given")
        self._set(
            monotonic=_offset(self, "monotonic", monotonic),
            boottime=_offset(self, "boottime", boottime),
        )

    def check(self, steps: Sequence[Step], process: Process) -> None:
        super().check(steps, process)
        if not process.options["new_kinds"] & CLONE_NEWTIME:
            raise refuse(self, "the time namespace is joined and has its offsets: it has to be a new one")
        if sum(isinstance(step, TimeOffset) for step in steps) > 1:
            raise refuse(self, "there is another TimeOffset in the list")

    def emit(self, calls: Emitter) -> None:
        lines = ""
        for clock in ("monotonic", "boottime"):
            seconds = getattr(self, clock)
            if seconds is not None:
                whole, rest = divmod(round(seconds * _NANOSECONDS), _NANOSECONDS)
                lines += f"{clock} {whole} {rest}\n"
        path = "/proc/self/timens_offsets"
        with open_root() as root:
            proc = calls.keep(root)
        resolve = RESOLVE_BENEATH | RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS
        how = struct.pack("=3Q", os.O_WRONLY | os.O_CLOEXEC, 0, resolve)
        file = calls.add("openat2", proc, b"self/timens_offsets", how, len(how), path=path)
        calls.add("write", file, lines.encode(), len(lines), path=path)
        calls.add("close", file, path=path)


_KEYCTL_JOIN_SESSION_KEYRING = 1


class SessionKeyring(_Constant):
    """An empty session keyring of the command's own: `KEYCTL_JOIN_SESSION_KEYRING`, as `session_keyring="new"`.

    For lists of steps that are used for several commands. See `session-keyring(7)`. Linux 5.4 or later.
    """

    __slots__ = ()
    phase = Phase.IDS

    def emit(self, calls: Emitter) -> None:
        calls.add("keyctl", _KEYCTL_JOIN_SESSION_KEYRING, 0, needs=OWN_MEMORY)
