"""For test programs that mount: they enter a new mount namespace, so that nothing is left when they exit."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from errno import ENOSYS
from pathlib import Path

import native
from errors import error_of
from leaks import state

from usernsproc import DetachedMount, Mount, UsernsError

MAP = "0:100000:65536"
MKFS = {"ext4": ["mkfs.ext4", "-q"], "xfs": ["mkfs.xfs", "-q"], "btrfs": ["mkfs.btrfs", "-q"]}
MIB = 1 << 20


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


def own_mount_namespace() -> Path:
    """Enter a new mount namespace. Yield a directory that only this program sees, an empty tmpfs."""
    native.unshare(native.CLONE_NEWNS)
    run("mount", "--make-rprivate", "/")
    # Not in a temporary folder of the test run: an unprivileged user must be able to reach it.
    work = Path("/mnt")
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", work)
    return work


def make_file_system(kind: str, work: Path) -> Path:
    """A new file system, mounted; in it `source`, with files of two users."""
    disk = work / f"disk-{kind}"
    disk.mkdir()
    image = work / f"image-{kind}"
    if kind in MKFS:
        with open(image, "wb") as file:
            file.truncate(400 * MIB)
        run(*MKFS[kind], image)
        run("mount", "-o", "loop", image, disk)
        populate(disk)
    elif kind == "squashfs":
        run("mount", "-t", "tmpfs", "tmpfs", disk)
        populate(disk)
        run("mksquashfs", disk, image, "-quiet", "-no-progress")
        run("umount", disk)
        run("mount", "-o", "loop", image, disk)
    else:
        run("mount", "-t", kind, kind, disk)
        populate(disk)
    return disk / "source"


def own_file_system(kind: str) -> tuple[Path, Path, Path]:
    """Enter a new mount namespace. Yield an empty directory, `source` on a new file system and a mount point in it."""
    work = own_mount_namespace()
    source, target = make_file_system(kind, work), work / "target"
    target.mkdir()
    return work, source, target


def mount_again(kind: str, work: Path) -> None:
    """Mount it again, so that the files are read from the disk."""
    run("umount", work / f"disk-{kind}")
    run("mount", "-o", "loop", work / f"image-{kind}", work / f"disk-{kind}")


def populate(directory: Path) -> None:
    source = directory / "source"
    source.mkdir()
    source.chmod(0o777)
    for uid in (0, 1000):
        (source / f"of-{uid}").write_text(f"of {uid}")
        os.chown(source / f"of-{uid}", uid, uid)


def owners(path: Path | str) -> tuple[int, int]:
    status = os.stat(path, follow_symlinks=False)
    return status.st_uid, status.st_gid


def errno_as(uid: int, action: Callable[[], object]) -> int:
    """Call it as an unprivileged user in a child process. Return 0 or the errno."""
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            action()
        except OSError as error:
            os._exit(error.errno or 255)
        except BaseException:
            os._exit(255)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def create_as(uid: int, path: Path) -> int:
    return errno_as(uid, lambda: open(path, "x").close())


def failure(function: Callable[..., object], *arguments: object, **options: object) -> UsernsError:
    """Return how it fails. Check that nothing has changed."""
    before = state()
    error = error_of(function, *arguments, **options)
    assert state() == before, "it left something behind"
    return error


def has_maps(mount: Mount | DetachedMount, uid_map: str, gid_map: str | None = None) -> bool:
    """Return whether the kernel shows these maps. Before Linux 6.15 it cannot, and the error says so."""
    if native.KERNEL >= (6, 15):
        return (str(mount.uid_map), str(mount.gid_map)) == (uid_map, gid_map or uid_map)
    try:
        found = mount.uid_map
    except UsernsError as error:
        expected = ("statmount", ENOSYS, "kernel-too-old")
        return (error.step, error.errno, error.cause) == expected and "6.15" in error.__notes__[0]
    raise AssertionError(f"it has maps: {found}")


def mounts_below(path: Path) -> list[str]:
    """Return the mount points and their options from the kernel's table."""
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [f"{line[4]} {line[5]}" for line in lines if f"{line[4]}/".startswith(f"{path}/")]
