"""Steps for files that are tried where the caller has other IDs, and in a mount namespace of its own."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from commands import output

from usernsproc import Namespace
from usernsproc.setup import Bind, Dir, File, Overlay, Root, Symlink, Tmpfs

HOST = [Bind(path, read_only=True) for path in ("/usr", "/bin", "/lib", "/lib64", "/etc") if Path(path).exists()]
DEVICES = Bind("/dev", dev=True)
SHELL = ("/bin/sh", "-ec")


def look(script: str, *steps: Any, **options: Any) -> str:
    """What a shell prints in a root of its own with these steps."""
    options = {"uid_map": "root", "gid_map": "root", **options}
    return output([*SHELL, script], setup=[Root("tmpfs"), *HOST, DEVICES, *steps], **options)


def owners_inside(maps: dict[str, Any], folder: str) -> None:
    """Each way to make a file, and the IDs inside that the file belongs to."""
    print(
        look(
            "stat -c '%n %u:%g %a' /d /d/e /l /f /cover /tmp /o/made",
            Dir("/d/e", 0o750),
            Symlink("f", "/l"),
            File("/f", "x", 0o604),
            File("/cover", "x", 0o640, read_only=True),
            Tmpfs("/tmp"),
            Overlay("/o", folder, "tmpfs"),
            File("/o/made", "x"),
            **maps,
        ),
        end="",
    )


def with_umask_and_directory(umask: int, folder: str) -> None:
    """A umask and a directory of the caller change neither the modes nor where relative sources are looked up."""
    os.umask(umask)
    os.chdir(folder)
    script = "stat -c '%a' /d /d/e /f; umask; pwd; cat /here/name"
    steps = [Dir("/d/e"), File("/f", "x", 0o666), Bind("inner", "/here")]
    print(look(script, *steps), end="")


def cwd_without_a_root(folder: str, steps: Sequence[str]) -> None:
    """The command starts where the caller is, although steps have changed directories."""
    os.chdir(folder)
    made = [File(f"{folder}/{name}", name, read_only=True) for name in steps]
    print(output([*SHELL, "pwd; cat " + " ".join(steps)], setup=made, namespaces=["mnt"], uid_map="root"), end="")


def enter_a_prepared_root(pid: int) -> None:
    """The root of a holder becomes that of a thread."""
    for kind in ("user", "mnt"):
        with Namespace.of(pid, kind) as namespace:
            namespace.enter()
    print(Path("/prepared").read_text() + os.getcwd())
