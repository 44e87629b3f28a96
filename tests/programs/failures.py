"""Programs at their limits, in restricted environments, and with system calls that are refused."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import native
import pytest
from commands import SLEEP
from entering import be_root, enter_own_mounts, enter_own_userns
from kinds import (
    ALL_KINDS,
    DIRECT,
    IS_ROOT,
    KINDS,
    MISSING,
    OTHER_IDS,
    WITH_IDS,
    assert_all_fail,
    assert_is,
    failure,
    failure_of,
    nothing_left,
    warm_up,
)
from leaks import close_kept, descriptors

from usernsproc import UsernsError, UsernsProcess
from usernsproc.lowlevel import fork_userns

CLOSED_TO_ORDINARY_USERS = "/proc/1/cwd"
ORDINARY_ID = 65533
MAX_DESCRIPTORS = 64
HIGH_DESCRIPTOR = 200
DEEPEST = 33
MS_NOEXEC = 8
NR_PIDFD_OPEN, NR_PIDFD_SEND_SIGNAL = 434, 424


def a_closed_directory() -> None:
    theirs = failure_of(subprocess.Popen, SLEEP, cwd=CLOSED_TO_ORDINARY_USERS)
    ours = failure_of(UsernsProcess, SLEEP, cwd=CLOSED_TO_ORDINARY_USERS, **DIRECT)
    assert isinstance(ours, PermissionError)
    assert (ours.errno, ours.strerror, ours.filename) == (theirs.errno, theirs.strerror, theirs.filename)


def become_an_unprivileged_user() -> None:
    if IS_ROOT:
        os.setgroups([])
        os.setresgid(ORDINARY_ID, ORDINARY_ID, ORDINARY_ID)
        os.setresuid(ORDINARY_ID, ORDINARY_ID, ORDINARY_ID)
        native.prctl(native.PR_SET_DUMPABLE, 1)
        KINDS.pop(OTHER_IDS)


def enter_userns_of_one_id() -> None:
    enter_own_userns()
    KINDS.pop(OTHER_IDS, None)


# ---- limits ----


def limit_of_descriptors(name: str) -> None:
    """Allow one descriptor more each time, until it works."""
    kind = ALL_KINDS[name]
    kind.learn()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = max(map(int, descriptors())) + 1
    for limit in range(lowest, lowest + MAX_DESCRIPTORS):
        with nothing_left():
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            started = error = None
            try:
                started = kind.start()
            except OSError as caught:
                error = caught
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            if error is None:
                kind.check(started)
                return
            assert isinstance(error, UsernsError)
            assert (error.errno, error.cause) == (errno.EMFILE, "open-files-limit"), error.step
            print(error.step)
    raise AssertionError("never worked")


def limit_of_a_files_size() -> None:
    """The file is the image of a holder, in memory. Python ignores the signal that comes with the error."""
    kind = KINDS["holder"]
    kind.learn()
    largest = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 1, 100):
        with nothing_left():
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, largest[1]))
            error = failure(kind)
            resource.setrlimit(resource.RLIMIT_FSIZE, largest)
            assert isinstance(error, UsernsError), limit
            assert error.step in ("prepare", "memfd_create"), limit
            assert (error.errno, error.cause) == (errno.EFBIG, "file-size-limit"), limit


def forbid_more_processes() -> None:
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def limit_of_processes() -> None:
    warm_up()
    become_an_unprivileged_user()
    forbid_more_processes()
    assert_all_fail(errno.EAGAIN, "clone", "process-limit", builtin=BlockingIOError)


def limit_of_processes_in_a_thread() -> None:
    warm_up()
    become_an_unprivileged_user()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(forbid_more_processes).result()
        pool.submit(assert_all_fail, errno.EAGAIN, "clone", "process-limit").result()


def user_namespaces_forbidden() -> None:
    enter_userns_of_one_id()
    Path("/proc/sys/user/max_user_namespaces").write_text("0")
    assert_all_fail(errno.ENOSPC, "clone", "userns-forbidden")


def nest_too_deep() -> None:
    depth = 0
    try:
        while depth <= DEEPEST:
            enter_userns_of_one_id()
            depth += 1
    except UsernsError:
        print(depth)
    assert_all_fail(errno.ENOSPC, "clone", "max-user-namespaces")


# ---- environment ----


def in_a_chroot(folder: str) -> None:
    """Leave the chroot by a descriptor of the old root."""
    warm_up()
    be_root()
    outside = os.open("/", os.O_RDONLY)
    with nothing_left():
        os.chroot(folder)
        errors = {name: failure(kind) for name, kind in KINDS.items()}
        os.fchdir(outside)
        os.chroot(".")
    for name, error in errors.items():
        assert_is(name, error, errno.EPERM, "clone", "userns-refused", builtin=PermissionError)


def mount(kind: bytes, target: str, flags: int = 0) -> None:
    native.must(native.libc.mount(kind, target.encode(), kind, flags, None))


def without_proc() -> None:
    warm_up()
    enter_own_mounts()
    with nothing_left():
        close_kept()
        mount(b"tmpfs", "/proc")
        errors = {name: failure(kind) for name, kind in KINDS.items()}
        _, pidfd = fork_userns()
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)
        native.must(native.libc.umount2(b"/proc", 0))
    for name, error in errors.items():
        assert_is(name, error, errno.ENOENT, "open_proc", "no-proc", builtin=FileNotFoundError)


def proc_is_covered_later() -> None:
    enter_own_mounts()
    warm_up()
    with nothing_left():
        mount(b"tmpfs", "/proc")
        errors = {name: failure(kind) for name, kind in KINDS.items()}
        native.must(native.libc.umount2(b"/proc", 0))
    assert errors == dict.fromkeys(KINDS), errors


def look_without_proc() -> None:
    enter_own_mounts()
    with UsernsProcess() as holder:
        close_kept()
        mount(b"tmpfs", "/proc")
        looks = (holder.namespace_path, lambda: holder.uid_map, lambda: holder.write_uid_map("root"))
        for look in looks:
            assert_is(repr(look), failure_of(look), errno.ENOENT, "open_proc", "no-proc", builtin=FileNotFoundError)
        if native.KERNEL >= (6, 11):
            holder.namespace().close()
        else:
            assert_is("namespace", failure_of(holder.namespace), errno.ENOENT, "open_proc", "no-proc")
        native.must(native.libc.umount2(b"/proc", 0))


def not_dumpable() -> None:
    warm_up()
    become_an_unprivileged_user()
    native.prctl(native.PR_SET_DUMPABLE, 0)
    alone = [KINDS.pop("holder"), KINDS.pop("command with ids")]
    assert_all_fail(errno.EACCES, "setgroups", "not-dumpable", builtin=PermissionError)
    for kind in alone:
        with nothing_left():
            assert failure(kind) is None


def without_new_privileges() -> None:
    for kind in KINDS.values():
        kind.learn()
    native.prctl(native.PR_SET_NO_NEW_PRIVS, 1)
    for name, kind in KINDS.items():
        print(name)
        kind.check(kind.start())


# ---- refused system calls ----


def descriptors_of_a_command(options: dict[str, Any]) -> list[str]:
    """Start it while a low and a high descriptor of this process are inheritable."""
    folder = os.open("/", os.O_RDONLY)
    os.set_inheritable(folder, True)
    os.dup2(folder, HIGH_DESCRIPTOR, inheritable=True)
    try:
        with UsernsProcess(["/bin/ls", "/proc/self/fd"], stdout=subprocess.PIPE, text=True, **options) as process:
            output, _ = process.communicate()
    finally:
        os.close(folder)
        os.close(HIGH_DESCRIPTOR)
    assert process.returncode == 0
    return sorted(output.split())


def refuse(number: int, error: int) -> None:
    """Refuse the system call: every kind of call has to work as usual."""
    native.prctl(native.PR_SET_NO_NEW_PRIVS, 1)
    for kind in KINDS.values():
        kind.learn()
    usual = [descriptors_of_a_command(options) for options in (DIRECT, WITH_IDS)]
    native.refuse_system_call(number, error)
    found = [descriptors_of_a_command(options) for options in (DIRECT, WITH_IDS)]
    assert found == usual, f"a command has the descriptors {found}, not {usual}"
    for kind in KINDS.values():
        kind.check(kind.start())


def without_pidfds(error: int) -> None:
    native.refuse_system_call(NR_PIDFD_OPEN, error)
    assert_all_fail(error, "pidfd_open", "seccomp-refused")


def without_pidfd_send_signal(name: str) -> None:
    native.refuse_system_call(NR_PIDFD_SEND_SIGNAL, errno.EPERM)
    with nothing_left():
        if name == "namespace":
            KINDS[name].start().close()
        else:
            assert isinstance(failure_of(UsernsProcess, [MISSING], **DIRECT), FileNotFoundError)


def without_executable_memory() -> None:
    warm_up()
    enter_own_mounts()
    native.unshare(native.CLONE_NEWPID)
    if pid := os.fork():
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    mount(b"proc", "/proc")
    for kind in KINDS.values():
        kind.learn()
    of_images = {name: kind for name, kind in KINDS.items() if name in ("holder", "command with ids", OTHER_IDS)}
    os.close(shared_image())  # from before that setting
    Path("/proc/sys/vm/memfd_noexec").write_text("2")
    for kind in of_images.values():
        with nothing_left(), pytest.warns(RuntimeWarning, match="memfd_noexec"):
            kind.check(kind.start())
        with nothing_left(), warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(RuntimeWarning):
                kind.start()
    for folder in ("/dev/shm", "/tmp", "/var/tmp", "/run"):
        mount(b"tmpfs", folder, MS_NOEXEC)
    for name, kind in of_images.items():
        with nothing_left():
            assert_is(name, failure(kind), errno.EACCES, "memfd_create", "memfd-noexec", builtin=PermissionError)


def shared_image() -> int:
    """Return the descriptor of the launcher's image, which is open as long as the program runs."""
    [fd] = (int(fd) for fd, name in descriptors().items() if name.startswith("/memfd:usernsproc "))
    return fd


def lose_the_shared_image(replaced: bool) -> None:
    fd = shared_image()
    assert not os.get_inheritable(fd)
    os.close(fd)
    if replaced:
        assert os.open("/dev/null", os.O_RDONLY) == fd
    with nothing_left():
        command = UsernsProcess(["/bin/true"], uid_map="root", gid_map="root", user=0)
        assert command.wait() == 0
        del command
