"""Each way in which a map of subordinate ids can fail: told with its rule, its cause and a remedy.

Most take root, who makes a private mount namespace in which this machine is as the
test needs it, and becomes user 1000 there.
"""

from __future__ import annotations

import json
import os
from typing import Any, NamedTuple

import pytest
from ordinary import DROP, SUITES, UID, as_ordinary_user, shadow

from usernsproc._causes import REMEDIES, TOOL_CAUSES

LINES = f"{UID}:100000:65536"

REPORT = """
import json, os, sys
import usernsproc
from usernsproc import *

def report(call, *args, **options):
    from leaks import assert_unchanged, state
    before = state()
    try:
        call(*args, **options)
    except Exception as error:
        told = {name: getattr(error, name, None) for name in ("errno", "step", "cause", "returncode", "stderr")}
        told |= {"type": type(error).__name__, "text": str(error), "notes": getattr(error, "__notes__", [])}
        print(json.dumps(told))
    else:
        print("null")
    assert_unchanged(before)
"""
BOTH = 'report(create_userns, "rootless", "rootless")'


class Told(NamedTuple):
    """An exception of the program."""

    type: str
    text: str
    notes: list[str]
    errno: int | None
    step: str | None
    cause: str | None
    returncode: int | None
    stderr: str | None


def told_by(source: str, *args: str, **options: Any) -> list[Told | None]:
    found = as_ordinary_user(REPORT + source, *args, **options).splitlines()
    return [line and Told(**line) for line in map(json.loads, found)]


def the_refusal(source: str = BOTH, **options: Any) -> Told:
    """Before anything is created, with a remedy."""
    (told,) = told_by(source, **options)
    assert told is not None
    assert told.type == "IdMapPermissionError", told
    assert told.errno == 1
    assert told.cause in REMEDIES
    assert len(told.notes) == 1
    return told


def the_failure(source: str = BOTH, **options: Any) -> Told:
    """Of the tool, and what it said is in the note."""
    (told,) = told_by(source, **options)
    assert told is not None
    assert told.type == "MapToolError", told
    assert told.errno == 1
    assert told.cause in TOOL_CAUSES
    assert told.stderr is not None
    for line in told.stderr.splitlines():
        assert line in told.notes[0]
    return told


# ---- which ids ----


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
    """Also where the map is given in numbers."""
    source = f'report(create_userns, "{uid_map}", "{uid_map}")'
    told = the_refusal(source, subuid=subuid, subgid=subgid)
    assert (told.step, told.cause) == (step, "no-subids")
    assert file in told.text
    assert f"({UID})" in told.text
    assert "usermod --add-subuids" in told.notes[0]


@pytest.mark.root
@pytest.mark.parametrize("line", [f"{LINES} ", f"{LINES}\r", f"{UID}:100000 :65536", f"{UID}:0o100:65536"])
def test_a_line_that_newuidmap_passes_over_is_shown(line: str) -> None:
    """A blank at the end makes it malformed, which is hard to see."""
    told = the_refusal(subuid=line)
    assert (told.step, told.cause) == ("uid_map", "no-subids")
    assert f"its line {line!r} is malformed (NAME:FIRST:COUNT, and no more) in /etc/subuid" in told.text
    failed = the_failure(UNCHECKED + 'report(create_userns, "0:100000:5", "root")', subuid=line)
    assert failed.cause == "tool-failed"


@pytest.mark.root
def test_a_range_larger_than_the_line() -> None:
    told = the_refusal('report(create_userns, "0:1000:1,1:100000:1001", "root")', subuid=f"{UID}:100000:1000")
    assert (told.step, told.cause) == ("uid_map", "subids-too-small")
    assert "range 1:100000:1001" in told.text
    assert "outside id 101000 is beyond" in told.text


def test_a_range_of_somebody_else() -> None:
    told = the_refusal('report(create_userns, "root", "0:1000:1,1:50:5")')
    assert (told.step, told.cause) == ("gid_map", "subids-foreign")
    assert "range 1:50:5" in told.text
    assert "100000 … 165535" in told.text


