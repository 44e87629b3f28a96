"""`usernsproc ls`, `create` and `unpin`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from usernsproc import Namespace, NamespaceKind, UsernsProcess, create_userns

Script = Callable[..., str]

PROGRAM = [str(Path(sys.executable).parent / "usernsproc")]
OWN = f"0:{os.geteuid()}:1"

# Root of an own user namespace, in an own mount namespace, and the command line.
START = """
import json, os, subprocess, sys
import native
from usernsproc import *
if os.geteuid():
    with create_userns("root", "root") as mine:
        mine.enter()
native.unshare(native.CLONE_NEWNS)
native.must(native.libc.mount(None, b"/", None, native.MS_REC | native.MS_PRIVATE, None))
program, folder = sys.argv[1:3]
path = folder + "/pin"
def usernsproc(*arguments):
    return subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60)
def succeeds(*arguments):
    result = usernsproc(*arguments)
    assert (result.returncode, result.stderr) == (0, ""), result
    return result.stdout
def fails(*arguments):
    result = usernsproc(*arguments)
    assert (result.returncode, result.stdout) == (125, ""), result
    assert result.stderr.startswith("usernsproc: ") and 1 <= result.stderr.count("\\n") <= 2, result
    return result.stderr
def mountinfo():
    return open("/proc/self/mountinfo").read()
before = mountinfo()
def nothing_left():
    assert os.listdir(folder) == [] and mountinfo() == before, (os.listdir(folder), mountinfo())
"""


@pytest.fixture
def mounts(script: Script, tmp_path: Path) -> Callable[[str], str]:
    folder = tmp_path / "folder"
    folder.mkdir()
    return lambda source: script(START + textwrap.dedent(source), *PROGRAM, str(folder))


Mounts = Callable[[str], str]


def ls(*arguments: str) -> str:
    return subprocess.run([*PROGRAM, "ls", *arguments], stdout=subprocess.PIPE, text=True, check=True).stdout


def objects(*arguments: str) -> dict[int, dict[str, Any]]:
    return {item["inode"]: item for item in json.loads(ls("--json", *arguments))["namespaces"]}


# Enters two more user namespaces, one in the other, with a uts namespace at the bottom, and waits.
NEST = """
import sys
sys.path.insert(0, sys.argv[1])
import native
from usernsproc import create_userns
for uid_map in ("7:0:1", "9:7:1"):
    with create_userns(uid_map, uid_map) as deeper:
        deeper.enter()
