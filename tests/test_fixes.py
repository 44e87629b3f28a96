"""The remedies as shell commands: their syntax, and that names in them stay one word."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from usernsproc._causes import CAUSES, REMEDIES
from usernsproc._diagnosis.environment import Environment
from usernsproc._diagnosis.explanations import EXPLANATIONS
from usernsproc._diagnosis.fixes import FIXES, Place, fix
from usernsproc._setup.causes import OF_CALLS, OF_STEPS

USUAL = Place(
    program="/usr/bin/python3.12",
    user="ada",
    uid=1000,
    kernel="6.8.0",
    service="build.service",
    forbidden_kinds=("net",),
    tools=("/usr/bin/newuidmap", "/usr/bin/newgidmap"),
)
ODD = USUAL._replace(
    program='/opt/it\'s "$(reboot)" [a]/python',
    user="o'brien $HOME",
    service="a b;'c.service",
    tools=("/opt/new uid'map", "newgidmap"),
)
PLACES = {"usual": USUAL, "odd names": ODD, "no service": USUAL._replace(service=None)}


@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("cause", FIXES)
def test_the_commands_are_valid(cause: str, place: str, shell: str) -> None:
    text = "\n".join(fix(cause, PLACES[place])) + "\n"
    checked = subprocess.run([shell, "-n"], input=text, text=True, capture_output=True, check=False)
    assert (checked.returncode, checked.stderr) == (0, ""), text


def test_each_is_a_cause_that_is_reported() -> None:
    known = {row.cause for row in EXPLANATIONS} | set(REMEDIES) | {"no-cgroup2"}
    known |= {cause for table in (CAUSES, OF_STEPS, OF_CALLS) for cause, _ in table.values()}
    assert set(FIXES) - known == set()


STUBS = "sysctl() { :; }\n" + "".join(
    f"{name}() {{ printf '%s|' {name} \"$@\"; echo; }}\n"
    for name in ("chmod", "mkdir", "systemctl", "usermod", "mount", "stat", "apparmor_parser")
)


def ran(cause: str, place: Place) -> list[list[str]]:
    """Return the words of the commands, none of which is run."""
    script = STUBS + "\n".join(line for line in fix(cause, place) if ">/etc" not in line)
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    return [line.rstrip("|").split("|") for line in done.stdout.splitlines()]


def test_names_stay_one_word() -> None:
    assert ran("tool-not-setuid", ODD) == [["chmod", "u+s", tool] for tool in ODD.tools]
    assert ran("seccomp", ODD) == [
        ["mkdir", "-p", f"/etc/systemd/system/{ODD.service}.d"],
        ["systemctl", "daemon-reload"],
        ["systemctl", "restart", ODD.service],
    ]


def test_the_profile_is_for_the_program_alone() -> None:
    lines = fix("apparmor-userns", USUAL)
    assert lines[0] == "cat >/etc/apparmor.d/usr.bin.python3.12 <<'END'"
    assert 'profile "usr.bin.python3.12" "/usr/bin/python3.12" flags=(unconfined) {' in lines
    assert "  userns," in lines
    assert lines[-1] == "apparmor_parser -r /etc/apparmor.d/usr.bin.python3.12"
    assert not any("sysctl" in line for line in lines)


def test_a_pattern_in_the_path_is_escaped() -> None:
    [line] = [line for line in fix("apparmor-userns", ODD) if line.startswith("profile")]
    assert r"/opt/it's \"$(reboot)\" \[a\]/python" in line


def test_a_name_with_a_line_break_gives_no_commands() -> None:
    place = USUAL._replace(program="/opt/a\nEND\nreboot\n")
    assert fix("apparmor-userns", place) == ()


def test_a_new_range_of_subordinate_ids_is_behind_all_others(tmp_path: Path) -> None:
    (tmp_path / "subuid").write_text("ada:100000:65536\nbob:165536:65536\n")
    (tmp_path / "subgid").write_text("ada:300000:65536\n")
    script = STUBS + "\n".join(fix("no-subids", USUAL)).replace("/etc/", f"{tmp_path}/")
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "usermod|--add-subuids|365536-431071|--add-subgids|365536-431071|ada|\n"


def test_the_place_is_that_of_this_process() -> None:
    place = Place.of(Environment.read(), ("newuidmap", "newgidmap"))
    assert Path(place.program).is_absolute()
    assert re.fullmatch(r"\S+", place.user)
