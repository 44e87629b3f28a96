"""The options that Python packages give to bubblewrap have the same effect with `usernsproc run`."""

from __future__ import annotations

import json
import os
import stat
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bubblewrap
import pytest
import wrappers
from alone import A_HANG
from programs import view_inside

RUN = [os.environ.get("UB", str(Path(sys.executable).parent / "usernsproc")), "run"]
PYTHON = "/usr/bin/python3"
"""The system's, which the sandboxes contain."""
ALLOW_ALL = struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)  # BPF_RET | BPF_K, SECCOMP_RET_ALLOW


@pytest.fixture
def home() -> Iterator[Path]:
    """Not in /tmp, which most lists cover."""
    with tempfile.TemporaryDirectory(prefix="home-", dir="/var/tmp") as folder:
        for name in ("session", "upper", "work", "kept"):
            Path(folder, "project", name).mkdir(parents=True)
        for name in ("notes", "session/log"):
            Path(folder, "project", name).write_text(name)
        yield Path(folder)


def view(command: list[str], home: Path, fds: tuple[int, ...] = ()) -> dict[str, Any]:
    of_the_caller = {kind: os.stat(f"/proc/self/ns/{kind}").st_ino for kind in view_inside.KINDS}
    program = Path(view_inside.__file__).read_text()
    directories = {path: os.stat(path).st_dev for path in ("/dev", "/run", "/tmp")}
    probe = [PYTHON, "-I", "-c", program, json.dumps([of_the_caller, directories, os.getsid(0)])]
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), "LANG": "C.UTF-8", "REMOVED": "1"}
    result = subprocess.run(
        [*command, *probe],
        capture_output=True,
        text=True,
        timeout=A_HANG,
        env=environment,
        cwd=home / "project",
        pass_fds=fds,
    )
    assert result.returncode == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def compare(options: list[str], home: Path, fd: int) -> None:
    views: list[dict[str, Any]] = []
    for program in ([bubblewrap.program()], RUN):
        os.lseek(fd, 0, os.SEEK_SET)
        views.append(view([*program, *options], home, (fd,)))
    theirs, ours = views
    found = differences(theirs, ours)
    assert not found, "\n".join(found)
    assert ours.keys() == theirs.keys()


def differences(theirs: Any, ours: Any, *name: str) -> list[str]:
    """What bubblewrap's command finds, and what ours finds."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        return [t for key in {**theirs, **ours} for t in differences(theirs.get(key), ours.get(key), *name, key)]
    if theirs == ours:
        return []
    if None not in (theirs, ours) and any(is_intended(name, theirs, ours) for is_intended in INTENDED):
        return []
    return [f"{name}: {theirs!r}, {ours!r}"]


def a_directory_above_a_mount_is_open(name: tuple[str, ...], theirs: Any, ours: Any) -> bool:
    """bubblewrap creates it with mode 0700, which is for files of --perms 0600."""
    expected = [stat.S_IFDIR, 0o755, *theirs[2:]] if name[0] == "files" and not theirs[-1] else None
    return bool(expected == ours and theirs[:2] == [stat.S_IFDIR, 0o700])


def shared_memory_is_for_all_users(name: tuple[str, ...], theirs: Any, ours: Any) -> bool:
    """With bubblewrap, only the owner can use it."""
    return name == ("files", "/dev/shm") and ours == [theirs[0], 0o1777, *theirs[2:]]


def the_owner_of_dev_pts_is_not_mapped(name: tuple[str, ...], theirs: Any, ours: Any) -> bool:
    """The kernel gives it to user 0. bubblewrap maps that one first, and has a user namespace more therefore."""
    if name == ("writable",):
        return bool(sorted({*ours, "/dev/pts"}) == theirs)
    return name == ("files", "/dev/pts") and ours == [*theirs[:2], 65534, 65534, *theirs[4:]]


def dropped_capabilities_cannot_be_gained(name: tuple[str, ...], _: Any, ours: Any) -> bool:
    """bubblewrap leaves them in the bounding set of root; it is no_new_privs alone that denies them."""
    return name == ("status", "CapBnd") and os.geteuid() == 0 and int(ours, 16) == 0


INTENDED = (
    a_directory_above_a_mount_is_open,
    shared_memory_is_for_all_users,
    the_owner_of_dev_pts_is_not_mapped,
    dropped_capabilities_cannot_be_gained,
)


@pytest.mark.parametrize("package", sorted(wrappers.lists(Path("/"), Path("/"), "0")))
def test_the_options_of_a_package(package: str, home: Path) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(ALLOW_ALL)
        file.flush()
        options = wrappers.lists(home, home / "project", str(file.fileno()))[package]
        compare(options, home, file.fileno())


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        (["--ro-bind", "/", "/"], ["--bind", "/", "/"]),
        (["--unshare-net"], []),
        (["--unshare-pid"], []),
        (["--new-session"], []),
        (["--setenv", "A", "b"], ["--setenv", "A", "c"]),
        (["--size", "1048576"], []),
        (["--perms", "0700"], []),
        (["--chdir", "/"], []),
        (["--cap-add", "CAP_NET_RAW"], ["--cap-drop", "ALL"]),
    ],
    ids=str,
)
def test_the_comparison_notices(options: list[str], changed: list[str], home: Path) -> None:
    base = ["--ro-bind", "/", "/", "--proc", "/proc"]
    first, second = (view([*RUN, *base, *words, "--tmpfs", "/tmp"], home) for words in (options, changed))
    assert differences(first, second) != []
