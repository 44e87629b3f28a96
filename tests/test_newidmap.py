"""Each way in which a map of subordinate IDs can fail is reported with its rule, its cause and a remedy.

Most tests require root, which creates a private mount namespace in which this machine is as the
test needs it, and becomes user 1000 there.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable
from typing import Any, NamedTuple

import alone
import pytest
from programs import newidmap
from test_idmap_kernel import ranges_with_text_of
from unprivileged import DROP, SUITES, UID, as_unprivileged_user, shadow

from usernsproc._causes import REMEDIES, TOOL_CAUSES

LINES = f"{UID}:100000:65536"


class Reported(NamedTuple):
    """An exception of the program."""

    type: str
    text: str
    notes: list[str]
    errno: int | None
    step: str | None
    cause: str | None
    returncode: int | None
    stderr: str | None


def reported_by(function: Callable[..., object], *arguments: object, **options: Any) -> list[Reported | None]:
    found = as_unprivileged_user(function, *arguments, **options).splitlines()
    return [line and Reported(**line) for line in map(json.loads, found)]


def the_refusal(function: Callable[..., object] = newidmap.create, *arguments: object, **options: Any) -> Reported:
    """Return the error. It comes before anything is created, with a remedy."""
    (error,) = reported_by(function, *arguments, **options)
    assert error is not None
    assert error.type == "IdMapPermissionError", error
    assert error.errno == 1
    assert error.cause in REMEDIES
    assert len(error.notes) == 1
    return error


def the_failure(function: Callable[..., object] = newidmap.create, *arguments: object, **options: Any) -> Reported:
    """Return the error of the tool, whose output is in the note."""
    (error,) = reported_by(function, *arguments, **options)
    assert error is not None
    assert error.type == "MapToolError", error
    assert error.errno == 1
    assert error.cause in TOOL_CAUSES
    assert error.stderr is not None
    for line in error.stderr.splitlines():
        assert line in error.notes[0]
    return error


# ---- which IDs ----


@pytest.mark.root
@pytest.mark.parametrize(
    ("subuid", "subgid", "step", "file"),
    [
        ("other:100000:65536", LINES, "uid_map", "/etc/subuid"),
        (LINES, "other:100000:65536", "gid_map", "/etc/subgid"),
        ("", "", "uid_map", "/etc/subuid"),
        (LINES, f"{UID}:0x:5", "gid_map", "/etc/subgid"),
    ],
)
@pytest.mark.parametrize("uid_map", ["rootless", "subids", "0:100000:65536"])
def test_no_line_for_the_user(uid_map: str, subuid: str, subgid: str, step: str, file: str) -> None:
    """Also if the map is given in numbers."""
    error = the_refusal(newidmap.create, uid_map, uid_map, subuid=subuid, subgid=subgid)
    assert (error.step, error.cause) == (step, "no-subids")
    assert file in error.text
    assert f"({UID})" in error.text
    assert "usermod --add-subuids" in error.notes[0]


@pytest.mark.root
@pytest.mark.parametrize("line", [f"{LINES} ", f"{LINES}\r", f"{UID}:100000 :65536", f"{UID}:0o100:65536"])
def test_a_line_that_newuidmap_passes_over_is_shown(line: str) -> None:
    """A blank at the end makes it malformed, which is hard to see."""
    error = the_refusal(subuid=line)
    assert (error.step, error.cause) == ("uid_map", "no-subids")
    assert f"its line {line!r} is malformed (NAME:FIRST:COUNT, and no more) in /etc/subuid" in error.text
    failed = the_failure(newidmap.create_unchecked, "0:100000:5", "root", subuid=line)
    assert failed.cause == "tool-failed"


@pytest.mark.root
def test_a_range_larger_than_the_line() -> None:
    error = the_refusal(newidmap.create, "0:1000:1,1:100000:1001", "root", subuid=f"{UID}:100000:1000")
    assert (error.step, error.cause) == ("uid_map", "subids-too-small")
    assert "range 1:100000:1001" in error.text
    assert "outside id 101000 is beyond" in error.text


def test_a_range_of_another_user() -> None:
    error = the_refusal(newidmap.create, "root", "0:1000:1,1:50:5")
    assert (error.step, error.cause) == ("gid_map", "subids-foreign")
    assert "range 1:50:5" in error.text
    assert "100000 … 165535" in error.text


@pytest.mark.root
def test_more_than_the_tool_can_write() -> None:
    """The kernel does not need the last newline, so a longer text fits; the tool always writes it."""
    maps = [ranges_with_text_of(length, range(100, 1000)) for length in (4095, 4096)]
    fits, refused = reported_by(newidmap.create_each, *maps, subuid=f"{UID}:0:1001")
    assert fits is None
    assert refused is not None
    assert (refused.step, refused.cause) == ("uid_map", "too-many-ranges")
    assert "4096 bytes" in refused.text


@pytest.mark.root
def test_more_ranges_than_any_map_has() -> None:
    lines = "\n".join(f"{UID}:{100000 + 2 * n}:1" for n in range(341))
    (error,) = reported_by(newidmap.create, "subids", "root", subuid=lines)
    assert error is not None
    assert error.type == "IdMapError"
    assert "341 ranges" in error.text


# ---- the caller ----


@pytest.mark.root
@pytest.mark.parametrize(("capability", "step"), [("setuid", "uid_map"), ("setgid", "gid_map")])
def test_a_capability_that_not_even_the_tool_could_have(capability: str, step: str) -> None:
    """In a container, whose bounding set lacks it."""
    drop = (*DROP, f"--bounding-set=-{capability}")
    error = the_refusal(drop=drop)
    assert (error.step, error.cause) == (step, f"no-cap-{capability}")
    assert f"CAP_{capability.upper()}" in error.text


@pytest.mark.root
def test_root_without_the_capability_is_refused_as_well() -> None:
    drop = ("setpriv", "--bounding-set=-setuid", "--inh-caps=-all")
    error = the_refusal(newidmap.create, "0:100000:65536", "0:100000:65536", drop=drop)
    assert (error.step, error.cause) == ("uid_map", "no-cap-setuid")


@pytest.mark.root
def test_outside_user_0_requires_cap_setfcap_of_the_tool_too() -> None:
    maps = ("0:0:1,1:1000:1", "root")
    lines = {"subuid": f"{UID}:0:1"}
    assert reported_by(newidmap.create, *maps, **lines) == [None]
    error = the_refusal(newidmap.create, *maps, drop=(*DROP, "--bounding-set=-setfcap"), **lines)
    assert (error.step, error.cause) == ("uid_map", "no-cap-setfcap")


@pytest.mark.root
def test_root_without_cap_setfcap() -> None:
    drop = ("setpriv", "--bounding-set=-setfcap", "--inh-caps=-all")
    error = the_refusal(newidmap.create, "all", "all", drop=drop)
    assert (error.step, error.cause) == ("uid_map", "no-cap-setfcap")


@pytest.mark.root
def test_no_new_privs() -> None:
    error = the_refusal(drop=(*DROP, "--no-new-privs"))
    assert (error.step, error.cause) == ("uid_map", "no-new-privs")
    assert "newuidmap" in error.text


@pytest.mark.root
def test_no_new_privs_leaves_the_callers_id() -> None:
    assert reported_by(newidmap.create, "root", "root", drop=(*DROP, "--no-new-privs")) == [None]


def test_a_process_that_is_not_dumpable() -> None:
    """Its children's files in /proc belong to root. This is reported before a child exists."""
    refused, fine = reported_by(newidmap.create_while_not_dumpable_and_after)
    assert refused is not None
    assert (refused.type, refused.step, refused.cause) == ("IdMapPermissionError", "uid_map", "not-dumpable")
    assert fine is None


