"""The programs of `test_privileges.py`."""

from __future__ import annotations

import errno
import os

import native

from usernsproc import NamespaceKind, UsernsError, check_output, run

NR_CLONE3 = 435


def without_clone3() -> None:
    native.refuse_system_call(NR_CLONE3, errno.ENOSYS)
    kinds = [kind for kind in NamespaceKind if kind != "time"]
    assert run(["true"], uid_map="root", namespaces=kinds).returncode == 0
    try:
        run(["true"], uid_map="root", namespaces=["time"])
    except UsernsError as error:
        assert (error.step, error.errno) == ("clone", errno.ENOSYS)
    else:
        raise AssertionError("it was made")


def under_no_new_privs() -> None:
    native.prctl(native.PR_SET_NO_NEW_PRIVS, 1)
    lines = check_output(["cat", "/proc/self/status"], uid_map="0:1:10", gid_map="0:1:10", text=True).splitlines()
    found = dict(line.split(":", 1) for line in lines)
    assert found["CapEff"] == found["CapBnd"]


def cgroup_without_clone3(cgroup: str) -> None:
    native.refuse_system_call(NR_CLONE3, errno.ENOSYS)
    print(check_output(["cat", "/proc/self/cgroup"], text=True, cgroup=cgroup, uid_map="root"))


def cgroup_of_another_user(cgroup: str) -> None:
    if os.geteuid() == 0:
        os.setresgid(65533, 65533, 65533)
        os.setresuid(65533, 65533, 65533)
        native.prctl(native.PR_SET_DUMPABLE, 1)
    try:
        run(["true"], uid_map="root", cgroup=cgroup)
    except PermissionError as error:
        assert isinstance(error, UsernsError)
        assert (error.step, error.cause) == ("cgroup", "cgroup-denied"), error
    else:
        raise AssertionError("it was placed")
