"""A user namespace that belongs to another user than the caller. That user is charged for it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alone import run_alone
from commands import SLEEP, sleeping
from programs import owner as programs
from unprivileged import as_unprivileged_user

from usernsproc import PIPE, Namespace, UsernsProcess, run

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


# ---- the owner ----


@pytest.mark.root
@pytest.mark.parametrize("owner", [1, 1000, OWNER, 65534])
def test_the_namespace_belongs_to_the_user_that_is_asked_for(owner: int) -> None:
    with sleeping(owner=owner, **SHIFTED) as process:
        assert owner_of(process) == owner
    with UsernsProcess(owner=owner, **SHIFTED) as holder:
        assert owner_of(holder) == owner


@pytest.mark.root
def test_also_an_id_that_the_map_does_not_have() -> None:
    with sleeping(owner=1000, uid_map="root", gid_map="root") as process:
        assert owner_of(process) == 1000
        assert status_of(process.pid, "Uid", "Gid") == ["\t".join("0000")] * 2


def test_the_callers_id_is_what_it_is_without() -> None:
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


# ---- the command's IDs are what they are without ----


@pytest.mark.root
@pytest.mark.parametrize(
    ("options", "uid", "gid"),
    [
        (SHIFTED, 100000, 100000),  # 0 in the namespace, because the caller's ID is not mapped
        ({**SHIFTED, "user": 5, "group": 6}, 100005, 100006),
        (WITH_ROOT, 0, 0),  # the caller's ID is mapped, and kept
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
def test_inside_root_has_all_capabilities_in_the_namespace() -> None:
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
def test_the_owner_has_the_rights_of_an_owner() -> None:
    """An unprivileged user can enter a namespace that was created for it, and the namespaces that this owns."""
    run_alone(programs.owner_joins_what_it_owns)


# ---- the caller ----


@pytest.mark.root
def test_the_caller_keeps_its_identity_in_all_of_its_threads() -> None:
    """Another thread that checks all the time sees neither other IDs or capabilities, nor a process that
    is not dumpable."""
    run_alone(programs.caller_keeps_its_identity)


@pytest.mark.root
def test_the_owner_is_charged_for_it() -> None:
    """`user.max_user_namespaces` is counted per user: one user's limit does not affect others."""
    run_alone(programs.each_owner_is_charged)


@pytest.mark.root
def test_from_a_thread_that_ends() -> None:
    with ThreadPoolExecutor(1) as pool:
        holder = pool.submit(lambda: UsernsProcess(owner=OWNER, **SHIFTED)).result()
        process = pool.submit(lambda: UsernsProcess(["sleep", "0.3"], owner=OWNER, **SHIFTED)).result()
    with holder, process:
        assert process.wait(timeout=60) == 0
        assert holder.poll() is None


@pytest.mark.root
@pytest.mark.parametrize(
    ("lacking", "cause"), [(0, ""), (7, "no-cap-setuid"), (21, "no-cap-sys-admin"), (1, "no-cap-dac-override")]
)
def test_where_the_caller_is_some_user_with_capabilities(lacking: int, cause: str) -> None:
    """A service that is not root, but has the required capabilities. If one is missing, the error names it."""
    assert run_alone(programs.service_without, lacking).split() == (["owner", cause] if cause else [])


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
def test_what_is_not_an_id(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        UsernsProcess(SLEEP, uid_map="root", **options)


def test_a_caller_that_may_not_become_another_user() -> None:
    as_unprivileged_user(programs.unprivileged_user_names_another)


def test_an_id_that_is_not_mapped_here() -> None:
    """In a new user namespace no other users are mapped."""
    run_alone(programs.owner_is_not_mapped_here)


@pytest.mark.root
def test_without_a_map_the_command_would_be_the_owner() -> None:
    with pytest.raises(ValueError, match="give uid_map="):
        UsernsProcess(SLEEP, owner=1000)


def test_a_joined_user_namespace_has_its_owner() -> None:
    with UsernsProcess(uid_map="root", gid_map="root") as holder, pytest.raises(ValueError, match="has its owner"):
        UsernsProcess(SLEEP, join=holder, owner=OWN_ID)
