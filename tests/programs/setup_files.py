"""Steps for files that are tried where the caller has other IDs, and in a mount namespace of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from errno import errorcode
from pathlib import Path
from typing import Any

from commands import output

from usernsproc import Namespace, UsernsError, UsernsProcess
from usernsproc._setup import compiler, file_systems, files, tree
from usernsproc.setup import Bind, Dir, File, Overlay, Proc, Remount, Root, Symlink, Tmpfs

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


def old_way(way: str) -> None:
    """Whether Linux is taken for one before 5.12, which has no mount_setattr(2)."""
    if way == "before 5.12":
        for module in (compiler, file_systems, files, tree):
            vars(module)["has_mount_setattr"] = lambda: False


def enter_mounts(steps: Sequence[Any]) -> None:
    """Become root of a user namespace, in a mount namespace of its own that has been set up."""
    with UsernsProcess(uid_map="root", gid_map="root", namespaces=["mnt"], setup=steps) as holder:
        namespaces = [holder.namespace(kind) for kind in ("user", "mnt")]
        for namespace in namespaces:
            with namespace:
                namespace.enter()


WRITE = """
for place in /there/deep/er/new /there/deep/new /there/file /there/new "/there/with blank/new"; do
    if ( : >> "$place" ) 2>/dev/null; then echo written: $place; else echo refused: $place; fi
done
"""


def write_to_each_mount(way: str, folder: str, where: dict[str, Any]) -> None:
    tree = [Tmpfs(folder), Tmpfs(f"{folder}/deep"), Tmpfs(f"{folder}/deep/er"), Tmpfs(f"{folder}/with blank")]
    enter_mounts([*tree, File(f"{folder}/file", "x", cover=True)])
    old_way(way)
    flags = "grep -v nosuid,nodev /proc/self/mountinfo | grep -q ' /there' || echo nodev,nosuid"
    options = {"namespaces": ["pid"], "init": True, **where}
    print(look(WRITE + flags, Proc(), Bind(folder, "/there", read_only=True), **options), end="")


def remount_what_the_list_makes(way: str, where: dict[str, Any]) -> None:
    old_way(way)
    steps: list[Any] = [Tmpfs("/a"), Tmpfs("/a/b"), Tmpfs("/c"), Tmpfs("/c/d")]
    steps += [Remount("/a"), Remount("/c", recursive=True), Remount("/c/d", read_only=False)]
    script = "for d in /a /a/b /c /c/d; do (: > $d/x) 2>/dev/null && echo $d; done; "
    script += "findmnt -no OPTIONS -T /c/d | grep -o nosuid | sed s,^,/c/d:,"
    options = {"namespaces": ["pid"], "init": True, **where}
    print(look(script, Proc(), *steps, **options), end="")


def mount_below_a_source_meanwhile(way: str, propagation: str | None, folder: str) -> None:
    """The mount namespace of the command receives mounts of the caller's until its mounts are private."""
    enter_mounts([Tmpfs(folder), Tmpfs(f"{folder}/a"), Dir(f"{folder}/a/late")])
    old_way(way)
    subprocess.run(["mount", "--make-rshared", folder], check=True)

    def mount(_process: Any) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "late", f"{folder}/a/late"], check=True)

    options: dict[str, Any] = {"join": "/proc/self/ns/user", "uid_map": None, "gid_map": None, "on_created": mount}
    options["propagation"] = propagation
    try:
        script = "(: > /there/late/new) 2>/dev/null && echo written || echo refused"
        print(look(script, Bind(f"{folder}/a", "/there", read_only=True), **options))
    except UsernsError as error:
        print(errorcode[error.errno or 0], error.step, error.cause)
