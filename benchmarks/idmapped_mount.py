"""Measure an idmapped mount with few and with many files, compared with a recursive chown.

python benchmarks/idmapped_mount.py

It requires root, and uses a tmpfs in a new mount namespace.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
import time
from pathlib import Path

from _measure import MICROSECONDS, finish, heading, in_turns, median, row

from usernsproc import create_userns, idmapped_mount

FEW, MANY, FILES_A_DIRECTORY = 10, 100_000, 1000
COUNT, ROUNDS = 50, 9
CHOWN_ROUNDS = 3
MAP = "0:100000:65536"
CLONE_NEWNS = 0x00020000


def own_mount_namespace() -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNS):
        raise OSError(ctypes.get_errno(), "unshare")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)


def tree(parent: Path, files: int) -> Path:
    """Create a directory with *files* empty files, a thousand in each subdirectory."""
    top = parent / str(files)
    for number in range(files):
        directory = top / str(number // FILES_A_DIRECTORY)
        if number % FILES_A_DIRECTORY == 0:
            directory.mkdir(parents=True)
        (directory / str(number)).touch()
    return top


def chown_all(top: Path) -> float:
    """Change the owner of all files, as is necessary without idmapped mounts, and return the microseconds."""
    owner = os.stat(top).st_uid + 1
    start = time.perf_counter()
    subprocess.run(["chown", "-R", f"{owner}:{owner}", str(top)], check=True)
    return (time.perf_counter() - start) * MICROSECONDS


def main() -> None:
    own_mount_namespace()
    work = Path(tempfile.mkdtemp())
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=0", "tmpfs", work], check=True)
    few, many, target = tree(work, FEW), tree(work, MANY), work / "target"
    target.mkdir()
    with create_userns(MAP, MAP) as userns:

        def mount(source: Path) -> None:
            idmapped_mount(source, target, userns).unmount()

        def mount_with_maps() -> None:
            idmapped_mount(many, target, (MAP, MAP)).unmount()

        mounts = in_turns(
            ROUNDS,
            few=lambda: median(lambda: mount(few), COUNT),
            many=lambda: median(lambda: mount(many), COUNT),
            maps=lambda: median(mount_with_maps, COUNT),
        )
    chowns = in_turns(CHOWN_ROUNDS, few=lambda: chown_all(few), many=lambda: chown_all(many))
    subprocess.run(["umount", work], check=True)
    work.rmdir()
    heading("an idmapped mount, created and unmounted")
    row(f"of a tree with {FEW} files", mounts["few"])
    row(f"of a tree with {MANY} files", mounts["many"], mounts["few"], most=1.3)
    row("the same, and a user namespace for it", mounts["maps"], mounts["few"])
    heading("chown -R")
    row(f"of a tree with {FEW} files", chowns["few"])
    row(f"of a tree with {MANY} files", chowns["many"], chowns["few"])
    row("the same, against the idmapped mount", chowns["many"], mounts["many"])
    finish()


if __name__ == "__main__":
    main()
