"""Calls functions of `programs/greenlets.py` in a program that gevent or eventlet has patched.

This module imports nothing that they patch, so that the patch can come first.
"""

from __future__ import annotations

import warnings
from _thread import start_new_thread as start_native_thread
from collections.abc import Callable
from importlib import import_module

Spawn = Callable[..., object]


def patch_by_gevent() -> Spawn:
    import gevent.monkey  # type: ignore[import-untyped]

    gevent.monkey.patch_all()
    spawn: Spawn = gevent.spawn
    return spawn


def patch_by_eventlet() -> Spawn:
    warnings.simplefilter("ignore")
    import eventlet  # type: ignore[import-untyped]

    eventlet.monkey_patch()
    spawn: Spawn = eventlet.spawn
    return spawn


LIBRARIES: dict[str, Callable[[], Spawn]] = {"gevent": patch_by_gevent, "eventlet": patch_by_eventlet}
ORDERS = ("patched first", "imported first")


def call(library: str, order: str, function: str, *arguments: str) -> None:
    if order == "imported first":
        import_module("programs.greenlets")
    spawn = LIBRARIES[library]()
    from programs import greenlets

    greenlets.start(spawn, start_native_thread)
    getattr(greenlets, function)(*arguments)
