"""`usernsproc mount` and `usernsproc umount`."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

pytestmark = pytest.mark.kernel("6.3")

Script = Callable[..., str]

PREPARE = """
    import os, subprocess, sys
    from pathlib import Path
    from mounting import *
    from usernsproc import UsernsProcess
    work = own_mount_namespace()
    source, target = make_file_system("tmpfs", work), work / "target"
    target.mkdir()
    PROGRAM = str(Path(sys.executable).parent / "usernsproc")

    def call(*arguments):
        result = subprocess.run([PROGRAM, *map(str, arguments)], capture_output=True, text=True, timeout=60)
        assert result.stdout == ""
        assert (result.returncode == 0) == (result.stderr == ""), result.stderr
        return result.returncode, result.stderr

    def refused(*arguments):
        before = Path("/proc/self/mountinfo").read_text()
        status, words = call(*arguments)
        assert status == 125 and words.startswith("usernsproc") and 1 <= words.count("\\n") <= 2, words
        assert Path("/proc/self/mountinfo").read_text() == before
        return words
"""


@pytest.fixture
def mounting(script: Script) -> Script:
    return lambda source: script(dedent(PREPARE) + dedent(source))


@pytest.mark.root
def test_mount_and_umount(mounting: Script) -> None:
    """It stays when the command has ended."""
    mounting("""
        assert call("mount", "--map", MAP, source, target) == (0, "")
        assert owners(target / "of-1000") == (101000, 101000)
        assert call("umount", target) == (0, "")
        assert mounts_below(target) == []
        assert call("mount", "--uid-map", "0:5:2000", "--gid-map", "0:6:2000", source, target) == (0, "")
        assert owners(target / "of-1000") == (1005, 1006)
        assert call("umount", str(target) + "/") == (0, "")
    """)


@pytest.mark.root
def test_the_maps_of_a_namespace(mounting: Script) -> None:
    mounting("""
        with UsernsProcess(uid_map=MAP, gid_map=MAP) as holder:
            assert call("mount", "--userns", holder.namespace_path(), source, target) == (0, "")
        assert owners(target / "of-0") == (100000, 100000)
        assert call("umount", target) == (0, "")
    """)


@pytest.mark.root
def test_options(mounting: Script) -> None:
    mounting("""
        (source / "sub").mkdir()
        run("mount", "-t", "tmpfs", "tmpfs", source / "sub")
        assert call("mount", "--map", MAP, "--recursive", "--read-only", "--nosuid", "--nodev", "--noexec",
                    "--propagation", "slave", source, target) == (0, "")
        assert len(mounts_below(target)) == 2
        for mount in mounts_below(target):
            assert mount.split()[1] == "ro,nosuid,nodev,noexec,relatime,idmapped"
        assert "[EBUSY, has-submounts]" in (words := refused("umount", target)) and f"{target}/sub (tmpfs)" in words
        assert call("umount", "--recursive", target) == (0, "")
        assert mounts_below(target) == [] and len(mounts_below(source)) == 1
        assert call("mount", "--map", MAP, source, target) == (0, "")
        assert [mount.split()[1] for mount in mounts_below(target)] == ["rw,relatime,idmapped"]
        assert call("umount", "--lazy", target) == (0, "")
    """)


@pytest.mark.root
def test_what_is_in_use_stays(mounting: Script) -> None:
    mounting("""
        call("mount", "--map", MAP, source, target)
        with open(target / "of-0"):
            words = refused("umount", target)
            assert f"process {os.getpid()} (python: fd/" in words
            assert refused("umount", "--recursive", target) == words
            assert call("umount", "--lazy", target) == (0, "")
        assert mounts_below(target) == []
    """)


@pytest.mark.root
def test_umount_takes_only_what_is_mounted_there(mounting: Script) -> None:
    """Not what is below the mount that a plain directory is on, nor through a symbolic link."""
    mounting("""
        (target / "sub").mkdir()
        run("mount", "-t", "tmpfs", "tmpfs", target / "sub")
        (work / "link").symlink_to(target / "sub")
        for options in ((), ("--recursive",), ("--lazy",)):
            assert "Nothing is mounted on it" in refused("umount", *options, target)
            assert "symbolic link" in refused("umount", *options, work / "link")
            assert "symbolic link" in refused("umount", *options, str(work / "link") + "/")
            assert "No such file" in refused("umount", *options, work / "nothing")
        assert call("umount", target / "sub") == (0, "")  # whatever it is
        (work / "parent").symlink_to(target)
        run("mount", "-t", "tmpfs", "tmpfs", target / "sub")
        assert call("umount", work / "parent" / "sub") == (0, "")
        assert mounts_below(target) == []
    """)


@pytest.mark.root
def test_what_cannot_be_mounted(mounting: Script) -> None:
    mounting("""
        assert "cannot be idmapped" in refused("mount", "--map", MAP, "/proc", target)
        assert "the sysfs at /sys" in refused("mount", "--map", MAP, "/sys", target)
        words = refused("mount", "--map", MAP, source, work / "nothing")
        assert f"No such file or directory: '{work}/nothing'" in words
    """)


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
    program = str(Path(sys.executable).parent / "usernsproc")
    result = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stdout) == (125, "")
    assert words in result.stderr
    assert 1 <= result.stderr.count("\n") <= 2


def test_help_says_what_umount_does() -> None:
    program = str(Path(sys.executable).parent / "usernsproc")
    text = subprocess.run([program, "umount", "--help"], capture_output=True, text=True, timeout=60).stdout
    assert "even if another program mounted it" in " ".join(text.split())
    assert "symbolic link is refused" in " ".join(text.split())
