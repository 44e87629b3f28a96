"""Tests of idmapped mounts from other projects, each with its name there."""

from __future__ import annotations

import pytest
from alone import run_alone
from programs import mount_peers

pytestmark = [pytest.mark.root, pytest.mark.kernel("5.12")]


class TestKernelSelftestMountSetattr:
    """tools/testing/selftests/mount_setattr. invalid_fd_* and wrong_* are in test_mount_causes.py,
    idmap_mount_tree_invalid in test_mount_trees.py."""

    def test_attached_mount_inside_and_outside_current_mount_namespace(self) -> None:
        run_alone(mount_peers.attached_mount_inside_and_outside_current_mount_namespace)

    def test_detached_mount_inside_and_outside_current_mount_namespace(self) -> None:
        run_alone(mount_peers.detached_mount_inside_and_outside_current_mount_namespace)

    @pytest.mark.kernel("6.15")
    def test_change_idmapping(self) -> None:
        """Never of a mount itself; only of a copy, in the call that creates it."""
        run_alone(mount_peers.change_idmapping)

    def test_wrong_user_namespace_and_wrong_mount_namespace(self) -> None:
        run_alone(mount_peers.wrong_user_namespace_and_wrong_mount_namespace)

    def test_mount_attr_nosymfollow(self) -> None:
        run_alone(mount_peers.mount_attr_nosymfollow)

    @pytest.mark.kernel("6.3")
    def test_a_recursive_change_of_a_tree_is_all_or_nothing(self) -> None:
        run_alone(mount_peers.a_recursive_change_of_a_tree_is_all_or_nothing)


class TestContainerd:
    """core/mount and pkg/sys of containerd. IDMapMount and IDMapMountWithAttrs are in
    test_mount_file_systems.py, and so is TestIDMappedOverlay."""

    @pytest.mark.parametrize("reaped", [False, True])
    def test_the_child_is_killed_before_it_is_asked_for_its_namespace(self, reaped: bool) -> None:
        """A zombie still has its namespace. After it is reaped, there is an error, not another one's namespace."""
        run_alone(mount_peers.the_child_is_killed_before_it_is_asked_for_its_namespace, reaped)

    @pytest.mark.parametrize("reaped", [False, True])
    @pytest.mark.parametrize("call", ["open_tree", "mount_setattr", "move_mount"])
    def test_the_child_is_killed_at_each_point(self, call: str, reaped: bool) -> None:
        """After its namespace has been opened, its exit has no effect."""
        run_alone(mount_peers.the_child_is_killed_at_each_point, call, reaped)

    def test_a_bind_mounted_namespace_file_after_the_process_has_ended(self) -> None:
        run_alone(mount_peers.a_bind_mounted_namespace_file_after_the_process_has_ended)

    def test_the_namespace_belongs_to_its_creator(self) -> None:
        """The creator makes no difference to an idmapped mount."""
        run_alone(mount_peers.the_namespace_belongs_to_its_creator)


class TestRunc:
    """tests/integration/idmap.bats of runc."""

    def test_mount_source_fds_are_cleaned_up(self) -> None:
        """20 mounts with RLIMIT_NOFILE 20."""
        run_alone(mount_peers.mount_source_fds_are_cleaned_up)

    def test_same_source_different_mappings(self) -> None:
        run_alone(mount_peers.same_source_different_mappings)

    def test_simple_and_write_with_and_without_userns(self) -> None:
        """In the namespace of the maps, owners are as on the disk; outside, creating fails with EOVERFLOW."""
        run_alone(mount_peers.simple_and_write_with_and_without_userns)

    def test_relative_path_and_bind_of_a_subdirectory(self) -> None:
        run_alone(mount_peers.relative_path_and_bind_of_a_subdirectory)

    def test_complicated_mapping(self) -> None:
        run_alone(mount_peers.complicated_mapping)

    def test_the_most_ranges_that_the_kernel_takes(self) -> None:
        """They are larger than the first buffer for the answer."""
        run_alone(mount_peers.the_most_ranges_that_the_kernel_takes)
