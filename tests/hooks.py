"""Replace or extend functions of a module within a block, so that something happens at a chosen moment."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType


@contextmanager
def replaced(module: ModuleType, name: str, function: Callable[..., object]) -> Iterator[None]:
    """Call *function* instead of the module's function."""
    original = getattr(module, name)
    setattr(module, name, function)
    try:
        yield
    finally:
        setattr(module, name, original)


@contextmanager
def before(module: ModuleType, name: str, action: Callable[[], object], *, call: int = 1) -> Iterator[None]:
    """Run the action before the given call of that function, counted from 1."""
    original, calls = getattr(module, name), 0

    def hooked(*arguments: object, **options: object) -> object:
        nonlocal calls
        calls += 1
        if calls == call:
            action()
        return original(*arguments, **options)

    with replaced(module, name, hooked):
        yield


@contextmanager
def after(module: ModuleType, name: str, action: Callable[[], object]) -> Iterator[None]:
    """Run the action after each call of that function that does not fail."""
    original = getattr(module, name)

    def hooked(*arguments: object, **options: object) -> object:
        result = original(*arguments, **options)
        action()
        return result

    with replaced(module, name, hooked):
        yield
