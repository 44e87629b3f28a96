"""No supplementary group and no real ID of the caller goes into a user namespace whose maps lack it,
unless the kernel does not allow it to be dropped; then the command keeps the caller's user and group, or it
is an error. Naming an ID is never less safe than omitting it."""

from __future__ import annotations

import os
from typing import Any

import pytest
from alone import run_alone
from programs import groups
from programs.groups import BOTH, GROUPS, MAP
from unprivileged import UID, WITH_GROUPS, as_unprivileged_user

from usernsproc import CredentialsError, IdMap
from usernsproc._caller import CAP_SETGID, Caller
from usernsproc._maps.idmap import IDENTITY
from usernsproc._maps.writer import Maps
from usernsproc._processes.credentials import Credentials

OVERFLOW = 65534


ASKED: dict[str, dict[str, int]] = {
    "nothing": {},
    "user": {"user": 0},
    "group": {"group": 0},
    "user and group": {"user": 0, "group": 0},
    "other user and group": {"user": 1000, "group": 1000},
}


@pytest.mark.root
@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_no_group_that_is_not_mapped_is_kept(asked: dict[str, int]) -> None:
    """Into a new namespace, one with another owner, and a joined one."""
    printed = run_alone(groups.no_group_that_is_not_mapped_is_kept, asked)
    uid, gid = asked.get("user", 0), asked.get("group", 0)
    assert printed.splitlines() == [f"{uid} {gid} []"] * 4


@pytest.mark.root
def test_a_file_of_a_group_that_is_not_mapped_stays_out_of_reach() -> None:
    run_alone(groups.a_file_of_a_group_that_is_not_mapped_stays_out_of_reach)


@pytest.mark.root
def test_the_mapped_ones_are_kept_by_their_ids_inside() -> None:
    """Also if the command becomes 0 in the namespace because the caller's ID is not mapped."""
    printed = run_alone(groups.the_mapped_ones_are_kept_by_their_ids_inside)
    assert printed.splitlines() == ["0 0 [50]", "0 50 [50]", "0 0 [50]", "0 0 [50]", "0 50 [50]"]


@pytest.mark.root
@pytest.mark.parametrize("options", [{"uid_map": "root"}, {"uid_map": "current"}, {"gid_map": "0:0:1"}])
def test_a_map_of_the_callers_id_alone_drops_the_groups_of_root(options: dict[str, str]) -> None:
    printed = run_alone(groups.print_ids_for_each, options)
    assert printed.split(" ", 2)[2] == "[]\n"


@pytest.mark.root
def test_without_a_group_map_the_command_keeps_the_groups() -> None:
    """It runs unmapped, as requested."""
    printed = run_alone(groups.print_ids_for_each, {}, {"uid_map": MAP})
    kept = [OVERFLOW] * len(GROUPS)
    assert printed.splitlines() == [f"{OVERFLOW} {OVERFLOW} {kept}", f"0 {OVERFLOW} {kept}"]


@pytest.mark.root
def test_groups_that_are_asked_for_replace_those_of_the_caller() -> None:
    printed = run_alone(groups.print_ids_for_each, BOTH | {"extra_groups": [5, 6]}, BOTH | {"extra_groups": []})
    assert printed.splitlines() == ["0 0 [5, 6]", "0 0 []"]


@pytest.mark.root
def test_in_the_callers_own_user_namespace_everything_stays() -> None:
    """As with `Popen`: no boundary is crossed."""
    printed = run_alone(groups.in_the_callers_own_user_namespace_everything_stays)
    assert printed.splitlines() == [f"0 0 {GROUPS}", f"1000 1000 {GROUPS}"]


@pytest.mark.root
def test_an_id_that_the_callers_namespace_does_not_map_is_not_taken_for_the_overflow_id() -> None:
    """The kernel shows both as the same number. In the caller's namespace nothing is dropped."""
    printed = run_alone(groups.an_id_that_the_callers_namespace_does_not_map_is_not_taken_for_the_overflow_id)
    kept = [OVERFLOW] * len(GROUPS)
    assert printed.splitlines() == [f"{kept}", "0 0 []", "5 5 []", f"0 0 {kept}"]


# ---- where setgroups is denied ----


@pytest.mark.root
@pytest.mark.parametrize("asked", ASKED.values(), ids=ASKED)
def test_where_the_groups_cannot_be_dropped_it_is_an_error(asked: dict[str, int]) -> None:
    """The error names the groups and the remedy."""
    printed = run_alone(groups.where_the_groups_cannot_be_dropped_it_is_an_error, asked)
    assert printed == (
        "1 setid setgroups-denied / Operation not permitted: the command would keep the supplementary groups "
        f'{GROUPS} of the calling process, which {MAP} does not map: setgroups is "deny" in this user namespace / '
        'Leave setgroups="deny" out: the command then starts without these groups.\n'
    )


