"""A holder that root in its namespace can trace has no ID of the caller that the maps lack: that root
would act with it. The holder of an unprivileged user is such a one, root's is out of reach."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import remote
from ordinary import FIRST, SUITES, UID, as_ordinary_user, shadow

Script = Callable[..., str]

WITH_GROUPS = ("setpriv", "--reuid", str(UID), "--regid", str(UID), "--groups", f"{UID},27,999", "--inh-caps=-all")

TELL = """
import os, sys, tempfile
import native, remote
from leaks import assert_unchanged, state
from usernsproc import *
def ids(process):
    lines = open(f"/proc/{process.pid}/status").read().splitlines()
    found = dict(line.split(":", 1) for line in lines)
    return [sorted(set(found[name].split())) for name in ("Uid", "Gid", "Groups")]
"""


def test_a_holder_of_subordinate_ids_alone_has_none_of_the_user() -> None:
    """As seen from outside: it has the ID that is 0 in the namespace, and can be used as any other."""
    printed = as_ordinary_user(
        TELL
        + """
before = state()
with UsernsProcess(uid_map="subids", namespaces=["net"]) as holder:
    print(ids(holder))
    print(holder.uid_map.to_outside(0), holder.gid_map.to_outside(0))
    with holder.namespace() as userns, holder.namespace("net") as net:
        print(userns.owner_uid, net.owner() == userns)
        print(check_output(["id", "-u"], join=[userns, net], text=True).strip())
    print(check_output(["id", "-u"], join=holder, text=True).strip())
    holder.terminate()
    print(holder.wait())
holder = UsernsProcess(uid_map="subids")
holder.close()
print(holder.returncode)
assert_unchanged(before)
"""
    )
    assert printed.splitlines() == [
        str([[str(FIRST)], [str(FIRST)], []]),
        f"{FIRST} {FIRST}",
        f"{UID} True",
        "0",
        "0",
        "-15",
        "-9",
    ]


@pytest.mark.parametrize("suite", SUITES)
def test_each_age_of_newuidmap_writes_its_maps(suite: str) -> None:
    printed = as_ordinary_user(
        TELL
        + """
seen = []
with UsernsProcess(uid_map="subids", on_created=lambda process: seen.append(str(process.uid_map))) as holder:
    print(ids(holder)[0], seen == [str(holder.uid_map)])
""",
        env={"PATH": f"{shadow(suite)}:{os.environ['PATH']}"},
    )
    assert printed == f"['{FIRST}'] True\n"


def test_with_a_pid_namespace_too_and_after_an_exception_nothing_is_left() -> None:
    printed = as_ordinary_user(
        TELL
        + """
before = state()
with UsernsProcess(uid_map="subids", namespaces=["pid", "time"]) as holder:
    print(ids(holder)[0])
for namespaces in ([], ["pid"]):
    try:
        UsernsProcess(uid_map="subids", namespaces=namespaces, on_created=lambda process: 1 / 0)
    except ZeroDivisionError:
        print("raised")
assert_unchanged(before)
"""
    )
    assert printed.splitlines() == [f"['{FIRST}']", "raised", "raised"]


def test_a_holder_that_joins_is_like_a_command_there() -> None:
    printed = as_ordinary_user(
        TELL
        + """
with create_userns("subids", "subids") as userns, UsernsProcess(join=userns) as holder:
    print(ids(holder))
"""
    )
    assert printed == f"{[[str(FIRST)], [str(FIRST)], []]}\n"


def test_without_a_mapped_0_it_is_the_first_id_of_the_map() -> None:
    """Nothing is refused that has no program to run."""
    printed = as_ordinary_user(
        TELL + f'with UsernsProcess(uid_map="7:{FIRST + 3}:2", gid_map="8:{FIRST + 5}:2") as holder: print(ids(holder))'
    )
    assert printed == f"{[[str(FIRST + 3)], [str(FIRST + 5)], []]}\n"


def test_a_mapped_id_stays() -> None:
    printed = as_ordinary_user(
        TELL
        + """
for name in ("root", "current", "rootless"):
    with UsernsProcess(uid_map=name) as holder:
        print(ids(holder))
"""
    )
    assert printed.splitlines() == [str([[str(UID)], [str(UID)], []])] * 3


def test_maps_that_are_written_later_find_the_ids_of_the_caller() -> None:
    """It is the owner of the files in `/proc` through which they are written."""
    printed = as_ordinary_user(
        TELL
        + """
with UsernsProcess() as holder:
    holder.write_gid_map("subids")
    holder.write_uid_map("subids")
    print(ids(holder))
"""
    )
    assert printed == f"{[[str(UID)], [str(UID)], []]}\n"


@pytest.mark.root
def test_groups_that_are_not_mapped_are_dropped_where_they_can_be() -> None:
    printed = as_ordinary_user(
        TELL
        + """
for name in ("root", "rootless", "subids"):
    with UsernsProcess(uid_map=name) as holder:
        print(ids(holder)[2])
""",
        drop=WITH_GROUPS,
    )
    kept = ["27", "999", "1000"]
    assert printed.splitlines() == [str(sorted(kept)), str([str(UID)]), "[]"]


@pytest.mark.root
def test_root_that_cannot_trace_all_processes_is_such_a_user(script: Script) -> None:
    """As in containers. Otherwise its holder is out of reach, and as small as it can be."""
    printed = script(
        TELL
        + """
import luggage
options = dict(uid_map="0:100000:65536", gid_map="0:100000:65536")
with UsernsProcess(**options) as holder:
    print(ids(holder)[0])
luggage.capabilities(without=1 << 19)
with UsernsProcess(**options) as holder:
    print(ids(holder)[0])
"""
    )
    assert printed.splitlines() == ["['0']", f"['{FIRST}']"]


if remote.IS_SUPPORTED:

    @pytest.mark.parametrize("how", ['uid_map="subids"', "join=userns"])
    def test_root_inside_does_not_read_the_files_of_the_user_through_the_holder(how: str) -> None:
        """It makes the holder, which it can trace, open one."""
        printed = as_ordinary_user(
            TELL
            + f"""
ATTACK = '''
import sys, time
import remote
class Foreign(remote.There):
    def _wait(self):
        time.sleep(0.3)
with Foreign(int(sys.argv[1])) as there:
    print(there.call(257, -100, sys.argv[2].encode(), 0)[0])
'''
with tempfile.TemporaryDirectory() as folder, create_userns("subids", "subids") as userns:
    os.chmod(folder, 0o755)
    with open(folder + "/secret", "w") as file:
        os.fchmod(file.fileno(), 0o600)
    with UsernsProcess({how}) as holder:
        print(check_output([sys.executable, "-c", ATTACK, str(holder.pid), file.name], join=holder, text=True).strip())
"""
        )
        assert printed == "-13\n"