@pytest.mark.root
def test_more_than_the_tool_can_write() -> None:
    """The kernel does without the last newline, where that makes a text fit; the tool does not."""
    source = """
from test_idmap_kernel import ranges_with_text_of
for length in (4095, 4096):
    report(create_userns, ranges_with_text_of(length, range(100, 1000)), "root")
"""
    fits, refused = told_by(source, subuid=f"{UID}:0:1001")
    assert fits is None
    assert refused is not None
    assert (refused.step, refused.cause) == ("uid_map", "too-many-ranges")
    assert "4096 bytes" in refused.text


@pytest.mark.root
def test_more_ranges_than_any_map_has() -> None:
    lines = "\n".join(f"{UID}:{100000 + 2 * n}:1" for n in range(341))
    (told,) = told_by('report(create_userns, "subids", "root")', subuid=lines)
    assert told is not None
    assert told.type == "IdMapError"
    assert "341 ranges" in told.text


# ---- who asks ----


@pytest.mark.root
@pytest.mark.parametrize(("capability", "step"), [("setuid", "uid_map"), ("setgid", "gid_map")])
def test_a_capability_that_not_even_the_tool_could_have(capability: str, step: str) -> None:
    """In a container without it in its bounding set."""
    drop = (*DROP, f"--bounding-set=-{capability}")
    told = the_refusal(drop=drop)
    assert (told.step, told.cause) == (step, f"no-cap-{capability}")
    assert f"CAP_{capability.upper()}" in told.text


@pytest.mark.root
def test_root_without_the_capability_is_refused_likewise() -> None:
    drop = ("setpriv", "--bounding-set=-setuid", "--inh-caps=-all")
    told = the_refusal('report(create_userns, "0:100000:65536", "0:100000:65536")', drop=drop)
    assert (told.step, told.cause) == ("uid_map", "no-cap-setuid")


@pytest.mark.root
def test_outside_user_0_takes_cap_setfcap_of_the_tool_too() -> None:
    source = 'report(create_userns, "0:0:1,1:1000:1", "root")'
    lines = {"subuid": f"{UID}:0:1"}
    assert told_by(source, **lines) == [None]
    told = the_refusal(source, drop=(*DROP, "--bounding-set=-setfcap"), **lines)
    assert (told.step, told.cause) == ("uid_map", "no-cap-setfcap")


@pytest.mark.root
def test_root_without_cap_setfcap() -> None:
    drop = ("setpriv", "--bounding-set=-setfcap", "--inh-caps=-all")
    told = the_refusal('report(create_userns, "all", "all")', drop=drop)
    assert (told.step, told.cause) == ("uid_map", "no-cap-setfcap")


@pytest.mark.root
def test_no_new_privs() -> None:
    told = the_refusal(drop=(*DROP, "--no-new-privs"))
    assert (told.step, told.cause) == ("uid_map", "no-new-privs")
    assert "newuidmap" in told.text


@pytest.mark.root
def test_no_new_privs_leaves_the_own_id() -> None:
    source = 'report(create_userns, "root", "root")'
    assert told_by(source, drop=(*DROP, "--no-new-privs")) == [None]


def test_a_process_that_is_not_dumpable() -> None:
    """Its children's files in /proc belong to root. Told before a child exists."""
    source = """
import native
native.prctl(native.PR_SET_DUMPABLE, 0)
report(create_userns, "rootless", "rootless")
native.prctl(native.PR_SET_DUMPABLE, 1)
report(create_userns, "rootless", "rootless")
"""
    refused, fine = told_by(source)
    assert refused is not None
    assert (refused.type, refused.step, refused.cause) == ("IdMapPermissionError", "uid_map", "not-dumpable")
    assert fine is None


