"""The step that concerns signals."""

from __future__ import annotations

import signal
import struct
from collections.abc import Iterable

from .._typing import TYPE_CHECKING
from .calls import ANY_MEMORY
from .process import named
from .step import Phase, Step, number, refuse

if TYPE_CHECKING:
    from typing import Any, ClassVar, Literal

    from typing_extensions import TypeAlias

    from .compiler import Emitter

    Signal: TypeAlias = "str | int"
    SignalSet: TypeAlias = "tuple[int, ...] | Literal['all']"

_SIGNALS = 64
_UNCHANGEABLE = (int(signal.SIGKILL), int(signal.SIGSTOP))
_ALL = tuple(number for number in range(1, _SIGNALS + 1) if number not in _UNCHANGEABLE)
_SIGSET_SIZE = _SIGNALS // 8
_DEFAULT, _IGNORE = (struct.pack("P", handler).ljust(64, b"\0") for handler in (signal.SIG_DFL, signal.SIG_IGN))
"""`struct sigaction` of the kernel, which is not longer: the handler comes first, the rest is zero."""


def _signals(step: Step, what: str, value: Any) -> SignalSet:
    if value == "all":
        return "all"
    if isinstance(value, (str, int)):
        raise TypeError(f'{type(step).__name__}: {what} is "all" or several signals, not {value!r}')
    numbers = sorted({_signal(step, what, one) for one in value})
    for one in numbers:
        if one in _UNCHANGEABLE:
            raise refuse(type(step), f"{what} contains {signal.Signals(one).name}, which no process can change")
    return tuple(numbers)


def _signal(step: Step, what: str, value: Any) -> int:
    if isinstance(value, str):
        names = {one.name.removeprefix("SIG"): int(one) for one in signal.Signals}
        return names[named(step, f"a signal of {what}", value, names, "SIG")]
    return number(step, f"a signal of {what}", value, 1, _SIGNALS)


def _numbers(signals: SignalSet) -> tuple[int, ...]:
    return _ALL if signals == "all" else signals


class Signals(Step):
    """What signals do to the command: `sigaction(2)`, and its signal mask: `sigprocmask(2)`.

    Args:
        default: those that have their default action, as signal numbers or names (`"INT"`, `"SIGINT"`). `"all"`:
            all that are not in *ignore*.
        ignore: those that are ignored, as by `nohup(1)`. `"all"`: all that are not in *default*.
        block: those that are blocked; no others are. `None`: as in the calling thread.

    A command inherits the signals that the caller ignores and blocks. Those that have a handler in the caller
    have their default action in the command anyway. This comes after `restore_signals` of `Popen`. `SIGKILL`
    and `SIGSTOP` cannot be ignored or blocked, and `"all"` does not contain them. See `signal(7)`. Linux 5.4 or later.
    """

    __slots__ = ("block", "default", "ignore")
    default: SignalSet
    ignore: SignalSet
    block: SignalSet | None
    phase = Phase.SIGNALS
    for_command: ClassVar[bool] = True

    def __init__(
        self,
        *,
        default: Iterable[Signal] | Literal["all"] = (),
        ignore: Iterable[Signal] | Literal["all"] = (),
        block: Iterable[Signal] | Literal["all"] | None = None,
    ) -> None:
        defaults, ignored = _signals(self, "default", default), _signals(self, "ignore", ignore)
        blocked = None if block is None else _signals(self, "block", block)
        if defaults == ignored == "all":
            raise refuse(type(self), 'default and ignore are both "all"')
        both = set(defaults) & set(ignored)  # the letters of "all" are no numbers
        if both:
            raise refuse(type(self), f"default and ignore contain {both}")
        if not defaults and not ignored and blocked is None:
            raise refuse(type(self), "neither default, ignore nor block is given")
        self._set(default=defaults, ignore=ignored, block=blocked)

    def is_constant(self) -> bool:
        return True

    def emit(self, calls: Emitter) -> None:
        actions: dict[int, bytes] = {}
        given: tuple[tuple[SignalSet, bytes], ...] = (self.default, _DEFAULT), (self.ignore, _IGNORE)
        for signals, handler in given:
            for one in _numbers(signals):
                if signals != "all" or one not in actions:
                    actions[one] = handler
        for one, action in actions.items():
            calls.add("rt_sigaction", one, action, 0, _SIGSET_SIZE, needs=ANY_MEMORY)
        if self.block is not None:
            calls.setup.signal_mask = sum(1 << one - 1 for one in _numbers(self.block))
