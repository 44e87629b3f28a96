"""From a list of set-up steps to the system calls of a command."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from errno import EBADF, EINVAL
from functools import lru_cache

from .. import _core
from .._causes import userns_error
from .._spawn import of_setup_step, setup_error
from .._typing import TYPE_CHECKING
from .calls import OWN_MEMORY_AND_MAPS, Origin, Result, SystemCall
from .step import Phase, Step, refuse
from .tree import Scratch, Tree, has_mount_setattr

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from typing_extensions import Self

    from .._errors import UsernsError
    from .._maps.writer import Maps
    from .calls import Argument


class Process:
    """What a list of steps is checked against: the process that they set up.

    Args:
        kinds: of the namespaces that are new or joined, by name.
        userns: `"new"`, `"joined"` or `"own"`.
        in_userns: not in the initial user namespace.
        file_ids: user and group ID, inside, that the files belong to which steps make; `None`: the caller's.
        maps: of the user namespace; `None` in it: not known, or none.
        options: parameters of the process that steps depend on, by name.
    """

    __slots__ = ("file_ids", "in_userns", "kinds", "maps", "options", "userns")

    def __init__(
        self,
        kinds: Iterable[str],
        userns: str,
        maps: Maps,
        *,
        in_userns: bool = True,
        file_ids: tuple[int | None, int | None] = (None, None),
        **options: Any,
    ) -> None:
        self.kinds = frozenset(kinds)
        self.userns = userns
        self.in_userns = in_userns
        self.maps = maps
        self.file_ids = file_ids
        self.options = options

    def _values(self) -> tuple[object, ...]:
        return self.kinds, self.userns, self.in_userns, self.maps, self.file_ids, tuple(self.options.items())

    def __eq__(self, other: object) -> bool:
        return self._values() == other._values() if isinstance(other, Process) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._values())


class CompiledSetup:
    """The calls of a list of steps, and what the parent does for them. To be closed when the process has started."""

    def __init__(self) -> None:
        self._calls: dict[Phase, list[SystemCall]] = {phase: [] for phase in Phase}
        self._found: dict[tuple[str, str], tuple[SystemCall, ...]] = {}
        self._open = ExitStack()
        self.fds: list[int] = []
        """Descriptors that the calls use."""
        self.in_parent: list[tuple[Origin, Callable[[int], object]]] = []
        """Called with the child's PID while it waits."""
        self.at_end: list[Callable[[], object]] = []
        """Called once, when the process has ended."""
        self.signal_mask: int | None = None
        self.ambient_caps: int | None = None
        self.no_new_privs = False
        self.new_root: Result | None = None
        self.least_fd = 3
        """Calls may replace descriptors below."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(self, phase: Phase, call: SystemCall) -> None:
        self._calls[phase].append(call)

    def calls(self, first: str, last: str) -> tuple[SystemCall, ...]:
        """Those of these phases, which are given by name, in their order."""
        found = self._found.get((first, last))
        if found is None:
            phases = [phase for phase in Phase if Phase[first] <= phase <= Phase[last]]
            found = tuple(call for phase in phases for call in self._calls[phase])
            self._found[first, last] = found
        return found

    def keep(self, fd: int) -> int:
        """A copy of a descriptor, for the calls."""
        copy = self._open.enter_context(_core.dup(fd, self.least_fd))
        self.fds.append(copy)
        return copy


class Emitter:
    """What a step adds its calls to. Each returns what stands for the result of the call."""

    def __init__(self, setup: CompiledSetup, process: Process, *, has_root: bool) -> None:
        self.setup = setup
        self.process = process
        self.tree = Tree(self, has_root=has_root)
        self.scratch = Scratch(self)
        self._index, self._step = 0, Step()
        self._results: set[Result] = set()

    def begin(self, index: int, step: Step) -> None:
        self._index, self._step = index, step

    def add(
        self,
        name: str | int,
        *arguments: Argument,
        phase: Phase | None = None,
        path: str | None = None,
        tolerated: tuple[int, ...] = (),
        expected: int = -1,
        needs: int = OWN_MEMORY_AND_MAPS,
    ) -> Result:
        """Add a system call.

        Args:
            name: of the call, or its number.
            phase: another one than that of the step.
            path: for the error.
            tolerated, expected, needs: as in `SystemCall`.
        """
        unknown = {a for a in arguments if isinstance(a, Result)} - self._results
        assert not unknown, f"{name}: a result of no call, and it would be left out"
        result = Result()
        self._results.add(result)
        self.setup.add(
            self._step.phase if phase is None else phase,
            SystemCall(
                type(self._step).__name__,
                name,
                *arguments,
                needs=needs,
                tolerated=tolerated,
                expected=expected,
                result=result,
                filename=Origin(self._index, self._step, str(name), path),
            ),
        )
        return result

    def gather(
        self, name: str, *arguments: Argument, path: str | None = None, tolerated: tuple[int, ...] = ()
    ) -> Result:
        """In the old root, with the caller's rights there."""
        self.tree.begin()
        return self.add(name, *arguments, phase=Phase.GATHER, path=path, tolerated=tolerated)

    def create(
        self,
        name: str,
        *arguments: Argument,
        path: str | None = None,
        tolerated: tuple[int, ...] = (),
        expected: int = -1,
    ) -> Result:
        """Before the pivot; what is made belongs to an ID that is mapped."""
        self.tree.begin()
        return self.add(name, *arguments, phase=Phase.CREATE, path=path, tolerated=tolerated, expected=expected)

    def attach(
        self,
        name: str,
        *arguments: Argument,
        path: str | None = None,
        tolerated: tuple[int, ...] = (),
        expected: int = -1,
    ) -> Result:
        """In the new root."""
        self.tree.begin()
        return self.add(name, *arguments, phase=Phase.ATTACH, path=path, tolerated=tolerated, expected=expected)

    def in_parent(self, call: str, action: Callable[[int], object], path: str | None = None) -> None:
        """Have the parent do something with the child's PID while that waits. An `OSError` is that of the step."""
        self.setup.in_parent.append((Origin(self._index, self._step, call, path), action))

    def failed(self, call: str, errno: int, cause: tuple[str, str] | None = None) -> UsernsError:
        """The error of the step, if its call has failed before there is a process."""
        origin = Origin(self._index, self._step, call, None)
        if cause is None:
            return setup_error(origin, errno)
        return of_setup_step(userns_error(type(self._step).__name__, errno, cause=cause[0], note=cause[1]), origin)

    def keep(self, fd: int) -> int:
        """A copy of a descriptor of the caller's, which is there when the calls are made."""
        try:
            return self.setup.keep(fd)
        except OSError as error:
            if error.errno == EBADF:
                raise refuse(self._step, f"descriptor {fd} is closed") from None
            if error.errno == EINVAL:
                rule = f"RLIMIT_NOFILE does not allow the descriptor {self.setup.least_fd}, above those of Descriptors"
                raise refuse(self._step, rule) from None
            raise