@pytest.mark.root
def test_a_joined_namespace_may_deny_it() -> None:
    """The caller can then drop them itself."""
    printed = run_alone(groups.a_joined_namespace_may_deny_it)
    first, second, *others = printed.splitlines()
    assert first == second
    assert "os.setgroups()" in first
    assert others == ["0 0 []", f"0 0 [{OVERFLOW}]", f"0 0 [{OVERFLOW}]"]


@pytest.mark.root
def test_an_unprivileged_user_keeps_its_groups_as_itself() -> None:
    """The kernel does not allow it to drop them, and they give no more access than the command's user has."""
    printed = as_unprivileged_user(groups.an_unprivileged_user_keeps_its_groups_as_itself, drop=WITH_GROUPS)
    root = f"0 0 [0, {OVERFLOW}, {OVERFLOW}]"
    assert printed.splitlines() == [root, root, f"{UID} {UID} [{UID}, {OVERFLOW}, {OVERFLOW}]", root, root]


@pytest.mark.root
def test_an_unprivileged_user_does_not_become_another_with_its_groups() -> None:
    printed = as_unprivileged_user(
        groups.an_unprivileged_user_does_not_become_another_with_its_groups, drop=WITH_GROUPS
    )
    lines = printed.splitlines()
    assert [line.partition(" / ")[0] for line in lines] == ["1 setid setgroups-denied"] * 3
    assert all("[27, 999]" in line for line in lines)
    assert ['setgroups="deny"' in line.rpartition(" / ")[2] for line in lines] == [False, True, False]
    assert ["(preset 'rootless')" in line for line in lines] == [True, False, True]


@pytest.mark.root
def test_subordinate_groups_let_an_unprivileged_user_drop_its_own() -> None:
    printed = as_unprivileged_user(groups.subordinate_groups_let_an_unprivileged_user_drop_its_own, drop=WITH_GROUPS)
    assert printed.splitlines() == ["0 0 [0]", "5 5 [0]", "0 0 []", "0 0 []"]


# ---- real IDs ----


@pytest.mark.root
def test_a_real_id_that_is_not_mapped_stays_outside() -> None:
    """With that real ID the command could send signals to all processes of that user."""
    printed = run_alone(groups.a_real_id_that_is_not_mapped_stays_outside)

    def all_four(inside: int) -> str:
        ids = " ".join([str(inside)] * 4)
        return f"Uid: {ids} Gid: {ids}"

    current = f"{all_four(1000)} 1"
    assert printed.splitlines() == [current, f"{all_four(0)} 1", current, f"{all_four(OVERFLOW)} 0"]


# ---- cost ----


def test_a_caller_whose_groups_are_mapped_needs_nothing_done() -> None:
    """The command is then created without a change of IDs, and the answer is cached."""
    caller = Caller(0, 0, 1 << CAP_SETGID, IDENTITY, IDENTITY, (0, 5))
    maps = Maps(IdMap.parse("0:0:1"), IdMap.parse("0:0:10"), None)
    credentials = Credentials.resolve(None, None, None, maps, caller)
    assert (credentials.uid, credentials.gid, credentials.groups) == (None, None, None)
    assert Credentials.resolve(None, None, None, maps, caller) is credentials


def test_the_caller_is_known_by_its_groups_and_real_ids() -> None:
    caller = Caller.now()
    assert caller is Caller.now()
    assert caller.groups == tuple(os.getgroups())
    assert (caller.real_uid, caller.real_gid) == (os.getuid(), os.getgid())


@pytest.mark.parametrize(
    ("setgroups", "user", "group", "kept"),
    [
        (None, 0, 0, True),
        ("deny", 0, 0, True),
        ("deny", None, None, True),
        ("deny", 1, 0, False),
        ("deny", 0, 1, False),
    ],
)
def test_only_a_command_with_the_callers_ids_keeps_groups_that_are_not_mapped(
    setgroups: str | None, user: int | None, group: int | None, kept: bool
) -> None:
    caller = Caller(1000, 1000, 0, IDENTITY, IDENTITY, (1000,))
    maps = Maps(IdMap.parse("0:1000:2"), IdMap.parse("0:1000:2"), setgroups)
    assert Credentials.resolve(user, group, None, maps, caller).groups is None
    with_another = Caller(1000, 1000, 0, IDENTITY, IDENTITY, (1000, 27))

    def wanted() -> Any:
        return Credentials.resolve(user, group, None, maps, with_another).groups

    if kept:
        assert wanted() == ((0,) if setgroups is None else None)
    else:
        with pytest.raises(CredentialsError, match=r"\[27\]"):
            wanted()
