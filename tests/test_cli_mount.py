"""`usernsproc mount` and `usernsproc umount`."""

from __future__ import annotations

import subprocess

import pytest
from alone import run_alone
from commands import USERNSPROC
from programs import cli_mount

pytestmark = pytest.mark.kernel("6.3")


@pytest.mark.root
def test_mount_and_umount() -> None:
    """The mount stays when the command has exited."""
    run_alone(cli_mount.mount_and_umount)


@pytest.mark.root
def test_the_maps_of_a_namespace() -> None:
    run_alone(cli_mount.the_maps_of_a_namespace)


@pytest.mark.root
def test_options() -> None:
    run_alone(cli_mount.options)


@pytest.mark.root
def test_what_is_in_use_stays() -> None:
    run_alone(cli_mount.in_use)


@pytest.mark.root
def test_umount_takes_only_what_is_mounted_there() -> None:
    """It unmounts neither what is below a plain directory, nor through a symbolic link."""
    run_alone(cli_mount.umount_of_what_is_not_mounted)


@pytest.mark.root
def test_what_cannot_be_mounted() -> None:
    run_alone(cli_mount.what_cannot_be_mounted)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mount", "/usr", "/mnt"], "both maps are needed"),
        (["mount", "--uid-map", "0:0:1", "/usr", "/mnt"], "both maps are needed"),
        (["mount", "--map", "0:0:1", "--userns", "/proc/self/ns/user", "/usr", "/mnt"], "--userns has maps of its own"),
        (["mount", "--map", "0:0:0", "/usr", "/mnt"], "range 0:0:0"),
        (["mount", "--map", "0:0:1", "/usr"], "TARGET"),
        (["mount", "--map", "root", "--propagation", "all", "/usr", "/mnt"], "all"),
        (["mount", "--userns", "/etc/passwd", "/usr", "/mnt"], "/etc/passwd"),
        (["umount"], "TARGET"),
        (["umount", ""], "umount: No such file or directory: '' [ENOENT]"),
        (["umount", "--lazy", "--recursive", "/mnt"], "--recursive"),
    ],
)
def test_a_wrong_command_line_changes_nothing(arguments: list[str], words: str) -> None:
    result = subprocess.run([USERNSPROC, *arguments], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (125, "")
    assert words in result.stderr
    assert 1 <= result.stderr.count("\n") <= 2


def test_help_says_what_umount_does() -> None:
    text = subprocess.run([USERNSPROC, "umount", "--help"], capture_output=True, text=True, timeout=60).stdout
    assert "even if another program mounted it" in " ".join(text.split())
    assert "symbolic link is refused" in " ".join(text.split())
