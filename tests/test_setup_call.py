"""The set-up step `Call`."""

from __future__ import annotations

import errno
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import pytest
from step_processes import NEW, OWN, ROOT, done, joined, seen

from usernsproc import UsernsError
from usernsproc._system_calls import NR
from usernsproc.setup import Bind, Call, Root, Tmpfs

AT_FDCWD = -100
SYSLOG_ACTION_SIZE_BUFFER = 10
UTS: dict[str, Any] = {"namespaces": ["uts"]}


@pytest.mark.root
def test_syslog_by_its_name() -> None:
    assert done("true", Call("syslog", SYSLOG_ACTION_SIZE_BUFFER, 0, 0), **OWN).returncode == 0


@pytest.mark.parametrize("options", NEW)
def test_bytes(options: dict[str, Any]) -> None:
    assert seen("hostname", Call("sethostname", b"inside", 6), **options, **UTS) == "inside\n"


@pytest.mark.parametrize("value", [bytearray(b"inside"), memoryview(b"inside"), "inside", Path("inside")])
def test_what_is_passed_as_an_address(value: Any) -> None:
    assert seen("hostname", Call("sethostname", value, 6), **ROOT, **UTS) == "inside\n"


def test_in_a_user_namespace_that_is_joined() -> None:
    with joined(ROOT) as options:
        assert seen("hostname", Call("sethostname", b"inside", 6), **options, **UTS) == "inside\n"


def test_a_number() -> None:
    assert seen("hostname", Call(NR["sethostname"], b"inside", 6), **ROOT, **UTS) == "inside\n"


def test_a_descriptor() -> None:
    with tempfile.TemporaryFile() as file:
        assert seen("ls /proc/self/fd", Call("ftruncate", file, 5), **ROOT).split() == ["0", "1", "2", "3"]
        assert os.fstat(file.fileno()).st_size == 5


def test_it_has_its_place_among_the_steps_that_concern_files() -> None:
    steps = [
        Tmpfs("/mnt"),
        Call("mkdirat", AT_FDCWD, "/mnt/a", 0o751),
        Tmpfs("/mnt/a", mode=0o700),
        Call("mkdirat", AT_FDCWD, "/mnt/a/b", 0o777),
    ]
    assert seen("stat -c %a /mnt/a /mnt/a/b", *steps, namespaces=["mnt"], **ROOT).split() == ["700", "777"]


def test_in_a_new_root_it_works_there() -> None:
    steps = [Root("tmpfs"), *(Bind(path) for path in ("/usr", "/bin", "/lib", "/lib64"))]
    made = Call("mkdirat", AT_FDCWD, "/made", 0o755)
    assert seen("ls /", *steps, made, **ROOT).split() == ["bin", "lib", "lib64", "made", "usr"]


def test_an_error_is_told_with_its_place_and_its_path() -> None:
    with pytest.raises(UsernsError) as caught:
        done("true", Call("sethostname", b"x", 1), Call("mkdirat", AT_FDCWD, "/proc/x", 0o755), **ROOT, **UTS)
    error = caught.value
    assert (error.step, error.setup_index, error.call, error.errno) == ("Call", 1, "mkdirat", errno.ENOENT)
    assert error.filename == "/proc/x"
    assert str(error).startswith("setup[1] Call: mkdirat: No such file or directory: '/proc/x' [ENOENT")


def test_an_error_of_a_number_has_the_name_of_the_call() -> None:
    with pytest.raises(UsernsError) as caught:
        done("true", Call(NR["rmdir"] if "rmdir" in NR else NR["fchdir"], -1), **ROOT)
    assert caught.value.call in ("rmdir", "fchdir")


def test_errors_that_are_tolerated() -> None:
    step = Call("mkdirat", AT_FDCWD, "/proc", 0o755, tolerate=[errno.EEXIST])
    assert done("true", step, **ROOT).returncode == 0
    with pytest.raises(UsernsError):
        done("true", Call("mkdirat", AT_FDCWD, "/proc", 0o755, tolerate=[errno.ENOENT]), **ROOT)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: Call("sethostnam"), ValueError, "Call: there is no system call 'sethostnam' here"),
        (lambda: Call("make_like"), ValueError, "there is no system call 'make_like'"),
        (lambda: Call("fork_"), ValueError, "there is no system call 'fork_'"),
        (lambda: Call(-5, 1), ValueError, "Call: call is a number from 0"),
        (lambda: Call(None), TypeError, "Call: call is a number"),  # type: ignore[arg-type]
        (lambda: Call("sync", *range(7)), ValueError, "at most 6 arguments, not 7"),
        (lambda: Call("sync", 2**64), ValueError, "an argument is a number from"),
        (lambda: Call("sync", 1.5), TypeError, "an argument is a number"),  # type: ignore[arg-type]
        (lambda: Call("sync", "a\0b"), ValueError, "null byte"),
        (lambda: Call("sync", tolerate=range(1, 7)), ValueError, "at most 5 errors"),
        (lambda: Call("sync", tolerate=[0]), ValueError, "tolerate is a number from 1"),
    ],
)
def test_wrong_values(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()


def test_a_descriptor_that_is_closed() -> None:
    with tempfile.TemporaryFile() as file:
        step = Call("fsync", os.fdopen(os.dup(file.fileno())))
    step.arguments[0].close()  # type: ignore[union-attr]
    with pytest.raises(ValueError, match="closed"):
        done("true", step, **ROOT)


def test_it_is_a_value() -> None:
    step = Call("mkdirat", -100, Path("/x"), 0o755, tolerate=[errno.EEXIST, 4000])
    assert step == pickle.loads(pickle.dumps(step)) == Call("mkdirat", -100, "/x", 493, tolerate=(17, 4000))
    assert hash(step) == hash(Call("mkdirat", -100, "/x", 493, tolerate=(17, 4000)))
    assert repr(step) == "Call('mkdirat', -100, '/x', 493, tolerate=(17, 4000))"
    assert repr(Call("sync")) == "Call('sync')"
