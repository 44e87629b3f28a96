"""Programs that cannot create a process: limits, filters, a read-only /proc, faked user IDs."""

from __future__ import annotations

import errno
import os
import resource
import signal
import struct
import sys
from pathlib import Path

import alone
import native
from causes import MAKERS, assert_all_fail, warm_up
from entering import enter_own_mounts
from errors import error_of
from leaks import close_kept

from usernsproc import IdMapPermissionError, MapToolError, UsernsProcess, create_userns
from usernsproc._evidence import faked_ids, step_error

NR_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274, "riscv64": 274, "s390x": 345, "ppc64le": 355}[native.MACHINE]
SCHED_DEADLINE, SCHED_FLAG_RESET_ON_FORK = 6, 1
WITHOUT_PRIVILEGES = 65533
PROC_FLAGS = 14
"""`MS_NOSUID`, `MS_NODEV` and `MS_NOEXEC`: a user namespace cannot remove them from a mount of /proc."""

NR_CLONE3 = 435


def eagain(cause: str) -> str:
    return f"clone: Resource temporarily unavailable [EAGAIN, {cause}]"


# ---- no further process ----


def set_deadline_policy(flags: int) -> None:
    attributes = struct.pack("IIQiIQQQ", 48, SCHED_DEADLINE, flags, 0, 0, 10_000_000, 100_000_000, 100_000_000)
    native.must(native.libc.syscall(NR_SCHED_SETATTR, 0, attributes, 0))


def a_thread_with_a_deadline() -> None:
    warm_up()
    set_deadline_policy(0)
    assert_all_fail(eagain("sched-deadline"), "SCHED_DEADLINE", "RESET_ON_FORK")
    set_deadline_policy(SCHED_FLAG_RESET_ON_FORK)
    warm_up()


def the_limit_of_a_users_processes() -> None:
    warm_up()
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(WITHOUT_PRIVILEGES, WITHOUT_PRIVILEGES, WITHOUT_PRIVILEGES)
        os.setresuid(WITHOUT_PRIVILEGES, WITHOUT_PRIVILEGES, WITHOUT_PRIVILEGES)
        native.prctl(native.PR_SET_DUMPABLE, 1)
    resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
    assert_all_fail(eagain("process-limit"), f"User {os.getuid()} has ", "RLIMIT_NPROC (ulimit -u) is 1.")


def a_filter_that_answers_eagain() -> None:
    warm_up()
    native.refuse_system_call(native.NR_CLONE, errno.EAGAIN)
    native.refuse_system_call(NR_CLONE3, errno.EAGAIN)
    assert_all_fail(eagain("process-limit"), "Likely one of: RLIMIT_NPROC")


def the_limit_of_pids() -> None:
    inside = alone.command(the_limit_of_pids_inside)
    with UsernsProcess(inside, uid_map="root", gid_map="root", namespaces=["pid"], mount_proc=True) as process:
        sys.exit(process.wait())


def the_limit_of_pids_inside() -> None:
    warm_up()
    Path("/proc/sys/kernel/pid_max").write_text("301")
    try:
        while os.fork():
            pass
    except BlockingIOError:
        assert_all_fail(eagain("pid-max"), "kernel.pid_max is 301")
    else:
        signal.pause()


# ---- refused ----


def mount_proc_read_only() -> None:
    enter_own_mounts()
    native.must(native.libc.mount(b"/proc", b"/proc", None, native.MS_BIND | native.MS_REC, None))
    flags = native.MS_BIND | native.MS_REMOUNT | native.MS_RDONLY | PROC_FLAGS
    native.must(native.libc.mount(None, b"/proc", None, flags, None))


def a_read_only_proc() -> None:
    warm_up()
    close_kept()
    mount_proc_read_only()
    for make in MAKERS.values():
        error = error_of(make)
        assert error.step in ("uid_map", "setgroups"), error
        assert str(error) == f"{error.step}: Read-only file system [EROFS, proc-read-only]", error
        assert "/proc is mounted read-only" in error.__notes__[0]
    with UsernsProcess() as late:
        for error in (
            error_of(late.write_uid_map, "root"),
            error_of(late.write_gid_map, "root"),
            error_of(late.write_setgroups, "deny"),
        ):
            assert str(error).endswith("Read-only file system [EROFS, proc-read-only]"), error
    for number in (errno.EACCES, errno.EPERM):  # as security modules of containers answer
        for step in ("uid_map", "gid_map", "setgroups"):
            assert step_error(step, number).cause == "proc-read-only"


def newuidmap_where_proc_is_read_only() -> None:
    try:
        create_userns("rootless", "rootless")
    except MapToolError as error:
        assert (error.step, error.cause) == ("newuidmap", "proc-read-only"), error
        assert "/proc is mounted read-only" in error.__notes__[0]
    else:
        raise AssertionError("it works")


def refused_calls_of_the_core() -> None:
    calls = ("memfd_create", "execveat", "pidfd_open")
    assert {step_error(call, errno.ENOSYS).cause for call in calls} == {"kernel-too-old"}
    assert {step_error(call, errno.EPERM).cause for call in calls} == {"seccomp-refused"}
    assert {step_error(call, errno.EMFILE).cause for call in (*calls, "prepare")} == {"open-files-limit"}
    assert {step_error(call, errno.EFBIG).cause for call in ("memfd_create", "prepare")} == {"file-size-limit"}
    assert step_error("keyring", errno.EDQUOT).cause == "key-quota"
    assert step_error("keyring", errno.EPERM).cause == "no-keyctl"
    assert step_error("memfd_create", errno.EACCES).cause == "memfd-noexec"
    assert step_error("execveat", errno.EACCES).cause == "seccomp-refused"
    native.refuse_system_call(9999, errno.ENOSYS)
    assert {step_error(call, errno.ENOSYS).cause for call in calls} == {"seccomp-refused"}


# ---- faked IDs ----


def ids_that_a_tool_fakes() -> None:
    real = Path("/proc/self/status").read_text().partition("Uid:\t")[2].split()[1]
    assert os.getuid() == 7
    assert faked_ids() == f"this program is shown the user id 7, and the kernel has {real}"
    assert step_error("uid_map", errno.EPERM).cause == "ids-faked"
    if real == "0":
        return
    for uid_map in ("subids", "0:100000:65536", "0:0:1"):
        error = error_of(create_userns, uid_map, "root")
        assert isinstance(error, IdMapPermissionError), error
        assert (error.step, error.errno, error.cause) == ("uid_map", errno.EPERM, "ids-faked")
        assert "fakeroot" in error.__notes__[0]
        assert f"the kernel has {real}" in str(error)


def ids_that_a_tool_fakes_for_an_unprivileged_user() -> None:
    for uid_map in ("subids", "0:100000:65536", "0:0:1"):
        try:
            create_userns(uid_map, "root")
        except IdMapPermissionError as error:
            assert (error.step, error.cause) == ("uid_map", "ids-faked"), error
            assert "the user id 7, and the kernel has 1000" in str(error)
        else:
            raise AssertionError(uid_map)