@pytest.mark.root
@pytest.mark.parametrize("uid_map", ["rootless", "0:100000:65536"])
@pytest.mark.parametrize("lines", ["1234:100000:65536", ""])
def test_a_user_without_a_name(uid_map: str, lines: str) -> None:
    """This is reported first: usermod cannot add a line for a user without a name."""
    drop = tuple(word.replace(str(UID), "1234") for word in DROP)
    error = the_refusal(newidmap.create, uid_map, uid_map, drop=drop, subuid=lines, subgid=lines)
    assert (error.step, error.cause) == ("uid_map", "no-user-name")
    assert "1234" in error.text


@pytest.mark.root
def test_real_and_effective_ids_that_differ() -> None:
    drop = ("setpriv", "--ruid", str(UID), "--euid", str(UID), "--rgid", str(UID), "--egid", "100", "--clear-groups")
    error = the_refusal(drop=(*drop, "--inh-caps=-all"))
    assert (error.step, error.cause) == ("uid_map", "ids-differ")
    assert f"{UID}:{UID} and {UID}:100" in error.text


@pytest.mark.root
def test_a_group_that_is_not_the_users_own() -> None:
    """After newgrp or sg. The tool reports it, if login.defs does not allow it."""
    drop = ("setpriv", "--reuid", str(UID), "--regid", "100", "--clear-groups", "--inh-caps=-all")
    error = the_failure(drop=drop)
    assert (error.step, error.cause, error.returncode) == ("newuidmap", "tool-other-group", 1)
    assert error.stderr


