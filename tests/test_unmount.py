"""Unmounting is complete, or changes nothing and reports the reason. A mount that is still there is never ignored."""

from __future__ import annotations

import pytest
from alone import run_alone
from programs import unmount

pytestmark = [pytest.mark.root, pytest.mark.kernel("6.3")]


def test_what_keeps_it_busy_is_reported() -> None:
    """An open file, a working directory, a running program or a mapping, of this process or another."""
    run_alone(unmount.keep_it_busy_in_each_way)


def test_a_busy_mount_raises_out_of_its_with_block() -> None:
    """A deletion afterwards stops at it: `rmdir` fails."""
    run_alone(unmount.leave_the_block_of_a_busy_mount)


def test_lazily_only_when_asked() -> None:
    run_alone(unmount.unmount_lazily)


def test_a_tree_below_a_name_with_blanks_and_backslashes() -> None:
    """The kernel escapes them in its table, in which the mounts are found after a rename."""
    run_alone(unmount.unmount_below_an_odd_name)


def test_a_tree_goes_as_a_whole() -> None:
    run_alone(unmount.unmount_a_tree)


@pytest.mark.parametrize("busy", ["", "a", "a/deep", "b", "b/deep"])
def test_a_tree_with_a_busy_mount_stays_as_a_whole(busy: str) -> None:
    """Mounts that were unmounted before the busy one was reached are restored, with their maps."""
    run_alone(unmount.unmount_a_tree_with_a_busy_mount, busy)


def test_an_unbindable_tree_stays_unbindable_and_as_a_whole() -> None:
    """Such mounts cannot be copied as they are."""
    run_alone(unmount.unmount_an_unbindable_tree)


def test_at_the_limit_of_descriptors_a_tree_stays_as_a_whole() -> None:
    run_alone(unmount.unmount_at_the_limit_of_descriptors)


def test_what_was_mounted_below_it_since_is_named_and_stays() -> None:
    run_alone(unmount.mount_below_since)


def test_what_was_mounted_over_it_is_named_and_stays() -> None:
    run_alone(unmount.mount_over_it)


@pytest.mark.parametrize("recursive", [False, True])
def test_a_target_whose_parent_was_renamed_is_found(recursive: bool) -> None:
    """A mount at its former path is not changed."""
    run_alone(unmount.rename_the_parent, recursive)


def test_a_mount_that_was_moved_is_found() -> None:
    run_alone(unmount.move_the_mount)


@pytest.mark.kernel("6.8")
def test_one_that_another_program_unmounted_is_done_with() -> None:
    """Even if another mount has got its number since, on the same target, from the same source."""
    run_alone(unmount.unmount_behind_its_back)


def test_a_submount_that_another_program_unmounted_is_done_with() -> None:
    """A mount that has got its number since, at the same place, is not mistaken for it."""
    run_alone(unmount.unmount_a_submount_behind_its_back)


def test_a_mount_of_another_mount_namespace_does_not_count_as_unmounted() -> None:
    """This one has a copy with another number; in the other one it is still mounted."""
    run_alone(unmount.unmount_from_another_mount_namespace)


def test_a_mount_out_of_sight_does_not_count_as_unmounted() -> None:
    """After a chroot the kernel's table does not have it."""
    run_alone(unmount.unmount_after_a_chroot)


@pytest.mark.parametrize("refusal", ["ENOSYS", "EPERM", "no unique ids"])
def test_without_statmount_it_is_the_same(refusal: str) -> None:
    """Linux before 6.8, or a seccomp profile that does not know it."""
    run_alone(unmount.unmount_without_statmount, refusal)


def test_a_dropped_mount_stays() -> None:
    run_alone(unmount.drop_a_mount)


def test_a_recursive_delete_stops_before_the_source() -> None:
    """As in a program that creates a directory, mounts on it, and removes the directory."""
    run_alone(unmount.delete_the_directory_of_a_busy_mount)


@pytest.mark.parametrize("propagation", ["private", "slave", "shared"])
def test_the_sources_submounts_stay_whatever_the_propagation(propagation: str) -> None:
    """Below a mount that is shared with the source, unmounting in one place would unmount in the other."""
    run_alone(unmount.unmount_below_a_shared_mount, propagation)


def test_mounts_upon_each_other_go_and_come_back_in_their_order() -> None:
    run_alone(unmount.unmount_layers)


def test_an_interrupt_after_a_submount_is_unmounted_restores_it() -> None:
    """An exception of a signal handler between any two steps."""
    run_alone(unmount.interrupt_each_call)
