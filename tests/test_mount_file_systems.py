"""Idmapped mounts of real file systems: owners seen, owners on the disk, and file systems without support."""

from __future__ import annotations

import pytest
from alone import run_alone
from programs import mount_file_systems

pytestmark = [pytest.mark.root, pytest.mark.kernel("5.12")]


ON_DISK = ["ext4", "xfs", pytest.param("btrfs", marks=pytest.mark.kernel("5.15"))]
WRITABLE = [*ON_DISK, pytest.param("tmpfs", marks=pytest.mark.kernel("6.3"))]


@pytest.mark.parametrize("kind", WRITABLE)
def test_owners_are_shifted_both_ways(kind: str) -> None:
    """0 on the disk is seen as 100000, and a file that 100007 creates belongs to 7 on the disk."""
    run_alone(mount_file_systems.owners_are_shifted_both_ways, kind)


@pytest.mark.parametrize("kind", WRITABLE)
def test_three_ranges_an_unmapped_creator_and_read_only(kind: str) -> None:
    run_alone(mount_file_systems.three_ranges_an_unmapped_creator_and_read_only, kind)


@pytest.mark.kernel("6.2")
def test_squashfs_is_shown_with_other_owners() -> None:
    run_alone(mount_file_systems.squashfs_is_shown_with_other_owners)


@pytest.mark.kernel("5.19")
def test_an_overlay_of_idmapped_lower_layers() -> None:
    """As in containers: several images are shifted into the container, and written files belong to it."""
    run_alone(mount_file_systems.an_overlay_of_idmapped_lower_layers)


@pytest.mark.kernel("5.19")
def test_an_overlay_with_an_idmapped_upper_layer() -> None:
    """The layers are not shifted on the disk. User 0, which mounts the overlay, must be mapped too."""
    run_alone(mount_file_systems.an_overlay_with_an_idmapped_upper_layer)


@pytest.mark.parametrize("kind", ["proc", "sysfs", "ramfs", "overlay", "mqueue", "fuse"])
def test_a_file_system_that_cannot_is_named(kind: str) -> None:
    """In the error's note, with its cause, and by `supports_idmap`."""
    run_alone(mount_file_systems.a_file_system_that_cannot_is_named, kind)


@pytest.mark.kernel("6.12")
def test_fuse_can_where_its_server_asks_for_it() -> None:
    run_alone(mount_file_systems.fuse_can_where_its_server_asks_for_it)


@pytest.mark.kernel("6.3")
def test_asking_leaves_nothing_and_needs_a_path() -> None:
    run_alone(mount_file_systems.asking_leaves_nothing_and_needs_a_path)
