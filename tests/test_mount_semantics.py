"""Files seen through an idmapped mount, as in vfstest of xfstests: permissions follow the owners that are seen."""

from __future__ import annotations

import pytest
from alone import run_alone
from programs import mount_semantics

pytestmark = [pytest.mark.root, pytest.mark.kernel("5.12")]

KINDS = ["ext4", pytest.param("tmpfs", marks=pytest.mark.kernel("6.3"))]
each_kind = pytest.mark.parametrize("kind", KINDS)


@each_kind
def test_fsids_mapped_and_unmapped(kind: str) -> None:
    """A mapped ID can create anything, an unmapped one nothing, not even as root."""
    run_alone(mount_semantics.fsids_mapped_and_unmapped, kind)


@each_kind
def test_chown(kind: str) -> None:
    """IDs that are seen are written to the disk shifted; others are refused."""
    run_alone(mount_semantics.chown, kind)


@each_kind
def test_hardlink_and_rename_crossing(kind: str) -> None:
    """Two mounts of a file system are two mounts."""
    run_alone(mount_semantics.hardlink_and_rename_crossing, kind)


@each_kind
def test_hardlink_from_rename_from_and_truncate(kind: str) -> None:
    """In one mount they are allowed to the owner that is seen, and not to the owner on the disk."""
    run_alone(mount_semantics.hardlink_from_rename_from_and_truncate, kind)


@each_kind
def test_sticky_bit(kind: str) -> None:
    run_alone(mount_semantics.sticky_bit, kind)


@each_kind
def test_setgid_create(kind: str) -> None:
    """Files inherit the group of the directory that they are created in."""
    run_alone(mount_semantics.setgid_create, kind)


@each_kind
def test_acls(kind: str) -> None:
    """The IDs in them are shifted as well."""
    run_alone(mount_semantics.acls, kind)


@each_kind
def test_fscaps_and_setid_binaries_give_no_rights_of_the_host(kind: str) -> None:
    """File capabilities and set-user-ID root, on the disk, are those of the shifted root."""
    run_alone(mount_semantics.fscaps_and_setid_binaries_give_no_rights_of_the_host, kind)


@each_kind
def test_device_node_in_userns(kind: str) -> None:
    """Its root owns the files that are seen, but cannot create a device."""
    run_alone(mount_semantics.device_node_in_userns, kind)


@each_kind
def test_nested_userns(kind: str) -> None:
    """The kernel uses the maps of a nested namespace as it sees them itself."""
    run_alone(mount_semantics.nested_userns, kind)


@each_kind
def test_a_circular_mapping(kind: str) -> None:
    """Two IDs that are exchanged."""
    run_alone(mount_semantics.a_circular_mapping, kind)
