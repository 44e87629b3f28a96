"""System calls as data: what the core's interpreter runs between clone and exec.

The layout of a call is `struct system_call` of the core.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterable
from functools import lru_cache

from .. import _system_calls
from .._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self, TypeAlias

    Argument: TypeAlias = int | bytes | "Result" | "Place"

ANY_MEMORY, OWN_MEMORY, OWN_MEMORY_AND_MAPS = range(3)
"""What a call needs: in memory that a process shares with the caller it would change the caller, too."""

BEFORE_NAMESPACES_ARE_USED, FOR_INIT_AND_COMMAND, FOR_COMMAND, BEFORE_EXEC = range(4)
"""The sections of a set-up; see `enum section` of the core."""

MAKE_LIKE, CHOOSE_LIKE, STORE_ADDRESS, IS_SAME, FORK = "make_like", "choose_like", "store_address", "is_same", "fork_"
IS_EQUAL = "is_equal"
OWN_CALLS = {MAKE_LIKE: -1, CHOOSE_LIKE: -2, STORE_ADDRESS: -3, IS_SAME: -4, FORK: -5, IS_EQUAL: -6}
"""What no system call does; see `enum own_call` of the core."""

_CALL = struct.Struct("=10i6Q")
_NONE = -1
_WORD = 2**64 - 1


class Result:
    """What a call will return: as an argument of a later call, this number."""

    __slots__ = ()


class Place:
    """As an argument: the address of a result (an `int32_t`), or one within bytes that several calls share."""

    __slots__ = ("of", "offset")

    def __init__(self, of: Result | bytearray, offset: int = 0) -> None:
        self.of = of
        self.offset = offset


class Origin:
    """Where a call comes from, for the error: the step of the list, its place there, and the call."""

    __slots__ = ("call", "index", "path", "step")

    def __init__(self, index: int, step: object, call: str, path: str | None) -> None:
        self.index = index
        self.step = step
        self.call = call
        self.path = path


class SystemCall(tuple["int", "int", "tuple[int, ...]", "tuple[Argument, ...]", "int", "Result | None", str, object]):
    """A system call that sets up a process.

    Args:
        step: the step of the error if it fails.
        name: of the system call, its number, or one of `OWN_CALLS`.
        arguments: numbers; bytes, which stand for the address of a copy, behind which a NUL follows; results
            of earlier calls. A call is left out if one of these is an error that was tolerated.
        needs: `ANY_MEMORY` and so on.
        tolerated: at most five errnos that are not errors.
        expected: another result than this is the error `EIO`; -1: none is.
        result: what stands for its result in later calls.
        filename: for the error.
    """

    __slots__ = ()

    def __new__(
        cls,
        step: str,
        name: str | int,
        *arguments: Argument,
        needs: int = ANY_MEMORY,
        tolerated: tuple[int, ...] = (),
        expected: int = -1,
        result: Result | None = None,
        filename: object = None,
    ) -> Self:
        number = name if isinstance(name, int) else OWN_CALLS[name] if name in OWN_CALLS else _system_calls.NR[name]
        return super().__new__(cls, (number, needs, tolerated, arguments, expected, result, step, filename))

    @property
    def step(self) -> str:
        return self[-2]

    @property
    def filename(self) -> object:
        return self[-1]


class Setup(
    tuple[bytes, bytes, "tuple[int, int, int, int]", int, int, "tuple[int, ...]", int, "tuple[SystemCall, ...]"]
):
    """What the process does before it executes the program, as `_core.spawn` takes it.

    Fields: the calls, their data, the ends of the sections, what they need, a bit for each
    capability that the process keeps over exec, the descriptors that the calls use, the least number
    of a descriptor that the calls do not replace, and the calls again, for messages.
    """

    __slots__ = ()

    def __new__(
        cls,
        shared: tuple[SystemCall, ...] = (),
        own: tuple[SystemCall, ...] = (),
        *,
        first: tuple[SystemCall, ...] = (),
        last: tuple[SystemCall, ...] = (),
        ambient_caps: int = 0,
        fds: tuple[int, ...] = (),
        least_fd: int = 3,
    ) -> Self:
        """
        Args:
            shared: also those of an init.
            own: the program's alone.
            first: by the process that has made the namespaces, before another is created in them.
            last: immediately before exec.
        """
        calls, data, ends, needs, labels = _packed(first, shared, own, last)
        return super().__new__(cls, (calls, data, ends, needs, ambient_caps, fds, least_fd, labels))


@lru_cache(maxsize=64)
def _packed(*sections: tuple[SystemCall, ...]) -> tuple[bytes, bytes, tuple[int, ...], int, tuple[SystemCall, ...]]:
    """Programs ask again and again for the same."""
    labels = tuple(call for section in sections for call in section)
    ends: list[int] = []
    for section in sections:
        ends.append((ends[-1] if ends else 0) + len(section))
    data = _Data(labels)
    calls = b"".join(map(data.pack, labels))
    return calls, data.done(), tuple(ends), max((call[1] for call in labels), default=0), labels


class _Data:
    """What the arguments of calls point to: first the results, each an `int64_t`."""

    def __init__(self, calls: Iterable[SystemCall]) -> None:
        used = [a.of if isinstance(a, Place) else a for call in calls for a in call[3]]
        results = [a for a in used if isinstance(a, Result)]
        self._offsets: dict[int, int] = {id(result): 8 * n for n, result in enumerate(dict.fromkeys(results))}
        # What no call returns is stored by its address, as 32 bits of these 64: the others have to be 0.
        returned = {id(call[5]) for call in calls}
        self._data = bytearray(
            b"".join(struct.pack("=q", -1 if key in returned else 2**32 - 1) for key in self._offsets)
        )

    def pack(self, call: SystemCall) -> bytes:
        number, _needs, tolerated, arguments, expected, result, *_ = call
        words, pointers, results = [0] * 6, 0, 0
        for n, argument in enumerate(arguments):
            if isinstance(argument, int):
                words[n] = argument & _WORD
            elif isinstance(argument, Result):
                results |= 1 << n
                words[n] = self._offsets[id(argument)]
            else:
                pointers |= 1 << n
                words[n] = self._offset_of(argument)
        offset = _NONE if result is None else self._offsets.get(id(result), _NONE)
        errnos = (*tolerated, 0, 0, 0, 0, 0)[:5]
        return _CALL.pack(number, pointers, results, offset, expected, *errnos, *words)

    def _offset_of(self, argument: bytes | Place) -> int:
        if isinstance(argument, Place):
            key = id(argument.of)
            if key not in self._offsets:
                assert isinstance(argument.of, bytearray)
                self._offsets[key] = self._append(bytes(argument.of))
            low_word = isinstance(argument.of, Result) and sys.byteorder == "big"
            return self._offsets[key] + argument.offset + (4 if low_word else 0)
        return self._append(argument)

    def _append(self, value: bytes) -> int:
        self._data += bytes(-len(self._data) % 8)
        offset = len(self._data)
        self._data += value + b"\0"
        return offset

    def done(self) -> bytes:
        return bytes(self._data) + bytes(-len(self._data) % 8)


ROOT_DIRECTORY = SystemCall("chdir", "chdir", b"/")
NEW_SESSION = SystemCall("setsid", "setsid")
SETUP_OF_HOLDER = Setup((ROOT_DIRECTORY, NEW_SESSION))
