"""Whole trees of mounts, their attributes and their propagation."""

from __future__ import annotations

import pytest
from alone import run_alone
from programs import mount_trees

from usernsproc import idmapped_mount

pytestmark = [pytest.mark.root, pytest.mark.kernel("6.3")]


def test_a_recursive_mount_shifts_all_of_the_tree() -> None:
    run_alone(mount_trees.a_recursive_mount_shifts_all_of_the_tree)


def test_without_recursive_the_submounts_stay_away() -> None:
    run_alone(mount_trees.without_recursive_the_submounts_stay_away)


def test_one_that_cannot_makes_all_of_it_fail_and_is_named() -> None:
    """And every mount of the source is as it was."""
    run_alone(mount_trees.one_that_cannot_makes_all_of_it_fail_and_is_named)


def test_attributes_are_those_of_the_whole_tree() -> None:
    run_alone(mount_trees.attributes_are_those_of_the_whole_tree)


def test_each_attribute_does_what_it_says() -> None:
    """`True` sets it, `False` clears it, `None` keeps it as in the source's mount."""
    run_alone(mount_trees.each_attribute_does_what_it_says)


@pytest.mark.parametrize(
    ("propagation", "at_target", "at_source"),
    [("private", False, False), ("slave", True, False), ("shared", True, True), ("unbindable", False, False)],
)
def test_propagation(propagation: str, at_target: bool, at_source: bool) -> None:
    """A later mount below one of the two is seen, or not seen, below the other; also if
    the target is below a shared mount, which makes mounts there shared."""
    run_alone(mount_trees.later_mounts_are_seen_as_the_propagation_says, propagation, at_target, at_source)


@pytest.mark.parametrize("propagation", ["private", "slave", "unbindable"])
@pytest.mark.parametrize("recursive", [False, True])
def test_a_mount_below_a_shared_one_is_unmounted_everywhere(propagation: str, recursive: bool) -> None:
    """All peer mount namespaces have a copy of it, as of every mount there."""
    run_alone(mount_trees.a_mount_below_a_shared_one_is_unmounted_everywhere, propagation, recursive)


def test_a_propagation_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="propagation='none' is not one of private, shared, slave, unbindable"):
        idmapped_mount("/", "/", ("0:0:1", "0:0:1"), propagation="none")


def test_two_hundred_mounts_leave_nothing() -> None:
    run_alone(mount_trees.two_hundred_mounts_leave_nothing)
