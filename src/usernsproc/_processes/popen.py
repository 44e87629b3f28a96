"""The standard library's `Popen`, and the private parts of it that this package relies on.

gevent and eventlet replace `subprocess.Popen` by a class of their own, and what is in `select`
by functions that let other greenlets run. Here the base class is always the standard library's:
its waiting, communicating and cleaning up are what this package extends. In a program that was
patched before, its source is executed once more, so that it meets the patched modules.
"""

from __future__ import annotations

import locale
import math
import os
import select
import subprocess
import sys
import warnings
from functools import cache
from operator import attrgetter, itemgetter
from types import BuiltinFunctionType

from .._suggest import unexpected
from .._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from subprocess import Popen as Popen
    from types import ModuleType
    from typing import Any

_SHARED = ("CalledProcessError", "CompletedProcess", "SubprocessError", "TimeoutExpired")
"""What programs catch or compare: one of each."""


def is_patched() -> bool:
    """Waiting lets other greenlets run: `select` is that of gevent, eventlet or the like."""
    return not isinstance(select.select, BuiltinFunctionType)


@cache
def patched_subprocess() -> ModuleType:
    """The standard library's `subprocess`, executed with the modules as they are now."""
    from importlib.util import module_from_spec  # hardly ever needed

    spec = subprocess.__spec__
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    for name in _SHARED:
        setattr(module, name, getattr(subprocess, name))
    return module


if not TYPE_CHECKING:
    Popen = subprocess.Popen
    if Popen.__module__ != "subprocess":
        Popen = patched_subprocess().Popen


def wait_readable(fd: int, seconds: float = math.inf) -> bool:
    """Sleep until *fd* is readable: with what is in `select` now, not at the time of the import."""
    if hasattr(select, "poll"):
        poller = select.poll()
        poller.register(fd, select.POLLIN)
        return bool(poller.poll(None if seconds == math.inf else seconds * 1000))
    copy = os.dup(fd)  # eventlet refuses two greenlets that wait for the same number
    try:
        return bool(select.select([copy], [], [], None if seconds == math.inf else seconds)[0])
    finally:
        os.close(copy)


# ---- what is private ----

_METHODS = ("_close_pipe_fds", "_communicate", "_execute_child", "_internal_poll", "_wait")
_ATTRIBUTES = ("_child_created", "_communication_started", "_waitpid_lock")
_PIPES = {"p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite"}
_OF_THE_CHILD = {"restore_signals", "gid", "gids", "uid", "umask", "start_new_session", "process_group"}
_OF_THE_PROGRAM = {"args", "executable", "close_fds", "pass_fds", "cwd", "env", "shell"}
_REFUSED_BEFORE = {"preexec_fn", "startupinfo", "creationflags"}
_PARAMETERS = _PIPES | _OF_THE_CHILD | _OF_THE_PROGRAM | _REFUSED_BEFORE
"""Of `_execute_child`, as in CPython 3.11 to 3.13. Their order does not matter."""


def _parameter_names() -> tuple[str, ...]:
    method: Any = getattr(Popen, "_execute_child", None)
    while hasattr(method, "__wrapped__"):  # by a tool that records calls
        method = method.__wrapped__
    code = getattr(method, "__code__", None)
    return () if code is None else code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]


_NAMES = _parameter_names()


def _differences() -> list[str]:
    unknown = [f"_execute_child has the unknown parameter {name}" for name in _NAMES if name not in _PARAMETERS]
    missing = [f"_execute_child lacks the parameter {name}" for name in sorted(_PARAMETERS.difference(_NAMES))]
    return [*(f"there is no {name}" for name in _METHODS if not hasattr(Popen, name)), *unknown, *missing]


_DIFFERENCES = _differences()
_attributes_of = attrgetter(*_ATTRIBUTES)


def check_layout(process: object = None) -> None:
    """Refuse a `Popen` whose private parts are not those that this package extends.

    Args:
        process: an object that `Popen.__init__` has prepared; `None`: only the class is checked.

    Raises:
        NotImplementedError: names what is unknown.
    """
    lacking: list[str] = []
    if process is not None:
        try:
            _attributes_of(process)
        except AttributeError:
            lacking = [name for name in _ATTRIBUTES if not hasattr(process, name)]
    if _DIFFERENCES or lacking:
        found = "; ".join([*_DIFFERENCES, *(f"there is no {name}" for name in lacking)])
        raise NotImplementedError(
            f"usernsproc does not know the subprocess.Popen of this Python ({sys.version.split()[0]}): {found}. "
            "Install a newer usernsproc, or use CPython 3.11, 3.12 or 3.13"
        )


def _getter(*names: str) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
    """Of these values by their places. A name that is missing is refused before, by `check_layout`."""
    return itemgetter(*(_NAMES.index(name) if name in _NAMES else 0 for name in names))