def compile_steps(setup: CompiledSetup, steps: tuple[Step, ...], process: Process) -> CompiledSetup:
    """What the steps do: added to *setup*, or, if it is the same again, what was compiled before.

    Raises:
        ValueError, TypeError: a step does not fit to the others or to the process; names both.
    """
    for index, step in enumerate(steps):
        if not isinstance(step, Step):  # pyright: ignore[reportUnnecessaryIsInstance]
            # minimal_root() and its like return lists.
            given = "a list: unpack it with *" if step.__class__ in (list, tuple) else repr(step)
            raise TypeError(f"setup[{index}]: a set-up step of usernsproc.setup is needed, not {given}")
    if all(step.is_constant() for step in steps) and has_mount_setattr():
        return _compile_constant(steps, process)
    _compile(setup, steps, process)
    return setup


@lru_cache(maxsize=32)
def _compile_constant(steps: tuple[Step, ...], process: Process) -> CompiledSetup:
    """Programs set up many commands in the same way."""
    setup = CompiledSetup()
    _compile(setup, steps, process)
    return setup


def _compile(setup: CompiledSetup, steps: tuple[Step, ...], process: Process) -> None:
    setup.least_fd = max((setup.least_fd, *(step.least_fd for step in steps)))
    calls = Emitter(setup, process, has_root=any(step.is_root for step in steps))
    for index, step in sorted(enumerate(steps), key=lambda item: not item[1].is_root):  # what others look paths up in
        calls.begin(index, step)
        try:
            step.check(steps, process)
            step.emit(calls)
        except (ValueError, TypeError) as error:
            raise type(error)(f"setup[{index}]: {error}") from None
    calls.tree.end()
