"""`diagnose` and `usernsproc doctor`: what works here, and why the rest does not."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from errno import ENOSPC, EPERM
from pathlib import Path
from typing import Any

import pytest
from alone import A_HANG, run_alone
from programs import diagnose as programs
from unprivileged import as_unprivileged_user

import usernsproc
from usernsproc import Ability, Diagnosis
from usernsproc._cli.doctor import exit_status
from usernsproc._diagnosis.environment import Environment
from usernsproc._diagnosis.probes import PROBES

diagnose = programs.diagnose
WITHOUT_PRIVILEGES = ["userns", "memfd-exec", "join", "mount", "bind-read-only", "tmpfs", "new-root", "proc", "net"]
NAMES = list(PROBES)


def doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*programs.DOCTOR, *arguments], capture_output=True, text=True, timeout=A_HANG, check=False)


def test_what_works_is_found_to_work() -> None:
    diagnosis = diagnose(*WITHOUT_PRIVILEGES)
    assert [ability.name for ability in diagnosis.abilities] == WITHOUT_PRIVILEGES
    for ability in diagnosis.abilities:
        assert ability, ability
        assert ability[3:9] == (None,) * 6
        assert ability.fix == ()
    assert diagnosis
    assert diagnosis.has_userns


@pytest.mark.root
@pytest.mark.kernel("5.13")
def test_root_can_do_all_of_it() -> None:
    diagnosis = diagnose()
    assert [ability.name for ability in diagnosis.abilities] == NAMES
    assert [ability for ability in diagnosis.abilities if not ability and ability.name != "cgroup"] == []


@pytest.mark.root
@pytest.mark.kernel("5.13")
def test_an_unprivileged_user_with_subordinate_ids() -> None:
    """Only idmapped mounts of file systems that others have mounted do not work, apart from cgroups of others."""
    printed = as_unprivileged_user(programs.all_causes)
    not_allowed = {"idmapped-mount": "no-mount-rights"}
    found = [line for line in printed.splitlines() if not line.startswith("cgroup ")]
    assert found == [f"{name} {not_allowed.get(name)}" for name in NAMES if name != "cgroup"]


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


@pytest.mark.parametrize("name", ["", "Userns", "wlan", ["userns"]])
def test_an_unknown_ability_is_refused(name: Any) -> None:
    with pytest.raises(ValueError, match=f"choose from {', '.join(NAMES)}"):
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


def test_several_paths(tmp_path: Path) -> None:
    """Several paths are tried, each on its own."""
    diagnosis = diagnose("idmapped-mount", "userns", path=["/proc", tmp_path])
    assert [(ability.name, ability.path) for ability in diagnosis.abilities] == [
        ("idmapped-mount", "/proc"),
        ("idmapped-mount", str(tmp_path)),
        ("userns", None),
    ]


def test_a_file_system_that_cannot() -> None:
    reported = run_alone(programs.a_file_system_that_cannot).splitlines()
    assert reported == ["an idmapped mount of /proc", "no-idmap-support"]


@pytest.mark.parametrize("names", [[], ["userns"]])
def test_a_path_that_is_not_there_is_a_mistake(names: list[str]) -> None:
    with pytest.raises(FileNotFoundError, match="/no/such/path"):
        diagnose(*names, path="/no/such/path")
    words = "usernsproc: open_tree: No such file or directory: '/no/such/path' [ENOENT]\n"
    assert doctor(*names, "--path", "/no/such/path").stderr == words


def test_each_ability_is_documented() -> None:
    folder = Path(__file__).parent.parent / "docs"
    rows = re.findall(r"^\| `([a-z-]+)` \|", (folder / "how-to-doctor.md").read_text(), re.M)
    assert rows == NAMES
    [sentence] = re.findall(r"An `ABILITY` is ([^.]+)\.", (folder / "reference.md").read_text())
    assert re.findall(r"`([a-z-]+)`", sentence) == NAMES
    described = set(re.findall(r"`([a-z-]+)`", usernsproc.diagnose.__doc__ or ""))
    assert set(NAMES) - described == set()


# ---- the command ----


def test_the_command_reports_in_words() -> None:
    result = doctor(*WITHOUT_PRIVILEGES)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert [line.split()[:2] for line in lines[: len(WITHOUT_PRIVILEGES)]] == [
        ["works", name] for name in WITHOUT_PRIVILEGES
    ]
    assert any(line.startswith("kernel ") and os.uname().release in line for line in lines)


def fields_of(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Return the path and the JSON type of each field, with `[]` for the members of a list."""
    kinds = {dict: "object", list: "array", str: "string", bool: "boolean", int: "number", type(None): "null"}
    yield prefix, kinds[type(value)]
    if isinstance(value, dict):
        for name, member in value.items():
            yield from fields_of(member, f"{prefix}.{name}".lstrip("."))
    if isinstance(value, list):
        for member in value:
            yield from fields_of(member, f"{prefix}[]")