def test_ids_that_the_callers_namespace_does_not_map() -> None:
    """The IDs of /etc/subuid, in a namespace that maps only the caller's ID."""
    error = the_refusal(newidmap.create_inside, {"uid_map": "current"})
    assert (error.step, error.cause) == ("uid_map", "not-mapped-in-parent")
    assert "outside ids 100000 … 165535 are not mapped" in error.text


def test_where_the_callers_id_alone_is_mapped_a_line_would_be_of_no_use() -> None:
    """So the remedy does not request one."""
    error = the_refusal(newidmap.create_inside, {"uid_map": "root"})
    assert (error.step, error.cause) == ("uid_map", "not-mapped-in-parent")
    assert f"(0:{UID}:1)" in error.text
    assert "usermod" not in error.notes[0]


@pytest.mark.root
def test_a_tool_whose_owner_the_callers_namespace_does_not_map() -> None:
    """A set-user-ID bit has no effect if the owner is not mapped."""
    uids = "0:100000:1000,1000:1000:1,2000:101000:1000"
    options = {"uid_map": uids, "gid_map": uids}
    error = the_refusal(newidmap.create_inside, options, "0:1:50", "root", subuid=f"{LINES}\n{UID}:1:100")
    assert (error.step, error.cause) == ("uid_map", "tool-owner-unmapped")


# ---- the tool ----

COPY = """
mount -t tmpfs -o mode=755{options} tmpfs /mnt
cp /usr/bin/newuidmap /usr/bin/newgidmap /mnt/
chmod 4755 /mnt/new?idmap
{change}
for tool in newuidmap newgidmap; do mount --bind /mnt/$tool /usr/bin/$tool; done
"""
"""Changed copies, in the place of the real ones."""


def copies(change: str = "", options: str = "") -> str:
    return COPY.format(change=change, options=options)


@pytest.mark.root
@pytest.mark.parametrize(("tool", "step"), [("newuidmap", "uid_map"), ("newgidmap", "gid_map")])
def test_a_tool_that_is_not_installed(tool: str, step: str) -> None:
    error = the_refusal(before=copies(f"chmod 0 /mnt/{tool}"))
    assert (error.step, error.cause) == (step, "tool-missing")
    assert tool in error.text
    assert "uidmap" in error.notes[0]


@pytest.mark.root
@pytest.mark.parametrize("change", ["chmod 755", "chown 1000"])
@pytest.mark.parametrize(("tool", "step"), [("newuidmap", "uid_map"), ("newgidmap", "gid_map")])
def test_a_tool_without_the_right_set_user_id(change: str, tool: str, step: str) -> None:
    error = the_refusal(before=copies(f"{change} /mnt/{tool}; [ '{change}' = 'chmod 755' ] || chmod 4755 /mnt/{tool}"))
    assert (error.step, error.cause) == (step, "tool-not-setuid")
    assert f"/usr/bin/{tool}" in error.text


@pytest.mark.root
def test_a_tool_with_file_capabilities_in_its_stead() -> None:
    """As in Fedora and other distributions."""
    grant = shlex.join(alone.command(newidmap.give_file_capabilities, "/mnt"))
    assert reported_by(newidmap.create, before=copies(grant)) == [None]


@pytest.mark.root
def test_a_tool_on_a_file_system_without_set_user_id() -> None:
    error = the_refusal(before=copies(options=",nosuid"))
    assert (error.step, error.cause) == ("uid_map", "tool-nosuid")
    assert "/usr/bin/newuidmap" in error.text


FAKE = """
cat >/mnt/newuidmap <<'END'
#!/bin/bash
{script}
END
"""
"""A script passes the checks before; its set-user-ID has no effect."""


def fake(script: str) -> str:
    return copies(FAKE.format(script=script))


@pytest.mark.root
def test_a_tool_that_does_nothing_and_says_it_went_well() -> None:
    error = the_failure(before=fake("exit 0"))
    assert (error.step, error.cause, error.returncode) == ("newuidmap", "map-differs", 0)
    assert "the map is unwritten" in error.text


