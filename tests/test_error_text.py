"""The text of an error is one line: what failed, on what, and with which cause.

`STEP: STRERROR[: FILENAME[ -> FILENAME2]] [ERRNO, CAUSE]`, for each subclass, in copies and
on the command line. The members that `OSError` has stay as they are.
"""

from __future__ import annotations

import copy
import errno
import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from errors import error_of

from usernsproc import (
    CredentialsError,
    IdMapError,
    IdMapPermissionError,
    MapToolError,
    Namespace,
    UsernsError,
    UsernsProcess,
    create_userns,
)
from usernsproc._causes import at_step, credentials_error, userns_error
from usernsproc._errors import _subclasses
from usernsproc._maps.permission import Violation
from usernsproc._maps.side import UID

PROGRAM = str(Path(sys.executable).parent / "usernsproc")
EVERY_COPY = [copy.copy, copy.deepcopy, lambda error: pickle.loads(pickle.dumps(error))]
each_copy = pytest.mark.parametrize("duplicate", EVERY_COPY, ids=["copy", "deepcopy", "pickle"])


def tool_error() -> MapToolError:
    error = MapToolError(errno.EPERM, "Operation not permitted: newuidmap", step="newuidmap", cause="tool-failed")
    error.returncode, error.stderr = 3, "sorry\n"
    error.add_note("It failed.")
    return error


def two_files() -> UsernsError:
    return UsernsError(errno.EINVAL, "Invalid argument", "from", None, "to", step="move_mount", cause="type-mismatch")


ERRORS: dict[str, Callable[[], UsernsError]] = {
    "step and cause": lambda: userns_error("clone", errno.ENOSPC),
    "no cause": lambda: userns_error("exec", errno.ENOENT, "prog"),
    "a file and a cause": lambda: userns_error("cgroup", errno.EBUSY, "/sys/fs/cgroup/x"),
    "two files": two_files,
    "bytes": lambda: userns_error("chdir", errno.ENOENT, b"/none"),
    "a path": lambda: userns_error("chdir", errno.ENOENT, Path("/none")),
    "a forbidden map": lambda: Violation(None, "no-subids", "none are given").error(UID),
    "an id": lambda: credentials_error("setid", "user=5 is not mapped", "id-not-mapped"),
    "a tool": tool_error,
}
TEXTS = {
    "step and cause": "clone: No space left on device [ENOSPC, max-user-namespaces]",
    "no cause": "exec: No such file or directory: 'prog' [ENOENT]",
    "a file and a cause": "cgroup: Device or resource busy: '/sys/fs/cgroup/x' [EBUSY, cgroup-not-leaf]",
    "two files": "move_mount: Invalid argument: 'from' -> 'to' [EINVAL, type-mismatch]",
    "bytes": "chdir: No such file or directory: b'/none' [ENOENT]",
    "a path": "chdir: No such file or directory: PosixPath('/none') [ENOENT]",
    "a forbidden map": "uid_map: Operation not permitted: uid_map: none are given [EPERM, no-subids]",
    "an id": "setid: Operation not permitted: user=5 is not mapped [EPERM, id-not-mapped]",
    "a tool": "newuidmap: Operation not permitted: newuidmap [EPERM, tool-failed]",
}


@pytest.mark.parametrize("name", ERRORS)
def test_the_text_has_step_file_errno_and_cause(name: str) -> None:
    assert str(ERRORS[name]()) == TEXTS[name]


@pytest.mark.parametrize("number", [*_subclasses, errno.ENOSPC, errno.EINVAL])
def test_each_subclass_has_the_same_form(number: int) -> None:
    """Also those that are a builtin subclass, which have a `__str__` of their own."""
    error = userns_error("mount_point", number, "pin", cause="because")
    assert str(error) == f"mount_point: {os.strerror(number)}: 'pin' [{errno.errorcode[number]}, because]"
    assert (error.errno, error.strerror, error.filename) == (number, os.strerror(number), "pin")
    assert error.args == (number, os.strerror(number))


def test_an_errno_without_a_name_is_a_number() -> None:
    assert str(userns_error("clone", 4095)) == "clone: Unknown error 4095 [4095]"


def test_without_a_step_the_text_is_that_of_an_oserror() -> None:
    for args in ((errno.ENOENT, "No such file", "x"), (errno.ENOENT, "No such file"), ("only words",), ()):
        assert str(UsernsError(*args)) == str(OSError(*args))


@pytest.mark.parametrize("name", ["two\nlines", "\x1b[31mred", "tab\t", "\udcff"])
def test_what_cannot_be_printed_is_escaped(name: str) -> None:
    """A newline in a file name, or a control character, is shown as Python's repr() writes it."""
    text = str(userns_error("chdir", errno.ENOENT, name))
    assert text == f"chdir: No such file or directory: {name!r} [ENOENT]"
    assert text.isprintable()
    text = str(UsernsError(errno.EPERM, f"refused: {name}", step="newuidmap"))
    assert text == f"newuidmap: refused: {repr(name)[1:-1]} [EPERM]"


