"""Namespaces that are pinned to a path."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from errno import EEXIST, ENOENT, ENOTDIR
from pathlib import Path

import pytest
from alone import command, environment, run_alone
from programs import pin
from unprivileged import as_unprivileged_user

from usernsproc import Namespace, UsernsError, create_userns, run


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """An empty one."""
    path = tmp_path / "folder"
    path.mkdir()
    return str(path)


def test_a_pin_keeps_the_namespace_and_unpin_gives_it_up(folder: str) -> None:
    """No process and no descriptor is left; kind, identity and maps are read from the path."""
    run_alone(pin.pin_and_unpin, folder)


def test_a_process_that_was_in_it_can_have_exited(folder: str) -> None:
    """As containerd does it: bind-mounted while the process exists, and entered by nsenter(1) after it has exited."""
    run_alone(pin.nsenter_pins_of_a_process_that_has_exited, folder)


def test_an_empty_file_serves_as_mount_point(folder: str) -> None:
    run_alone(pin.pin_on_an_empty_file, folder)


def test_what_is_pinned_can_be_pinned_elsewhere_as_well(folder: str) -> None:
    run_alone(pin.pin_what_is_pinned_elsewhere, folder)


def test_a_pin_is_not_stacked_on_a_pin(folder: str) -> None:
    """Not even of the same namespace. The existing pin stays."""
    run_alone(pin.pin_on_a_pin, folder)


@pytest.mark.parametrize(
    ("prepare", "below", "errno"),
    [
        pytest.param(lambda path: path.write_text("precious"), "", EEXIST, id="file with content"),
        pytest.param(Path.mkdir, "", EEXIST, id="directory"),
        pytest.param(lambda path: path.symlink_to("elsewhere"), "", EEXIST, id="dangling link"),
        pytest.param(lambda path: path.symlink_to("/etc/passwd"), "", EEXIST, id="link"),
        pytest.param(os.mkfifo, "", EEXIST, id="fifo"),
        pytest.param(lambda _: None, "in/no/folder", ENOENT, id="in no folder"),
        pytest.param(Path.touch, "below/a/file", ENOTDIR, id="below a file"),
    ],
)
def test_what_cannot_hold_a_pin_is_refused_and_unchanged(
    prepare: Callable[[Path], object], below: str, errno: int, folder: str
) -> None:
    path = Path(folder, "pin")
    prepare(path)
    run_alone(pin.pin_where_there_is_no_place, folder, str(path / below), errno)


@pytest.mark.parametrize("is_there", [False, True])
@pytest.mark.parametrize("call", ["open_tree", "move_mount"])
@pytest.mark.parametrize("failure", ["error", "interrupt"])
def test_a_pin_that_fails_leaves_no_mount_and_no_file(is_there: bool, call: str, failure: str, folder: str) -> None:
    """An existing file stays."""
    if is_there:
        Path(folder, "pin").touch()
    run_alone(pin.pin_while_a_call_fails, folder, call, failure)


@pytest.mark.parametrize(("number", "step"), [(428, "open_tree"), (429, "move_mount")])
def test_a_pin_that_the_kernel_refuses_leaves_nothing(number: int, step: str, folder: str) -> None:
    """By a seccomp profile, with an errno that has nothing to do with mounts."""
    run_alone(pin.pin_while_the_kernel_refuses, folder, number, step)


@pytest.mark.parametrize("is_there", [False, True])
def test_an_interrupt_just_after_the_mount_undoes_it(is_there: bool, folder: str) -> None:
    if is_there:
        Path(folder, "pin").touch()
    run_alone(pin.interrupt_just_after_the_mount, folder)


def test_interrupts_at_any_moment_leave_no_mount_and_no_file(folder: str) -> None:
    """Either it is pinned, or nothing has changed."""
    run_alone(pin.interrupt_at_any_moment, folder)


@pytest.mark.parametrize("failure", ["error", "interrupt"])
def test_an_unpin_that_fails_changes_nothing(failure: str, folder: str) -> None:
    run_alone(pin.unpin_while_the_call_fails, folder, failure)


@pytest.mark.parametrize("what", pin.NOT_PINNED)
def test_unpin_unmounts_nothing_but_namespaces(what: str, folder: str) -> None:
    run_alone(pin.unpin_what_is_not_pinned, folder, what)


def test_unpin_does_not_follow_a_link(folder: str) -> None:
    run_alone(pin.unpin_by_a_link, folder)


def test_an_open_pin_can_be_unpinned_and_stays_usable(folder: str) -> None:
    """The descriptor keeps the namespace; umount(8) would say that it is busy."""
    run_alone(pin.unpin_what_is_open, folder)


def test_a_file_that_is_not_empty_is_not_removed(folder: str) -> None:
    """Other tools pin on files with content."""
    run_alone(pin.unpin_from_a_file_with_content, folder)


def test_a_file_that_cannot_be_removed_is_reported(folder: str) -> None:
    run_alone(pin.unpin_where_the_file_cannot_be_removed, folder)


def test_a_mount_namespace_is_pinned_by_its_creator(folder: str) -> None:
    run_alone(pin.pin_a_mount_namespace, folder)


def test_a_mount_namespace_is_not_pinned_into_itself(folder: str) -> None:
    run_alone(pin.pin_a_mount_namespace_into_itself, folder)


def test_a_mount_namespace_is_not_pinned_where_it_would_propagate_to_itself(folder: str) -> None:
    """Other kinds can be pinned there."""
    run_alone(pin.pin_on_a_shared_mount, folder)


def test_a_pin_from_a_mount_namespace_with_more_rights_is_locked(folder: str) -> None:
    run_alone(pin.unpin_with_fewer_rights, folder)


def test_without_rights_to_mount_nothing_is_made() -> None:
    as_unprivileged_user(pin.unprivileged_user_pins)


@pytest.mark.root
def test_root_without_rights_to_mount_creates_nothing_either(folder: str) -> None:
    """Root without CAP_SYS_ADMIN."""
    run_alone(pin.root_pins_without_rights, folder)


def test_unpin_without_rights_changes_nothing(folder: str) -> None:
    run_alone(pin.unpin_without_rights, folder)


def test_an_unprivileged_user_pins_in_a_mount_namespace_of_its_own(tmp_path: Path) -> None:
    """With the library itself: a command in new user and mount namespaces."""
    program = command(pin.pin_read_and_unpin, str(tmp_path / "pin"))
    result = run(program, uid_map="root", namespaces=["mnt"], capture_output=True, text=True, env=environment())
    assert (result.stdout, result.stderr) == ("0:0:1\nFalse\n", "")


def test_a_pin_ends_with_the_mount_namespace_that_it_was_created_in(tmp_path: Path) -> None:
    path = tmp_path / "pin"
    program = "import sys; from usernsproc import create_userns; create_userns('root', 'root').pin(sys.argv[1])"
    run([sys.executable, "-W", "ignore", "-c", program, str(path)], uid_map="root", namespaces=["mnt"], check=True)
    assert path.is_file()
    assert path.stat().st_dev == tmp_path.stat().st_dev
    path.unlink()


@pytest.mark.root
@pytest.mark.kernel("6.3")
def test_a_pin_serves_an_idmapped_mount(folder: str) -> None:
    run_alone(pin.mount_with_a_pin, folder)


def test_commands_join_what_is_pinned(folder: str) -> None:
    run_alone(pin.join_pins, folder)


def test_a_thousand_pins_leave_nothing(folder: str) -> None:
    run_alone(pin.pin_a_thousand, folder)


def test_bytes_and_path_objects_and_strange_names(folder: str) -> None:
    run_alone(pin.pin_at_strange_names, folder)


def test_what_is_not_a_namespace_is_not_pinned(tmp_path: Path) -> None:
    with Namespace(os.memfd_create("no namespace")) as wrong, pytest.raises(UsernsError) as caught:
        wrong.pin(tmp_path / "pin")
    assert "not a namespace" in caught.value.__notes__[0]
    assert not (tmp_path / "pin").exists()


def test_a_closed_namespace_is_not_pinned(tmp_path: Path) -> None:
    userns = create_userns("root", "root")
    userns.close()
    with pytest.raises(ValueError, match="closed"):
        userns.pin(tmp_path / "pin")
    with pytest.raises(TypeError):
        Namespace.unpin(3.5)  # type: ignore[arg-type]


def test_a_running_holder_can_be_pinned_before_it_ends(folder: str) -> None:
    run_alone(pin.pin_a_running_holder, folder)