@pytest.mark.root
@pytest.mark.parametrize(("script", "returncode"), [("echo sorry >&2; exit 3", 3), ("echo sorry >&2; kill -9 $$", -9)])
def test_a_tool_that_fails_is_reported_with_its_status_and_what_it_said(script: str, returncode: int) -> None:
    error = the_failure(before=fake(script))
    assert (error.step, error.cause, error.returncode) == ("newuidmap", "tool-failed", returncode)
    assert error.stderr == "sorry\n"
    assert error.text.endswith(f"status {returncode}: sorry [EPERM, tool-failed]")


@pytest.mark.root
def test_a_tool_that_says_very_much() -> None:
    error = the_failure(before=fake("head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 1"))
    assert error.stderr == "x" * 1000000


@pytest.mark.root
def test_a_tool_that_is_not_a_program() -> None:
    (error,) = reported_by(newidmap.create, before=copies("echo '#!/nonexistent' >/mnt/newuidmap"))
    assert error is not None
    assert (error.type, error.step) == ("UsernsFileNotFoundError", "newuidmap")
    assert "/usr/bin/newuidmap" in error.text


@pytest.mark.root
@pytest.mark.parametrize("by_fd", [True, False])
def test_a_tool_gets_no_environment_and_no_descriptor_but_one_folder_of_proc(by_fd: bool) -> None:
    """It has an absolute path and starts in the root directory. The folder is there only if it names the process."""
    # No pipe after ls(1): the shell would have it among its descriptors.
    script = 'echo "$0 $PWD" >&2; cat /proc/$$/environ >&2; echo >&2; ls -l /proc/$$/fd >&2; exit 1'
    error = the_failure(newidmap.create_with_secrets, by_fd, before=fake(script))
    assert error.stderr is not None
    path, environment, *listed = error.stderr.splitlines()
    assert (path, environment) == ("/usr/bin/newuidmap /", "")
    targets = {words[-3]: words[-1] for line in listed if "->" in (words := line.split())}
    standard = {name: targets.pop(name).partition(":")[0] for name in "012"}
    assert standard == {"0": "/dev/null", "1": "pipe", "2": "pipe"}
    others = [target for target in targets.values() if target != "/usr/bin/newuidmap"]
    assert len(others) == by_fd
    assert all(other.startswith("/proc/") for other in others)


KILL_BY_FD = 'kill -9 $(sed -n "s/^Pid:[[:space:]]*//p" /proc/self/fd/${1#fd:}/status)'
KILL_BY_PID = "kill -9 $1"


@pytest.mark.root
@pytest.mark.parametrize(("by_fd", "kill"), [(True, KILL_BY_FD), (False, KILL_BY_PID)], ids=["by fd", "by pid"])
@pytest.mark.parametrize("status", [0, 1])
def test_a_child_that_is_killed_while_the_tool_works(by_fd: bool, kill: str, status: int) -> None:
    """Whatever the tool reports: the PID could be another process's by then."""
    for error in reported_by(
        newidmap.each_way_with_a_known_tool, by_fd, before=fake(f"{kill}; sleep 0.1; exit {status}")
    ):
        assert error is not None
        assert (error.type, error.step, error.cause) == (
            "UsernsProcessLookupError",
            "open_proc",
            "child-killed",
        )


@pytest.mark.root
def test_an_exception_of_a_signal_handler_ends_the_tool_and_the_child() -> None:
    """Ctrl-C while the tool waits for a slow user database."""
    for error in reported_by(
        newidmap.each_way_with_a_handler_that_raises, before=fake("kill -ALRM $PPID; exec sleep 1000")
    ):
        assert error is not None
        assert error.type == "TimeoutError"


@pytest.mark.parametrize("suite", SUITES)
def test_what_the_tool_itself_refuses(suite: str) -> None:
    env = {"PATH": f"{shadow(suite)}:{os.environ['PATH']}"}
    error = the_failure(newidmap.create_unchecked, "0:5:2", "root", env=env)
    assert (error.step, error.cause, error.returncode) == ("newuidmap", "tool-failed", 1)
    assert error.stderr is not None
    assert "not allowed" in error.stderr
    error = the_failure(newidmap.run_unchecked, "rootless", "0:5:2", env=env)
    assert (error.step, error.returncode) == ("newgidmap", 1)


@pytest.mark.root
def test_rights_that_the_tool_turns_out_not_to_have() -> None:
    """Securebits, which are not visible otherwise: root's programs get no capabilities."""
    drop = (*DROP[:-1], "--inh-caps=-all", "--securebits", "+noroot")
    error = the_failure(drop=drop)
    assert (error.step, error.cause) == ("newuidmap", "tool-failed")