@pytest.mark.root
@pytest.mark.parametrize("uid_map", ["rootless", "0:100000:65536"])
@pytest.mark.parametrize("lines", ["1234:100000:65536", ""])
def test_a_user_without_a_name(uid_map: str, lines: str) -> None:
    """Told first: without a name nobody is given a line by usermod."""
    drop = tuple(word.replace(str(UID), "1234") for word in DROP)
    source = f'report(create_userns, "{uid_map}", "{uid_map}")'
    told = the_refusal(source, drop=drop, subuid=lines, subgid=lines)
    assert (told.step, told.cause) == ("uid_map", "no-user-name")
    assert "1234" in told.text


@pytest.mark.root
def test_real_and_effective_ids_that_differ() -> None:
    drop = ("setpriv", "--ruid", str(UID), "--euid", str(UID), "--rgid", str(UID), "--egid", "100", "--clear-groups")
    told = the_refusal(drop=(*drop, "--inh-caps=-all"))
    assert (told.step, told.cause) == ("uid_map", "ids-differ")
    assert f"{UID}:{UID} and {UID}:100" in told.text


@pytest.mark.root
def test_a_group_that_is_not_the_users_own() -> None:
    """After newgrp or sg; the tool says so, if login.defs does not allow it."""
    drop = ("setpriv", "--reuid", str(UID), "--regid", "100", "--clear-groups", "--inh-caps=-all")
    told = the_failure(drop=drop)
    assert (told.step, told.cause, told.returncode) == ("newuidmap", "tool-other-group", 1)
    assert told.stderr


def test_ids_that_the_own_namespace_does_not_map() -> None:
    """Those of /etc/subuid, in a namespace with the own id alone."""
    inside = REPORT + 'report(create_userns, "rootless", "rootless")'
    source = f'call([sys.executable, "-c", {inside!r}], uid_map="current")'
    told = the_refusal(source)
    assert (told.step, told.cause) == ("uid_map", "not-mapped-in-parent")
    assert "outside ids 100000 … 165535 are not mapped" in told.text


def test_where_the_own_id_alone_is_mapped_a_line_would_be_of_no_use() -> None:
    """So none is asked for."""
    inside = REPORT + 'report(create_userns, "rootless", "rootless")'
    told = the_refusal(f'call([sys.executable, "-c", {inside!r}], uid_map="root")')
    assert (told.step, told.cause) == ("uid_map", "not-mapped-in-parent")
    assert f"(0:{UID}:1)" in told.text
    assert "usermod" not in told.notes[0]


@pytest.mark.root
def test_a_tool_whose_owner_the_own_namespace_does_not_map() -> None:
    """Set-user-ID of an unmapped owner has no effect."""
    inside = REPORT + 'report(create_userns, "0:1:50", "root")'
    uids = "0:100000:1000,1000:1000:1,2000:101000:1000"
    source = f'call([sys.executable, "-c", {inside!r}], uid_map="{uids}", gid_map="{uids}")'
    told = the_refusal(source, subuid=f"{LINES}\n{UID}:1:100")
    assert (told.step, told.cause) == ("uid_map", "tool-owner-unmapped")


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
    told = the_refusal(before=copies(f"chmod 0 /mnt/{tool}"))
    assert (told.step, told.cause) == (step, "tool-missing")
    assert tool in told.text
    assert "uidmap" in told.notes[0]


@pytest.mark.root
@pytest.mark.parametrize("change", ["chmod 755", "chown 1000"])
@pytest.mark.parametrize(("tool", "step"), [("newuidmap", "uid_map"), ("newgidmap", "gid_map")])
def test_a_tool_without_the_right_set_user_id(change: str, tool: str, step: str) -> None:
    told = the_refusal(before=copies(f"{change} /mnt/{tool}; [ '{change}' = 'chmod 755' ] || chmod 4755 /mnt/{tool}"))
    assert (told.step, told.cause) == (step, "tool-not-setuid")
    assert f"/usr/bin/{tool}" in told.text


