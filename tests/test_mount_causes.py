"""Why an idmapped mount was refused: each reason has its own cause, and nothing has changed."""

from __future__ import annotations

import pytest
from alone import run_alone
from programs import mount_causes

from usernsproc import idmapped_mount


@pytest.mark.parametrize("one_map", ["root", "0:100000:65536"])
def test_one_map_where_two_are_needed(one_map: str) -> None:
    """Text is a path there; the error does not mention a missing file that was not meant."""
    with pytest.raises(TypeError, match=f"a pair of maps is needed .uid, gid., not '{one_map}' alone"):
        idmapped_mount("/nonexistent", "/nonexistent", one_map)


@pytest.mark.root
@pytest.mark.kernel("6.3")
def test_of_the_user_namespace() -> None:
    """No user namespace; the initial one; one without maps, or with one map; a closed descriptor."""
    run_alone(mount_causes.of_the_user_namespace)


@pytest.mark.root
@pytest.mark.kernel("6.3")
def test_of_the_user_namespace_of_another_user() -> None:
    """Only a caller that controls the namespace can use its maps: its child cannot."""
    run_alone(mount_causes.of_the_user_namespace_of_another_user)


@pytest.mark.root
@pytest.mark.kernel("6.3")
def test_of_the_file_system() -> None:
    """It has no support; it belongs to the user namespace of the maps; or its root is of another user."""
    run_alone(mount_causes.of_the_file_system)


@pytest.mark.root
@pytest.mark.kernel("6.15")
def test_of_a_source_that_has_maps_already() -> None:
    """The new maps replace the old ones. Before Linux 6.15 it is refused, with this cause."""
    run_alone(mount_causes.of_a_source_that_has_maps_already)


@pytest.mark.root
@pytest.mark.kernel(before="5.12")
def test_of_a_kernel_without_idmapped_mounts() -> None:
    run_alone(mount_causes.of_a_kernel_without_idmapped_mounts)


@pytest.mark.root
@pytest.mark.kernel("5.12", before="6.3")
def test_of_a_file_system_that_can_be_idmapped_later() -> None:
    run_alone(mount_causes.of_a_file_system_that_can_be_idmapped_later)


@pytest.mark.root
@pytest.mark.kernel("5.12", before="6.15")
def test_of_a_source_that_has_maps_already_before_others_could_replace_them() -> None:
    run_alone(mount_causes.of_a_source_that_has_maps_already_before_others_could_replace_them)


@pytest.mark.root
@pytest.mark.kernel("6.3")
def test_of_an_old_kernel() -> None:
    run_alone(mount_causes.of_an_old_kernel)


@pytest.mark.root
@pytest.mark.kernel("6.3")
def test_of_a_seccomp_profile() -> None:
    """One that does not know mount_setattr(2) and refuses it with EPERM: no capability is missing."""
    run_alone(mount_causes.of_a_seccomp_profile)


@pytest.mark.root
@pytest.mark.kernel("6.3")
def test_of_rights_in_the_mount_namespace() -> None:
    run_alone(mount_causes.of_rights_in_the_mount_namespace)


@pytest.mark.root
@pytest.mark.kernel("6.3")
def test_of_a_source_or_target_in_another_mount_namespace() -> None:
    run_alone(mount_causes.of_a_source_or_target_in_another_mount_namespace)


@pytest.mark.root
@pytest.mark.kernel("6.3")
def test_of_what_a_less_privileged_mount_namespace_may_not_undo() -> None:
    """There, the mounts that came with it keep their attributes and their submounts, for every caller."""
    run_alone(mount_causes.of_what_a_less_privileged_mount_namespace_may_not_undo)


@pytest.mark.root
@pytest.mark.kernel("6.3")
def test_of_source_and_target() -> None:
    run_alone(mount_causes.of_source_and_target)


@pytest.mark.root
@pytest.mark.kernel("6.3")
def test_of_too_many_mounts() -> None:
    """The limit is the whole system's: the program asks the kernel for more than it has."""
    run_alone(mount_causes.of_too_many_mounts)


def test_an_unprivileged_user_has_no_rights_to_mount() -> None:
    run_alone(mount_causes.an_unprivileged_user_has_no_rights_to_mount)


@pytest.mark.root
@pytest.mark.kernel("6.3")
def test_with_no_descriptor_left_to_look_with_the_refusal_itself_is_reported() -> None:
    """Never a wrong cause."""
    run_alone(mount_causes.with_no_descriptor_left_to_look_with_the_refusal_itself_is_reported)


@pytest.mark.root
@pytest.mark.kernel("6.3")
def test_without_proc() -> None:
    """It lists the mounts, so nothing is mounted that could not be found again."""
    run_alone(mount_causes.without_proc)
