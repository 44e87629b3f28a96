"""A set-up step: a value that emits system calls."""

from __future__ import annotations

import os
from enum import IntEnum
from operator import index

from .._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import CodeType
    from typing import Any, ClassVar

    from typing_extensions import TypeAlias

    from .compiler import Emitter, Process

    Path: TypeAlias = "str | bytes | os.PathLike[str] | os.PathLike[bytes]"


class Phase(IntEnum):
    """When calls are made. Only in this order all of them work, whatever the order of the steps."""

    NEW_NAMESPACES = 1
    """By the process that has made the namespaces."""
    NAMES = 2
    """Hostname, loopback: with all rights, in the old root."""
    GATHER = 3
    """Mounts of the old root are opened, detached, with the rights of the caller outside."""
    CREATE = 4
    """New file systems, whose files belong to an ID that is mapped."""
    PIVOT = 5
    ATTACH = 6
    """In the new root: the steps that concern files, in the order of the list."""
    DIRECTORY = 7
    """`cwd` and `umask`."""
    SCHEDULING = 8
    NO_NAMESPACES = 9
    """No further user namespaces."""
    BOUNDING = 10
    IDS = 11
    """From here on for the command alone, not for an init above it."""
    TERMINAL = 12
    FOREGROUND = 13
    RULES = 14
    """What opens files, for filters that are put in place later."""
    DESCRIPTORS = 15
    LIMITS = 16
    SIGNALS = 17
    NO_NEW_PRIVS = 18
    LANDLOCK = 19
    SECCOMP = 20
    """Behind the last system call that is not the command's."""


class Step:
    """One thing that is set up between clone and exec: a value, which cannot be changed.

    Steps of the same class and with the same values are equal. A step checks its values when
    it is made; whether it fits to the others of a list and to the namespaces, when
    the list is used.
    """

    __slots__ = ()

    phase: ClassVar[Phase] = Phase.ATTACH
    is_root: ClassVar[bool] = False
    """It makes the root of the command, and a mount namespace with it."""
    namespace: ClassVar[str | None] = None
    """The kind of namespace that has to be new or joined for it."""
    for_command: ClassVar[bool] = False
    """It has no meaning for a holder, which runs no program."""

    @property
    def least_fd(self) -> int:
        """It replaces descriptors below that number."""
        return 3

    def is_constant(self) -> bool:
        """Whether its calls depend on its values and the namespaces alone: not on descriptors, limits, files."""
        return False

    def emit(self, calls: Emitter) -> None:
        """Add the system calls of this step."""
        raise NotImplementedError

    def check(self, steps: Sequence[Step], process: Process) -> None:  # noqa: ARG002, for subclasses
        """Refuse a list or a process that the step does not fit to."""
        kind = self.namespace
        if kind is not None and kind not in process.kinds:
            raise refuse(self, f'the step requires namespaces=("{kind}",)')
        if self.for_command and process.options.get("holder"):
            raise refuse(self, "a holder (no args) runs no program")

    # ---- a value ----

    def _set(self, **values: object) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__} cannot be changed: make another one")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} cannot be changed: make another one")

    @classmethod
    def _fields(cls) -> list[str]:
        return [name for kind in reversed(cls.__mro__) for name in vars(kind).get("__slots__", ())]

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self._fields())

    def __eq__(self, other: object) -> bool:
        return (
            self._values() == other._values()
            if isinstance(other, Step) and type(self) is type(other)
            else NotImplemented
        )

    def __hash__(self) -> int:
        return hash((type(self), self._values()))

    def __reduce__(self) -> tuple[Any, ...]:
        return _remade, (type(self), self._values())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self._shown())})"

    def _shown(self) -> Iterator[str]:
        """The arguments, without those that are the default."""
        if not self._fields():
            return
        init: Any = type(self).__init__
        code: CodeType = init.__code__
        names: tuple[str, ...] = code.co_varnames[1 : code.co_argcount]
        of_keywords: dict[str, Any] = init.__kwdefaults__ or {}
        defaults: dict[str, Any] = dict(zip(reversed(names), reversed(init.__defaults__ or ()), strict=False))
        for name in names:
            if name not in defaults or getattr(self, name) != defaults[name]:
                yield repr(getattr(self, name)) if name not in defaults else f"{name}={getattr(self, name)!r}"
        for name in code.co_varnames[code.co_argcount : code.co_argcount + code.co_kwonlyargcount]:
            if getattr(self, name) != of_keywords.get(name, ...):
                yield f"{name}={getattr(self, name)!r}"


def _remade(kind: type[Step], values: tuple[Any, ...]) -> Step:
    step = kind.__new__(kind)
    step._set(**dict(zip(kind._fields(), values, strict=True)))
    return step


# ---- checks that steps have in common ----


def refuse(step: type[Step] | Step, rule: str) -> ValueError:
    name = step.__name__ if isinstance(step, type) else repr(step)
    return ValueError(f"{name}: {rule}")


def refuse_another(step: Step, steps: Sequence[Step]) -> None:
    if sum(type(other) is type(step) for other in steps) > 1:
        raise refuse(step, f"there is another {type(step).__name__} in the list")


def refuse_for_holder(step: Step, process: Process) -> None:
    if process.options.get("holder"):
        raise refuse(step, "it is for a command, and a holder (no args) runs no program")


def text_of(step: Step, name: str, value: Any) -> str:
    """A path or another text, without what no system call can take."""
    if not isinstance(value, (str, bytes, os.PathLike)):
        raise TypeError(f"{type(step).__name__}: {name} is a path, not {value!r}")
    text: str = os.fsdecode(value)  # pyright: ignore[reportUnknownArgumentType]
    if "\0" in text:
        raise refuse(type(step), f"{name} contains a null byte: {text!r}")
    return text


def inside(step: Step, name: str, value: Any) -> str:
    """An absolute path in the root of the command."""
    path = text_of(step, name, value)
    if not path.startswith("/"):
        raise refuse(type(step), f"{name} is an absolute path in the root of the command, not {path!r}")
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise refuse(type(step), f"{name} leads upwards: {path!r}")
    return "/" + "/".join(parts)


def number(step: Step, name: str, value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{type(step).__name__}: {name} is a number, not {value!r}")
    found = index(value)
    if not low <= found <= high:
        raise refuse(type(step), f"{name} is a number from {low} to {high}, not {found}")
    return found


def descriptor(step: Step, name: str, value: object) -> int:
    """Of an object with `fileno()`, or a number."""
    fileno = getattr(value, "fileno", None)
    return number(step, name, value if fileno is None else fileno(), 0, 2**31 - 1)
