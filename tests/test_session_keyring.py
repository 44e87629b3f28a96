"""The keys of the caller do not go into joined namespaces; into new ones only unless `session_keyring="new"`."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest
from ordinary import as_ordinary_user

from usernsproc import UsernsProcess

Script = Callable[..., str]

CALLER = """
import asyncio, os, sys
import keys, native
from leaks import assert_unchanged, state
from usernsproc import *
from usernsproc import aio
PROBE = [sys.executable, keys.__file__]
keys.join_new_session()
keys.add_key()
def finds(**options):
    return check_output(PROBE, text=True, **options) == "found\\n"
def refused(**options):
    before = state()
    try:
        UsernsProcess(["true"], **options).close()
    except UsernsError as error:
        print(error.errno, error.step, error.cause)
    else:
        raise AssertionError("it was started")
    assert_unchanged(before)
"""
"""A process with a session keyring of its own, and a key in it."""


@pytest.mark.parametrize("asked", [None, "inherit"])
def test_a_new_user_namespace_has_the_keys_of_the_caller(asked: str | None, script: Script) -> None:
    """As a child of `fork` has."""
    script(
        CALLER
        + f"""
options = dict(uid_map="root", session_keyring={asked!r})
assert finds(**options)
assert finds(**options, user=0, group=0)
assert finds(**options, namespaces=["pid"], init=True)
"""
    )


def test_new_is_an_empty_one_for_any_command(script: Script) -> None:
    """And the caller's own remains what it is."""
    script(
        CALLER
        + """
own = keys.session_keyring()
options = dict(uid_map="root", session_keyring="new")
assert not finds(**options)
assert not finds(**options, user=0, group=0)
assert not finds(**options, namespaces=["pid"], init=True)
assert not finds(session_keyring="new")
async def main():
    process = await aio.create_subprocess_exec(*PROBE, **options, stdout=PIPE)
    return (await process.communicate())[0]
assert asyncio.run(main()) == b"not found\\n"
assert keys.session_keyring() == own
assert keys.has_key()
"""
    )


@pytest.mark.parametrize(("asked", "found"), [(None, False), ("new", False), ("inherit", True)])
def test_a_command_that_joins_has_a_new_one_unless_asked(asked: str | None, found: bool, script: Script) -> None:
    """By process, by descriptor, and with further namespaces."""
    script(
        CALLER
        + f"""
options = dict(session_keyring={asked!r})
with UsernsProcess(uid_map="root", namespaces=["net"]) as holder, holder.namespace() as userns:
    for join in (holder, userns, [userns, holder.namespace_path("net")]):
        assert finds(join=join, **options) is {found}
    assert finds(join=userns, namespaces=["pid"], init=True, **options) is {found}
"""
    )


@pytest.mark.root
def test_joining_any_other_namespace_counts_but_staying_does_not(script: Script) -> None:
    script(
        CALLER
        + """
with UsernsProcess(uid_map="root", namespaces=["net"]) as holder, holder.namespace("net") as net:
    assert not finds(join=net, uid_map="root")
    with Namespace.current() as own:
        assert not finds(join=[own, net])
        assert finds(join=own)
"""
    )


@pytest.mark.root
def test_the_new_keyring_belongs_to_the_command(script: Script) -> None:
    """It is created when the command has its IDs."""
    printed = script(
        CALLER
        + """
options = dict(uid_map="0:100000:65536", gid_map="0:100000:65536", user=5, group=6, session_keyring="new")
print(check_output(["cat", "/proc/keys"], text=True, **options))
"""
    )
    (line,) = [line for line in printed.splitlines() if "_ses" in line and "_uid" not in line]
    assert line.split()[5:8] == ["5", "6", "keyring"]


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS])
def test_where_a_filter_refuses_keyctl_the_command_cannot_use_it_either(error: int, script: Script) -> None:
    """So it joins nevertheless. What is asked for is not left out silently."""
    printed = script(
        CALLER
        + f"""
native.refuse_system_call(keys.NR_KEYCTL, {error})
with UsernsProcess(uid_map="root") as holder:
    assert not finds(join=holder)
    refused(join=holder, session_keyring="new")
    refused(uid_map="root", session_keyring="new")
"""
    )
    assert printed.splitlines() == [f"{error} keyring no-keyctl"] * 2


@pytest.mark.root
def test_a_user_with_too_many_keys_is_an_error() -> None:
    printed = as_ordinary_user(
        CALLER
        + """
count = 0
try:
    while count < 10000:
        count += 1
        keys.add_key(b"usernsproc:%d" % count)
except OSError as error:
    print(error.errno)
refused(uid_map="root", session_keyring="new")
with create_userns("root", "root") as userns:
    refused(join=userns)
    check_call(["true"], join=userns, session_keyring="inherit")
""",
        drop=("setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups", "--inh-caps=-all"),
    )
    assert printed.splitlines() == [str(errno.EDQUOT), *[f"{errno.EDQUOT} keyring key-quota"] * 2]


@pytest.mark.parametrize("value", ["", "shared", 1, True, b"new"])
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="session_keyring must be"):
        UsernsProcess(["true"], uid_map="root", session_keyring=value)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="session_keyring must be"):
        UsernsProcess(session_keyring=value)  # type: ignore[call-overload]


def test_the_command_line_has_it_too(script: Script) -> None:
    printed = script(
        CALLER
        + """
import subprocess
def cli(command, *arguments):
    line = [sys.executable, "-m", "usernsproc", command, *arguments, "--", *PROBE]
    return subprocess.run(line, stdout=PIPE, text=True, check=True).stdout.strip()
print(cli("run", "--map", "root"))
print(cli("run", "--map", "root", "--session-keyring", "new"))
with UsernsProcess(uid_map="root") as holder:
    print(cli("enter", str(holder.pid)))
    print(cli("enter", str(holder.pid), "--session-keyring", "inherit"))
"""
    )
    assert printed.splitlines() == ["found", "not found", "not found", "found"]