_pipes_in = _getter("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
_command_in = _getter("args", "executable", "shell")
_ids_in = _getter("uid", "gid", "gids")
_attributes_in = _getter("cwd", "umask", "start_new_session", "process_group")
_others_in = _getter("env", "restore_signals", "close_fds", "pass_fds")
NO_PIPES = (-1,) * 6


def in_own_order(values: Sequence[Any]) -> tuple[Any, ...]:
    """What `Popen.__init__` passes to `_execute_child`, in an order that does not depend on the version of Python.

    The descriptors of the pipes, the command, its IDs and its other attributes are a tuple each; then come the
    environment, whether signals are restored, and the descriptors of the command.
    """
    if len(values) != len(_NAMES):
        raise NotImplementedError(
            f"subprocess.Popen.__init__ passes {len(values)} values to _execute_child, which has {len(_NAMES)} "
            "parameters: another library has replaced one of the two"
        )
    return _pipes_in(values), _command_in(values), _ids_in(values), _attributes_in(values), *_others_in(values)


# ---- parameters that are refused ----

_PREEXEC_FN_POSITION = 5  # in Popen's parameters after `args`


def refuse_preexec_fn(popen_args: tuple[Any, ...], popen_options: dict[str, Any]) -> None:
    preexec_fn = popen_options.get("preexec_fn")
    if preexec_fn is None and len(popen_args) > _PREEXEC_FN_POSITION:
        preexec_fn = popen_args[_PREEXEC_FN_POSITION]
    if preexec_fn is not None:
        raise ValueError(
            "preexec_fn is not supported: no Python runs between clone and exec, where it could deadlock. "
            "Its uses have a parameter (cwd, umask, user, group, start_new_session, process_group, pdeathsig) "
            "or a set-up step: setup=[...] with the values of usernsproc.setup"
        )


def refuse_unknown(popen_options: Iterable[str]) -> None:
    """Refuse what neither `Popen` nor `UsernsProcess` has, and name what could be meant.

    Called when `Popen` has refused something: to read its signature takes long.
    """
    import inspect
    from importlib import import_module

    from .. import UsernsProcess, run

    setup = import_module("usernsproc.setup")  # a higher layer
    names, own, runs = (inspect.signature(f).parameters.keys() for f in (Popen, UsernsProcess.__init__, run))
    for name in popen_options:
        if name not in names:
            raise unexpected(
                "UsernsProcess",
                name,
                {
                    **{step: f"setup=[usernsproc.setup.{step}(...)]" for step in setup.__all__},
                    **{right: f"{right}= of usernsproc.run()" for right in runs},
                    **{right: f"{right}=" for right in (*names, *own) if right not in _NO_OPTIONS},
                },
            ) from None


_NO_OPTIONS = {"self", "args", "popen_args", "popen_options", "preexec_fn", "startupinfo", "creationflags"}


def refuse_for_holder(popen_args: tuple[Any, ...], popen_options: dict[str, Any]) -> None:
    given = [name for name, value in popen_options.items() if value is not None]
    if given or popen_args:
        import inspect  # slow to load, and hardly ever needed

        refuse_unknown(popen_options)
        inspect.signature(Popen.__init__).bind(None, None, *popen_args, **popen_options)  # TypeError: one too many
        what = f"{given[0]}= has" if given else "positional parameters have"
        raise ValueError(f"a holder (no args) runs no program: {what} no meaning for it")


# ---- the warning of `python -X warn_default_encoding` (PEP 597), at the user's line ----

_UNIVERSAL_NEWLINES_POSITION = 10  # in Popen's parameters after `args`
_PACKAGE = os.path.dirname(os.path.dirname(__file__)) + os.sep
_NOT_THE_USERS = (_PACKAGE, subprocess.__file__)


def name_default_encoding(popen_args: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Put the default into *options* where the user chose text but no encoding, with a warning.

    `Popen` would do so itself, but takes the first line outside of its own file
    for the user's, and that is a line of this package.
    """
    if options.get("encoding") is not None or not _is_text(popen_args, options):
        return
    frame, stacklevel = sys._getframe(), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_NOT_THE_USERS):
        frame, stacklevel = frame.f_back, stacklevel + 1
    warnings.warn("'encoding' argument not specified.", EncodingWarning, stacklevel)
    options["encoding"] = "utf-8" if sys.flags.utf8_mode else locale.getencoding()


def _is_text(popen_args: tuple[Any, ...], options: dict[str, Any]) -> bool:
    by_position = popen_args[_UNIVERSAL_NEWLINES_POSITION : _UNIVERSAL_NEWLINES_POSITION + 1]
    return any((*by_position, *(options.get(name) for name in ("text", "errors", "universal_newlines"))))
