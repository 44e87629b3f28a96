"""A wrong value or list of set-up steps is refused before anything is created, with the step and the rule."""

from __future__ import annotations

import ast
import os
import pickle
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import usernsproc
from usernsproc import UsernsProcess, create_userns
from usernsproc._setup.step import Step
from usernsproc.setup import (
    Affinity,
    Bind,
    Call,
    Capabilities,
    Chroot,
    ControllingTerminal,
    Descriptors,
    Dev,
    Dir,
    Domainname,
    File,
    Foreground,
    Hostname,
    IoPriority,
    Landlock,
    Loopback,
    Mask,
    Mqueue,
    Nice,
    NoUserNamespaces,
    Overlay,
    Proc,
    Remount,
    Rlimit,
    Root,
    Scheduler,
    Seccomp,
    Signals,
    Symlink,
    Sysfs,
    TimeOffset,
    Tmpfs,
    Unmount,
)

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
    (lambda: Dir("/"), ValueError, "Dir: path is the root directory"),
    (lambda: Symlink("", "/x"), ValueError, "Symlink: to is an empty text"),
    (lambda: File("/x", mode=-1), ValueError, "File: mode is a number from 0 to"),
    (lambda: File("/x", None), TypeError, "File: data is a number, not None"),  # type: ignore[arg-type]
    (lambda: Mask("x"), ValueError, "Mask: path is an absolute path"),
    (lambda: Remount("x"), ValueError, "Remount: path is an absolute path"),
    (lambda: Unmount("/"), ValueError, "Unmount: path is the root directory"),
    (lambda: Chroot("/a/.."), ValueError, "Chroot: path leads upwards"),
    (lambda: Overlay("/x", []), ValueError, "Overlay: lower is empty"),
    (lambda: Overlay("/x", "/usr", ""), ValueError, "Overlay: upper is an empty path"),
    (lambda: Overlay("/x", "/usr", "tmpfs", "/work"), ValueError, "Overlay: work is for a directory as upper"),
    (lambda: Overlay("/x", "/usr", "/upper"), ValueError, "Overlay: a directory as upper needs work"),
    (lambda: Hostname(b"name"), TypeError, "Hostname: name is a string"),  # type: ignore[arg-type]
    (lambda: Domainname("x" * 65), ValueError, "Domainname: name has at most 64 bytes"),
    (lambda: TimeOffset(), ValueError, "TimeOffset: neither monotonic nor boottime is given"),
    (lambda: TimeOffset(monotonic="1"), TypeError, "TimeOffset: monotonic is a number of seconds"),  # type: ignore[arg-type]
    (lambda: TimeOffset(monotonic=float("inf")), ValueError, "TimeOffset: monotonic is a finite number of seconds"),
    (lambda: Rlimit("HEAP", 1), ValueError, "Rlimit: name is one of CPU, "),
    (lambda: Rlimit(None, 1), TypeError, "Rlimit: name is a name or a number"),  # type: ignore[arg-type]
    (lambda: Rlimit("AS", "1G"), ValueError, 'Rlimit: soft is a number or "infinity"'),
    (lambda: Rlimit("AS", 2, 1), ValueError, "Rlimit: soft (2) is above hard (1)"),
    (lambda: Nice(40), ValueError, "Nice: "),
    (lambda: Affinity("01"), TypeError, "Affinity: cpus are several numbers"),  # type: ignore[arg-type]
    (lambda: Affinity([]), ValueError, "Affinity: there has to be a CPU to run on"),
    (lambda: Scheduler("FIFO"), ValueError, "Scheduler: FIFO needs a priority from 1 to"),
    (lambda: IoPriority("idle", 3), ValueError, "IoPriority: idle has no level"),
    (lambda: Signals(default="INT"), TypeError, 'Signals: default is "all" or several signals'),
    (lambda: Signals(ignore=["KILL"]), ValueError, "Signals: ignore contains SIGKILL, which no process can change"),
    (lambda: Signals(default="all", ignore="all"), ValueError, 'Signals: default and ignore are both "all"'),
    (lambda: Signals(default=["INT"], ignore=["INT"]), ValueError, "Signals: default and ignore contain"),
    (lambda: Signals(), ValueError, "Signals: neither default, ignore nor block is given"),
    (lambda: Descriptors({}), ValueError, "Descriptors: there is no descriptor"),
    (lambda: Descriptors({1: 2}), ValueError, "Descriptors: descriptor 1 of the command is stdin=, stdout= or stderr="),
    (lambda: Descriptors([(7, "x")]), TypeError, "Descriptors: a source is a number, not 'x'"),
    (lambda: Call("no_such_call"), ValueError, "Call: there is no system call 'no_such_call' here"),
    (lambda: Call("getpid", 1, 2, 3, 4, 5, 6, 7), ValueError, "Call: a system call has at most 6 arguments, not 7"),
    (lambda: Call("getpid", tolerate=(1, 2, 3, 4, 5, 6)), ValueError, "Call: at most 5 errors are tolerated"),
    (lambda: Capabilities("KILL"), TypeError, "Capabilities: capabilities are several names, not one string"),
    (lambda: Capabilities(["FLY"]), ValueError, "Capabilities: 'FLY' is not a capability"),
    (lambda: Capabilities([63]), ValueError, "Capabilities: 63 is not a capability"),
    (lambda: Capabilities(["KILL"], bounding=[]), ValueError, "Capabilities: bounding does not contain all of keep"),
    (lambda: Landlock(3, read=["/"]), ValueError, "Landlock: a ruleset has its rules: read="),
    (lambda: Landlock(read="/"), TypeError, "Landlock: read is several paths, not one"),
    (lambda: Landlock(scopes="signal"), TypeError, "Landlock: scopes are several names, not one string"),
    (lambda: Landlock(scopes=["fork"]), ValueError, "Landlock: a scope is one of"),
    (lambda: Seccomp(b"1234"), ValueError, "Seccomp: a program is instructions of 8 bytes each, not 4 bytes"),
    (lambda: Seccomp(bytes(8 * 4097)), ValueError, "Seccomp: a program has at most 4096 instructions, not 4097"),
]


