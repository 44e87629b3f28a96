"""The step that restricts a command by Landlock."""

from __future__ import annotations

import os
import struct
from errno import ENOENT, ENOSYS, EOPNOTSUPP

from .. import _core, _system_calls
from .._causes import too_old
from .._typing import TYPE_CHECKING
from .._uapi import (
    AT_FDCWD,
    LANDLOCK_ACCESS_FS_EXECUTE,
    LANDLOCK_ACCESS_FS_IOCTL_DEV,
    LANDLOCK_ACCESS_FS_MAKE_BLOCK,
    LANDLOCK_ACCESS_FS_MAKE_CHAR,
    LANDLOCK_ACCESS_FS_MAKE_DIR,
    LANDLOCK_ACCESS_FS_MAKE_FIFO,
    LANDLOCK_ACCESS_FS_MAKE_REG,
    LANDLOCK_ACCESS_FS_MAKE_SOCK,
    LANDLOCK_ACCESS_FS_MAKE_SYM,
    LANDLOCK_ACCESS_FS_READ_DIR,
    LANDLOCK_ACCESS_FS_READ_FILE,
    LANDLOCK_ACCESS_FS_REFER,
    LANDLOCK_ACCESS_FS_REMOVE_DIR,
    LANDLOCK_ACCESS_FS_REMOVE_FILE,
    LANDLOCK_ACCESS_FS_RESOLVE_UNIX,
    LANDLOCK_ACCESS_FS_TRUNCATE,
    LANDLOCK_ACCESS_FS_WRITE_FILE,
    LANDLOCK_ACCESS_NET_BIND_TCP,
    LANDLOCK_ACCESS_NET_CONNECT_TCP,
    LANDLOCK_CREATE_RULESET_VERSION,
    LANDLOCK_RULE_NET_PORT,
    LANDLOCK_RULE_PATH_BENEATH,
    LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET,
    LANDLOCK_SCOPE_SIGNAL,
    RESOLVE_NO_MAGICLINKS,
)
from .calls import CHOOSE_LIKE
from .step import Phase, Step, descriptor, inside, number, refuse, refuse_for_holder

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Any, ClassVar

    from .._proc import HasFileno
    from .calls import Argument, Result
    from .compiler import Emitter, Process
    from .step import Path

READ = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR
EXECUTE = READ | LANDLOCK_ACCESS_FS_EXECUTE
_MAKE = (
    LANDLOCK_ACCESS_FS_MAKE_CHAR
    | LANDLOCK_ACCESS_FS_MAKE_DIR
    | LANDLOCK_ACCESS_FS_MAKE_REG
    | LANDLOCK_ACCESS_FS_MAKE_SOCK
    | LANDLOCK_ACCESS_FS_MAKE_FIFO
    | LANDLOCK_ACCESS_FS_MAKE_BLOCK
    | LANDLOCK_ACCESS_FS_MAKE_SYM
)
_CHANGE = LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_TRUNCATE | LANDLOCK_ACCESS_FS_RESOLVE_UNIX
_REMOVE = LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_REFER
WRITE = READ | _CHANGE | _MAKE | _REMOVE
_OF_FILES = (
    LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_IOCTL_DEV | _CHANGE
)  # the kernel refuses others in a rule for a file
_ADDED = {
    2: LANDLOCK_ACCESS_FS_REFER,
    3: LANDLOCK_ACCESS_FS_TRUNCATE,
    5: LANDLOCK_ACCESS_FS_IOCTL_DEV,
    9: LANDLOCK_ACCESS_FS_RESOLVE_UNIX,
}
"""By the version of the ABI that has brought them; the others came with the first."""

SCOPES = {"abstract_unix_socket": LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET, "signal": LANDLOCK_SCOPE_SIGNAL}

_FILES_SINCE = 5, "6.10"
_TCP_SINCE = 4, "6.7"
_SCOPES_SINCE = 6, "6.12"
_LARGEST_PORT = 2**16 - 1


def _file_rights(abi: int) -> int:
    """All that this version knows."""
    since = {right: version for version, right in _ADDED.items()}
    rights = (1 << bit for bit in range(LANDLOCK_ACCESS_FS_RESOLVE_UNIX.bit_length()))
    return sum(right for right in rights if since.get(right, 1) <= abi)