native.unshare(0x04000000)
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def three_deep() -> Iterator[int]:
    """The pid of a process in three nested user namespaces."""
    command = [sys.executable, "-W", "ignore", "-c", NEST, os.path.dirname(__file__)]
    with UsernsProcess(command, uid_map="root", stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process.pid
        process.communicate()


def test_the_table_has_a_line_for_each_namespace() -> None:
    with create_userns("root", "root") as userns, Namespace.current() as own:
        header, *lines = ls().splitlines()
        assert header.split() == ["INODE", "KIND", "OWNER", "PROCS", "PID", "WHAT"]
        rows = {int(line.split()[0]): line.split()[1:] for line in lines}
        assert rows[userns.inode] == ["user", str(own.inode), "0", "-", OWN]
        assert {row[0] for row in rows.values()} == set(NamespaceKind)
        assert all(line == line.rstrip() for line in lines)


def test_kinds_are_listed_alone() -> None:
    _, *lines = ls("--kind", "net", "uts").splitlines()
    assert {line.split()[1] for line in lines} == {"net", "uts"}
    _, *lines = ls("--kind", "net", "--kind", "ipc").splitlines()
    assert {line.split()[1] for line in lines} == {"net", "ipc"}


def test_the_tree_shows_three_nested_user_namespaces_their_maps_and_what_they_own(three_deep: int) -> None:
    found = objects()
    (bottom,) = [item for item in found.values() if item["kind"] == "user" and item["pids"] == [three_deep]]
    middle = found[bottom["parent"]]
    top = found[middle["parent"]]
    (uts,) = [item for item in found.values() if item["kind"] == "uts" and item["owner"] == bottom["inode"]]
    uid = os.geteuid()
    lines = ls("--tree").splitlines()

    def line_of(item: dict[str, Any]) -> tuple[int, str]:
        (line,) = [line for line in lines if f"{item['kind']}:[{item['inode']}]" in line]
        return len(line) - len(line.lstrip("│└├─ ")), line.lstrip("│└├─ ")

    indents, texts = zip(*map(line_of, (found[top["parent"]], top, middle, bottom, uts)), strict=True)
    assert indents == (0, 3, 6, 9, 12)
    expected = [
        f"user:[{top['inode']}] owner {uid} 0 processes 0:{uid}:1",
        f"user:[{middle['inode']}] owner {uid} 0 processes 7:{uid}:1",
        f"user:[{bottom['inode']}] owner {uid} 1 process pid {three_deep} 9:{uid}:1 (python",
        f"uts:[{uts['inode']}] 1 process pid {three_deep} (python",
    ]
    for text, beginning in zip(texts[1:], expected, strict=True):
        assert text.startswith(beginning), (text, beginning)


def test_the_tree_of_one_kind_still_has_the_user_namespaces(three_deep: int) -> None:
    lines = ls("--tree", "--kind", "uts").splitlines()
    kinds = {line.lstrip("│└├─ ").split(":")[0] for line in lines}
    assert kinds == {"user", "uts"}
    assert any(f"pid {three_deep}" in line for line in lines)


def test_json_is_for_programs() -> None:
    """These names, in this order; null is what cannot be seen or does not apply."""
    with create_userns("root", "root") as userns, Namespace.current() as own:
        text = ls("--json")
        answer = json.loads(text)
        assert list(answer) == ["namespaces", "unseen_processes", "unseen_namespaces"]
        (item,) = [item for item in answer["namespaces"] if item["inode"] == userns.inode]
        expected = {
            "kind": "user",
            "inode": userns.inode,
            "device": userns.device,
            "owner": own.inode,
            "owner_uid": os.geteuid(),
            "parent": own.inode,
            "pids": [],
            "pins": [],
            "uid_map": OWN,
            "gid_map": f"0:{os.getegid()}:1",
        }
        assert (item, list(item)) == (expected, list(expected))
    assert text == json.dumps(answer, indent=2) + "\n"


def test_what_is_not_seen_is_told(three_deep: int) -> None:
    """Outside of the JSON, too: by who is in a user namespace of its own."""
    command = [*PROGRAM, "run", "--map", "root", *PROGRAM, "ls"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "usernsproc: processes that could not be looked into: " in result.stderr
    assert f" {three_deep} " not in result.stdout


def test_who_stops_reading_is_no_error() -> None:
    shell = f"{PROGRAM[0]} ls --json | true; {PROGRAM[0]} ls --tree | head -1"
    result = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, timeout=60)
    assert result.stdout.count("\n") == 1
    assert [line for line in result.stderr.splitlines() if "looked into" not in line] == []


def test_a_name_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    program = tmp_path / "\x1b[31m"
    program.symlink_to("/bin/sleep")
    with UsernsProcess([str(program), "1000"], uid_map="root") as process:
        lines = [line for line in ls().splitlines() if f" {process.pid} " in line and " user " in line]
        process.kill()
    assert len(lines) == 1
    assert r"(\x1b[31m)" in lines[0]


@pytest.mark.parametrize("arguments", [["--kind", "mount"], ["--tree", "--json"], ["surplus"]])
def test_what_ls_does_not_understand(arguments: list[str]) -> None:
    result = subprocess.run([*PROGRAM, "ls", *arguments], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (125, "")
    assert result.stderr.startswith("usernsproc")


# ---- create and unpin ----


def test_a_user_namespace_is_made_pinned_listed_and_given_up(mounts: Mounts) -> None:
    mounts("""
        assert succeeds("create", "--pin", path, "--map", "root") == ""
        with Namespace.open(path) as userns:
            assert str(userns.uid_map) == str(userns.gid_map) == f"0:{os.geteuid()}:1"
            inode = userns.inode
        (item,) = [i for i in json.loads(succeeds("ls", "--json"))["namespaces"] if i["inode"] == inode]
        assert (item["pids"], item["pins"]) == ([], [path])
        assert f"0:{os.geteuid()}:1 {path}\\n" in usernsproc("ls", "--kind", "user").stdout
        assert succeeds("unpin", path) == ""
        nothing_left()
    """)


def test_maps_and_setgroups_are_what_was_asked_for(mounts: Mounts) -> None:
    mounts("""
        gid_map = f"7:{os.getegid()}:1"
        succeeds("create", "--pin", path, "--uid-map", "root", "--gid-map", gid_map, "--setgroups", "deny")
        with Namespace.open(path) as userns:
            assert str(userns.gid_map) == gid_map
        command = ["nsenter", f"--user={path}", "--preserve-credentials", "cat", "/proc/self/setgroups"]
        assert subprocess.check_output(command) == b"deny\\n"
        succeeds("unpin", path)
    """)


@pytest.mark.root
@pytest.mark.parametrize("further", [[], ["--pin-net"]])
def test_another_owner(mounts: Mounts, further: list[str]) -> None:
    mounts(f"""
        further = [text for option in {further} for text in (option, path + ".net")]
        maps = ["--map", "0:100000:65536"]
        succeeds("create", "--pin", path, *maps, "--owner", "1234", *further)
        with Namespace.open(path) as userns:
            assert userns.owner_uid == 1234
        succeeds("unpin", path, *further[1:])
        assert "owner=4294967295 is not mapped in" in fails("create", "--pin", path, *maps, "--owner", "4294967295")
        nothing_left()
    """)


def test_every_preset_is_taken(mounts: Mounts) -> None:
    """Also those of many ids: 'all' is what is mapped here."""
    mounts("""
        succeeds("create", "--pin", path, "--map", "all")
        with Namespace.open(path) as userns, Namespace.current() as own:
            assert sum(r.count for r in userns.uid_map) == sum(r.count for r in own.uid_map)
        succeeds("unpin", path)
        for preset in ("root", "current", "subids", "rootless", "all"):
            assert preset in " ".join(succeeds("create", "--help").split())
        nothing_left()
    """)


def test_further_kinds_are_made_with_it_and_owned_by_it(mounts: Mounts) -> None:
    mounts("""
        kinds = ("user", "mnt", "net", "ipc", "uts", "cgroup", "time")
        paths = {kind: f"{path}.{kind}" for kind in kinds}
        options = [f"--pin-{kind}={one}" for kind, one in paths.items() if kind != "user"]
        succeeds("create", "--map", "root", "--pin", paths["user"], *options)
        with Namespace.open(paths["user"]) as userns:
            for kind in kinds[1:]:
                with Namespace.open(paths[kind]) as namespace, namespace.owner() as owner:
                    assert namespace.kind == kind and owner == userns
        command = ["nsenter", f"--user={paths['user']}", f"--net={paths['net']}", f"--mount={paths['mnt']}"]
        subprocess.run([*command, "--preserve-credentials", "true"], check=True)
        succeeds("unpin", *paths.values())
        nothing_left()
    """)


def test_a_mount_namespace_is_pinned_on_whichever_cpu_it_was_made(mounts: Mounts) -> None:
    """Since Linux 6.18 each CPU numbers them for itself, and pinning one with a smaller number
    than the program's own is refused."""
    mounts("""
        allowed = os.sched_getaffinity(0)
        for cpu in [*allowed] * 4:
            child = os.fork()
            if child == 0:
                os.sched_setaffinity(0, {cpu})
                native.unshare(native.CLONE_NEWNS)
                os.sched_setaffinity(0, allowed)
                succeeds("create", "--map", "root", "--pin-mnt", path)
                succeeds("unpin", path)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        nothing_left()
    """)


def test_the_user_namespace_itself_need_not_be_pinned(mounts: Mounts) -> None:
    """It is kept by what it owns."""
    mounts("""
        succeeds("create", "--map", "root", "--pin-net", path)
        with Namespace.open(path) as net, net.owner() as userns:
            assert str(userns.uid_map) == f"0:{os.geteuid()}:1"
        succeeds("unpin", path)
        nothing_left()
    """)


def test_all_are_pinned_or_none(mounts: Mounts) -> None:
    mounts("""
        missing = folder + "/no/folder"
        words = fails("create", "--map", "root", "--pin", missing, "--pin-net", path, "--pin-uts", path + "2")
        assert f"mount_point: No such file or directory: '{missing}' [ENOENT]" in words
        nothing_left()
        words = fails("create", "--map", "root", "--pin-net", path, "--pin", path)
        assert f"mount_point: File exists: '{path}' [EEXIST, already-pinned]" in words and "unpin" in words
        nothing_left()
    """)


def test_mistakes_are_told_before_anything_is_made(mounts: Mounts) -> None:
    mounts("""
        assert "both maps are needed" in fails("create", "--pin", path)
        assert "both maps are needed" in fails("create", "--pin", path, "--uid-map", "0:0:1")
        assert "where to keep it" in fails("create", "--map", "root")
        assert "range 0:4294967296:1" in fails("create", "--pin", path, "--map", "0:4294967296:1")
        assert "pin-pid" in usernsproc("create", "--map", "root", "--pin-pid", path).stderr
        assert f"No such file or directory: '{path}'" in fails("unpin", path)
        assert "mount_point: Invalid argument: '/etc/passwd' [EINVAL, not-pinned]" in fails("unpin", "/etc/passwd")
        nothing_left()
    """)


def test_who_may_not_mount_is_told_where_it_can(tmp_path: Path) -> None:
    """In a user namespace of its own, but not in a mount namespace of its own."""
    path = str(tmp_path / "pin")
    command = [*PROGRAM, "run", "--map", "root", *PROGRAM, "create", "--map", "root", "--pin", path]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (125, "")
    assert result.stderr.count("\n") == 2
    assert "mount namespace of its own" in result.stderr
    assert not os.path.exists(path)


# ---- Ctrl-C ----

# As Ctrl-C would: while the command line is being loaded, or while it runs.
INTERRUPTED = """
import builtins, os, signal, sys
before = builtins.__import__
def interrupt(name, *args, **kwargs):
    if name == sys.argv[1]:
        os.kill(os.getpid(), signal.SIGINT)
    return before(name, *args, **kwargs)
builtins.__import__ = interrupt
from usernsproc.__main__ import main
sys.exit(main(["ls"]))
"""


@pytest.mark.parametrize("moment", ["argparse", "json", "_namespaces.listing"])
def test_ctrl_c_while_it_is_loaded_leaves_no_traceback(moment: str) -> None:
    result = subprocess.run([sys.executable, "-c", INTERRUPTED, moment], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr, result.stdout) == (130, "", "")


def test_ctrl_c_while_it_runs_leaves_no_traceback() -> None:
    source = """
        import os, signal, sys
        from usernsproc import __main__, _cli
        from usernsproc._cli import ls
        def run(options):
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("the signal came late")
        ls.run = run
        sys.exit(__main__.main(["ls"]))
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(source)], capture_output=True, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (130, "")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
