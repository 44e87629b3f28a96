"""`diagnose` and `usernsproc doctor`: what works here, and why the rest does not."""

from __future__ import annotations

import json
import os
import subprocess
from errno import ENOSPC, EPERM
from pathlib import Path
from typing import Any

import pytest
from alone import run_alone
from commands import USERNSPROC
from programs import diagnose as programs
from unprivileged import as_unprivileged_user

from usernsproc import diagnose

NAMES = ["userns", "many-ids", "mount", "proc", "net", "idmapped-mount"]
WITHOUT_PRIVILEGES = [name for name in NAMES if name not in ("many-ids", "idmapped-mount")]


def doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([USERNSPROC, "doctor", *arguments], capture_output=True, text=True, timeout=120, check=False)


def test_what_works_is_found_to_work() -> None:
    diagnosis = diagnose(*WITHOUT_PRIVILEGES)
    assert [ability.name for ability in diagnosis.abilities] == WITHOUT_PRIVILEGES
    for ability in diagnosis.abilities:
        assert ability, ability
        assert ability[3:] == (None,) * 5
    assert diagnosis
    assert diagnosis.has_userns


@pytest.mark.root
def test_root_can_do_all_of_it() -> None:
    diagnosis = diagnose()
    assert [ability.name for ability in diagnosis.abilities] == NAMES
    assert diagnosis, diagnosis


@pytest.mark.root
def test_an_unprivileged_user_with_subordinate_ids() -> None:
    """Only idmapped mounts of file systems that others have mounted do not work."""
    printed = as_unprivileged_user(programs.all_causes)
    expected = [f"{name} {'no-mount-rights' if name == 'idmapped-mount' else None}" for name in NAMES]
    assert printed.splitlines() == expected


@pytest.mark.root
def test_an_unprivileged_user_without() -> None:
    printed = as_unprivileged_user(programs.without_subordinate_ids, subuid="", subgid="")
    reported, remedy = printed.splitlines()
    assert reported == f"False True uid_map {EPERM} no-subids"
    assert "usermod --add-subuids" in remedy


def test_only_what_is_asked_for_is_reported() -> None:
    assert [ability.name for ability in diagnose("net", "userns").abilities] == ["net", "userns"]
    with pytest.raises(KeyError):
        diagnose("net").ability("userns")


def test_an_interpreter_that_fails_is_reported_and_prints_nothing_itself(tmp_path: Path) -> None:
    """The output of the interpreter is not read, and it does not appear in the output of the doctor."""
    failing = tmp_path / "python"
    failing.write_text("#!/bin/sh\necho noise; echo noise >&2; exit 3\n")
    failing.chmod(0o755)
    tmp_path.chmod(0o755)
    printed = run_alone(programs.with_an_interpreter_that_fails, str(failing))
    assert printed == f"False loopback The interpreter of the probe, {failing}, exited with status 3.\n"


@pytest.mark.parametrize("name", ["", "Userns", "wlan"])
def test_an_unknown_ability_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="choose from userns, many-ids, mount, proc, net, idmapped-mount"):
        diagnose("userns", name)


def test_user_namespaces_are_forbidden() -> None:
    """One reason for all failures: nothing else is tried."""
    reported = run_alone(programs.user_namespaces_forbidden).splitlines()
    assert reported == [f"{name} False clone {ENOSPC} userns-forbidden" for name in ("net", "many-ids")]


def test_in_a_chroot(tmp_path: Path) -> None:
    reported = run_alone(programs.in_a_chroot, str(tmp_path)).splitlines()
    assert reported == [f"userns False clone {EPERM} chroot"]


def test_under_a_filter_of_system_calls() -> None:
    """The doctor reports that there is a filter; it cannot determine which one or what has set it."""
    reported = run_alone(programs.under_a_filter).splitlines()
    assert reported[0] in [f"userns False clone {EPERM} {cause}" for cause in ("seccomp", "container-seccomp")]
    assert reported[1] == "True True"


def test_a_caller_id_that_is_not_mapped() -> None:
    reported = run_alone(programs.own_id_not_mapped).splitlines()
    assert reported == [f"userns False uid_map {EPERM} own-id-unmapped"]


def test_a_proc_that_is_masked() -> None:
    """As in containers: the rest works."""
    reported = run_alone(programs.masked_proc).splitlines()
    assert reported == [f"proc False mount_proc {EPERM} proc-masked", "mount True None None None", "True"]


def test_a_file_system_that_cannot() -> None:
    reported = run_alone(programs.a_file_system_that_cannot).splitlines()
    assert reported == ["an idmapped mount of /proc", "no-idmap-support"]


@pytest.mark.parametrize("names", [[], ["userns"]])
def test_a_path_that_is_not_there_is_a_mistake(names: list[str]) -> None:
    with pytest.raises(FileNotFoundError, match="/no/such/path"):
        diagnose(*names, path="/no/such/path")
    words = "usernsproc: open_tree: No such file or directory: '/no/such/path' [ENOENT]\n"
    assert doctor(*names, "--path", "/no/such/path").stderr == words


# ---- the command ----


def test_the_command_reports_in_words() -> None:
    result = doctor(*WITHOUT_PRIVILEGES)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert [line.split()[:2] for line in lines[: len(WITHOUT_PRIVILEGES)]] == [
        ["works", name] for name in WITHOUT_PRIVILEGES
    ]
    assert any(line.startswith("kernel ") and os.uname().release in line for line in lines)


def test_the_command_reports_to_programs() -> None:
    result = doctor("--json", "userns", "idmapped-mount", "--path", "/proc")
    assert (result.returncode, result.stderr) == (1, "")
    document: dict[str, Any] = json.loads(result.stdout)
    assert (document["works"], document["has_userns"]) == (False, True)
    assert [(ability["name"], ability["works"]) for ability in document["abilities"]] == [
        ("userns", True),
        ("idmapped-mount", False),
    ]
    assert document["surroundings"]["kernel"] == os.uname().release


def test_the_status_says_what_class_of_trouble_it_is() -> None:
    assert run_alone(programs.statuses).splitlines() == ["0 0", "1 0", "125 1", "2 0"]
