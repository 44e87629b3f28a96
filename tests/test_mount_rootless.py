"""Mounts of an unprivileged user: it is root in a user namespace that owns its mount namespace.

The tests run as root too, which then has no more capabilities in the namespace than other users.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import alone
import pytest
from alone import A_HANG
from programs import mount_rootless

from usernsproc import PIPE, UsernsProcess

Inside = Callable[[Callable[[str], None]], None]

pytestmark = pytest.mark.kernel("6.3")


@pytest.fixture
def inside(tmp_path: Path) -> Inside:
    """Call a function as root of a new user namespace and mount namespace, with a folder to mount on."""
    work = tmp_path / "work"
    work.mkdir()

    def call(function: Callable[[str], None]) -> None:
        with UsernsProcess(
            alone.command(function, str(work)),
            uid_map="root",
            gid_map="root",
            namespaces=("mnt",),
            stdout=PIPE,
            stderr=subprocess.STDOUT,
            env=alone.environment(),
            text=True,
        ) as process:
            output: str = process.communicate(timeout=A_HANG)[0]
        assert process.returncode == 0, output
        assert list(work.iterdir()) == []

    return call


def test_a_file_system_of_its_own_can_be_idmapped(inside: Inside) -> None:
    """A tmpfs that it mounted there, with a user namespace nested in its own."""
    inside(mount_rootless.a_file_system_of_its_own_can_be_idmapped)


def test_a_tree_of_its_own_is_mounted_and_unmounted_as_a_whole(inside: Inside) -> None:
    inside(mount_rootless.a_tree_of_its_own_is_mounted_and_unmounted_as_a_whole)


def test_the_namespace_that_mounted_it_cannot_give_the_maps(inside: Inside) -> None:
    inside(mount_rootless.the_namespace_that_mounted_it_cannot_give_the_maps)


def test_a_file_system_of_the_host_cannot_be_idmapped(inside: Inside) -> None:
    """A plain bind mount of it is allowed. The error says which file system has no support."""
    inside(mount_rootless.a_file_system_of_the_host_cannot_be_idmapped)


def test_submounts_that_came_with_the_mount_namespace_are_locked(inside: Inside) -> None:
    """They may cover files that must not be visible, so a copy must include them."""
    inside(mount_rootless.submounts_that_came_with_the_mount_namespace_are_locked)
