"""A wrong value or list of set-up steps is refused before anything is created, with the step and the rule."""

from __future__ import annotations

import ast
import os
import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import usernsproc
from usernsproc import UsernsProcess
from usernsproc._setup.step import Step
from usernsproc.setup import Bind, Dev, Mqueue, Proc, Root, Sysfs, Tmpfs

SOURCE = Path(usernsproc.__file__).parent / "_setup"

# ---- values: refused when the step is made ----

VALUES: list[tuple[Callable[[], object], type[Exception], str]] = [
    (lambda: Bind(""), ValueError, "Bind: source is an empty path"),
    (lambda: Bind("relative"), ValueError, "Bind: target is an absolute path"),
    (lambda: Bind("/a\0b"), ValueError, "Bind: source contains a null byte"),
    (lambda: Bind("/", "/a/../.."), ValueError, "Bind: target leads upwards"),
    (lambda: Bind(3), ValueError, "Bind: a source without a path needs a target"),
    (lambda: Bind(-1, "/x"), ValueError, "Bind: source is a number from 0 to"),
    (lambda: Bind(1.5, "/x"), TypeError, "Bind: source is a number, not 1.5"),  # type: ignore[arg-type]
    (lambda: Bind("/", 7), TypeError, "Bind: target is a path, not 7"),  # type: ignore[arg-type]
    (lambda: Root(None), TypeError, "Root: source is a number, not None"),  # type: ignore[arg-type]
    (lambda: Tmpfs("tmp"), ValueError, "Tmpfs: target is an absolute path"),
    (lambda: Tmpfs("/tmp", size="64 M"), ValueError, "Tmpfs: size is a number of bytes, or a text"),
    (lambda: Tmpfs("/tmp", size=0), ValueError, "Tmpfs: size is a number from 1 to"),
    (lambda: Tmpfs("/tmp", inodes=0), ValueError, "Tmpfs: inodes is a number from 1 to"),
    (lambda: Tmpfs("/tmp", mode=0o10000), ValueError, "Tmpfs: mode is a number from 0 to 4095, not 4096"),
    (lambda: Tmpfs("/tmp", mode=True), TypeError, "Tmpfs: mode is a number, not True"),
    (lambda: Proc("proc"), ValueError, "Proc: target is an absolute path"),
]


@pytest.mark.parametrize(("make", "kind", "text"), VALUES, ids=[text for _, _, text in VALUES])
def test_a_wrong_value_is_refused(make: Callable[[], object], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as caught:
        make()
    assert type(caught.value) is kind
    assert str(caught.value).startswith(text), str(caught.value)


# ---- lists: refused when they are used ----


def a_closed_descriptor() -> int:
    read, write = os.pipe()
    os.close(read)
    os.close(write)
    return read


MNT: dict[str, Any] = {"namespaces": ["mnt"]}
LISTS: list[tuple[Callable[[], list[Any]], dict[str, Any], type[Exception], str]] = [
    (lambda: [Tmpfs("/tmp")], {}, ValueError, r"setup\[0\]: Tmpfs\('/tmp'\): it needs a namespace of that kind: .*mnt"),
    (lambda: [Tmpfs("/tmp"), "x"], MNT, TypeError, r"setup\[1\]: a set-up step of usernsproc.setup is needed, not 'x'"),
    (lambda: [Tmpfs], MNT, TypeError, r"setup\[0\]: a set-up step of usernsproc.setup is needed, not <class"),
    (lambda: [Root("/"), Root("tmpfs")], {}, ValueError, r"setup\[0\]: Root\('/'\): there is another Root in the list"),
    (lambda: [Root("/")], {"propagation": "shared"}, ValueError, r"setup\[0\]: Root\('/'\): .* leave propagation= out"),
    (
        lambda: [Root("/")],
        {"mount_proc": True, "namespaces": ["pid"]},
        ValueError,
        r"setup\[0\]: Root\('/'\): mount_proc=",
    ),
    (
        lambda: [Proc()],
        MNT,
        ValueError,
        r"setup\[0\]: Proc\(\): the kernel mounts it for the owner of the pid namespace",
    ),
    (lambda: [Dev(), Sysfs()], MNT, ValueError, r'setup\[1\]: Sysfs\(\): .* namespaces=\("net",\)'),
    (lambda: [Mqueue()], MNT, ValueError, r'setup\[0\]: Mqueue\(\): .* namespaces=\("ipc",\)'),
    (
        lambda: [Bind(a_closed_descriptor(), "/x")],
        MNT,
        ValueError,
        r"setup\[0\]: Bind\(\d+, .*\): descriptor \d+ is closed",
    ),
]


@pytest.mark.parametrize(("steps", "options", "kind", "text"), LISTS, ids=[text for _, _, _, text in LISTS])
def test_a_wrong_list_is_refused(
    steps: Callable[[], list[Any]],
    options: dict[str, Any],
    kind: type[Exception],
    text: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nothing is created: the core is not called."""
    monkeypatch.setattr("usernsproc._spawn._core.spawn", None)
    with pytest.raises(kind) as caught:
        UsernsProcess(["true"], uid_map="root", setup=steps(), **options)
    assert type(caught.value) is kind
    assert re.match(text, str(caught.value)), str(caught.value)


# ---- each rule has an example above ----

NOT_RULES = ("AttributeError", "NotImplementedError", "type(error)")
"""A value that cannot be changed; an abstract method; the place in the list, which is added."""


def rules() -> set[tuple[str, int]]:
    """Return file and line of each statement that refuses something."""
    found: set[tuple[str, int]] = set()
    for file in SOURCE.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Raise) and node.exc and not ast.unparse(node.exc).startswith(NOT_RULES):
                found.add((file.name, node.lineno))
    return found


def broken_by(action: Callable[[], object]) -> Iterator[tuple[str, int]]:
    """Return where the exception was raised, and those that it replaced."""
    with pytest.raises((ValueError, TypeError)) as caught:
        action()
    error: BaseException | None = caught.value
    while error is not None:
        trace = error.__traceback__
        while trace is not None:
            yield Path(trace.tb_frame.f_code.co_filename).name, trace.tb_lineno
            trace = trace.tb_next
        error = error.__context__


def test_each_rule_has_an_example() -> None:
    broken = {rule for make, *_ in VALUES for rule in broken_by(make)}
    for steps, options, *_ in LISTS:
        broken |= set(broken_by(lambda: UsernsProcess(["true"], uid_map="root", setup=steps(), **options)))  # noqa: B023
    assert rules() - broken == set()


# ---- a step is a value ----


@pytest.mark.parametrize(
    "step", [Bind("/", read_only=True), Root("tmpfs"), Tmpfs("/tmp", size="1M"), Proc(), Dev("/d")]
)
def test_a_step_is_a_value(step: Step) -> None:
    copy = pickle.loads(pickle.dumps(step))
    assert copy == step
    assert hash(copy) == hash(step)
    assert repr(copy) == repr(step)
    assert step != Tmpfs("/other")
    for change, arguments in ((setattr, ("target", "/")), (delattr, ("target",))):
        with pytest.raises(AttributeError, match="cannot be changed"):
            change(step, *arguments)