@each_copy
@pytest.mark.parametrize("name", ERRORS)
def test_a_copy_says_the_same(name: str, duplicate: Callable[[UsernsError], UsernsError]) -> None:
    error = ERRORS[name]()
    again = duplicate(error)
    assert type(again) is type(error)
    assert (str(again), again.args, again.filename, again.filename2) == (
        TEXTS[name],
        error.args,
        error.filename,
        error.filename2,
    )
    assert again.__dict__ == error.__dict__
    assert {"step", "cause"} <= set(again.__dict__)


@each_copy
def test_a_note_on_a_copy_is_not_on_the_original(duplicate: Callable[[UsernsError], UsernsError]) -> None:
    error = userns_error("clone", errno.ENOSPC)
    duplicate(error).add_note("of the copy")
    assert len(error.__notes__) == 1


@each_copy
def test_a_malformed_map_keeps_its_step(duplicate: Callable[[Any], Any]) -> None:
    with pytest.raises(IdMapError, match=r"^gid_map: range '0:0'") as caught:
        create_userns("root", "0:0")
    again = duplicate(caught.value)
    assert (again.step, str(again)) == ("gid_map", str(caught.value))


def test_a_traceback_shows_it_with_the_note() -> None:
    error = error_of(UsernsProcess, ["no-such-program"], uid_map="root")
    last = traceback.format_exception_only(error)[-1]
    assert last.endswith("exec: No such file or directory: 'no-such-program' [ENOENT]\n")
    lines = traceback.format_exception_only(userns_error("clone", errno.ENOSPC))
    assert lines[0].endswith("[ENOSPC, max-user-namespaces]\n")
    assert "sysctl" in lines[1]


def test_real_errors_have_the_form() -> None:
    """Errors of a process, a namespace, IDs and a map."""
    for error, start, end in (
        (error_of(UsernsProcess, ["true"], uid_map="root", cwd="/none"), "chdir: ", ": '/none' [ENOENT]"),
        (error_of(Namespace.open, "/etc/passwd"), "open_ns: ", ": '/etc/passwd' [ENOTTY]"),
        (error_of(UsernsProcess, ["true"], uid_map="root", user=5), "setid: ", " [EPERM, id-not-mapped]"),
        (error_of(UsernsProcess, ["true"], pass_fds=[999]), "stdio: ", " [EBADF]"),
    ):
        assert str(error).startswith(start), error
        assert str(error).endswith(end), error
        assert str(error).isprintable()
    assert isinstance(error_of(UsernsProcess, ["true"], uid_map="root", user=5), CredentialsError)
    assert issubclass(IdMapPermissionError, UsernsError)


# ---- a block of a step ----


def test_an_error_in_the_block_gets_the_step() -> None:
    with pytest.raises(FileNotFoundError) as caught, at_step("umount", "shown"):
        os.stat("/none")
    assert str(caught.value) == "umount: No such file or directory: 'shown' [ENOENT]"
    with pytest.raises(FileNotFoundError) as caught, at_step("umount"):
        os.stat("/none")
    assert str(caught.value) == "umount: No such file or directory: '/none' [ENOENT]"


@pytest.mark.parametrize("error", [TimeoutError("alarm"), ValueError("x"), userns_error("exec", errno.ENOENT)])
def test_other_exceptions_pass_through(error: Exception) -> None:
    """An `OSError` without an errno, as a signal handler can raise it, is not an error of a system call."""
    with pytest.raises(type(error)) as caught, at_step("umount"):
        raise error
    assert caught.value is error


# ---- the command line ----


def complaint(*arguments: str, **options: Any) -> list[str]:
    command = [PROGRAM, *arguments]
    result: subprocess.CompletedProcess[str] = subprocess.run(
        command, stderr=subprocess.PIPE, text=True, timeout=60, **options
    )
    assert result.returncode >= 125
    return result.stderr.splitlines()


def test_the_command_line_prints_the_text_and_the_note() -> None:
    assert complaint("run", "--map", "root", "no\nprogram") == [
        r"usernsproc: exec: No such file or directory: 'no\nprogram' [ENOENT]"
    ]
    first, second = complaint("unpin", "/etc/passwd")
    assert first == "usernsproc: mount_point: Invalid argument: '/etc/passwd' [EINVAL, not-pinned]"
    assert second.startswith("usernsproc: No namespace is pinned")


def test_output_that_cannot_be_written_is_an_error_of_a_step() -> None:
    """It is reported once, and not again when the interpreter exits."""
    with open("/dev/full", "w") as full:
        assert complaint("map", "0:1:1", stdout=full) == ["usernsproc: output: No space left on device [ENOSPC]"]


@pytest.mark.parametrize("arguments", [["umount", "/none"], ["umount", ""], ["doctor", "--path", "/none"]])
def test_what_the_commands_look_for_themselves_has_a_step(arguments: list[str]) -> None:
    step = "umount" if arguments[0] == "umount" else "open_tree"
    [line] = complaint(*arguments)
    assert line == f"usernsproc: {step}: No such file or directory: {arguments[-1]!r} [ENOENT]"
