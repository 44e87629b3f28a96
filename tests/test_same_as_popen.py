"""The same call gives the same result, error and warning with `Popen` and with `UsernsProcess`.

What `docs/coming-from-subprocess.md` says is the same, or different, is tested here,
where it is not by CPython's own tests (`test_conformance.py`) or with its subject.
"""

from __future__ import annotations

import inspect
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from alone import command, environment, run_alone
from programs import same_as_popen

from usernsproc import PIPE, STDOUT, UsernsError, UsernsProcess

IS_ROOT = os.geteuid() == 0
UNCHANGED = "0:0:4294967295" if IS_ROOT else "current"
IN_USERNS: dict[str, Any] = {"uid_map": UNCHANGED, "gid_map": UNCHANGED}
TRUE = "/bin/true"
NO_DESCRIPTOR = 777


def builtin_type(error: BaseException) -> type[BaseException]:
    return next(c for c in type(error).__mro__ if c.__module__ in ("builtins", "subprocess"))


def outcome(popen: type[subprocess.Popen[Any]], options: dict[str, Any]) -> object:
    """Return the return code and output, or the type and attributes of the error; and the warnings."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            with popen(**options) as process:
                result: object = process.communicate(timeout=60)[0], process.returncode
        except OSError as error:
            # Additional information of the library comes after a colon.
            result = builtin_type(error), error.errno, str(error.strerror).partition(":")[0], error.filename
        except Exception as error:
            result = builtin_type(error)
    return result, [(warning.category, str(warning.message), warning.filename) for warning in warned]


CASES: dict[str, dict[str, Any]] = {
    # the command
    "a list": {"args": ["echo", "a", b"b", Path("c")]},
    "a string": {"args": "true"},
    "bytes": {"args": b"true"},
    "a path": {"args": Path(TRUE)},
    "a set": {"args": {TRUE}},
    "no such program": {"args": ["no-such-program"]},
    "no such bytes": {"args": [b"no-such-program"]},
    "no such path": {"args": Path("no-such-program")},
    "no such file": {"args": ["/no/such/file"]},
    "a directory": {"args": ["/"]},
    "not executable": {"args": ["/etc/passwd"]},
    "not executable, shell": {"args": "/etc/passwd", "shell": True, "stderr": STDOUT},
    "a name of 5000 bytes": {"args": ["x" * 5000]},
    "arguments of 3 MB": {"args": [TRUE, "x" * 3_000_000]},
    "an empty list": {"args": []},
    "an empty string": {"args": ""},
    "an empty word": {"args": [""]},
    "a number": {"args": 5},
    "a list with a number": {"args": [TRUE, 1]},
    "a list of lists": {"args": [[TRUE]]},
    "a NUL": {"args": [TRUE, "a\0b"]},
    "a surrogate": {"args": ["/bin/echo", "\udcff"]},
    "a surrogate that is not a byte": {"args": ["/bin/echo", "\ud800"]},
    "executable": {"args": ["sh", "-c", "echo $0"], "executable": "/bin/sh"},
    "no such executable": {"args": ["true"], "executable": "/no/such/file"},
    "executable is a number": {"args": ["true"], "executable": 4},
    "executable is empty": {"args": ["true"], "executable": ""},
    "a shell": {"args": "echo $0; exit 3", "shell": True},
    "a shell with arguments": {"args": ["exit $1", "x", "4"], "shell": True},
    "a shell and a path": {"args": Path("x"), "shell": True},
    "another shell": {"args": "echo $0", "shell": True, "executable": "/bin/bash"},
    "no such shell": {"args": "true", "shell": True, "executable": "/no/sh"},
    "an empty shell": {"args": "true", "shell": True, "executable": ""},
    "no args": {"bogus": 1},
    "no such parameter": {"args": [TRUE], "bogus": 1},
    # where it runs
    "cwd": {"args": ["pwd"], "cwd": "/usr"},
    "cwd as bytes": {"args": ["pwd"], "cwd": b"/usr"},
    "no such cwd": {"args": [TRUE], "cwd": "/no/such"},
    "no such cwd, a path": {"args": [TRUE], "cwd": Path("/no/such")},
    "cwd is a file": {"args": [TRUE], "cwd": "/etc/passwd"},
    "cwd is empty": {"args": [TRUE], "cwd": ""},
    "cwd is a number": {"args": [TRUE], "cwd": 3},
    "cwd with a NUL": {"args": [TRUE], "cwd": "a\0"},
    "no environment": {"args": ["/usr/bin/env"], "env": {}},
    "environment as bytes": {"args": ["/usr/bin/env"], "env": {b"A": b"\xff"}},
    "PATH of env": {"args": ["true"], "env": {"PATH": "/no/such"}},
    "env with =": {"args": [TRUE], "env": {"A=": "b"}},
    "env with a NUL": {"args": [TRUE], "env": {"A": "b\0"}},
    "env with a number": {"args": [TRUE], "env": {"A": 1}},
    "env is a list": {"args": [TRUE], "env": ["A=1"]},
    "umask": {"args": "umask", "shell": True, "umask": 0o27},
    "umask is negative": {"args": "umask", "shell": True, "umask": -7},
    "umask is too large": {"args": "umask", "shell": True, "umask": 2**32 + 0o27},
    "umask is a string": {"args": [TRUE], "umask": "022"},
    "a new session": {"args": [TRUE], "start_new_session": True},
    "a process group": {"args": [TRUE], "process_group": 0},
    "no such process group": {"args": [TRUE], "process_group": 2**22 + 1},
    "process_group is a string": {"args": [TRUE], "process_group": "x"},
    # descriptors
    "pass_fds overrides close_fds": {"args": [TRUE], "pass_fds": [1], "close_fds": False},
    "pass_fds is negative": {"args": [TRUE], "pass_fds": [-1]},
    "pass_fds is too large": {"args": [TRUE], "pass_fds": [2**40]},
    "pass_fds has a word": {"args": [TRUE], "pass_fds": ["a"]},
    "pass_fds is a number": {"args": [TRUE], "pass_fds": 1},
    "stdin is a word": {"args": [TRUE], "stdin": "x"},
    "stdin is too large": {"args": [TRUE], "stdin": 2**40},
    "stdout is STDOUT": {"args": [TRUE], "stdout": STDOUT},
    "bufsize is a word": {"args": [TRUE], "bufsize": "x"},
    "lines of bytes": {"args": [TRUE], "stdin": PIPE, "bufsize": 1},
    "pipesize is a word": {"args": [TRUE], "pipesize": "x"},
    "text and bytes": {"args": [TRUE], "text": True, "universal_newlines": False},
    "no such encoding": {"args": [TRUE], "encoding": "no-such-encoding"},
    # IDs
    "own user": {"args": ["id", "-u"], "user": os.geteuid()},
    "own group": {"args": ["id", "-g"], "group": os.getegid()},
    "another user": {"args": ["id", "-u"], "user": 4242},
    "another group": {"args": ["id", "-g"], "group": 4242},
    "other groups": {"args": ["id", "-G"], "extra_groups": [5, 5, 4]},
    "no groups": {"args": ["id", "-G"], "extra_groups": []},
    "no such user": {"args": [TRUE], "user": "no-such-user"},
    "no such group": {"args": [TRUE], "group": "no-such-group"},
    "user is not an ID": {"args": [TRUE], "user": 1.5},
    "user is negative": {"args": [TRUE], "user": -1},
    "user is too large": {"args": [TRUE], "user": 2**32},
    "user is much too large": {"args": [TRUE], "user": 2**64},
    "group is negative": {"args": [TRUE], "group": -1},
    "group is too large": {"args": [TRUE], "group": 2**32},
    "extra_groups is a string": {"args": [TRUE], "extra_groups": "x"},
    "an extra group is negative": {"args": [TRUE], "extra_groups": [-1]},
    "an extra group is too large": {"args": [TRUE], "extra_groups": [2**64]},
    "too many extra groups": {"args": [TRUE], "extra_groups": range(65537)},
    "no such program, own user": {"args": ["/no/such/file"], "user": os.geteuid()},
    "no such cwd, own user": {"args": [TRUE], "user": os.geteuid(), "cwd": "/no/such"},
    "arguments of 3 MB, own user": {"args": [TRUE, "x" * 3_000_000], "user": os.geteuid()},
    # of Windows
    "startupinfo": {"args": [TRUE], "startupinfo": 1},
    "creationflags": {"args": [TRUE], "creationflags": 1},
}


@pytest.mark.parametrize("case", CASES)
def test_the_outcome_is_that_of_popen(case: str) -> None:
    options = {"stdout": PIPE, **CASES[case]} if "args" in CASES[case] else CASES[case]
    assert outcome(UsernsProcess, {**options, **IN_USERNS}) == outcome(subprocess.Popen, options)


@pytest.mark.parametrize("stream", ["stdin", "stdout", "stderr"])
def test_a_bad_descriptor_is_an_error_that_does_not_name_the_program(stream: str) -> None:
    """The program is not at fault. The child fails while the maps are written, with the same error."""
    options: dict[str, Any] = {stream: NO_DESCRIPTOR}
    with pytest.raises(OSError, match="Bad file descriptor") as of_popen:
        subprocess.Popen([TRUE], **options)
    for _ in range(100):
        with pytest.raises(UsernsError, match="Bad file descriptor") as ours:
            UsernsProcess([TRUE], **IN_USERNS, **options)
        assert (ours.value.errno, ours.value.step, ours.value.filename) == (of_popen.value.errno, "stdio", None)


def test_a_negative_number_is_not_a_descriptor() -> None:
    with pytest.raises(UsernsError, match="Bad file descriptor"):
        UsernsProcess([TRUE], **IN_USERNS, stdin=-9)


def test_the_id_that_means_unchanged_is_refused() -> None:
    with pytest.raises(PermissionError, match="user=4294967295 is not mapped"):
        UsernsProcess([TRUE], **IN_USERNS, user=2**32 - 1)


def test_an_id_that_cannot_be_taken_is_both_a_permission_error_and_a_value_error() -> None:
    cases: list[dict[str, Any]] = [{"user": 5}, {"group": 5}, {"extra_groups": [5]}]
    for options in [*cases, {"extra_groups": [0], "setgroups": "deny"}]:
        with pytest.raises(UsernsError) as caught:
            UsernsProcess([TRUE], uid_map="root", **options)
        assert isinstance(caught.value, PermissionError)
        assert isinstance(caught.value, ValueError)
        assert caught.value.step == "setid"
        assert caught.value.cause in ("id-not-mapped", "setgroups-denied")
        assert "preset 'rootless'" in caught.value.__notes__[0]


@pytest.mark.parametrize("call", ["UsernsProcess(['true'], text=True).wait()", "run(['true'], text=True)"])
def test_the_warning_of_a_missing_encoding_names_the_line(call: str) -> None:
    """`python -X warn_default_encoding`: it names a line of the caller, not of the library."""
    program = f"from usernsproc import UsernsProcess, run\n\n{call}"
    command = [sys.executable, "-X", "warn_default_encoding", "-W", "always", "-c", program]
    result = subprocess.run(command, capture_output=True)
    assert result.stderr.startswith(b"<string>:3: EncodingWarning: 'encoding' argument not specified."), result


@pytest.mark.parametrize("keeper", ["os", "builtins", "subprocess", "sys"])
def test_an_object_may_live_to_the_very_end(keeper: str) -> None:
    """When it is dropped, modules have been cleared already."""
    python, *rest = command(same_as_popen.keep_to_the_end, keeper)
    quiet = [python, "-W", "ignore::ResourceWarning", *rest]
    result = subprocess.run(quiet, stderr=PIPE, env=environment())
    assert (result.returncode, result.stderr) == (0, b"")


def test_threads_may_kill_and_wait_while_another_leaves_the_block() -> None:
    """A late watchdog finds a pidfd that is closed already, and not the pidfd of another process."""
    errors: list[BaseException] = []

    def watch(process: UsernsProcess[bytes]) -> None:
        try:
            for _ in range(20):
                process.kill()
                process.wait(timeout=60)
        except BaseException as error:
            errors.append(error)

    for _ in range(50):
        with UsernsProcess(["sleep", "0.003"], uid_map="root") as process:
            watchdogs = [threading.Thread(target=watch, args=(process,)) for _ in range(2)]
            for watchdog in watchdogs:
                watchdog.start()
        for watchdog in watchdogs:
            watchdog.join()
    assert errors == []


def test_a_pid_works_as_ever() -> None:
    run_alone(same_as_popen.use_the_pid)


def test_the_status_is_true_although_sigchld_is_ignored() -> None:
    """`Popen` reports 0. Before Linux 6.15 the status is lost, and that is reported."""
    run_alone(same_as_popen.ignore_sigchld)


def test_waiting_with_a_timeout_sleeps_until_the_command_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _: pytest.fail("it looks again and again"))
    used = []
    for _ in range(5):  # time in which a virtual machine is paused may be counted for this process, but not each time
        with UsernsProcess(["sleep", "0.1"], uid_map="root") as process:
            began = time.process_time()
            assert process.wait(timeout=60) == 0
            used.append(time.process_time() - began)
    assert min(used) < 0.05


def test_the_signature_has_the_parameters_of_the_library() -> None:
    parameters = inspect.signature(UsernsProcess).parameters
    assert {"args", "popen_args", "uid_map", "gid_map", "pdeathsig", "popen_options"} <= set(parameters)


def test_the_mask_of_the_calling_thread_is_inherited() -> None:
    """It replaces `preexec_fn`."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    try:
        command = ["grep", "SigBlk", "/proc/self/status"]
        output = UsernsProcess(command, uid_map="root", stdout=PIPE).communicate()[0]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert int(output.split()[1], 16) & 1 << signal.SIGUSR1 - 1


def test_asyncio_uses_it_where_popen_is_replaced() -> None:
    run_alone(same_as_popen.replace_popen)


def test_an_object_has_one_descriptor_until_it_is_closed_or_dropped() -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = count()
    process = UsernsProcess([TRUE], uid_map="root")
    process.wait()
    assert count() == before + 1
    process.close()
    assert count() == before
    process = UsernsProcess([TRUE], uid_map="root")
    process.wait()
    del process
    assert count() == before


def test_it_is_a_popen_in_every_way_a_program_may_ask() -> None:
    assert issubclass(UsernsProcess, subprocess.Popen)
    assert str(UsernsProcess[bytes]).endswith("UsernsProcess[bytes]")
    with UsernsProcess([TRUE], -1, None, PIPE, PIPE, PIPE, uid_map="root") as process, subprocess.Popen(TRUE) as popen:
        assert {name for name in dir(popen) if name[0] != "_"} <= set(dir(process))
        process.communicate()
    for instance in (process, popen):
        with pytest.raises(TypeError, match="pickle"):
            pickle.dumps(instance)
