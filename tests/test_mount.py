"""Idmapped mounts on a real ext4 file system, in a new mount namespace."""

from __future__ import annotations

import pytest
from alone import run_alone
from programs import mount


@pytest.mark.root
@pytest.mark.kernel("5.12")
def test_a_shifted_directory() -> None:
    """Owners seen through the mount, owners on disk after writing, and nothing is left."""
    run_alone(mount.a_shifted_directory)


@pytest.mark.root
@pytest.mark.kernel("5.12")
def test_the_namespace_may_be_closed_once_it_is_mounted() -> None:
    run_alone(mount.the_namespace_may_be_closed_once_it_is_mounted)


@pytest.mark.root
@pytest.mark.kernel("5.12")
def test_an_unmapped_id_cannot_create_files_through_it() -> None:
    run_alone(mount.an_unmapped_id_cannot_create_files_through_it)


@pytest.mark.root
@pytest.mark.kernel("5.12")
def test_three_ranges_at_once() -> None:
    run_alone(mount.three_ranges_at_once)


@pytest.mark.root
@pytest.mark.kernel("5.12")
def test_read_only() -> None:
    run_alone(mount.read_only)


@pytest.mark.root
@pytest.mark.kernel("5.12")
def test_a_single_file_and_relative_paths() -> None:
    run_alone(mount.a_single_file_and_relative_paths)


@pytest.mark.root
@pytest.mark.kernel("5.12")
def test_a_user_namespace_by_whatever_stands_for_it() -> None:
    """A namespace, a process, a descriptor, a path, a pair of maps."""
    run_alone(mount.a_user_namespace_by_whatever_stands_for_it)


@pytest.mark.root
@pytest.mark.kernel("5.12")
def test_what_cannot_be_mounted_has_a_distinct_error_and_nothing_has_changed() -> None:
    run_alone(mount.what_cannot_be_mounted_has_a_distinct_error_and_nothing_has_changed)


@pytest.mark.root
@pytest.mark.kernel("5.12")
def test_a_busy_mount_stays() -> None:
    """It is not detached lazily: otherwise a program could delete files below a target that seems to be unmounted."""
    run_alone(mount.a_busy_mount_stays)


@pytest.mark.root
@pytest.mark.kernel("5.12")
def test_the_mount_of_another_program_is_not_unmounted() -> None:
    run_alone(mount.the_mount_of_another_program_is_not_unmounted)


def test_an_unprivileged_user_is_refused_with_the_step() -> None:
    run_alone(mount.an_unprivileged_user_is_refused_with_the_step)


@pytest.mark.kernel("6.3")
def test_an_unprivileged_user_mounts_a_tmpfs_in_a_mount_namespace_of_its_own() -> None:
    """It is root there, and has mounted the file system there."""
    run_alone(mount.an_unprivileged_user_mounts_a_tmpfs_in_a_mount_namespace_of_its_own)


@pytest.mark.root
@pytest.mark.kernel("5.12")
def test_at_the_limit_of_descriptors_nothing_is_mounted() -> None:
    """And nothing stays mounted if the call fails at the last moment."""
    run_alone(mount.at_the_limit_of_descriptors_nothing_is_mounted)


@pytest.mark.root
@pytest.mark.kernel("5.12")
def test_a_target_that_is_a_symbolic_link_is_followed() -> None:
    run_alone(mount.a_target_that_is_a_symbolic_link_is_followed)
