"""A user namespace that belongs to another user than the caller: it is charged for it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from commands import SLEEP, sleeping

from conftest import IS_ROOT
from usernsproc import PIPE, Namespace, UsernsError, UsernsProcess, run

Script = Callable[..., str]

SHIFTED: dict[str, Any] = {"uid_map": "0:100000:65536", "gid_map": "0:100000:65536"}
WITH_ROOT: dict[str, Any] = {"uid_map": "0:0:1,1:100000:65536", "gid_map": "0:0:1,1:100000:65536"}
OWN_ID = os.geteuid()
OWNER = 100000


def owner_of(process: UsernsProcess[Any]) -> int:
    with process.namespace() as userns, userns.parent() as parent, Namespace.current() as current:
        assert parent == current
        return userns.owner_uid


def status_of(pid: int, *names: str) -> list[str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    return [status[name].strip() for name in names]


# ---- who it is ----


@pytest.mark.root
@pytest.mark.parametrize("owner", [1, 1000, OWNER, 65534])
def test_the_namespace_belongs_to_who_is_asked_for(owner: int) -> None:
    with sleeping(owner=owner, **SHIFTED) as process:
        assert owner_of(process) == owner
    with UsernsProcess(owner=owner, **SHIFTED) as holder:
        assert owner_of(holder) == owner


@pytest.mark.root
def test_also_an_id_that_the_map_does_not_have() -> None:
    with sleeping(owner=1000, uid_map="root", gid_map="root") as process:
        assert owner_of(process) == 1000
        assert status_of(process.pid, "Uid", "Gid") == ["\t".join("0000")] * 2


def test_the_own_id_is_what_it_is_without() -> None:
    for options in ({"owner": OWN_ID}, {"owner": None}, {}):
        with sleeping(uid_map="root", **options) as process:
            assert owner_of(process) == OWN_ID


@pytest.mark.root
@pytest.mark.parametrize("options", [{}, {"init": True, "mount_proc": True}], ids=["command", "init"])
def test_further_namespaces_belong_to_it(options: dict[str, Any]) -> None:
    with sleeping(owner=OWNER, namespaces=("mnt", "pid", "net"), **options, **SHIFTED) as process:
        assert owner_of(process) == OWNER
        with process.namespace() as userns:
            for kind in ("mnt", "pid", "net"):
                with process.namespace(kind) as made, made.owner() as owner:
                    assert owner == userns


# ---- the command's ids are what they are without ----


@pytest.mark.root
@pytest.mark.parametrize(
    ("options", "uid", "gid"),
    [
        (SHIFTED, 100000, 100000),  # inside 0, for the own one is not mapped
        ({**SHIFTED, "user": 5, "group": 6}, 100005, 100006),
        (WITH_ROOT, 0, 0),  # the own one is mapped, and kept
        ({**WITH_ROOT, "user": 3}, 100002, 0),
        ({"uid_map": "root", "gid_map": "root"}, 0, 0),
        ({"uid_map": "current"}, 0, 0),
        ({"uid_map": "0:1000:1", "gid_map": "0:1000:1"}, 1000, 1000),
    ],
)
def test_the_ids_of_the_command_are_those_it_has_without(options: dict[str, Any], uid: int, gid: int) -> None:
    names = ("Uid", "Gid", "CapInh", "CapPrm", "CapEff", "CapAmb", "Groups")
    with sleeping(**options) as process:
        usual = status_of(process.pid, *names)
    assert usual[:2] == ["\t".join([str(uid)] * 4), "\t".join([str(gid)] * 4)]
    for owner in (1000, OWNER):
        with sleeping(owner=owner, **options) as process:
            assert status_of(process.pid, *names) == usual


@pytest.mark.root
def test_inside_root_has_all_rights_in_there() -> None:
    program = "mount -t tmpfs none /mnt && ip link show lo >/dev/null 2>&1; id -u; grep CapEff /proc/self/status"
    done = run(["sh", "-c", program], owner=OWNER, namespaces=["mnt", "net"], stdout=PIPE, text=True, **SHIFTED)
    assert done.stdout.split()[0] == "0"
    assert done.stdout.split()[-1] != "0" * 16


@pytest.mark.root
def test_setgroups_and_extra_groups() -> None:
    with sleeping(owner=OWNER, extra_groups=[7, 8], **SHIFTED) as process:
        assert status_of(process.pid, "Groups") == ["100007 100008"]
    with sleeping(owner=OWNER, uid_map="root", gid_map="root", setgroups="deny") as process:
        assert Path(f"/proc/{process.pid}/setgroups").read_text() == "deny\n"


@pytest.mark.root
def test_a_holder_whose_maps_are_written_later() -> None:
    with UsernsProcess(owner=OWNER) as holder:
        holder.write_uid_map(SHIFTED["uid_map"])
        holder.write_gid_map(SHIFTED["gid_map"])
        assert owner_of(holder) == OWNER
        assert str(holder.uid_map) == SHIFTED["uid_map"]


@pytest.mark.root
def test_the_owner_has_the_rights_of_an_owner(script: Script) -> None:
    """An ordinary user can enter what was made for him, and what it owns."""
    script("""
        import os
        import native
        from usernsproc import *
        maps = {"uid_map": "0:1000:1", "gid_map": "0:1000:1"}
        maps["namespaces"] = ["net"]
        with UsernsProcess(owner=1000, **maps) as his, UsernsProcess(**maps) as ours:
            found = [[p.namespace(), p.namespace("net")] for p in (his, ours)]
            if (pid := os.fork()) == 0:
                os.setgroups([])
                os.setresgid(1000, 1000, 1000)
                os.setresuid(1000, 1000, 1000)
                native.prctl(native.PR_SET_DUMPABLE, 1)
                assert check_output(["id", "-u"], join=found[0]) == b"0\\n"
                try:
                    check_output(["id", "-u"], join=found[1])
                except PermissionError as error:
                    assert error.cause == "join-refused"
                    os._exit(7)
                os._exit(1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
    """)


# ---- the caller ----


@pytest.mark.root
def test_the_caller_stays_who_it_is_in_all_of_its_threads(script: Script) -> None:
    """Another thread that looks all the time sees neither other ids or capabilities, nor a process that
    is not dumpable."""
    script("""
        import os, threading
        import native
        from usernsproc import *
        names = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapAmb", "CapBnd")
        def look():
            seen = set()
            for task in os.listdir("/proc/self/task"):
                try:
                    lines = open(f"/proc/self/task/{task}/status").read().splitlines()
                except (FileNotFoundError, ProcessLookupError):
                    continue
                found = tuple(line for line in lines if line.split(":")[0] in names)
                if len(found) == len(names):
                    seen.add(found)
            return seen, native.prctl(native.PR_GET_DUMPABLE), os.geteuid(), os.stat("/proc/self/environ").st_uid
        usual = look()
        assert usual[1] == 1 and len(usual[0]) == 1
        looks = 0
        def work():
            maps = {"uid_map": "0:100000:65536", "gid_map": "0:100000:65536"}
            made = 0
            while made < 100 or looks <= 20:
                made += 1
                UsernsProcess(["/bin/true"], owner=1000, **maps).wait()
                UsernsProcess(owner=1000, **maps).close()
        threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            assert look() == usual
            looks += 1
        assert look() == usual
    """)


CHARGED = """
import errno, os
from pathlib import Path
import native
from usernsproc import *
# A user namespace with limits of its own, in which we are root and there are other users.
maps = {"uid_map": "0:0:1,1:100000:65535", "gid_map": "0:0:1,1:100000:65535"}
with UsernsProcess(**maps) as holder, holder.namespace() as userns:
    userns.enter()
os.setresgid(0, 0, 0)
os.setresuid(0, 0, 0)
native.prctl(native.PR_SET_DUMPABLE, 1)
Path("/proc/sys/user/max_user_namespaces").write_text("3")
inner = {"uid_map": "0:10:1", "gid_map": "0:10:1"}
def fill(owner):
    made = []
    try:
        for _ in range(10):
            made.append(UsernsProcess(owner=owner, **inner))
    except UsernsError as error:
        assert (error.errno, error.step, error.cause) == (errno.ENOSPC, "clone", "max-user-namespaces"), error
    return made
his = fill(7)
assert len(his) == 3, len(his)
assert all(holder.namespace().owner_uid == 7 for holder in his)
others = fill(8)  # is charged on his own
assert len(others) == 3, len(others)
own = fill(None)  # and so are we
assert len(own) == 3, len(own)
his.pop().close()
import time
end = time.monotonic() + 60
while not (again := fill(7)) and time.monotonic() < end:  # the kernel ends a namespace in its own time
    time.sleep(0.01)
assert len(again) == 1, len(again)
for holder in [*his, *others, *own, *again]:
    holder.close()
"""


@pytest.mark.root
def test_the_owner_is_charged_for_it(script: Script) -> None:
    """`user.max_user_namespaces` is counted for each user: where one has used up his own, others have not."""
    script(CHARGED)


@pytest.mark.root
def test_from_a_thread_that_ends() -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        holder = pool.submit(lambda: UsernsProcess(owner=OWNER, **SHIFTED)).result()
        process = pool.submit(lambda: UsernsProcess(["sleep", "0.3"], owner=OWNER, **SHIFTED)).result()
    with holder, process:
        assert process.wait(timeout=60) == 0
        assert holder.poll() is None


SERVICE = """
import ctypes, os, struct, sys
import native
from usernsproc import *
# KILL, SETGID, SETUID, SYS_PTRACE, SETFCAP, and what takes part in this
lacking = int(sys.argv[1])
kept = sum(1 << cap for cap in {5, 6, 7, 19, 31, 1, 21} - {lacking})
native.prctl(8, 1)  # PR_SET_KEEPCAPS
os.setgroups([])
os.setresgid(1000, 1000, 1000)
os.setresuid(1000, 1000, 1000)
header = struct.pack("=Ii", 0x20080522, 0)
native.must(native.libc.capset(header, struct.pack("=6I", kept, kept, kept, 0, 0, 0)))
native.prctl(native.PR_SET_DUMPABLE, 1)
maps = {"uid_map": "0:100000:65536", "gid_map": "0:100000:65536"}
owners = []
def look(process):
    owners.append(process.namespace().owner_uid)
try:
    assert check_output(["id", "-u"], owner=1001, on_created=look, **maps) == b"0\\n"
    UsernsProcess(owner=1001, on_created=look, **maps).close()
    assert owners == [1001, 1001], owners
except PermissionError as error:
    print(error.step, error.cause)
"""


@pytest.mark.root
@pytest.mark.parametrize(
    ("lacking", "cause"), [(0, ""), (7, "no-cap-setuid"), (21, "no-cap-sys-admin"), (1, "no-cap-dac-override")]
)
def test_where_the_caller_is_some_user_with_capabilities(lacking: int, cause: str, script: Script) -> None:
    """A service that is not root, but kept what it takes; without one of these it is told which."""
    assert script(SERVICE, str(lacking)).split() == (["owner", cause] if cause else [])


# ---- refused ----


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"owner": -1}, ValueError, "owner=-1 is not an ID"),
        ({"owner": "0"}, TypeError, "owner is a user ID, not '0'"),
        ({"owner": 1.0}, TypeError, "owner is a user ID"),
        ({"owner": 2**32 - 1}, PermissionError, "owner=4294967295 is not mapped in the caller's user namespace"),
        ({"owner": 2**40}, PermissionError, "owner=1099511627776 is not mapped"),
    ],
)
def test_what_is_no_id(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        UsernsProcess(SLEEP, uid_map="root", **options)


def test_who_may_not_become_another() -> None:
    if IS_ROOT:
        return  # the next
    for args in (SLEEP, None):
        with pytest.raises(PermissionError) as caught:
            UsernsProcess(args, uid_map="root", owner=OWN_ID + 1)
        assert isinstance(caught.value, UsernsError)
        assert isinstance(caught.value, ValueError)
        assert (caught.value.step, caught.value.cause) == ("owner", "no-cap-setuid")
        assert "Omit owner=" in caught.value.__notes__[0]


def test_an_id_that_is_not_mapped_here(script: Script) -> None:
    """In a user namespace of our own there are no other users."""
    script("""
        from usernsproc import *
        create_userns("root", "root").enter()
        for args in (["true"], None):
            try:
                UsernsProcess(args, uid_map="root", owner=1000)
            except PermissionError as error:
                assert (error.step, error.cause) == ("owner", "id-not-mapped")
                assert "0:" in str(error)
                assert "owner= is an ID in the parent namespace" in error.__notes__[0]
            else:
                raise AssertionError
    """)


@pytest.mark.root
def test_without_a_map_the_command_would_be_the_owner() -> None:
    with pytest.raises(ValueError, match="give uid_map="):
        UsernsProcess(SLEEP, owner=1000)


def test_a_joined_user_namespace_has_its_owner() -> None:
    with UsernsProcess(uid_map="root", gid_map="root") as holder, pytest.raises(ValueError, match="has its owner"):
        UsernsProcess(SLEEP, join=holder, owner=OWN_ID)
