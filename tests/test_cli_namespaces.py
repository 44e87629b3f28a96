"""`usernsproc ls`, `create` and `unpin`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import alone
import pytest
from alone import run_alone
from commands import USERNSPROC
from programs import cli_interrupted, cli_namespaces

from usernsproc import PIPE, Namespace, NamespaceKind, UsernsProcess, create_userns

OWN = f"0:{os.geteuid()}:1"


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """An empty one."""
    (tmp_path / "folder").mkdir()
    return str(tmp_path / "folder")


def ls(*arguments: str) -> str:
    return subprocess.run([USERNSPROC, "ls", *arguments], stdout=PIPE, text=True, check=True).stdout


def objects(*arguments: str) -> dict[int, dict[str, Any]]:
    return {item["inode"]: item for item in json.loads(ls("--json", *arguments))["namespaces"]}


@pytest.fixture
def three_deep() -> Iterator[int]:
    """The PID of a process in three nested user namespaces."""
    command, environment = alone.command(cli_namespaces.nest), alone.environment()
    with UsernsProcess(command, uid_map="root", stdin=PIPE, stdout=PIPE, text=True, env=environment) as process:
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
    _, *lines = ls("--kind", "net,uts").splitlines()
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
    """These names, in this order. A value that cannot be seen or does not apply is null."""
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


def test_what_is_not_seen_is_reported(three_deep: int) -> None:
    """Also outside of the JSON. The caller is in a new user namespace."""
    command = [USERNSPROC, "run", "--map", "root", USERNSPROC, "ls"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "usernsproc: processes that could not be looked into: " in result.stderr
    assert f" {three_deep} " not in result.stdout


def test_a_reader_that_stops_is_not_an_error() -> None:
    shell = f"{USERNSPROC} ls --json | true; {USERNSPROC} ls --tree | head -1"
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
    result = subprocess.run([USERNSPROC, "ls", *arguments], capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (125, "")
    assert result.stderr.startswith("usernsproc")


# ---- create and unpin ----


def test_a_user_namespace_is_created_pinned_listed_and_unpinned(folder: str) -> None:
    run_alone(cli_namespaces.pinned_listed_and_given_up, folder)


def test_maps_and_setgroups_are_what_was_asked_for(folder: str) -> None:
    run_alone(cli_namespaces.maps_and_setgroups, folder)


@pytest.mark.root
@pytest.mark.parametrize("further", [[], ["--pin-net"]])
def test_another_owner(folder: str, further: list[str]) -> None:
    run_alone(cli_namespaces.another_owner, folder, further)


def test_every_preset_is_taken(folder: str) -> None:
    """Also those of many IDs: 'all' is what the current namespace maps."""
    run_alone(cli_namespaces.every_preset, folder)


def test_further_kinds_are_created_with_it_and_owned_by_it(folder: str) -> None:
    run_alone(cli_namespaces.further_kinds, folder)


def test_a_mount_namespace_is_pinned_on_each_cpu(folder: str) -> None:
    """Since Linux 6.18 each CPU allocates its own numbers, and the kernel refuses to pin one with a smaller number
    than that of the program's mount namespace."""
    run_alone(cli_namespaces.mount_namespace_on_each_cpu, folder)


def test_the_user_namespace_itself_need_not_be_pinned(folder: str) -> None:
    """The namespaces that it owns keep it alive."""
    run_alone(cli_namespaces.without_the_user_namespace, folder)


def test_all_are_pinned_or_none(folder: str) -> None:
    run_alone(cli_namespaces.all_or_none, folder)


def test_mistakes_are_reported_before_anything_is_created(folder: str) -> None:
    run_alone(cli_namespaces.mistakes, folder)


def test_a_user_that_must_not_mount_is_shown_where_it_can(tmp_path: Path) -> None:
    """The user is in a new user namespace, but not in a new mount namespace."""
    path = str(tmp_path / "pin")
    command = [USERNSPROC, "run", "--map", "root", USERNSPROC, "create", "--map", "root", "--pin", path]
    result = subprocess.run(command, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (125, "")
    assert result.stderr.count("\n") == 2
    assert "mount namespace of its own" in result.stderr
    assert not os.path.exists(path)


# ---- Ctrl-C ----


def interrupted(function: Callable[..., object], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = alone.command(function, *arguments)
    return subprocess.run(command, env=alone.environment(), capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("moment", ["_cli", "parser", "_namespaces.listing"])
def test_ctrl_c_while_it_is_loaded_leaves_no_traceback(moment: str) -> None:
    result = interrupted(cli_interrupted.while_loading, moment)
    assert (result.returncode, result.stderr, result.stdout) == (130, "", "")


def test_ctrl_c_while_it_runs_leaves_no_traceback() -> None:
    result = interrupted(cli_interrupted.while_running)
    assert (result.returncode, result.stderr) == (130, "")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