@pytest.mark.root
def test_a_tool_with_file_capabilities_in_its_stead() -> None:
    """As Fedora and others have it. (Set by hand: `struct vfs_cap_data`, revision 2, effective.)"""
    grant = """
python3 -c '
import os, struct
for tool, capability in (("newuidmap", 7), ("newgidmap", 6)):
    path = "/mnt/" + tool
    os.chmod(path, 0o755)
    os.setxattr(path, "security.capability", struct.pack("<5I", 0x02000001, 1 << capability, 0, 0, 0))
'
"""
    assert told_by(BOTH, before=copies(grant)) == [None]


@pytest.mark.root
def test_a_tool_on_a_file_system_without_set_user_id() -> None:
    told = the_refusal(before=copies(options=",nosuid"))
    assert (told.step, told.cause) == ("uid_map", "tool-nosuid")
    assert "/usr/bin/newuidmap" in told.text


FAKE = """
cat >/mnt/newuidmap <<'END'
#!/bin/bash
{script}
END
"""
"""A script passes the checks before; its set-user-ID has no effect."""


KNOWN = """
from usernsproc._maps import newidmap as _newidmap
class Known(dict):
    def get(self, *_):
        return {}
_newidmap._takes_fd = Known()
"""
"""Whether the tool takes fd:N has been found out."""


def fake(script: str) -> str:
    return copies(FAKE.format(script=script))


@pytest.mark.root
def test_a_tool_that_does_nothing_and_says_it_went_well() -> None:
    told = the_failure(before=fake("exit 0"))
    assert (told.step, told.cause, told.returncode) == ("newuidmap", "map-differs", 0)
    assert "the map is unwritten" in told.text


@pytest.mark.root
@pytest.mark.parametrize(("script", "returncode"), [("echo sorry >&2; exit 3", 3), ("echo sorry >&2; kill -9 $$", -9)])
def test_a_tool_that_fails_is_told_with_its_status_and_what_it_said(script: str, returncode: int) -> None:
    told = the_failure(before=fake(script))
    assert (told.step, told.cause, told.returncode) == ("newuidmap", "tool-failed", returncode)
    assert told.stderr == "sorry\n"
    assert told.text.endswith(f"status {returncode}: sorry [EPERM, tool-failed]")


@pytest.mark.root
def test_a_tool_that_says_very_much() -> None:
    told = the_failure(before=fake("head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 1"))
    assert told.stderr == "x" * 1000000


@pytest.mark.root
def test_a_tool_that_is_no_program() -> None:
    (told,) = told_by(BOTH, before=copies("echo '#!/nonexistent' >/mnt/newuidmap"))
    assert told is not None
    assert (told.type, told.step) == ("UsernsFileNotFoundError", "newuidmap")
    assert "/usr/bin/newuidmap" in told.text


@pytest.mark.root
@pytest.mark.parametrize("by_fd", [True, False])
def test_a_tool_gets_no_environment_and_no_descriptor_but_one_folder_of_proc(by_fd: bool) -> None:
    """By absolute path, from the root directory. The folder's is there only when it is named by it."""
    # No pipe behind ls(1): the shell would have it among its own.
    script = 'echo "$0 $PWD" >&2; cat /proc/$$/environ >&2; echo >&2; ls -l /proc/$$/fd >&2; exit 1'
    source = """
os.environ["SECRET"] = "secret"
os.chdir("/tmp")
os.set_inheritable(os.open("/etc/passwd", os.O_RDONLY), True)
"""
    told = the_failure(KNOWN.format(by_fd) + source + BOTH, before=fake(script))
    assert told.stderr is not None
    path, environment, *listed = told.stderr.splitlines()
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
    """Whatever the tool says: a pid could be a stranger's by then."""
    source = """
for call in (lambda: create_userns("rootless", "rootless"), lambda: run(["true"], uid_map="rootless"),
             lambda: UsernsProcess(uid_map="rootless")):
    report(call)
"""
    for told in told_by(KNOWN.format(by_fd) + source, before=fake(f"{kill}; sleep 0.1; exit {status}")):
        assert told is not None
        assert (told.type, told.step, told.cause) == ("UsernsProcessLookupError", "open_proc", "child-killed")


