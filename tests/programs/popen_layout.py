"""The programs of `test_popen_layout.py`.

They change `subprocess.Popen` first. Each function imports the modules that must see the change afterwards.
"""

from __future__ import annotations

import functools
import inspect
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

from leaks import assert_unchanged, state

Original: Any = subprocess.Popen
NAMES = [name for name in inspect.signature(Original._execute_child).parameters if name != "self"]


def recompile(method: Callable[..., Any], old: str, new: str) -> Callable[..., Any]:
    """Return the method as if *new* stood in its source in place of *old*."""
    source = textwrap.dedent(inspect.getsource(method))
    assert old in source
    made: dict[str, Callable[..., Any]] = {}
    exec(source.replace(old, new), vars(subprocess), made)
    return made[method.__name__]


def replace(passed: Sequence[str], taken: Sequence[str]) -> None:
    """Behave as a Python version in which `__init__` passes other values to `_execute_child`."""
    vars(subprocess)["process_label"] = None
    source = textwrap.dedent(inspect.getsource(Original.__init__))
    start = source.index("self._execute_child(")
    call = source[start : source.index(")", start)]
    Original.__init__ = recompile(Original.__init__, call, f"self._execute_child({', '.join(passed)}")
    scope: dict[str, Callable[..., Any]] = {}
    exec(f"def _execute_child(self, {', '.join(taken)}): raise AssertionError", scope)
    Original._execute_child = scope["_execute_child"]


def refusal() -> str:
    from usernsproc import UsernsProcess

    before = state()
    for args in (["true"], None):
        try:
            UsernsProcess(args, uid_map="root")
        except NotImplementedError as error:
            text = str(error)
        else:
            raise AssertionError("it was not refused")
    assert_unchanged(before)
    return text


def values_come_in_another_order() -> None:
    other = [*reversed(NAMES)]
    replace(other, other)
    from usernsproc import run

    result = run(
        ["sh", "-c", "id -u; pwd; echo $NAME; umask"],
        uid_map="root",
        stdout=subprocess.PIPE,
        cwd="/",
        env={"NAME": "value", "PATH": os.environ["PATH"]},
        umask=0o27,
    )
    assert result.stdout == b"0\n/\nvalue\n0027\n", result.stdout


def a_parameter_is_added() -> None:
    replace([*NAMES, "process_label"], [*NAMES, "process_label"])
    text = refusal()
    assert "_execute_child has the unknown parameter process_label" in text, text
    assert sys.version.split()[0] in text


def a_parameter_is_taken_away() -> None:
    replace(NAMES[:-1], NAMES[:-1])
    text = refusal()
    assert f"_execute_child lacks the parameter {NAMES[-1]}" in text, text


def call_and_method_differ() -> None:
    replace(NAMES[:-1], NAMES)
    assert "passes 22 values to _execute_child, which has 23 parameters" in refusal()


def a_method_is_taken_away(name: str) -> None:
    delattr(Original, name)
    assert f"there is no {name}" in refusal()


def an_attribute_is_taken_away() -> None:
    Original.__init__ = recompile(Original.__init__, "_waitpid_lock", "_other_lock")
    assert "there is no _waitpid_lock" in refusal()


def methods_are_wrapped() -> None:
    calls: list[str] = []

    def recorded(method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            calls.append(method.__name__)
            return method(*args, **kwargs)

        return wrapper

    for name in ("__init__", "_execute_child", "wait"):
        setattr(Original, name, recorded(getattr(Original, name)))
    import usernsproc

    assert usernsproc.call(["true"], uid_map="root") == 0
    assert calls == ["__init__", "wait", "wait"], calls


class Fake:
    def __init__(self, *_: object, **__: object) -> None:
        raise AssertionError


def the_class_is_replaced() -> None:
    vars(subprocess)["Popen"] = Fake
    import usernsproc

    assert usernsproc.check_output(["id", "-u"], uid_map="root") == b"0\n"
    try:
        usernsproc.run(["sleep", "30"], uid_map="root", timeout=0.1, capture_output=True)
    except subprocess.TimeoutExpired:
        pass