def documented_fields() -> dict[str, set[str]]:
    text = (Path(__file__).parent.parent / "docs/reference.md").read_text()
    table = text.partition("#### Output for programs")[2].partition("\n## ")[0]
    return {name: set(kinds.split(" or ")) for name, kinds in re.findall(r"^\| `(\S+)` \| ([a-z ]+) \|", table, re.M)}


def test_the_command_reports_to_programs() -> None:
    """Each field is documented, with its types."""
    result = doctor("--json", "userns", "idmapped-mount", "--path", "/proc", "--path", "/")
    assert (result.returncode, result.stderr) == (1, "")
    document: dict[str, Any] = json.loads(result.stdout)
    assert (document["schema"], document["status"]) == (1, 1)
    assert (document["works"], document["has_userns"]) == (False, True)
    assert [(ability["name"], ability["path"]) for ability in document["abilities"]] == [
        ("userns", None),
        ("idmapped-mount", "/proc"),
        ("idmapped-mount", "/"),
    ]
    assert document["abilities"][1]["errno_name"] in ("EINVAL", "EPERM")
    assert document["environment"]["kernel"] == os.uname().release
    documented = documented_fields()
    found = [(name, kind) for name, kind in fields_of(document) if name]
    assert {name for name, _ in found} | {"abilities[].fix[]", "environment.proc_mounts[]"} | {
        "environment.forbidden_kinds[]"
    } == set(documented)
    assert [(name, kind) for name, kind in found if kind not in documented[name]] == []


@pytest.mark.root
def test_the_remedies_as_a_script() -> None:
    """It is a script that does nothing but what is printed, and that nothing has run."""
    printed = as_unprivileged_user(programs.fixes, subuid="", subgid="")
    subprocess.run(["sh", "-n"], input=printed, text=True, check=True)
    commands = [line for line in printed.splitlines() if line and not line.startswith("#")]
    assert commands[-1].startswith('usermod --add-subuids "$first-$last" --add-subgids "$first-$last" ')
    assert "(no-subids)" in printed
    assert "# As root:" in printed


def test_the_remedies_where_everything_works() -> None:
    result = doctor("userns", "--fix")
    assert (result.returncode, result.stdout) == (0, "# Everything works.\n")


def test_a_remedy_that_is_no_command_is_a_comment() -> None:
    result = doctor("idmapped-mount", "--path", "/proc", "--fix")
    assert result.returncode == 1
    lines = [line for line in result.stdout.splitlines() if line]
    assert any("(no-idmap-support)" in line or "(no-mount-rights)" in line for line in lines)
    assert [line for line in lines if not line.startswith("# ")] == []


def test_the_status_says_what_class_of_trouble_it_is() -> None:
    assert run_alone(programs.statuses).splitlines() == ["0 0", "1 0", "125 1", "2 0"]


def test_a_reason_is_reported_once() -> None:
    lines = run_alone(programs.one_reason).splitlines()
    assert [line.split()[:2] for line in lines[:1]] == [["fails", "userns"]]
    assert [line for line in lines if "user.max_user_namespaces is 0" in line] == lines[1:2]
    assert lines.count("       for the same reason (userns-forbidden)") == len(NAMES) - 1


NO_NEED = Ability("", "", works=True)
MANY, SOME = (Ability("", "", works=False, need=need) for need in ("many", "some"))


@pytest.mark.parametrize(
    ("abilities", "has_userns", "named", "status"),
    [
        ((NO_NEED, NO_NEED), True, False, 0),
        ((NO_NEED, SOME), True, False, 3),
        ((NO_NEED, SOME), True, True, 1),
        ((MANY, SOME), True, False, 1),
        ((SOME, SOME), False, False, 2),
    ],
)
def test_the_worst_failure_decides(abilities: tuple[Ability, ...], has_userns: bool, named: bool, status: int) -> None:
    diagnosis = Diagnosis(abilities, has_userns, Environment.read())
    assert exit_status(diagnosis, all_were_named=named) == status