@pytest.mark.root
def test_an_exception_of_a_signal_handler_ends_the_tool_and_the_child() -> None:
    """Ctrl-C while the tool waits for a slow user database."""
    source = """
import signal
def handler(*args):
    raise TimeoutError("interrupted")
signal.signal(signal.SIGALRM, handler)
for call in (lambda: create_userns("rootless", "rootless"), lambda: run(["true"], uid_map="rootless"),
             lambda: UsernsProcess(uid_map="rootless")):
    report(call)
"""
    for told in told_by(source, before=fake("kill -ALRM $PPID; exec sleep 1000")):
        assert told is not None
        assert told.type == "TimeoutError"


UNCHECKED = """
from usernsproc._maps import writer as _writer
_writer.newidmap_violations = lambda *_: iter(())
"""
"""As if files had changed between our look at them and the tool's."""


@pytest.mark.parametrize("suite", SUITES)
def test_what_the_tool_itself_refuses(suite: str) -> None:
    env = {"PATH": f"{shadow(suite)}:{os.environ['PATH']}"}
    told = the_failure(UNCHECKED + 'report(create_userns, "0:5:2", "root")', env=env)
    assert (told.step, told.cause, told.returncode) == ("newuidmap", "tool-failed", 1)
    assert told.stderr is not None
    assert "not allowed" in told.stderr
    told = the_failure(UNCHECKED + 'report(run, ["true"], uid_map="rootless", gid_map="0:5:2")', env=env)
    assert (told.step, told.returncode) == ("newgidmap", 1)


@pytest.mark.root
def test_rights_that_the_tool_turns_out_not_to_have() -> None:
    """Securebits, which nothing else shows: root's programs get no capabilities."""
    drop = (*DROP[:-1], "--inh-caps=-all", "--securebits", "+noroot")
    told = the_failure(drop=drop)
    assert (told.step, told.cause) == ("newuidmap", "tool-failed")


# ---- order ----


@pytest.mark.parametrize("preset", ["root", "rootless"])
def test_a_map_is_written_once(preset: str) -> None:
    """By whoever wrote it."""
    source = f"""
with UsernsProcess(uid_map="{preset}") as holder:
    report(holder.write_uid_map, "{preset}")
    report(holder.write_gid_map, "{preset}")
    print(json.dumps(None) if holder.poll() is None else "it has ended")
"""
    *both, alive = told_by(source)
    for told, step in zip(both, ("uid_map", "gid_map"), strict=True):
        assert told is not None
        assert told.cause == "map-written"
        assert told.step == step
    assert alive is None


def test_setgroups_comes_before_the_group_map() -> None:
    source = """
with UsernsProcess(uid_map="rootless") as holder:
    report(holder.write_setgroups, "deny")
with UsernsProcess() as holder:
    holder.write_setgroups("deny")
    report(holder.write_setgroups, "allow")
    holder.write_gid_map("rootless")
    print("null")
"""
    late, denied, fine = told_by(source)
    assert late is not None
    assert (late.type, late.step, late.cause) == ("UsernsPermissionError", "setgroups", "setgroups-too-late")
    assert denied is not None
    assert (denied.step, denied.cause) == ("setgroups", "setgroups-denied")
    assert fine is None


def test_setgroups_cannot_stay_allowed_with_the_own_group_alone() -> None:
    told = the_refusal('report(create_userns, "rootless", "root", setgroups="allow")')
    assert (told.step, told.cause) == ("gid_map", "setgroups-allowed")
    assert "newgidmap" in told.notes[0]


