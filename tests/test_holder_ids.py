"""A holder that root in its namespace can trace has no ID of the caller that is not mapped: that root
could act with it. This concerns the holder of an unprivileged user; root's cannot be traced.
"""

from __future__ import annotations

import os

import pytest
import remote
from alone import run_alone
from programs import holder_ids
from unprivileged import FIRST, SUITES, UID, WITH_GROUPS, as_unprivileged_user, shadow


def test_a_holder_of_subordinate_ids_alone_has_none_of_the_user() -> None:
    """Seen from outside, it has the ID that is 0 in the namespace, and can be used like any other."""
    printed = as_unprivileged_user(holder_ids.a_holder_of_subordinate_ids_alone_has_none_of_the_user)
    assert printed.splitlines() == [
        str([[str(FIRST)], [str(FIRST)], []]),
        f"{FIRST} {FIRST}",
        f"{UID} True",
        "0",
        "0",
        "-15",
        "-9",
    ]


@pytest.mark.parametrize("suite", SUITES)
def test_each_age_of_newuidmap_writes_its_maps(suite: str) -> None:
    printed = as_unprivileged_user(
        holder_ids.each_age_of_newuidmap_writes_its_maps, env={"PATH": f"{shadow(suite)}:{os.environ['PATH']}"}
    )
    assert printed == f"['{FIRST}'] True\n"


def test_with_a_pid_namespace_too_and_after_an_exception_nothing_is_left() -> None:
    printed = as_unprivileged_user(holder_ids.with_a_pid_namespace_too_and_after_an_exception_nothing_is_left)
    assert printed.splitlines() == [f"['{FIRST}']", "raised", "raised"]


def test_a_holder_that_joins_is_like_a_command_there() -> None:
    printed = as_unprivileged_user(holder_ids.a_holder_that_joins_is_like_a_command_there)
    assert printed == f"{[[str(FIRST)], [str(FIRST)], []]}\n"


def test_without_a_mapped_0_it_is_the_first_id_of_the_map() -> None:
    """A holder is not refused, because it does not run a program."""
    printed = as_unprivileged_user(holder_ids.without_a_mapped_0_it_is_the_first_id_of_the_map)
    assert printed == f"{[[str(FIRST + 3)], [str(FIRST + 5)], []]}\n"


def test_a_mapped_id_stays() -> None:
    printed = as_unprivileged_user(holder_ids.print_ids_with_each, "root", "current", "rootless")
    assert printed.splitlines() == [str([[str(UID)], [str(UID)], []])] * 3


def test_maps_that_are_written_later_find_the_ids_of_the_caller() -> None:
    """They own the files in `/proc` through which the maps are written."""
    printed = as_unprivileged_user(holder_ids.maps_that_are_written_later_find_the_ids_of_the_caller)
    assert printed == f"{[[str(UID)], [str(UID)], []]}\n"


@pytest.mark.root
def test_groups_that_are_not_mapped_are_dropped_where_they_can_be() -> None:
    printed = as_unprivileged_user(
        holder_ids.groups_that_are_not_mapped_are_dropped_where_they_can_be, drop=WITH_GROUPS
    )
    kept = ["27", "999", "1000"]
    assert printed.splitlines() == [str(sorted(kept)), str([str(UID)]), "[]"]


@pytest.mark.root
def test_root_that_cannot_trace_all_processes_is_such_a_user() -> None:
    """As in containers. Otherwise its holder cannot be traced, and is as small as possible."""
    printed = run_alone(holder_ids.root_that_cannot_trace_all_processes_is_such_a_user)
    assert printed.splitlines() == ["['0']", f"['{FIRST}']"]


if remote.IS_SUPPORTED:

    @pytest.mark.parametrize("joins", [False, True], ids=["created", "joins"])
    def test_root_inside_does_not_read_the_files_of_the_user_through_the_holder(joins: bool) -> None:
        """It makes the holder open one, with ptrace(2)."""
        printed = as_unprivileged_user(holder_ids.root_inside_opens_a_file_of_the_user_through_the_holder, joins)
        assert printed == "-13\n"
