"""Loads all code that calls of this package run, before a thread enters a mount namespace.

Afterwards the owner of that namespace controls the file at the path of each module, and
its code would run with the rights of this process.
"""

from __future__ import annotations

import encodings
import grp
import importlib
import os
import pkgutil
import pwd
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from errno import EMFILE, ENFILE, ENOENT, EPERM

from ._causes import at_step, userns_error
from ._errors import UsernsError

_PACKAGE = __name__.partition(".")[0]

_BY_OTHERS = ("pytest", "_pytest")
"""Loaded by a program of that name when it starts, not by calls."""

_LATE = (
    "_strptime",
    "ast",
    "bdb",
    "ctypes.util",
    "inspect",
    "linecache",
    "pickle",
    "tempfile",
    "traceback",
    "tracemalloc",
)
"""Modules that Python or this package loads when they are first needed, for example to show a warning or to print
an error."""

_is_done = False

_homes: set[tuple[int, int]] = set()
"""The mount namespaces from which threads have entered others."""


def before_entering() -> None:
    """To be called by a thread before it enters a mount namespace.

    Raises:
        UsernsError: a file of the package can no longer be read (step `prepare`).
    """
    if not _is_done:
        _load_everything()
    with suppress(OSError):  # without /proc no helper program is run either
        here = _mount_namespace()
        if not _homes or here in _homes:
            _homes.add(here)


def refuse_elsewhere(name: str) -> None:
    """To be called before a program is run, or a library loaded, that the caller has not named.

    Raises:
        UsernsError: the thread has entered a mount namespace, whose owner controls the file.
    """
    if _homes and _mount_namespace() not in _homes:
        note = (
            "The calling thread has entered a mount namespace, in which this program may be any file of its owner, and "
            "would run with the rights of this process. Do this before it enters, or after it has left."
        )
        raise userns_error("prepare", EPERM, name, cause="other-mount-namespace", note=note)


def _mount_namespace() -> tuple[int, int]:
    with at_step("open_proc"):
        status = os.stat("/proc/thread-self/ns/mnt")
    return status.st_dev, status.st_ino


def _load_everything() -> None:
    global _is_done
    try:
        for name in own_modules(sys.modules[_PACKAGE].__path__, _PACKAGE):
            importlib.import_module(name)
        codecs = (f"encodings.{module.name}" for module in pkgutil.iter_modules(encodings.__path__))
        for name in (*_LATE, *codecs):
            with suppress(ImportError):  # not in this version of Python, or on Linux
                importlib.import_module(name)
        _load_name_services()
    except (ImportError, OSError) as error:
        raise _not_loaded(error) from error
    _is_done = True


def _not_loaded(error: ImportError | OSError) -> UsernsError:
    errno = (isinstance(error, OSError) and error.errno) or ENOENT
    if errno in (EMFILE, ENFILE):
        return userns_error("prepare", errno)
    note = f"{error}. A thread does not enter a mount namespace before all modules are loaded. Restore the files."
    return userns_error("prepare", errno, cause="modules-missing", note=note)


def own_modules(path: Sequence[str], package: str) -> Iterator[str]:
    """The names of the modules, including those in subpackages."""
    for module in pkgutil.iter_modules(path):
        name = f"{package}.{module.name}"
        if module.name not in _BY_OTHERS:
            yield name
            if module.ispkg:
                yield from own_modules(importlib.import_module(name).__path__, name)


def _load_name_services() -> None:
    """libc loads a library for each source of `nsswitch.conf` when it first asks that source, and
    keeps it after a change of the root. A name that no source has makes it ask all of them."""
    with suppress(KeyError):
        pwd.getpwnam("\1")
    with suppress(KeyError):
        grp.getgrnam("\1")
