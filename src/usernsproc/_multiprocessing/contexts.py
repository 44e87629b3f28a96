"""The contexts: what `multiprocessing` asks for a process."""

from __future__ import annotations

import copyreg
import multiprocessing.context as of_python
from typing import TYPE_CHECKING, Any, ClassVar

from .._processes.interpreter import interpreter_options
from . import forkserver, spawn

if TYPE_CHECKING:
    from collections.abc import Mapping


def context_of(method: str, options: Mapping[str, Any]) -> SpawnContext | ForkServerContext:
    kept = interpreter_options(options, "get_context")
    if method == "spawn":
        return SpawnContext(kept)
    if method == "forkserver":
        return ForkServerContext(kept)
    raise ValueError(f'method is "spawn" or "forkserver", not {method!r}')


class _Options:
    """What both contexts share: the class `Process` of a context, and pickling.

    A process object is sent to the child, which needs the function and its arguments, and not the namespace. So it is
    sent as an object of the standard library's class, and the child does not load this package.
    """

    _name: Any
    Process: Any  # a class variable in multiprocessing

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = options

    def __reduce__(self) -> Any:
        return context_of, (self._name, self._options)

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self._options.items())
        return f"<usernsproc.multiprocessing context: {self._name}{options}>"

    def get_context(self, method: str | None = None) -> Any:
        """This context, or one of the other *method* with the same options."""
        return self if method is None or method == self._name else context_of(method, self._options)


def _reduced(process: Any, made: Any, base: type) -> Any:
    """*made* by `__reduce_ex__`; the class of a context itself has no name by which the child could find it."""
    if "_usernsproc_context" not in type(process).__dict__:
        return made
    # What pickle itself used before it had __newobj__, which insists on the class of the object.
    reconstructor = copyreg._reconstructor  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue]
    return reconstructor, (base, object, None), made[2]


class _SpawnProcess(of_python.SpawnProcess):
    _usernsproc_context: ClassVar[SpawnContext]

    @classmethod
    def _Popen(cls, process_obj: Any) -> Any:  # noqa: N802, the name in multiprocessing
        return spawn.Popen(process_obj, cls._usernsproc_context._options)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _reduced(self, super().__reduce_ex__(protocol), of_python.SpawnProcess)


class SpawnContext(_Options, of_python.SpawnContext):
    """As `multiprocessing.get_context("spawn")`: each process is in namespaces of its own."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        self.Process = type("SpawnProcess", (_SpawnProcess,), {"_usernsproc_context": self})


class _ForkServerProcess(of_python.ForkServerProcess):
    _usernsproc_context: ClassVar[ForkServerContext]

    @classmethod
    def _Popen(cls, process_obj: Any) -> Any:  # noqa: N802
        its = cls._usernsproc_context
        return forkserver.Popen(process_obj, its._options, its._server)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return _reduced(self, super().__reduce_ex__(protocol), of_python.ForkServerProcess)


class ForkServerContext(_Options, of_python.ForkServerContext):
    """As `multiprocessing.get_context("forkserver")`: all processes are in the namespaces of one server."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        super().__init__(options)
        forkserver.refuse_pid_namespace(options)
        self._server = forkserver.Server(options)
        self.Process = type("ForkServerProcess", (_ForkServerProcess,), {"_usernsproc_context": self})

    def set_forkserver_preload(self, module_names: list[str]) -> None:
        """The modules that the server of this context loads; before its first process."""
        self._server.set_forkserver_preload(module_names)
