"""The programs of `test_session_keyring.py`: each has a session keyring of its own, and a key in it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import keys
import native
from leaks import assert_unchanged, state

from usernsproc import (
    PIPE,
    Namespace,
    UsernsError,
    UsernsProcess,
    aio,
    check_call,
    check_output,
    create_userns,
)
from usernsproc.setup import SessionKeyring

PROBE = [sys.executable, keys.__file__]
NEW: dict[str, Any] = {"uid_map": "root", "session_keyring": "new"}


def make_key() -> None:
    keys.join_new_session()
    keys.add_key()


def finds(**options: Any) -> bool:
    """Return whether a command with these options finds the key."""
    printed: str = check_output(PROBE, text=True, **options)
    return printed == "found\n"


def print_refusal(**options: Any) -> None:
    before = state()
    try:
        UsernsProcess(["true"], **options).close()
    except UsernsError as error:
        print(error.errno, error.step, error.cause)
    else:
        raise AssertionError("it was started")
    assert_unchanged(before)


def new_namespace_has_the_keys(asked: str | None) -> None:
    make_key()
    options: dict[str, Any] = {"uid_map": "root", "session_keyring": asked}
    assert finds(**options)
    assert finds(**options, user=0, group=0)
    assert finds(**options, namespaces=["pid"], init=True)


async def probe_by_asyncio() -> bytes:
    process = await aio.create_subprocess_exec(*PROBE, **NEW, stdout=PIPE)
    output: bytes = (await process.communicate())[0]
    return output


def new_is_empty() -> None:
    make_key()
    own = keys.session_keyring()
    assert not finds(**NEW)
    assert not finds(**NEW, user=0, group=0)
    assert not finds(**NEW, namespaces=["pid"], init=True)
    assert not finds(session_keyring="new")
    assert asyncio.run(probe_by_asyncio()) == b"not found\n"
    assert keys.session_keyring() == own
    assert keys.has_key()


def step_is_a_new_one() -> None:
    make_key()
    own = keys.session_keyring()
    options: dict[str, Any] = {"uid_map": "root", "setup": [SessionKeyring()]}
    assert not finds(**options)
    assert not finds(**options, user=0, group=0)
    assert not finds(**options, namespaces=["pid"], init=True)
    assert not finds(join="/proc/self/ns/user", setup=[SessionKeyring()])
    with UsernsProcess(uid_map="root", namespaces=["net"]) as holder:
        assert not finds(join=holder, session_keyring="inherit", setup=[SessionKeyring()])
    assert finds(uid_map="root")
    assert keys.session_keyring() == own
    assert keys.has_key()


def join_user_namespace(asked: str | None, found: bool) -> None:
    make_key()
    options = {"session_keyring": asked}
    with UsernsProcess(uid_map="root", namespaces=["net"]) as holder, holder.namespace() as userns:
        for join in (holder, userns, [userns, holder.namespace_path("net")]):
            assert finds(join=join, **options) is found
        assert finds(join=userns, namespaces=["pid"], init=True, **options) is found


def join_other_namespaces() -> None:
    make_key()
    with UsernsProcess(uid_map="root", namespaces=["net"]) as holder, holder.namespace("net") as net:
        assert not finds(join=net, uid_map="root")
        with Namespace.current() as own:
            assert not finds(join=[own, net])
            assert finds(join=own)


def print_keys_of_command() -> None:
    make_key()
    ids: dict[str, Any] = {"uid_map": "0:100000:65536", "gid_map": "0:100000:65536", "user": 5, "group": 6}
    print(check_output(["cat", "/proc/keys"], text=True, session_keyring="new", **ids))


def without_keyctl(error: int) -> None:
    make_key()
    native.refuse_system_call(keys.NR_KEYCTL, error)
    with UsernsProcess(uid_map="root") as holder:
        assert not finds(join=holder)
        print_refusal(join=holder, session_keyring="new")
        print_refusal(uid_map="root", session_keyring="new")


def with_too_many_keys() -> None:
    make_key()
    count = 0
    try:
        while count < 10000:
            count += 1
            keys.add_key(b"usernsproc:%d" % count)
    except OSError as error:
        print(error.errno)
    print_refusal(uid_map="root", session_keyring="new")
    with create_userns("root", "root") as userns:
        print_refusal(join=userns)
        check_call(["true"], join=userns, session_keyring="inherit")


def cli(command: str, *arguments: str) -> str:
    line = [sys.executable, "-m", "usernsproc", command, *arguments, "--", *PROBE]
    return subprocess.run(line, stdout=PIPE, text=True, check=True).stdout.strip()


def by_command_line() -> None:
    make_key()
    print(cli("run", "--map", "root"))
    print(cli("run", "--map", "root", "--session-keyring", "new"))
    with UsernsProcess(uid_map="root") as holder:
        print(cli("enter", str(holder.pid)))
        print(cli("enter", str(holder.pid), "--session-keyring", "inherit"))
