"""`usernsproc map`, and maps on the command line of `usernsproc run`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from programs.cli_map import execute
from unprivileged import COUNT, FIRST, UID, as_unprivileged_user

from usernsproc import Namespace, UsernsProcess, create_userns

PROGRAM = str(Path(sys.executable).parent / "usernsproc")
OWN = f"0:{os.geteuid()}:1"


def usernsproc(*arguments: str, status: int = 0) -> str:
    result = subprocess.run([PROGRAM, *arguments], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == status, result
    assert (status == 125) == bool(result.stderr)
    return result.stdout + result.stderr


def as_user(*arguments: str, status: int = 0) -> str:
    return as_unprivileged_user(execute, PROGRAM, *arguments, status=status)


def test_a_map_is_shown_as_a_table_and_as_bars() -> None:
    assert usernsproc("map", "0:1000:1,1:100000:65536") == (
        "   inside     outside            ids\n"
        "a  0          1000                 1\n"
        "b  1 … 65536  100000 … 165535  65536\n"
        "\n"
        "inside   |a|bbbbbbbbbbbbbbbbb|··\n"
        "outside  ··|a|··|bbbbbbbbbbbbbbbbb|··\n"
    )


def test_bars_are_in_the_order_of_ids_on_each_side() -> None:
    """Ranges that adjoin share a border; the last ID closes the bar."""
    printed = usernsproc("map", "4294967294:5:1,0:6:2,2:0:3")
    assert printed.splitlines()[-2:] == ["inside   |bb|cc|··|a|", "outside  |cc|··|a|bb|··"]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_what_an_encoding_lacks_is_drawn_with_what_it_has(encoding: str) -> None:
    command = [PROGRAM, "map", "7:1000:2"]
    result = subprocess.run(command, capture_output=True, timeout=60, env={**os.environ, "PYTHONIOENCODING": encoding})
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.decode(encoding) == (
        "   inside  outside      ids\na  7 - 8   1000 - 1001    2\n\ninside   ..|aa|..\noutside  ..|aa|..\n"
    )


def test_bars_fit_into_the_terminal() -> None:
    """Each letter then stands for more IDs."""
    text = ",".join(f"{100000 * n}:{200000 * n}:65536" for n in range(6))
    master, terminal = os.openpty()
    try:
        termios.tcsetwinsize(terminal, (24, 80))
        subprocess.run([PROGRAM, "map", text], stdout=terminal, check=True, timeout=60)
        printed = os.read(master, 10000).decode().splitlines()
    finally:
        os.close(terminal)
        os.close(master)
    assert printed[-2] == f"inside   {'··'.join(f'|{letter * 6}|' for letter in 'abcdef')}··"
    assert max(map(len, printed)) <= 80
    assert len(usernsproc("map", text).splitlines()[-1]) > 80


def test_the_reader_may_have_seen_enough() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        result = subprocess.run([PROGRAM, "map"], stdout=write, stderr=subprocess.PIPE, timeout=60)
    finally:
        os.close(write)
    assert (result.returncode, result.stderr) == (0, b"")


def test_where_standard_output_is_closed_that_is_an_error() -> None:
    command = ["sh", "-c", '"$0" map >&-', PROGRAM]
    result = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (result.returncode, result.stderr) == (125, "usernsproc: standard output is closed\n")


def test_of_many_ranges_the_first_are_drawn() -> None:
    printed = usernsproc("map", ",".join(f"{2 * n}:{2 * n}:1" for n in range(100)))
    assert len(printed.splitlines()) == 105
    assert "first 26 of 100" in printed


def test_without_arguments_it_shows_the_callers_namespace() -> None:
    printed = json.loads(usernsproc("map", "--json"))
    with Namespace.current() as own:
        assert (printed["uid_map"]["map"], printed["gid_map"]["map"]) == (str(own.uid_map), str(own.gid_map))


def test_the_maps_of_a_process_and_of_a_namespace_file() -> None:
    with UsernsProcess(uid_map="root") as holder:
        of_process = json.loads(usernsproc("map", "--json", "--pid", str(holder.pid)))
        of_file = json.loads(usernsproc("map", "--json", "--namespace", f"/proc/{holder.pid}/ns/user"))
    assert of_process == of_file
    assert of_process["uid_map"] == {
        "map": OWN,
        "ids": 1,
        "ranges": [{"inside": 0, "outside": os.geteuid(), "count": 1}],
    }
    with UsernsProcess() as holder:
        assert "no id is mapped" in usernsproc("map", "--pid", str(holder.pid))


@pytest.mark.root
def test_the_maps_of_a_namespace_that_is_pinned_to_a_file(tmp_path: Path) -> None:
    file = tmp_path / "userns"
    file.touch()
    with create_userns("0:100000:5", "0:200000:6") as userns:
        subprocess.run(["mount", "--bind", f"/proc/{os.getpid()}/fd/{userns.fileno()}", file], check=True)
    try:
        printed = json.loads(usernsproc("map", "--json", "--namespace", str(file)))
    finally:
        subprocess.run(["umount", file], check=True)
    assert (printed["uid_map"]["map"], printed["gid_map"]["map"]) == ("0:100000:5", "0:200000:6")


def test_ids_are_translated_both_ways() -> None:
    arguments = ("0:1000:1,1:3000000000:10", "--to-outside", "0", "--to-outside", "10", "--to-inside", "3000000000")
    assert usernsproc("map", *arguments).splitlines() == [
        "0 inside is 1000 outside",
        "10 inside is 3000000009 outside",
        "3000000000 outside is 1 inside",
    ]
    printed = json.loads(usernsproc("map", "--json", *arguments))["map"]
    assert printed["to_outside"] == {"0": 1000, "10": 3000000009}
    assert printed["to_inside"] == {"3000000000": 1}


def test_an_id_that_is_not_mapped_is_status_1() -> None:
    assert usernsproc("map", "0:1000:1", "--to-inside", "5", status=1) == "5 outside is not mapped inside\n"
    printed = json.loads(usernsproc("map", "0:1000:1", "--json", "--to-inside", "5", status=1))
    assert printed["map"]["to_inside"] == {"5": None}


def test_a_preset_is_shown_as_it_is_for_this_user() -> None:
    printed = usernsproc("map", "root")
    setgroups = "allow" if os.geteuid() == 0 else "deny"
    assert f"{os.geteuid()}" in printed
    assert printed.count("written by this process") == 2
    assert printed.endswith(f"\nsetgroups: {setgroups}\n")


def test_a_preset_of_subordinate_ids_names_the_tool_that_writes_it() -> None:
    printed = json.loads(as_user("map", "--json", "rootless"))
    assert printed["uid_map"]["map"] == f"0:{UID}:1,1:{FIRST}:{COUNT}"
    assert printed["uid_map"]["ids"] == COUNT + 1
    assert (printed["uid_map"]["written_by"], printed["gid_map"]["written_by"]) == ("newuidmap", "newgidmap")
    assert printed["setgroups"] == "allow"
    assert as_user("map", "subids", "--to-outside", "33").splitlines() == [
        f"user 33 inside is {FIRST + 33} outside",
        f"group 33 inside is {FIRST + 33} outside",
    ]


def test_a_preset_that_this_user_cannot_have_is_an_error_with_its_remedy() -> None:
    assert as_user("map", "all", status=125) == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["0:5"], "three numbers are needed"),
        (["everything"], "'everything' is neither a preset"),
        (["0:4294967296:1"], "4294967296"),
        (["--pid", "999999999"], "/proc/999999999"),
        (["--pid", str(10**20)], f"{10**20} is neither a pid nor a pidfd"),
        (["--namespace", "/etc/passwd"], "/etc/passwd"),
        (["--namespace", "/proc/self/ns/net"], "Invalid argument"),
        (["root", "--pid", "1"], "MAP and --pid cannot be combined"),
        (["root", "--to-outside", "-1"], "to-outside"),
    ],
)
def test_errors_are_one_or_two_readable_lines(arguments: list[str], words: str) -> None:
    printed = usernsproc("map", *arguments, status=125)
    assert words in printed
    assert 1 <= printed.count("\n") <= 2


def test_run_takes_every_preset() -> None:
    show = ("--", "cat", "/proc/self/uid_map")
    assert as_user("run", "--map", "rootless", *show).split() == ["0", str(UID), "1", "1", str(FIRST), str(COUNT)]
    assert as_user("run", "--map", "subids", *show).split() == ["0", str(FIRST), str(COUNT)]
    both = as_user("run", "--uid-map", "rootless", "--gid-map", "root", "--", "cat", "/proc/self/gid_map")
    assert both.split() == ["0", str(UID), "1"]


@pytest.mark.parametrize("setgroups", ["allow", "deny"])
def test_run_takes_setgroups(setgroups: str) -> None:
    show = ("--", "cat", "/proc/self/setgroups")
    assert as_user("run", "--map", "rootless", "--setgroups", setgroups, *show).strip() == setgroups


def test_help_of_run_lists_the_presets() -> None:
    printed = usernsproc("run", "--help")
    assert all(f"'{preset}'" in printed for preset in ("root", "current", "subids", "rootless", "all"))
    assert "--setgroups" in printed
    assert "--setgroups maybe: allow or deny" in usernsproc("run", "--setgroups", "maybe", "true", status=125)
