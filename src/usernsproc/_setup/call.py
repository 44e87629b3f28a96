"""Any other system call."""

from __future__ import annotations

import os

from .. import _system_calls
from .._typing import TYPE_CHECKING
from .step import Step, descriptor, number, refuse, text_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from typing_extensions import TypeAlias

    from .._proc import HasFileno
    from .calls import Argument
    from .compiler import Emitter
    from .step import Path

    CallArgument: TypeAlias = "int | Path | HasFileno"

_NAMES = {number: name for name, number in _system_calls.NR.items()}
_MOST_ARGUMENTS = 6
_MOST_TOLERATED = 5
_LARGEST_ERRNO = 4095


class Call(Step):
    """Any system call, for what has no step of its own.

    It is made where it stands in the list among the steps that concern files, in the new root if there is one,
    before the IDs change and before all steps that do not concern files. If there are steps that concern files, the
    working directory is undefined then, and the umask is 0. Its result is not used.

    Args:
        call: the name, as in `syscalls(2)`, or the number. The numbers, and which calls exist, differ between
            architectures.
        arguments: at most six. A number is passed as it is. `bytes`, a path (`str` or `os.PathLike`), and other
            objects that contain bytes are passed as the address of a copy, behind which a null byte follows; the
            kernel may write into the copy. An object with `fileno()` is passed as a descriptor of the same file, which
            is closed at exec.
        tolerate: numbers of errors (`errno.EEXIST`) that are ignored, at most five.

    Linux 5.4 or later, and whatever the call itself requires.

    **Nothing is checked but this.** A call that changes the memory of the process or waits can crash or stop it before
    the command starts.

    Raises:
        ValueError: there is no system call of that name here.
    """

    __slots__ = ("arguments", "call", "tolerate")
    call: str | int
    arguments: tuple[CallArgument, ...]
    tolerate: tuple[int, ...]

    def __init__(self, call: str | int, *arguments: CallArgument, tolerate: Iterable[int] = ()) -> None:
        if isinstance(call, str):
            if call not in _system_calls.NR:
                raise refuse(type(self), f"there is no system call {call!r} here")
        else:
            call = number(self, "call", call, 0, 2**31 - 1)
            call = _NAMES.get(call, call)
        if len(arguments) > _MOST_ARGUMENTS:
            raise refuse(type(self), f"a system call has at most {_MOST_ARGUMENTS} arguments, not {len(arguments)}")
        tolerated = tuple(number(self, "tolerate", errno, 1, _LARGEST_ERRNO) for errno in tolerate)
        if len(tolerated) > _MOST_TOLERATED:
            raise refuse(type(self), f"at most {_MOST_TOLERATED} errors are tolerated, not {len(tolerated)}")
        self._set(call=call, arguments=tuple(map(self._checked, arguments)), tolerate=tolerated)

    def _checked(self, value: Any) -> CallArgument:
        if isinstance(value, bytes) or hasattr(value, "fileno"):
            return value  # type: ignore[no-any-return]
        if isinstance(value, (str, os.PathLike)):
            return text_of(self, "an argument", value)
        if isinstance(value, (bytearray, memoryview)):
            return bytes(value)  # pyright: ignore[reportUnknownArgumentType]
        return number(self, "an argument", value, -(2**63), 2**64 - 1)

    def is_constant(self) -> bool:
        return all(isinstance(value, (int, bytes, str)) for value in self.arguments)

    def emit(self, calls: Emitter) -> None:
        arguments = [self._passed(calls, value) for value in self.arguments]
        paths = [value for value in self.arguments if isinstance(value, str)]
        calls.add(self.call, *arguments, path=paths[0] if paths else None, tolerated=self.tolerate)

    def _passed(self, calls: Emitter, value: Any) -> Argument:
        if isinstance(value, (int, bytes)):
            return value
        return os.fsencode(value) if isinstance(value, str) else calls.keep(descriptor(self, "an argument", value))

    def _shown(self) -> Iterator[str]:
        yield from map(repr, (self.call, *self.arguments))
        if self.tolerate:
            yield f"tolerate={self.tolerate!r}"
