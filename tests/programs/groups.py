"""Commands of a caller whose supplementary groups no user namespace below maps."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import native
from unprivileged import UID

from usernsproc import (
    DEVNULL,
    PIPE,
    CredentialsError,
    Namespace,
    UsernsProcess,
    call,
    check_output,
    create_userns,
    run,
)

GROUPS = [4, 27, 999]
MAP = "0:100000:65536"
BOTH: dict[str, Any] = {"uid_map": MAP, "gid_map": MAP}
IDS = ("sh", "-c", "grep -E '^[UG]id' /proc/self/status; kill -0 $1; echo $?", "sh")
"""Prints them, and whether a signal can be sent to the process whose PID follows."""


def print_ids(**options: Any) -> None:
    """Print the effective user and group ID and the supplementary groups of a command."""
    lines = check_output(["cat", "/proc/self/status"], text=True, **options).splitlines()
    found = {
        name: [*map(int, numbers.split())]
        for name, _, numbers in (line.partition(":") for line in lines)
        if name in ("Uid", "Gid", "Groups")
    }
    print(f"{found['Uid'][1]} {found['Gid'][1]} {sorted(found['Groups'])}")


def print_refusal(**options: Any) -> None:
    try:
        run(["true"], **options)
    except CredentialsError as error:
        assert isinstance(error, PermissionError)
        assert isinstance(error, ValueError)
        print(error.errno, error.step, error.cause, "/", error.strerror, "/", *error.__notes__)
    else:
        raise AssertionError(options)


# ---- of root ----


def no_group_that_is_not_mapped_is_kept(asked: dict[str, int]) -> None:
    os.setgroups(GROUPS)
    print_ids(**BOTH, **asked)
    print_ids(**BOTH, owner=1000, **asked)
    with UsernsProcess(**BOTH) as holder:
        print_ids(join=holder, **asked)
    with create_userns(MAP, MAP) as userns:
        print_ids(join=userns, **asked)


def a_file_of_a_group_that_is_not_mapped_stays_out_of_reach() -> None:
    os.setgroups(GROUPS)
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = Path(folder, "secret")
        path.touch()
        os.chown(path, 0, 27)
        path.chmod(0o640)
        assert call(["cat", path], **BOTH, user=0, group=0, stderr=DEVNULL) == 1
        with UsernsProcess(**BOTH) as holder:
            assert call(["cat", path], join=holder, user=0, group=0, stderr=DEVNULL) == 1


def the_mapped_ones_are_kept_by_their_ids_inside() -> None:
    os.setgroups(GROUPS)
    kept: dict[str, Any] = {"uid_map": "0:0:1", "gid_map": "0:0:1,50:27:1"}
    print_ids(**kept)
    print_ids(**kept, user=0, group=50)
    print_ids(uid_map=MAP, gid_map="0:100000:1,50:27:1")
    with UsernsProcess(**kept) as holder:
        print_ids(join=holder)
        print_ids(join=holder, user=0, group=50)


def print_ids_for_each(*asked: dict[str, Any]) -> None:
    os.setgroups(GROUPS)
    for options in asked:
        print_ids(**options)


def in_the_callers_own_user_namespace_everything_stays() -> None:
    os.setgroups(GROUPS)
    with (
        Namespace.current() as own,
        UsernsProcess(namespaces=["net"], uid_map="root") as holder,
        holder.namespace("net") as net,
    ):
        print_ids(join=[own, net])
        print_ids(join=[own, net], user=1000, group=1000)


def an_id_that_the_callers_namespace_does_not_map_is_not_taken_for_the_overflow_id() -> None:
    os.setgroups(GROUPS)
    with create_userns(MAP, MAP) as userns:
        os.setresgid(100000, 100000, 100000)
        userns.enter()
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)
    native.prctl(native.PR_SET_DUMPABLE, 1)
    print(os.getgroups())
    print_ids(uid_map="all")
    print_ids(uid_map="all", user=5, group=5)
    with Namespace.current() as own:
        print_ids(join=own)


# ---- where setgroups is denied ----


def where_the_groups_cannot_be_dropped_it_is_an_error(asked: dict[str, int]) -> None:
    os.setgroups(GROUPS)
    print_refusal(**BOTH, setgroups="deny", **asked)


def a_joined_namespace_may_deny_it() -> None:
    os.setgroups(GROUPS)
    with UsernsProcess(**BOTH, setgroups="deny") as holder:
        print_refusal(join=holder)
        print_refusal(join=holder, user=0, group=0)
        os.setgroups([])
        print_ids(join=holder, user=0, group=0)
    with UsernsProcess(uid_map="root", setgroups="deny") as holder:
        os.setgroups([27])
        print_ids(join=holder)
        print_ids(join=holder, user=0, group=0)


# ---- of an unprivileged user ----


def an_unprivileged_user_keeps_its_groups_as_itself() -> None:
    print_ids(uid_map="root")
    print_ids(uid_map="root", user=0, group=0)
    print_ids(uid_map="current", user=UID, group=UID)
    with UsernsProcess(uid_map="root") as holder:
        print_ids(join=holder)
        print_ids(join=holder, user=0, group=0)


def an_unprivileged_user_does_not_become_another_with_its_groups() -> None:
    print_refusal(uid_map="rootless", gid_map=f"0:{UID}:1", user=5)
    print_refusal(uid_map="rootless", gid_map="rootless", setgroups="deny", user=5)
    print_refusal(uid_map="subids", gid_map=f"0:{UID}:1")


def subordinate_groups_let_an_unprivileged_user_drop_its_own() -> None:
    print_ids(uid_map="rootless")
    print_ids(uid_map="rootless", user=5, group=5)
    print_ids(uid_map="subids")
    print_ids(uid_map="subids", user=0, group=0)


# ---- real IDs ----


def print_all_ids(**options: Any) -> None:
    """Print them for a command, in one line, and whether it can send signals to this process."""
    done = run([*IDS, str(os.getppid())], stdout=PIPE, stderr=DEVNULL, text=True, **options)
    print(*done.stdout.split())


def a_real_id_that_is_not_mapped_stays_outside() -> None:
    """Root has temporarily become user 1000."""
    os.setgroups([])
    os.setresgid(0, 1000, 0)
    os.setresuid(0, 1000, 0)
    native.prctl(native.PR_SET_DUMPABLE, 1)
    os.chdir("/")
    print_all_ids(uid_map="current")
    print_all_ids(uid_map="root", user=0, group=0)
    with create_userns("current", "current") as userns:
        print_all_ids(join=userns)
    print_all_ids()
