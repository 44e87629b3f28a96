"""A directory above a mount or a pin is renamed between two steps: nothing else is unmounted or removed.

A hook before a system call does the renaming, so each race is lost at the worst moment, every time. One test
races for some seconds, too.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from alone import run_alone
from programs import renamed_directories

pytestmark = pytest.mark.kernel("6.3")


@pytest.mark.root
@pytest.mark.parametrize("recursive", [False, True])
@pytest.mark.parametrize("lazy", [False, True])
def test_an_unmount_reaches_its_own_mount(recursive: bool, lazy: bool) -> None:
    """The directory is exchanged in front of each system call that unmounts."""
    run_alone(renamed_directories.unmount, recursive, lazy)


@pytest.mark.root
@pytest.mark.parametrize(
    "where", ["_system_calls.mount_id", "_system_calls.open_tree", "_system_calls.mount_setattr", "_core.open"]
)
def test_at_any_call_of_an_unmount_either_it_is_complete_or_nothing_has_changed(where: str) -> None:
    """A tree that has to be made private and copied: every step leads to the right mounts, or to an error."""
    run_alone(renamed_directories.unmount_with_a_swap_before_each_call, where)


@pytest.mark.root
@pytest.mark.parametrize("options", ["", "--recursive", "--lazy"])
def test_the_command_umount_unmounts_what_it_has_looked_up(options: str) -> None:
    run_alone(renamed_directories.command_umount, options)


@pytest.mark.root
def test_an_interrupted_attach_takes_its_own_mount_back() -> None:
    run_alone(renamed_directories.interrupt_an_attach)


@pytest.mark.root
def test_a_mount_is_created_where_the_path_led_first() -> None:
    run_alone(renamed_directories.attach)


@pytest.mark.root
def test_a_tree_is_not_put_back_outside_of_itself() -> None:
    """Its directories belong to another user, which replaces one by a link. The error says what is missing."""
    run_alone(renamed_directories.put_a_tree_back)


@pytest.mark.root
def test_success_is_not_reported_for_another_mount() -> None:
    """In the very directory, a process of another mount namespace can exchange two mount points: the kernel has
    no safe way to unmount one of them. This is an error, and the object still has the mount."""
    run_alone(renamed_directories.unmount_while_mount_points_are_exchanged)


@pytest.mark.root
def test_a_race_of_some_seconds() -> None:
    """Thousands of unmounts while another user exchanges directories. A path that is looked up twice soon loses."""
    run_alone(renamed_directories.race)


@pytest.mark.parametrize("replacement", ["file", "pin", "nothing"])
def test_unpin_removes_nothing_of_another_directory(replacement: str, tmp_path: Path) -> None:
    """The namespace was unpinned; the file with that name is another one by then."""
    run_alone(renamed_directories.unpin, str(tmp_path), replacement)


@pytest.mark.parametrize("is_there", [False, True])
def test_an_interrupted_pin_takes_its_own_back(is_there: bool, tmp_path: Path) -> None:
    """The mount, and the file if it was created for it. What has the same name elsewhere stays, also a pin of the same
    namespace."""
    run_alone(renamed_directories.interrupt_a_pin, str(tmp_path), is_there)


def test_a_pin_is_created_in_the_directory_that_the_path_led_to_first(tmp_path: Path) -> None:
    run_alone(renamed_directories.pin, str(tmp_path))


def test_a_file_that_has_got_the_name_of_the_pins_file_stays(tmp_path: Path) -> None:
    """In the same directory: the file that was created for the pin was renamed."""
    run_alone(renamed_directories.replace_the_file_of_a_pin, str(tmp_path))


def test_the_command_create_undoes_its_own_pins(tmp_path: Path) -> None:
    """The second one fails after the directory of the first has been replaced."""
    run_alone(renamed_directories.command_create, str(tmp_path))
