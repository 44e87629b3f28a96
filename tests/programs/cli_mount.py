"""`usernsproc mount` and `usernsproc umount`, called in a new mount namespace."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from commands import USERNSPROC
from mounting import MAP, mounts_below, own_file_system, owners, run

from usernsproc import UsernsProcess


def call(*arguments: str | Path) -> tuple[int, str]:
    result = subprocess.run([USERNSPROC, *arguments], capture_output=True, text=True, timeout=60)
    assert result.stdout == ""
    assert (result.returncode == 0) == (result.stderr == ""), result.stderr
    return result.returncode, result.stderr


def refused(*arguments: str | Path) -> str:
    before = Path("/proc/self/mountinfo").read_text()
    status, words = call(*arguments)
    assert status == 125, words
    assert words.startswith("usernsproc"), words
    assert 1 <= words.count("\n") <= 2, words
    assert Path("/proc/self/mountinfo").read_text() == before
    return words


def mount_and_umount() -> None:
    _, source, target = own_file_system("tmpfs")
    assert call("mount", "--map", MAP, source, target) == (0, "")
    assert owners(target / "of-1000") == (101000, 101000)
    assert call("umount", target) == (0, "")
    assert mounts_below(target) == []
    assert call("mount", "--uid-map", "0:5:2000", "--gid-map", "0:6:2000", source, target) == (0, "")
    assert owners(target / "of-1000") == (1005, 1006)
    assert call("umount", f"{target}/") == (0, "")


def the_maps_of_a_namespace() -> None:
    _, source, target = own_file_system("tmpfs")
    with UsernsProcess(uid_map=MAP, gid_map=MAP) as holder:
        assert call("mount", "--userns", holder.namespace_path(), source, target) == (0, "")
    assert owners(target / "of-0") == (100000, 100000)
    assert call("umount", target) == (0, "")


def options() -> None:
    _, source, target = own_file_system("tmpfs")
    (source / "sub").mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", source / "sub")
    attributes = ("--read-only", "--nosuid", "--nodev", "--noexec", "--propagation", "slave")
    assert call("mount", "--map", MAP, "--recursive", *attributes, source, target) == (0, "")
    assert len(mounts_below(target)) == 2
    for mount in mounts_below(target):
        assert mount.split()[1] == "ro,nosuid,nodev,noexec,relatime,idmapped"
    words = refused("umount", target)
    assert "[EBUSY, has-submounts]" in words
    assert f"{target}/sub (tmpfs)" in words
    assert call("umount", "--recursive", target) == (0, "")
    assert mounts_below(target) == []
    assert len(mounts_below(source)) == 1
    assert call("mount", "--map", MAP, source, target) == (0, "")
    assert [mount.split()[1] for mount in mounts_below(target)] == ["rw,relatime,idmapped"]
    assert call("umount", "--lazy", target) == (0, "")


def in_use() -> None:
    _, source, target = own_file_system("tmpfs")
    call("mount", "--map", MAP, source, target)
    with open(target / "of-0"):
        words = refused("umount", target)
        assert f"process {os.getpid()} (python: fd/" in words
        assert refused("umount", "--recursive", target) == words
        assert call("umount", "--lazy", target) == (0, "")
    assert mounts_below(target) == []


def umount_of_what_is_not_mounted() -> None:
    work, _, target = own_file_system("tmpfs")
    (target / "sub").mkdir()
    run("mount", "-t", "tmpfs", "tmpfs", target / "sub")
    (work / "link").symlink_to(target / "sub")
    each_way: tuple[list[str], ...] = ([], ["--recursive"], ["--lazy"])
    for options in each_way:
        assert "Nothing is mounted on it" in refused("umount", *options, target)
        assert "symbolic link" in refused("umount", *options, work / "link")
        assert "symbolic link" in refused("umount", *options, f"{work}/link/")
        assert "No such file" in refused("umount", *options, work / "nothing")
    assert call("umount", target / "sub") == (0, "")  # a mount of any kind
    (work / "parent").symlink_to(target)
    run("mount", "-t", "tmpfs", "tmpfs", target / "sub")
    assert call("umount", work / "parent" / "sub") == (0, "")
    assert mounts_below(target) == []


def what_cannot_be_mounted() -> None:
    work, source, target = own_file_system("tmpfs")
    nothing = work / "nothing"
    assert "cannot be idmapped" in refused("mount", "--map", MAP, "/proc", target)
    assert "the sysfs at /sys" in refused("mount", "--map", MAP, "/sys", target)
    words = refused("mount", "--map", MAP, source, nothing)
    assert f"No such file or directory: '{nothing}'" in words
