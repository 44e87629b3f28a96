"""The keys of the caller do not go into joined namespaces; into new ones only unless `session_keyring="new"`."""

from __future__ import annotations

import errno

import pytest
from alone import run_alone
from programs import session_keyring
from unprivileged import as_unprivileged_user

from usernsproc import UsernsProcess


@pytest.mark.parametrize("asked", [None, "inherit"])
def test_a_new_user_namespace_has_the_keys_of_the_caller(asked: str | None) -> None:
    """Like a child of `fork`."""
    run_alone(session_keyring.new_namespace_has_the_keys, asked)


def test_new_is_an_empty_one_for_any_command() -> None:
    """The caller's own keyring is unchanged."""
    run_alone(session_keyring.new_is_empty)


@pytest.mark.parametrize(("asked", "found"), [(None, False), ("new", False), ("inherit", True)])
def test_a_command_that_joins_has_a_new_one_unless_asked(asked: str | None, found: bool) -> None:
    """Joined by process, by descriptor, and with further namespaces."""
    run_alone(session_keyring.join_user_namespace, asked, found)


@pytest.mark.root
def test_joining_any_other_namespace_counts_but_staying_does_not() -> None:
    run_alone(session_keyring.join_other_namespaces)


@pytest.mark.root
def test_the_new_keyring_belongs_to_the_command() -> None:
    """It is created when the command has its IDs."""
    printed = run_alone(session_keyring.print_keys_of_command)
    (line,) = [line for line in printed.splitlines() if "_ses" in line and "_uid" not in line]
    assert line.split()[5:8] == ["5", "6", "keyring"]


@pytest.mark.parametrize("error", [errno.EPERM, errno.ENOSYS])
def test_where_a_filter_refuses_keyctl_the_command_cannot_use_it_either(error: int) -> None:
    """So it joins nevertheless. A requested keyring is not omitted silently."""
    printed = run_alone(session_keyring.without_keyctl, error)
    assert printed.splitlines() == [f"{error} keyring no-keyctl"] * 2


@pytest.mark.root
def test_a_user_with_too_many_keys_is_an_error() -> None:
    printed = as_unprivileged_user(
        session_keyring.with_too_many_keys,
        drop=("setpriv", "--reuid", "54321", "--regid", "54321", "--clear-groups", "--inh-caps=-all"),
    )
    assert printed.splitlines() == [str(errno.EDQUOT), *[f"{errno.EDQUOT} keyring key-quota"] * 2]


@pytest.mark.parametrize("value", ["", "shared", 1, True, b"new"])
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="session_keyring must be"):
        UsernsProcess(["true"], uid_map="root", session_keyring=value)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="session_keyring must be"):
        UsernsProcess(session_keyring=value)  # type: ignore[call-overload]


def test_the_command_line_has_it_too() -> None:
    printed = run_alone(session_keyring.by_command_line)
    assert printed.splitlines() == ["found", "not found", "not found", "found"]