@pytest.mark.parametrize(("make", "kind", "text"), VALUES, ids=[text for _, _, text in VALUES])
def test_a_wrong_value_is_refused(make: Callable[[], object], kind: type[Exception], text: str) -> None:
    with pytest.raises(kind) as caught:
        make()
    assert type(caught.value) is kind
    assert str(caught.value).startswith(text), str(caught.value)


# ---- lists: refused when they are used ----


@pytest.fixture(autouse=True)
def little_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is 2 GiB."""
    monkeypatch.setattr("usernsproc._setup.files._MOST_DATA", 10)


def a_closed_descriptor() -> int:
    read, write = os.pipe()
    os.close(read)
    os.close(write)
    return read


def process(steps: Callable[[], list[Any]], options: dict[str, Any]) -> UsernsProcess[bytes]:
    chosen = {"args": ["true"], "uid_map": "root", "setup": steps(), **options}
    with create_userns("root", "root") as userns:
        if chosen.get("join") is JOINED:
            chosen["join"] = userns
        return UsernsProcess(**chosen)


JOINED = object()
"""A user namespace to join."""
MNT: dict[str, Any] = {"namespaces": ["mnt"]}
SESSION: dict[str, Any] = {"start_new_session": True}
LISTS: list[tuple[Callable[[], Any], dict[str, Any], type[Exception], str]] = [
    (lambda: [Tmpfs("/tmp")], {}, ValueError, r"setup\[0\]: Tmpfs\('/tmp'\): the step requires namespaces=.*mnt"),
    (lambda: [Tmpfs("/tmp"), "x"], MNT, TypeError, r"setup\[1\]: a set-up step of usernsproc.setup is needed, not 'x'"),
    (lambda: [[Tmpfs("/tmp")]], MNT, TypeError, r"setup\[0\]: .* is needed, not a list: unpack it with \*"),
    (lambda: Tmpfs("/tmp"), MNT, TypeError, r"setup= is a list of set-up steps, not Tmpfs\('/tmp'\)"),
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
    (lambda: [Mask("/x")], {}, ValueError, r"setup\[0\]: Mask\('/x'\): the step requires namespaces=.*mnt"),
    (lambda: [File("/x", cover=True)], {}, ValueError, r"setup\[0\]: File.*: the step requires namespaces=.*mnt"),
    (
        lambda: [Mask("/x")],
        {**MNT, "propagation": "shared"},
        ValueError,
        r"setup\[0\]: Mask\('/x'\): the mounts have to be private .* leave propagation= out",
    ),
    (lambda: [File("/x", b"x" * 11)], MNT, ValueError, r"setup\[0\]: File: data is longer than \d+ bytes"),
    (
        lambda: [File("/x", a_closed_descriptor())],
        MNT,
        ValueError,
        r"setup\[0\]: File.*: descriptor \d+ cannot be read",
    ),
    (lambda: [Loopback()], {}, ValueError, r'setup\[0\]: Loopback\(\): .* namespaces=\("net",\)'),
    (lambda: [Hostname("x")], {}, ValueError, r'setup\[0\]: Hostname\(.*\): .* namespaces=\("uts",\)'),
    (
        lambda: [Rlimit("AS", 9), Rlimit("AS", 8)],
        {},
        ValueError,
        r"setup\[0\]: Rlimit.*: there is another Rlimit of AS",
    ),
    (lambda: [ControllingTerminal(0)], {}, ValueError, r"setup\[0\]: ControllingTerminal.*: .*start_new_session=True"),
    (
        lambda: [ControllingTerminal(0), ControllingTerminal(0)],
        SESSION,
        ValueError,
        r"setup\[0\]: ControllingTerminal.*: there is another ControllingTerminal",
    ),
    (lambda: [Foreground(0)], SESSION, ValueError, r"setup\[0\]: Foreground.*: a new session has no terminal"),
    (lambda: [Foreground(0)], {}, ValueError, r"setup\[0\]: Foreground.*: .* process_group=0"),
    (
        lambda: [Descriptors({7: 2}), Descriptors({8: 2})],
        {},
        ValueError,
        r"setup\[0\]: .* there is another Descriptors",
    ),
    (lambda: [Descriptors({9: 2})], {"pass_fds": [9]}, ValueError, r"setup\[0\]: Descriptors.*: 9 is also in pass_fds"),
    (lambda: [Descriptors({1 << 30: 2})], {}, ValueError, r"setup\[0\]: Descriptors.*: RLIMIT_NOFILE does not allow"),
    (
        lambda: [Signals(default="all")],
        {"args": None},
        ValueError,
        r"setup\[0\]: Signals.*: a holder \(no args\) runs no",
    ),
    (
        lambda: [Capabilities()],
        {"ambient_caps": ["KILL"]},
        ValueError,
        r"setup\[0\]: Capabilities\(\): ambient_caps= cannot be combined",
    ),
    (lambda: [Capabilities(), Capabilities()], {}, ValueError, r"setup\[0\]: Capabilities\(\): there is another"),
    (
        lambda: [NoUserNamespaces()],
        {"uid_map": None, "join": JOINED},
        ValueError,
        r"setup\[0\]: NoUserNamespaces\(\): other processes use a user namespace that is joined",
    ),
    (
        lambda: [NoUserNamespaces()],
        {"uid_map": None},
        ValueError,
        r"setup\[0\]: NoUserNamespaces\(\): it requires the maps",
    ),
    (
        lambda: [NoUserNamespaces()],
        {"owner": os.geteuid()},
        ValueError,
        r"setup\[0\]: NoUserNamespaces\(\): owner= cannot be combined",
    ),
    (
        lambda: [Capabilities()],
        {"args": None},
        ValueError,
        r"setup\[0\]: Capabilities\(\): it is for a command, and a holder \(no args\) runs no program",
    ),
    (
        lambda: [TimeOffset(boottime=1)],
        {"join": "/proc/self/ns/time"},
        ValueError,
        r"setup\[0\]: TimeOffset.*: the time namespace is joined and has its offsets",
    ),
    (
        lambda: [TimeOffset(boottime=1), TimeOffset(monotonic=1)],
        {"namespaces": ["time"]},
        ValueError,
        r"setup\[0\]: TimeOffset.*: there is another TimeOffset",
    ),
    (
        lambda: [Bind("/x", "/", missing_ok=True)],
        MNT,
        ValueError,
        r"setup\[0\]: Bind.*: the root directory cannot be missing",
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
    """No process is started."""
    monkeypatch.setattr("usernsproc._processes.process.start", None)
    with pytest.raises(kind) as caught:
        process(steps, options)
    assert type(caught.value) is kind
    assert re.match(text, str(caught.value)), str(caught.value)


# ---- each rule has an example above ----

NOT_RULES = ("AttributeError", "NotImplementedError", "type(error)", "OSError", "calls.failed")
"""A value that cannot be changed; an abstract method; the place in the list; a failure of what the parent does."""


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


def test_each_rule_has_an_example(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("usernsproc._processes.process.start", None)
    broken = {rule for make, *_ in VALUES for rule in broken_by(make)}
    for steps, options, *_ in LISTS:
        broken |= set(broken_by(partial(process, steps, options)))
    assert sorted(rules() - broken) == []


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
