"""An unprivileged user with subordinate IDs: the usual operations of containers and packages work in the namespace.

As root these run as user 1000 in a private mount namespace, see `unprivileged.py`.
"""

from __future__ import annotations

import os

import pytest
from programs import rootless
from unprivileged import COUNT, DROP, FIRST, SUITES, UID, as_unprivileged_user, shadow

each_release = pytest.mark.parametrize("suite", SUITES)


def with_tools_of(suite: str) -> dict[str, str]:
    return {"PATH": f"{shadow(suite)}:{os.environ['PATH']}"}


@each_release
def test_rootless_is_the_callers_id_and_all_subordinate_ones(suite: str) -> None:
    """65 537 IDs, for a namespace, a command and a holder, with each version of newuidmap."""
    printed = as_unprivileged_user(rootless.print_maps_of_each_kind, env=with_tools_of(suite))
    wanted = f"0:{UID}:1,1:{FIRST}:{COUNT}"
    words = ["0", str(UID), "1", "1", str(FIRST), str(COUNT)]
    assert printed.splitlines() == [f"{wanted} {wanted}", str(COUNT + 1), str(words), *[f"{wanted} {wanted}"] * 2]


def test_a_file_can_be_given_to_a_subordinate_id_and_lands_with_it_on_disk() -> None:
    printed = as_unprivileged_user(rootless.give_a_file_away)
    assert printed.split() == [str(FIRST), str(FIRST + 32)]


def test_setgroups_stays_allowed_and_groups_can_be_set() -> None:
    printed = as_unprivileged_user(rootless.print_setgroups)
    assert printed.splitlines() == ["allow", "allow", "0 5 65536", "deny", "deny"]


def test_privileges_can_be_dropped_as_apt_drops_them() -> None:
    """setgroups, setresgid and setresuid to a mapped ID, which cannot be undone."""
    printed = as_unprivileged_user(rootless.drop_privileges_inside)
    assert printed.splitlines() == ["(100, 100, 100) (65534, 65534, 65534) [65534]", "no way back"]


def test_an_archive_with_many_owners_can_be_unpacked() -> None:
    """Each file has its owner in the namespace, and the subordinate ID on disk."""
    printed = as_unprivileged_user(rootless.unpack_an_archive)

    def outside(id: int) -> int:
        return UID if id == 0 else FIRST + id - 1

    expected = sorted(f"{u}-{g} {outside(u)} {outside(g)}" for u, g in rootless.OWNERS)
    assert printed.splitlines() == expected


def test_with_subordinate_ids_alone_the_command_has_no_id_of_the_user() -> None:
    """Files of the user belong to another user for it."""
    printed = as_unprivileged_user(rootless.read_own_files_with_subids)
    assert printed.split() == ["0", "1", str(FIRST)]


def test_each_way_to_start_a_command_takes_the_presets() -> None:
    printed = as_unprivileged_user(rootless.start_in_each_way)
    assert printed.splitlines() == ["0", str([f"0:{UID}:1,1:{FIRST}:{COUNT}"])]


def test_an_exception_in_on_created_leaves_nothing_after_the_tools_have_run() -> None:
    as_unprivileged_user(rootless.fail_in_on_created)


def test_all_passes_every_id_on_however_deep() -> None:
    printed = as_unprivileged_user(rootless.nest)
    ids = "0:0:1,1:1:65536"
    assert printed.splitlines() == [f"1 0:{UID}:1,1:{FIRST}:{COUNT}", f"2 {ids}", f"3 {ids}"]


def test_in_a_namespace_with_a_small_map_it_works_as_far_as_the_map_goes() -> None:
    printed = as_unprivileged_user(rootless.map_in_a_small_map)
    *maps, refused = printed.splitlines()
    both = "0:0:1,1:1:65536"
    assert maps == ["0:0:1", "0:0:1", both, both, "0:5:1", "5:65536:1", "0:65000:536,1000:0:1,1001:1:999"]
    assert refused.startswith("not-mapped-in-parent")
    assert "outside ids 65537 … 65999 are not mapped" in refused


@pytest.mark.root
@pytest.mark.parametrize("groups", ["", "4"])
def test_where_the_callers_namespace_denies_setgroups_so_do_those_in_it(groups: str) -> None:
    """A command without supplementary groups does not need it; otherwise there is an error before a child exists."""
    drop = tuple(word if word != "--clear-groups" or not groups else f"--groups={groups}" for word in DROP)
    printed = as_unprivileged_user(rootless.deny_setgroups, drop=drop)
    unchanged, other, asked = printed.splitlines()
    assert unchanged == "0"
    assert other == "0" if not groups else "the command would keep the supplementary" in other
    assert asked.startswith("setgroups-denied ")


@pytest.mark.root
def test_an_unprivileged_user_of_a_nested_namespace_has_subordinate_ids_too() -> None:
    """The owner of newuidmap is mapped, as in a container with many IDs."""
    printed = as_unprivileged_user(rootless.nest_as_another_user, drop=())
    own, nested = printed.splitlines()
    assert own == "0:0:200000 1000 False"
    assert nested == str(["0", "1000", "1", "1", "100000", "65536"])


@pytest.mark.root
def test_ids_above_two_thousand_million_work() -> None:
    printed = as_unprivileged_user(
        rootless.use_large_ids, subuid=f"{UID}:3000000000:1000\n{UID}:4294967000:290", subgid=f"{UID}:3000000000:1000"
    )
    first, owner, refused = printed.splitlines()
    assert first == str(["0", "1000", "1", "1", "3000000000", "1000", "1001", "4294967000", "290"])
    assert owner == "3000000006"
    assert "outside id 4294967290 is not among" in refused
    assert "4294967000 … 4294967289" in refused


@pytest.mark.root
def test_root_writes_its_subordinate_ids_itself() -> None:
    """It drops nothing, and setgroups stays allowed."""
    printed = as_unprivileged_user(
        rootless.do_without_tools, subuid="root:200000:10\n0:300000:5\nother:1:1", subgid="root:400000:10", drop=()
    )
    alone, after_own = "0:200000:10,10:300000:5 0:400000:10", "0:0:1,1:200000:10,11:300000:5"
    assert printed.splitlines() == ["True 0", alone, f"{after_own} allow"]


def test_the_cost_does_not_depend_on_the_size_of_the_program() -> None:
    """Copying the memory twice would take more than twenty milliseconds."""
    printed = as_unprivileged_user(rootless.measure_small_and_big)
    small, big = map(float, printed.split())
    assert big < small + 0.010, f"{small * 1e3:.1f} ms, with 512 MiB {big * 1e3:.1f} ms"
