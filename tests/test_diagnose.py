"""`diagnose` and `usernsproc doctor`: what works here, and why the rest does not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from errno import ENOSPC, EPERM
from pathlib import Path
from typing import Any

import pytest
from ordinary import as_ordinary_user

from usernsproc import diagnose

Script = Callable[..., str]

PROGRAM = str(Path(sys.executable).parent / "usernsproc")
NAMES = ["userns", "many-ids", "mount", "proc", "net", "idmapped-mount"]
WITHOUT_PRIVILEGES = [name for name in NAMES if name not in ("many-ids", "idmapped-mount")]

# Root of an own user namespace; others are root already.
START = """
import os
import native
from pathlib import Path
from usernsproc import create_userns, diagnose
diagnose() # imports all that it needs
if os.geteuid():
    with create_userns("root", "root") as own:
        own.enter()
def tell(diagnosis):
    for ability in diagnosis.abilities:
        print(ability.name, ability.works, ability.step, ability.errno, ability.cause)
"""


@pytest.fixture
def inside(script: Script) -> Callable[..., list[str]]:
    return lambda source, *args: script(START + textwrap.dedent(source), *args).splitlines()


def doctor(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, "doctor", *arguments], capture_output=True, text=True, timeout=120, check=False)


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
def test_an_ordinary_user_with_subordinate_ids() -> None:
    """Only what is mounted by others cannot be mounted with other owners."""
    printed = as_ordinary_user(
        "from usernsproc import diagnose\nfor ability in diagnose().abilities: print(ability.name, ability.cause)"
    )
    expected = [f"{name} {'no-mount-rights' if name == 'idmapped-mount' else None}" for name in NAMES]
    assert printed.splitlines() == expected


@pytest.mark.root
def test_an_ordinary_user_without() -> None:
    printed = as_ordinary_user(
        """
        from usernsproc import diagnose
        diagnosis = diagnose("many-ids")
        print(bool(diagnosis), diagnosis.has_userns, *diagnosis.ability("many-ids")[3:6])
        print(diagnosis.ability("many-ids").remedy)
        """,
        subuid="",
        subgid="",
    )
    told, remedy = printed.splitlines()
    assert told == f"False True uid_map {EPERM} no-subids"
    assert "usermod --add-subuids" in remedy


def test_only_what_is_asked_for_is_told() -> None:
    assert [ability.name for ability in diagnose("net", "userns").abilities] == ["net", "userns"]
    with pytest.raises(KeyError):
        diagnose("net").ability("userns")


def test_an_interpreter_that_fails_is_told_and_says_nothing_itself(script: Script, tmp_path: Path) -> None:
    """Of the words of others nothing is read, and none of them come between ours."""
    failing = tmp_path / "python"
    failing.write_text("#!/bin/sh\necho noise; echo noise >&2; exit 3\n")
    failing.chmod(0o755)
    tmp_path.chmod(0o755)
    printed = script(
        """
        import sys
        from usernsproc import diagnose
        sys.executable = sys.argv[1]
        [ability] = diagnose("net").abilities
        print(ability.works, ability.step, ability.remedy)
        """,
        str(failing),
    )
    assert printed == f"False loopback The interpreter of the probe, {failing}, exited with status 3.\n"


@pytest.mark.parametrize("name", ["", "Userns", "wlan"])
def test_what_is_no_ability_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="choose from userns, many-ids, mount, proc, net, idmapped-mount"):
        diagnose("userns", name)


def test_user_namespaces_are_forbidden(inside: Callable[..., list[str]]) -> None:
    """One reason for all: nothing else is tried."""
    told = inside(
        """
        if not os.geteuid():
            with create_userns("all", "all") as own: # not the machine's own limit
                own.enter()
        Path("/proc/sys/user/max_user_namespaces").write_text("0")
        diagnosis = diagnose("net", "many-ids")
        assert not diagnosis.has_userns
        tell(diagnosis)
        """
    )
    assert told == [f"{name} False clone {ENOSPC} userns-forbidden" for name in ("net", "many-ids")]


def test_in_a_chroot(inside: Callable[..., list[str]], tmp_path: Path) -> None:
    told = inside(
        """
        import sys
        native.unshare(native.CLONE_NEWNS)
        native.must(native.libc.mount(None, b"/", None, native.MS_REC | native.MS_PRIVATE, None))
        proc = Path(sys.argv[1], "proc")
        proc.mkdir()
        MS_BIND = 4096
        native.must(native.libc.mount(b"/proc", bytes(proc), None, MS_BIND | native.MS_REC, None))
        outside = os.open("/", os.O_RDONLY)
        os.chroot(sys.argv[1])
        tell(diagnose("userns"))
        os.fchdir(outside)
        os.chroot(".")
        """,
        str(tmp_path),
    )
    assert told == [f"userns False clone {EPERM} chroot"]


def test_under_a_filter_of_system_calls(inside: Callable[..., list[str]]) -> None:
    """Which, or who has set it, is not known; what is known is that there is one."""
    told = inside(
        """
        NR_CLONE = {"x86_64": 56, "aarch64": 220, "riscv64": 220, "s390x": 120, "ppc64le": 120}[os.uname().machine]
        native.refuse_system_call(NR_CLONE, 1)
        diagnosis = diagnose("userns")
        tell(diagnosis)
        print(diagnosis.surroundings.seccomp, diagnosis.surroundings.no_new_privs)
        """
    )
    assert told[0] in [f"userns False clone {EPERM} {cause}" for cause in ("seccomp", "container-seccomp")]
    assert told[1] == "True True"


def test_an_own_id_that_is_not_mapped(inside: Callable[..., list[str]]) -> None:
    told = inside(
        """
        native.unshare(native.CLONE_NEWUSER)
        tell(diagnose("userns"))
        """
    )
    assert told == [f"userns False uid_map {EPERM} own-id-unmapped"]


def test_a_proc_that_is_masked(inside: Callable[..., list[str]]) -> None:
    """As in containers: the rest works."""
    told = inside(
        """
        native.unshare(native.CLONE_NEWNS)
        native.must(native.libc.mount(None, b"/", None, native.MS_REC | native.MS_PRIVATE, None))
        native.must(native.libc.mount(b"tmpfs", b"/proc/sys", b"tmpfs", 0, None))
        diagnosis = diagnose("proc", "mount")
        tell(diagnosis)
        print("/proc/sys" in diagnosis.ability("proc").reason)
        """
    )
    assert told == [f"proc False mount_proc {EPERM} proc-masked", "mount True None None None", "True"]


def test_a_file_system_that_cannot(inside: Callable[..., list[str]]) -> None:
    told = inside(
        """
        native.unshare(native.CLONE_NEWNS)
        diagnosis = diagnose("idmapped-mount", path="/proc")
        print(diagnosis.ability("idmapped-mount").meaning)
        print(diagnosis.ability("idmapped-mount").cause)
        """
    )
    assert told == ["an idmapped mount of /proc", "no-idmap-support"]


@pytest.mark.parametrize("names", [[], ["userns"]])
def test_a_path_that_is_not_there_is_a_mistake(names: list[str]) -> None:
    with pytest.raises(FileNotFoundError, match="/no/such/path"):
        diagnose(*names, path="/no/such/path")
    words = "usernsproc: open_tree: No such file or directory: '/no/such/path' [ENOENT]\n"
    assert doctor(*names, "--path", "/no/such/path").stderr == words


# ---- the command ----


def test_the_command_tells_in_words() -> None:
    result = doctor(*WITHOUT_PRIVILEGES)
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert [line.split()[:2] for line in lines[: len(WITHOUT_PRIVILEGES)]] == [
        ["works", name] for name in WITHOUT_PRIVILEGES
    ]
    assert any(line.startswith("kernel ") and os.uname().release in line for line in lines)


def test_the_command_tells_programs() -> None:
    result = doctor("--json", "userns", "idmapped-mount", "--path", "/proc")
    assert (result.returncode, result.stderr) == (1, "")
    document: dict[str, Any] = json.loads(result.stdout)
    assert (document["works"], document["has_userns"]) == (False, True)
    assert [(ability["name"], ability["works"]) for ability in document["abilities"]] == [
        ("userns", True),
        ("idmapped-mount", False),
    ]
    assert document["surroundings"]["kernel"] == os.uname().release


def test_the_status_says_what_class_of_trouble_it_is(inside: Callable[..., list[str]]) -> None:
    told = inside(
        """
        import subprocess, sys
        if not os.geteuid():
            with create_userns("all", "all") as own:
                own.enter()
        def status(*arguments):
            ended = subprocess.run([sys.argv[1], "doctor", *arguments], capture_output=True, text=True)
            print(ended.returncode, len(ended.stderr.splitlines()))
            return ended.stdout
        status("userns")
        fails = status("idmapped-mount", "--path", "/proc")
        assert fails.startswith("fails  idmapped-mount"), fails
        status("wlan")
        Path("/proc/sys/user/max_user_namespaces").write_text("0")
        assert "user.max_user_namespaces is 0" in status()
        """,
        PROGRAM,
    )
    assert told == ["0 0", "1 0", "125 1", "2 0"]
