"""Failures of set-up steps with a cause that the error names: each is provoked in a mount namespace of its own."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import native
from entering import enter_own_mounts

from usernsproc import UsernsError, run
from usernsproc.setup import Bind, Overlay, Proc, Root, Sysfs, Tmpfs

IN_NEW: dict[str, Any] = {"uid_map": "root", "namespaces": ["mnt", "pid", "net"]}
IN_OWN: dict[str, Any] = {"join": "/proc/self/ns/user", "namespaces": ["mnt", "pid", "net"]}


def fails(*steps: Any, options: dict[str, Any] = IN_NEW) -> None:
    """Print what the error says."""
    try:
        run(["/bin/true"], setup=steps, **options)
    except UsernsError as error:
        assert error.cause is None or len(error.__notes__) == 1
        print(error.setup_index, error.step, error.call, error.errno, error.cause)
    else:
        raise AssertionError(f"{steps} has not failed")


def mount(file_system: str, target: str | Path) -> None:
    native.must(native.libc.mount(file_system.encode(), os.fsencode(target), file_system.encode(), 0, None))


def masked() -> None:
    enter_own_mounts()
    mount("tmpfs", "/proc/sys")
    fails(Proc())
    mount("tmpfs", "/sys/kernel")
    fails(Sysfs())


def targets() -> None:
    enter_own_mounts()
    folder = Path(tempfile.mkdtemp())
    (folder / "proc").symlink_to("elsewhere")
    fails(Root(folder), Proc())
    (folder / "proc").unlink()
    fails(Root("tmpfs"), Bind(folder, "/d", read_only=True), Tmpfs("/d/new"))
    fails(Root("tmpfs"), Bind(folder, "/d", read_only=True), Bind(folder, "/d/new"))
    fails(Root("tmpfs"), Tmpfs("/t", inodes=1), Bind(folder, "/t/new"))
    mount("tmpfs", folder)
    (folder / "sub").mkdir()
    mount("tmpfs", folder / "sub")
    fails(Bind(folder, "/mnt", recursive=False))
    fails(Bind(folder / "none", "/mnt"))


def overlays() -> None:
    enter_own_mounts()
    folder = Path(tempfile.mkdtemp())
    (folder / "a/b").mkdir(parents=True)
    mount("tmpfs", folder / "a/b")
    fails(Overlay("/mnt", [folder / "a", "/usr"]))
    fails(Overlay("/mnt", ["/usr", "/usr/bin"]))


def denied() -> None:
    fails(Tmpfs("/usr/none"))


def chroot() -> None:
    folder = Path(tempfile.mkdtemp())
    enter_own_mounts()
    for name in ("bin", "dev", "etc", "lib", "lib64", "proc", "sys", "usr"):
        if Path("/", name).exists():
            (folder / name).mkdir()
            source, target = f"/{name}".encode(), os.fsencode(folder / name)
            native.must(native.libc.mount(source, target, None, native.MS_BIND | native.MS_REC, None))
    os.chroot(folder)
    fails(Root("tmpfs"), options=IN_OWN)