class Landlock(Step):
    """Restrict the command and its descendants with `landlock(7)`: whatever is not listed is refused.

    It requires no privileges, and the restriction cannot be undone. It applies to all users in the namespace, also to
    root.

    Args:
        ruleset: a descriptor of a ruleset (`landlock_create_ruleset(2)`), in place of all other arguments.
        read: absolute paths in the root of the command. There and below, files and directories can be read.
        write: paths where files can be read, changed, created, renamed and removed.
        execute: paths where files can be read and executed. A dynamically linked program requires that its interpreter
            can be executed (`/lib64/ld-linux-x86-64.so.2`) and its libraries can be read.
        ioctl: paths where `ioctl(2)` works on devices that the command opens itself.
        tcp_bind: TCP ports that `bind(2)` can use. `None`: all.
        tcp_connect: TCP ports that `connect(2)` can use. `None`: all.
        scopes: what is not possible with processes outside: `"abstract_unix_socket"`, connecting to their abstract Unix
            sockets; `"signal"`, sending them signals. By default both are possible.
        missing_ok: a path that does not exist is left out. It does not become accessible if it is created later.
        best_effort: a kernel that lacks a part enforces the others, **one without Landlock nothing at all**.

    Links in paths are followed when the command starts; magic links in `/proc` are refused. The rules are for the
    files, not for their names. Descriptors that the command inherits are not restricted, and neither are UDP,
    `stat(2)` and `chdir(2)`. The command cannot mount or unmount anything. Since Linux 7.1 (ABI 9), *write* is also
    required to connect to a Unix socket by its path. If the command itself cannot be executed, the error has the step
    `exec` and `EACCES`.

    Requires Linux 6.10 for all that concerns files (6.7 for TCP ports, 6.12 for scopes). Otherwise it is an error with
    the cause `kernel-too-old`, unless *best_effort* is true.

    It sets `no_new_privs`: set-user-ID programs and file capabilities have no effect. At most 16 can be in force for a
    process.
    """

    __slots__ = (
        "best_effort",
        "execute",
        "ioctl",
        "missing_ok",
        "read",
        "ruleset",
        "scopes",
        "tcp_bind",
        "tcp_connect",
        "write",
    )
    ruleset: int | None
    read: tuple[str, ...]
    write: tuple[str, ...]
    execute: tuple[str, ...]
    ioctl: tuple[str, ...]
    tcp_bind: tuple[int, ...] | None
    tcp_connect: tuple[int, ...] | None
    scopes: tuple[str, ...]
    missing_ok: bool
    best_effort: bool
    phase: ClassVar[Phase] = Phase.LANDLOCK

    def __init__(
        self,
        ruleset: HasFileno | int | None = None,
        *,
        read: Iterable[Path] = (),
        write: Iterable[Path] = (),
        execute: Iterable[Path] = (),
        ioctl: Iterable[Path] = (),
        tcp_bind: Iterable[int] | None = (),
        tcp_connect: Iterable[int] | None = (),
        scopes: Iterable[str] = (),
        missing_ok: bool = False,
        best_effort: bool = False,
    ) -> None:
        self._set(
            ruleset=None if ruleset is None else descriptor(self, "ruleset", ruleset),
            **{
                name: self._paths(name, paths)
                for name, paths in (("read", read), ("write", write), ("execute", execute), ("ioctl", ioctl))
            },
            tcp_bind=self._ports("tcp_bind", tcp_bind),
            tcp_connect=self._ports("tcp_connect", tcp_connect),
            scopes=self._checked_scopes(scopes),
            missing_ok=bool(missing_ok),
            best_effort=bool(best_effort),
        )
        others = [text for text in self._shown() if not text.startswith("ruleset=")]
        if ruleset is not None and others:
            raise refuse(type(self), f"a ruleset has its rules: {', '.join(others)} cannot be combined with it")

    def _paths(self, name: str, paths: Any) -> tuple[str, ...]:
        if isinstance(paths, (str, bytes, os.PathLike)):
            raise TypeError(f"Landlock: {name} is several paths, not one: [{paths!r}]")
        return tuple(inside(self, name, path) for path in paths)

    def _ports(self, name: str, ports: Iterable[int] | None) -> tuple[int, ...] | None:
        return None if ports is None else tuple(number(self, name, port, 0, _LARGEST_PORT) for port in ports)

    def _checked_scopes(self, scopes: Any) -> tuple[str, ...]:
        if isinstance(scopes, str):
            raise TypeError(f"Landlock: scopes are several names, not one string: ({scopes!r},)")
        found: tuple[str, ...] = tuple(scopes)
        for scope in found:
            if scope not in SCOPES:
                raise refuse(type(self), f"a scope is one of {', '.join(map(repr, SCOPES))}, not {scope!r}")
        return found

    def check(self, steps: Sequence[Step], process: Process) -> None:
        super().check(steps, process)
        refuse_for_holder(self, process)

    # ---- its calls ----

    def emit(self, calls: Emitter) -> None:
        calls.setup.no_new_privs = True
        ruleset: Argument
        if self.ruleset is None:
            abi = self._abi(calls)
            if not abi:
                return
            ruleset = self._create(calls, abi)
            self._allow_files(calls, ruleset, _file_rights(abi))
            if abi >= _TCP_SINCE[0]:
                self._allow_ports(calls, ruleset)
        else:
            ruleset = calls.keep(self.ruleset)
        calls.add("landlock_restrict_self", ruleset, 0)

    def _abi(self, calls: Emitter) -> int:
        """The version of the kernel; 0: there is no Landlock, and the caller accepts that."""
        call = "landlock_create_ruleset"
        try:
            abi = _system_calls.landlock_create_ruleset(LANDLOCK_CREATE_RULESET_VERSION)
        except OSError as error:
            if self.best_effort and error.errno in (ENOSYS, EOPNOTSUPP):
                return 0
            raise calls.failed(call, error.errno or 0) from None
        for needed, what, (version, kernel) in (
            (True, "for files", _FILES_SINCE),
            (self.tcp_bind is not None or self.tcp_connect is not None, "for TCP ports", _TCP_SINCE),
            (self.scopes, "for scopes", _SCOPES_SINCE),
        ):
            if needed and abi < version and not self.best_effort:
                raise calls.failed(call, EOPNOTSUPP, too_old(f"Landlock {what}", kernel))
        return abi

    def _create(self, calls: Emitter, abi: int) -> Result:
        """`struct landlock_ruleset_attr`: an older kernel accepts a longer one if the rest of it is zero."""
        net = LANDLOCK_ACCESS_NET_BIND_TCP * (self.tcp_bind is not None)
        net |= LANDLOCK_ACCESS_NET_CONNECT_TCP * (self.tcp_connect is not None)
        scoped = sum(SCOPES[scope] for scope in set(self.scopes))
        attributes = struct.pack(
            "=3Q",
            _file_rights(abi),
            net if abi >= _TCP_SINCE[0] else 0,
            scoped if abi >= _SCOPES_SINCE[0] else 0,
        )
        return calls.add("landlock_create_ruleset", attributes, len(attributes), 0, phase=Phase.RULES)

    def _allow_files(self, calls: Emitter, ruleset: Result, handled: int) -> None:
        """A rule contains the number of a descriptor: each path is opened, and moved to a number that is known."""
        rights: dict[str, int] = {}
        for paths, of_paths in (
            (self.read, READ),
            (self.write, WRITE),
            (self.execute, EXECUTE),
            (self.ioctl, LANDLOCK_ACCESS_FS_IOCTL_DEV),
        ):
            for path in paths:
                rights[path] = rights.get(path, 0) | of_paths & handled
        with _core.own(os.eventfd(0, os.EFD_CLOEXEC)) as any_file:
            place = calls.keep(any_file)
        for path, allowed in rights.items():
            if allowed:
                self._allow_file(calls, ruleset, path, allowed, place)

    def _allow_file(self, calls: Emitter, ruleset: Result, path: str, allowed: int, place: int) -> None:
        def add(name: str, *arguments: Argument, tolerated: tuple[int, ...] = ()) -> Result:
            return calls.add(name, *arguments, phase=Phase.RULES, path=path, tolerated=tolerated)

        how = struct.pack("=3Q", os.O_PATH | os.O_CLOEXEC, 0, RESOLVE_NO_MAGICLINKS)
        tolerated = (ENOENT,) if self.missing_ok else ()
        opened = add("openat2", AT_FDCWD, os.fsencode(path), how, len(how), tolerated=tolerated)
        moved = add("dup3", opened, place, os.O_CLOEXEC)
        add("close", opened)
        of_directory, of_file = (struct.pack("=Qi", of & allowed, place) for of in (~0, _OF_FILES))
        rule = add(CHOOSE_LIKE, moved, of_directory, of_file)
        add("landlock_add_rule", ruleset, LANDLOCK_RULE_PATH_BENEATH, rule, 0)

    def _allow_ports(self, calls: Emitter, ruleset: Result) -> None:
        for port, allowed in _rights_of_ports(
            {LANDLOCK_ACCESS_NET_BIND_TCP: self.tcp_bind, LANDLOCK_ACCESS_NET_CONNECT_TCP: self.tcp_connect}
        ):
            rule = struct.pack("=2Q", allowed, port)
            calls.add("landlock_add_rule", ruleset, LANDLOCK_RULE_NET_PORT, rule, 0, phase=Phase.RULES)


def _rights_of_ports(ports: Mapping[int, tuple[int, ...] | None]) -> Iterator[tuple[int, int]]:
    for port in sorted({port for of_right in ports.values() for port in of_right or ()}):
        yield port, sum(right for right, of_right in ports.items() if port in (of_right or ()))
