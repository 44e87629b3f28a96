"""The programs of `test_process.py`."""

from __future__ import annotations

import os
import sys
from typing import Any

from usernsproc import PIPE, UsernsProcess

MAPS: dict[str, Any] = {"uid_map": "0:100000:10", "gid_map": "0:100000:10"}


def groups_are_not_left_in_place() -> None:
    os.setgroups([4])
    try:
        UsernsProcess(["true"], setgroups="deny", **MAPS)
    except ValueError as error:
        assert "[4]" in str(error)
    else:
        raise AssertionError("it ran with the group")
    os.setgroups([])
    assert UsernsProcess(["true"], setgroups="deny", **MAPS).wait() == 0


def stdio_while_own_is_closed(options: dict[str, Any], closed: list[int]) -> None:
    kept = [os.dup(fd) for fd in (0, 1, 2)]
    for fd in closed:
        os.close(fd)
    shell = "read line; echo out $line; echo err >&2; ls /proc/$$/fd"
    process = UsernsProcess(["sh", "-c", shell], stdin=PIPE, stdout=PIPE, stderr=PIPE, **options)
    out, err = process.communicate(b"in\n")
    for number, fd in enumerate(kept):
        os.dup2(fd, number)
    assert (out.split(), err) == ([b"out", b"in", b"0", b"1", b"2"], b"err\n"), (out, err)


def audit_event() -> None:
    events = []
    sys.addaudithook(lambda name, args: events.append(args) if name == "subprocess.Popen" else None)
    UsernsProcess(["true"], cwd="/", env={"PATH": "/bin"}).wait()
    assert events == [("true", ["true"], "/", {"PATH": "/bin"})], events


def forked_copy_knows_no_status() -> None:
    process = UsernsProcess(["cat"], stdin=PIPE, uid_map="root")
    if os.fork() == 0:
        os._exit(3 if process.poll() is None else 4)
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 3
    process.communicate()
    assert process.returncode == 0


def close_and_open_streams(**options: Any) -> tuple[UsernsProcess[bytes], list[int]]:
    """Create a process in between. Return it, and the descriptors of the new streams."""
    for fd in (0, 1, 2):
        os.close(fd)
    process: UsernsProcess[bytes] = UsernsProcess(uid_map="root", gid_map="root", **options)
    return process, [os.open(os.devnull, os.O_RDWR) for _ in range(3)]


def streams_are_opened_again() -> None:
    os.open(os.devnull, os.O_RDWR)
    command: dict[str, Any] = {"args": ["true"]}
    created: dict[str, Any] = {"on_created": lambda _: None}
    several: list[dict[str, Any]] = [
        {},
        command,
        {**command, **created},
        {**command, "namespaces": ["pid"], "user": 0},
    ]
    for options in several:
        process, streams = close_and_open_streams(**options)
        assert streams == [0, 1, 2], (options, streams, process.pidfd)
        process.close()