@pytest.mark.root
def test_when_the_second_tool_fails_nothing_is_left_of_the_first_map() -> None:
    """Neither namespace nor process: `report` looks."""
    script = "cat >/mnt/newgidmap <<'END'\n#!/bin/bash\necho no groups >&2; exit 1\nEND\n"
    source = """
for call in (lambda: create_userns("rootless", "rootless"), lambda: run(["true"], uid_map="rootless"),
             lambda: UsernsProcess(uid_map="rootless")):
    report(call)
"""
    for told in told_by(source, before=copies(script)):
        assert told is not None
        assert (told.type, told.step, told.stderr) == ("MapToolError", "newgidmap", "no groups\n")


# ---- how it is called ----


@pytest.mark.root
@pytest.mark.parametrize("suite", SUITES)
def test_the_process_is_named_by_descriptor_where_the_tool_takes_that(suite: str) -> None:
    """Bookworm's takes a pid alone, which is found out once by trying; trixie's takes fd:N."""
    drop = ("strace", "-f", "-qq", "-e", "trace=execve", "-e", "signal=none", "-o", "/mnt/log", *DROP)
    source = 'for _ in range(2):\n    create_userns("rootless", "rootless").close()\n'
    before = 'mount -t tmpfs tmpfs /mnt; chmod 777 /mnt; PATH="$TOOLS:$PATH"'
    printed = as_ordinary_user(
        "from usernsproc import create_userns\n" + source + 'print(open("/mnt/log").read())',
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
def test_nobody_can_make_off_with_the_exit_status(suite: str) -> None:
    """SIGCHLD ignored, or a thread that reaps whatever there is."""
    source = """
import signal, threading
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
report(create_userns, "rootless", "rootless")
signal.signal(signal.SIGCHLD, signal.SIG_DFL)
stop = threading.Event()
def reap():
    while not stop.is_set():
        try:
            os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            pass
thread = threading.Thread(target=reap)
thread.start()
try:
    for _ in range(5):
        report(create_userns, "rootless", "rootless")
    report(run, ["true"], uid_map="rootless")
    usernsproc._maps.writer.newidmap_violations = lambda *_: iter(())
    report(create_userns, "0:5:2", "root")
finally:
    stop.set()
    thread.join()
"""
    *fine, failed = told_by(source, env={"PATH": f"{shadow(suite)}:{os.environ['PATH']}"})
    assert fine == [None] * 7
    assert failed is not None
    assert failed.type == "MapToolError"


def test_where_the_status_gets_lost_the_map_itself_tells() -> None:
    """Linux before 6.15 does not keep the status of a process that somebody else has reaped."""
    source = """
import signal
from usernsproc import _core
_core.exit_status = lambda pidfd: -1
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
report(create_userns, "rootless", "rootless")
"""
    fine, failed = told_by(source + UNCHECKED + 'report(create_userns, "0:5:2", "root")')
    assert fine is None
    assert failed is not None
    assert (failed.type, failed.step, failed.returncode) == ("MapToolError", "newuidmap", None)
    assert "its status is not known" in failed.text


def test_many_threads_at_once() -> None:
    source = """
from concurrent.futures import ThreadPoolExecutor
def one(n):
    if n % 2:
        return run(["cat", "/proc/self/uid_map"], uid_map="rootless", capture_output=True, text=True).stdout.split()
    with create_userns("rootless", "rootless") as userns:
        return [str(number) for r in userns.uid_map for number in r]
with ThreadPoolExecutor(8) as pool:
    print(json.dumps(None) if len(set(map(tuple, pool.map(one, range(40))))) == 1 else "they differ")
"""
    assert told_by(source) == [None]


def test_where_standard_files_are_closed() -> None:
    """The tool's own are never those of the child's folder."""
    source = """
keep = os.dup(1)
for fd in (0, 1, 2):
    os.close(fd)
userns = create_userns("rootless", "rootless")
maps = str(userns.uid_map)
userns.close()
os.dup2(keep, 1)
os.write(1, json.dumps(None if maps.endswith(":65536") else maps).encode())
os._exit(0)
"""
    assert told_by(source) == [None]
