"""What an ordinary user can do: be root in a user namespace, with a mount namespace that belongs to it.

These run as root too, which is then as little in the namespace as anybody.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest
from alone import A_HANG

from usernsproc import PIPE, UsernsProcess

pytestmark = pytest.mark.kernel("6.3")

PREPARE = """
    import errno, os, pathlib, subprocess, sys
    from leaks import state
    from mounting import tells
    from usernsproc import (
        Namespace, UsernsError, create_userns, idmapped_mount, open_idmapped, supports_idmap,
    )
    work = pathlib.Path(sys.argv[1])
    subprocess.run(["mount", "-t", "tmpfs", "own", work], check=True)
    source, target = work / "source", work / "target"
    source.mkdir(), target.mkdir()
    (source / "file").touch()

    def failure(function, *arguments, **options):
        before = state()
        try:
            function(*arguments, **options)
        except UsernsError as error:
            assert state() == before
            return error
        raise AssertionError("it did not fail")
"""


@pytest.fixture
def inside(tmp_path: Path) -> Callable[[str], str]:
    """Run a Python program as root of a new user namespace and mount namespace."""

    def run(source: str) -> str:
        program = tmp_path / "program.py"
        program.write_text("from __future__ import annotations\n" + dedent(PREPARE) + dedent(source))
        work = tmp_path / "work"
        work.mkdir()
        with UsernsProcess(
            [sys.executable, str(program), str(work)],
            uid_map="root",
            gid_map="root",
            namespaces=("mnt",),
            stdout=PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
            text=True,
        ) as process:
            output: str = process.communicate(timeout=A_HANG)[0]
        assert process.returncode == 0, output
        assert list(work.iterdir()) == []
        return output

    return run


def test_a_file_system_of_its_own_can_be_idmapped(inside: Callable[[str], str]) -> None:
    """A tmpfs that it mounted there, with a user namespace nested in its own."""
    inside("""
        answer = supports_idmap(source)
        assert answer and answer.file_system == "tmpfs"
        with idmapped_mount(source, target, ("0:0:1", "0:0:1")) as mount:
            assert os.stat(target).st_uid == 0 and tells(mount, "0:0:1")
            (target / "new").touch()
            assert os.stat(source / "new").st_uid == 0
        with idmapped_mount(source, target, ("5:0:1", "6:0:1"), read_only=True, nosuid=True) as mount:
            assert os.stat(target / "file").st_uid == 65534  # 0 of the file system is not mapped
            assert tells(mount, "5:0:1", "6:0:1")
        with idmapped_mount(source, target, ("5:0:1", "6:0:1")):
            try:
                (target / "newer").touch()
            except OSError as error:
                assert error.errno == errno.EOVERFLOW  # 5 and 6 are no ids of the file system
            else:
                raise AssertionError
        assert not list(target.iterdir())
    """)


def test_a_tree_of_its_own_is_mounted_and_unmounted_as_a_whole(inside: Callable[[str], str]) -> None:
    inside("""
        (source / "sub").mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "sub", source / "sub"], check=True)
        (source / "sub" / "file").touch()
        mount = idmapped_mount(source, target, ("0:0:1", "0:0:1"), recursive=True)
        assert (target / "sub" / "file").exists()
        with open(target / "sub" / "file"):
            try:
                mount.unmount()
            except UsernsError as error:
                assert error.cause == "mount-in-use" and f"process {os.getpid()}" in error.__notes__[0]
            else:
                raise AssertionError
        mount.unmount()
        with open_idmapped(source, ("0:0:1", "0:0:1"), recursive=True) as detached:
            detached.attach(target).unmount()
        assert not list(target.iterdir())
        subprocess.run(["umount", source / "sub"], check=True)
    """)


def test_the_namespace_that_mounted_it_cannot_give_the_maps(inside: Callable[[str], str]) -> None:
    inside("""
        with Namespace.current() as own:
            error = failure(idmapped_mount, source, target, own)
        assert (error.step, error.errno, error.cause) == ("mount_setattr", errno.EINVAL, "same-user-namespace")
        assert f"the tmpfs at {work}" in error.__notes__[0]
    """)


def test_a_file_system_of_the_host_cannot_be_idmapped(inside: Callable[[str], str]) -> None:
    """A plain bind mount of it is allowed; whose owners it would show otherwise is said."""
    inside("""
        etc = "/etc/passwd"
        (work / "file").touch()
        subprocess.run(["mount", "--bind", etc, work / "file"], check=True)
        subprocess.run(["umount", work / "file"], check=True)
        error = failure(idmapped_mount, etc, work / "file", ("0:0:1", "0:0:1"))
        answer = supports_idmap(etc)
        assert not answer
        if answer.file_system == "overlay":  # in a container
            assert (error.errno, error.cause) == (errno.EINVAL, "no-idmap-support")
        else:
            assert (error.errno, error.cause) == (errno.EPERM, "no-rights-over-file-system")
            assert f"user namespace that mounted the {answer.file_system} at " in error.__notes__[0]
        assert answer.cause == error.cause and error.step == "mount_setattr"
        assert failure(open_idmapped, "/proc/self/status", ("0:0:1", "0:0:1")).cause == "no-idmap-support"
    """)


def test_submounts_that_came_with_the_mount_namespace_are_locked(inside: Callable[[str], str]) -> None:
    """They may cover what is not to be seen, so a copy has to have them."""
    inside("""
        error = failure(idmapped_mount, "/", target, ("0:0:1", "0:0:1"))
        assert (error.step, error.errno, error.cause) == ("open_tree", errno.EINVAL, "locked-submounts")
        error = failure(idmapped_mount, "/", target, ("0:0:1", "0:0:1"), recursive=True)
        assert error.step == "mount_setattr"
    """)
