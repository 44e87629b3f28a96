"""`usernsproc create` and `usernsproc unpin`, called by root in a new mount namespace."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import native
from commands import USERNSPROC
from entering import enter_own_mounts
from leaks import state

from usernsproc import Namespace, create_userns

FURTHER_KINDS = ("mnt", "net", "ipc", "uts", "cgroup", "time")


def usernsproc(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([USERNSPROC, *arguments], capture_output=True, text=True, timeout=60)


def succeeds(*arguments: str) -> str:
    result = usernsproc(*arguments)
    assert (result.returncode, result.stderr) == (0, ""), result
    return result.stdout


def fails(*arguments: str) -> str:
    result = usernsproc(*arguments)
    assert (result.returncode, result.stdout) == (125, ""), result
    assert result.stderr.startswith(("usernsproc: ", "usernsproc create: ")), result
    assert 1 <= result.stderr.count("\n") <= 2, result
    return result.stderr


class Scene:
    """A folder in which namespaces are pinned."""

    def __init__(self, folder: str) -> None:
        enter_own_mounts()
        self.folder = folder
        self.path = f"{folder}/pin"
        self.before = state()["mounts"]

    def assert_nothing_left(self) -> None:
        assert os.listdir(self.folder) == []
        assert state()["mounts"] == self.before


def pinned_listed_and_given_up(folder: str) -> None:
    scene = Scene(folder)
    path = scene.path
    assert succeeds("create", "--pin", path, "--map", "root") == ""
    with Namespace.open(path) as userns:
        assert str(userns.uid_map) == str(userns.gid_map) == f"0:{os.geteuid()}:1"
        inode = userns.inode
    (item,) = [item for item in json.loads(succeeds("ls", "--json"))["namespaces"] if item["inode"] == inode]
    assert (item["pids"], item["pins"]) == ([], [path])
    assert f"0:{os.geteuid()}:1 {path}\n" in usernsproc("ls", "--kind", "user").stdout
    assert succeeds("unpin", path) == ""
    scene.assert_nothing_left()


def maps_and_setgroups(folder: str) -> None:
    path = Scene(folder).path
    gid_map = f"7:{os.getegid()}:1"
    succeeds("create", "--pin", path, "--uid-map", "root", "--gid-map", gid_map, "--setgroups", "deny")
    with Namespace.open(path) as userns:
        assert str(userns.gid_map) == gid_map
    command = ["nsenter", f"--user={path}", "--preserve-credentials", "cat", "/proc/self/setgroups"]
    assert subprocess.check_output(command) == b"deny\n"
    succeeds("unpin", path)


def another_owner(folder: str, further: list[str]) -> None:
    scene = Scene(folder)
    path = scene.path
    options = [text for option in further for text in (option, f"{path}.net")]
    maps = ["--map", "0:100000:65536"]
    succeeds("create", "--pin", path, *maps, "--owner", "1234", *options)
    with Namespace.open(path) as userns:
        assert userns.owner_uid == 1234
    succeeds("unpin", path, *options[1:])
    assert "owner=4294967295 is not mapped in" in fails("create", "--pin", path, *maps, "--owner", "4294967295")
    scene.assert_nothing_left()


def every_preset(folder: str) -> None:
    scene = Scene(folder)
    succeeds("create", "--pin", scene.path, "--map", "all")
    with Namespace.open(scene.path) as userns, Namespace.current() as own:
        assert sum(r.count for r in userns.uid_map) == sum(r.count for r in own.uid_map)
    succeeds("unpin", scene.path)
    for preset in ("root", "current", "subids", "rootless", "all"):
        assert preset in " ".join(succeeds("create", "--help").split())
    scene.assert_nothing_left()


def further_kinds(folder: str) -> None:
    scene = Scene(folder)
    userns_path = f"{scene.path}.user"
    paths = {kind: f"{scene.path}.{kind}" for kind in FURTHER_KINDS}
    options = [f"--pin-{kind}={path}" for kind, path in paths.items()]
    succeeds("create", "--map", "root", "--pin", userns_path, *options)
    with Namespace.open(userns_path) as userns:
        for kind, path in paths.items():
            with Namespace.open(path) as namespace, namespace.owner() as owner:
                assert namespace.kind == kind
                assert owner == userns
    command = ["nsenter", f"--user={userns_path}", f"--net={paths['net']}", f"--mount={paths['mnt']}"]
    subprocess.run([*command, "--preserve-credentials", "true"], check=True)
    succeeds("unpin", userns_path, *paths.values())
    scene.assert_nothing_left()


def mount_namespace_on_each_cpu(folder: str) -> None:
    scene = Scene(folder)
    allowed = os.sched_getaffinity(0)
    for cpu in [*allowed] * 4:
        child = os.fork()
        if child == 0:
            os.sched_setaffinity(0, {cpu})
            native.unshare(native.CLONE_NEWNS)
            os.sched_setaffinity(0, allowed)
            succeeds("create", "--map", "root", "--pin-mnt", scene.path)
            succeeds("unpin", scene.path)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    scene.assert_nothing_left()


def without_the_user_namespace(folder: str) -> None:
    scene = Scene(folder)
    succeeds("create", "--map", "root", "--pin-net", scene.path)
    with Namespace.open(scene.path) as net, net.owner() as userns:
        assert str(userns.uid_map) == f"0:{os.geteuid()}:1"
    succeeds("unpin", scene.path)
    scene.assert_nothing_left()


def all_or_none(folder: str) -> None:
    scene = Scene(folder)
    path, missing = scene.path, f"{folder}/no/folder"
    words = fails("create", "--map", "root", "--pin", missing, "--pin-net", path, "--pin-uts", f"{path}2")
    assert f"mount_point: No such file or directory: '{missing}' [ENOENT]" in words
    scene.assert_nothing_left()
    words = fails("create", "--map", "root", "--pin-net", path, "--pin", path)
    assert f"mount_point: File exists: '{path}' [EEXIST, already-pinned]" in words
    assert "unpin" in words
    scene.assert_nothing_left()


def mistakes(folder: str) -> None:
    scene = Scene(folder)
    path = scene.path
    assert "both maps are needed" in fails("create", "--pin", path)
    assert "both maps are needed" in fails("create", "--pin", path, "--uid-map", "0:0:1")
    assert "--pin PATH, or" in fails("create", "--map", "root")
    assert "range 0:4294967296:1" in fails("create", "--pin", path, "--map", "0:4294967296:1")
    assert "pin-pid" in usernsproc("create", "--map", "root", "--pin-pid", path).stderr
    assert f"No such file or directory: '{path}'" in fails("unpin", path)
    assert "mount_point: Invalid argument: '/etc/passwd' [EINVAL, not-pinned]" in fails("unpin", "/etc/passwd")
    scene.assert_nothing_left()


def nest() -> None:
    """Enter two user namespaces, the second in the first, and a uts namespace in that; then wait."""
    for uid_map in ("7:0:1", "9:7:1"):
        with create_userns(uid_map, uid_map) as deeper:
            deeper.enter()
    native.unshare(native.CLONE_NEWUTS)
    print("ready", flush=True)
    sys.stdin.read()