# ---- order ----


@pytest.mark.parametrize("preset", ["root", "rootless"])
def test_a_map_is_written_once(preset: str) -> None:
    """By the library or by a tool."""
    *both, alive = reported_by(newidmap.write_each_again, preset)
    for error, step in zip(both, ("uid_map", "gid_map"), strict=True):
        assert error is not None
        assert error.cause == "map-written"
        assert error.step == step
    assert alive is None


def test_setgroups_comes_before_the_group_map() -> None:
    late, denied, fine = reported_by(newidmap.write_setgroups_late_and_twice)
    assert late is not None
    assert (late.type, late.step, late.cause) == ("UsernsPermissionError", "setgroups", "setgroups-too-late")
    assert denied is not None
    assert (denied.step, denied.cause) == ("setgroups", "setgroups-denied")
    assert fine is None


def test_setgroups_cannot_stay_allowed_with_the_callers_group_alone() -> None:
    error = the_refusal(newidmap.create, "rootless", "root", "allow")
    assert (error.step, error.cause) == ("gid_map", "setgroups-allowed")
    assert "newgidmap" in error.notes[0]


@pytest.mark.root
def test_when_the_second_tool_fails_nothing_is_left_of_the_first_map() -> None:
    """Neither namespace nor process: `report` checks it."""
    script = "cat >/mnt/newgidmap <<'END'\n#!/bin/bash\necho no groups >&2; exit 1\nEND\n"
    for error in reported_by(newidmap.each_way, before=copies(script)):
        assert error is not None
        assert (error.type, error.step, error.stderr) == ("MapToolError", "newgidmap", "no groups\n")


# ---- how it is called ----


@pytest.mark.root
@pytest.mark.parametrize("suite", SUITES)
def test_the_process_is_named_by_descriptor_where_the_tool_takes_that(suite: str) -> None:
    """Bookworm's accepts only a PID, which the library finds out once by trying; trixie's accepts fd:N."""
    drop = ("strace", "-f", "-qq", "-e", "trace=execve", "-e", "signal=none", "-o", "/mnt/log", *DROP)
    before = 'mount -t tmpfs tmpfs /mnt; chmod 777 /mnt; PATH="$TOOLS:$PATH"'
    printed = as_unprivileged_user(
        newidmap.create_twice,
        "/mnt/log",
        before=before,
        drop=drop,
        env={"TOOLS": str(shadow(suite))},
    )
    calls = [line for line in printed.splitlines() if f'execve("{shadow(suite)}/new' in line]
    by_fd = ["fd:" in line for line in calls]
    assert by_fd == ([True] * 4 if suite == "trixie" else [True, False] * 2 + [False] * 2)
    for line in calls:
        assert '"0", "1000", "1", "1", "100000", "65536"]' in line
        assert "/* 0 vars */" in line


@pytest.mark.parametrize("suite", SUITES)
def test_the_exit_status_cannot_be_lost_to_other_waits(suite: str) -> None:
    """SIGCHLD is ignored, or a thread reaps all children."""
    *fine, failed = reported_by(
        newidmap.create_while_others_reap, env={"PATH": f"{shadow(suite)}:{os.environ['PATH']}"}
    )
    assert fine == [None] * 7
    assert failed is not None
    assert failed.type == "MapToolError"


def test_where_the_status_gets_lost_the_map_itself_decides() -> None:
    """Linux before 6.15 does not keep the status of a process that another thread has reaped."""
    fine, failed = reported_by(newidmap.create_where_the_status_gets_lost)
    assert fine is None
    assert failed is not None
    assert (failed.type, failed.step, failed.returncode) == ("MapToolError", "newuidmap", None)
    assert "its status is not known" in failed.text


def test_many_threads_at_once() -> None:
    assert reported_by(newidmap.create_from_many_threads) == [None]


def test_where_standard_files_are_closed() -> None:
    """The tool's standard files are never the descriptors of the child's folder."""
    assert reported_by(newidmap.create_where_standard_files_are_closed) == [None]


@pytest.mark.root
def test_without_a_name_a_line_would_be_of_no_use_either() -> None:
    """A user name would not help where the caller's ID alone is mapped."""
    drop = tuple(word.replace(str(UID), "1234") for word in DROP)
    error = the_refusal(newidmap.create_inside, {"uid_map": "current"}, "subids", drop=drop)
    assert (error.step, error.cause) == ("uid_map", "not-mapped-in-parent")
    assert "(1234:1234:1)" in error.text
