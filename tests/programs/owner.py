"""The programs of `test_owner.py`."""

from __future__ import annotations

import errno
import os
import struct
import threading
import time
from pathlib import Path
from typing import Any

import native

from usernsproc import UsernsError, UsernsProcess, check_output, create_userns

SHIFTED: dict[str, Any] = {"uid_map": "0:100000:65536", "gid_map": "0:100000:65536"}
OF_STATUS = ("Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapAmb", "CapBnd")
PR_SET_KEEPCAPS = 8
DAC_OVERRIDE, KILL, SETGID, SETUID, SYS_PTRACE, SYS_ADMIN, SETFCAP = 1, 5, 6, 7, 19, 21, 31


def become(user: int, *, groups: bool = False) -> None:
    """Change to that user and group ID, in a process that stays dumpable."""
    if not groups:
        os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)
    native.prctl(native.PR_SET_DUMPABLE, 1)


def owner_joins_what_it_owns() -> None:
    """A process of the owner joins namespaces that it owns, and no others."""
    maps: dict[str, Any] = {"uid_map": "0:1000:1", "gid_map": "0:1000:1", "namespaces": ["net"]}
    with UsernsProcess(owner=1000, **maps) as owned, UsernsProcess(**maps) as other:
        owned_namespaces, other_namespaces = ([p.namespace(), p.namespace("net")] for p in (owned, other))
        if (pid := os.fork()) == 0:
            become(1000)
            assert check_output(["id", "-u"], join=owned_namespaces) == b"0\n"
            try:
                check_output(["id", "-u"], join=other_namespaces)
            except PermissionError as error:
                assert isinstance(error, UsernsError)
                assert error.cause == "join-refused"
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def identities() -> tuple[set[tuple[str, ...]], int, int, int]:
    """Return the different IDs and capabilities of the threads, and three signs of the process being dumpable."""
    seen = set()
    for task in os.listdir("/proc/self/task"):
        try:
            lines = Path(f"/proc/self/task/{task}/status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue
        found = tuple(line for line in lines if line.split(":")[0] in OF_STATUS)
        if len(found) == len(OF_STATUS):
            seen.add(found)
    return seen, native.prctl(native.PR_GET_DUMPABLE), os.geteuid(), os.stat("/proc/self/environ").st_uid


def caller_keeps_its_identity() -> None:
    usual = identities()
    assert usual[1] == 1
    assert len(usual[0]) == 1
    looks = 0

    def work() -> None:
        made = 0
        while made < 100 or looks <= 20:
            made += 1
            UsernsProcess(["/bin/true"], owner=1000, **SHIFTED).wait()
            UsernsProcess(owner=1000, **SHIFTED).close()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert identities() == usual
        looks += 1
    assert identities() == usual


def fill(owner: int | None) -> list[UsernsProcess[bytes]]:
    """Create user namespaces for that owner up to its limit."""
    made = []
    try:
        for _ in range(10):
            made.append(UsernsProcess(owner=owner, uid_map="0:10:1", gid_map="0:10:1"))
    except UsernsError as error:
        assert (error.errno, error.step, error.cause) == (errno.ENOSPC, "clone", "max-user-namespaces"), error
    return made


def each_owner_is_charged() -> None:
    """Set the limit in a user namespace in which the program is root and other users are mapped."""
    maps: dict[str, Any] = {"uid_map": "0:0:1,1:100000:65535", "gid_map": "0:0:1,1:100000:65535"}
    with UsernsProcess(**maps) as holder, holder.namespace() as userns:
        userns.enter()
    become(0, groups=True)
    Path("/proc/sys/user/max_user_namespaces").write_text("3")
    of_seven = fill(7)
    assert len(of_seven) == 3, len(of_seven)
    assert all(holder.namespace().owner_uid == 7 for holder in of_seven)
    of_eight = fill(8)
    assert len(of_eight) == 3, len(of_eight)
    own = fill(None)
    assert len(own) == 3, len(own)
    of_seven.pop().close()
    end = time.monotonic() + 60
    while not (again := fill(7)) and time.monotonic() < end:  # the kernel destroys a namespace some time later
        time.sleep(0.01)
    assert len(again) == 1, len(again)
    for holder in [*of_seven, *of_eight, *own, *again]:
        holder.close()


def service_without(lacking: int) -> None:
    """As user 1000 with the capabilities that `owner=` requires, except one. Print how it fails without that one."""
    required = {DAC_OVERRIDE, KILL, SETGID, SETUID, SYS_PTRACE, SYS_ADMIN, SETFCAP}
    kept = sum(1 << capability for capability in required - {lacking})
    native.prctl(PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    os.setresgid(1000, 1000, 1000)
    os.setresuid(1000, 1000, 1000)
    header = struct.pack("=Ii", 0x20080522, 0)
    native.must(native.libc.capset(header, struct.pack("=6I", kept, kept, kept, 0, 0, 0)))
    native.prctl(native.PR_SET_DUMPABLE, 1)
    owners = []

    def look(process: UsernsProcess[Any]) -> None:
        owners.append(process.namespace().owner_uid)

    try:
        assert check_output(["id", "-u"], owner=1001, on_created=look, **SHIFTED) == b"0\n"
        UsernsProcess(owner=1001, on_created=look, **SHIFTED).close()
        assert owners == [1001, 1001], owners
    except PermissionError as error:
        assert isinstance(error, UsernsError)
        print(error.step, error.cause)


def unprivileged_user_names_another() -> None:
    for args in (["true"], None):
        try:
            UsernsProcess(args, uid_map="root", owner=os.geteuid() + 1)
        except PermissionError as error:
            assert isinstance(error, UsernsError)
            assert isinstance(error, ValueError)
            assert (error.step, error.cause) == ("owner", "no-cap-setuid")
            assert "Omit owner=" in error.__notes__[0]
        else:
            raise AssertionError("it was created")


def owner_is_not_mapped_here() -> None:
    create_userns("root", "root").enter()
    for args in (["true"], None):
        try:
            UsernsProcess(args, uid_map="root", owner=1000)
        except PermissionError as error:
            assert isinstance(error, UsernsError)
            assert (error.step, error.cause) == ("owner", "id-not-mapped")
            assert "0:" in str(error)
            assert "owner= is an ID in the parent namespace" in error.__notes__[0]
        else:
            raise AssertionError("it was created")
