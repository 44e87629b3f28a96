"""One errno has several causes: which it is, is found by looking, and named in the note.

Each cause is brought about for real, in a process of its own: limits, filters, a read-only
/proc, ids that a tool fakes. Cgroups are in `test_cgroup_causes.py`.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import native
import pytest
from ordinary import DROP, as_ordinary_user

from usernsproc._evidence import faked_ids

Script = Callable[..., str]
TESTS = Path(__file__).parent
NR_CLONE = {"x86_64": 56, "aarch64": 220, "riscv64": 220, "s390x": 120, "ppc64le": 120}[native.MACHINE]
NR_SCHED_SETATTR = {"x86_64": 314, "aarch64": 274, "riscv64": 274, "s390x": 345, "ppc64le": 355}[native.MACHINE]

PRELUDE = """
import ctypes, errno, os, resource, signal, struct, sys
from pathlib import Path
import native
from usernsproc import *
from usernsproc._evidence import step_error

def error_of(call, *args, **options):
    try:
        made = call(*args, **options)
    except UsernsError as error:
        return error
    made.close()
    raise AssertionError("it works")

MAKERS = {
    "namespace": lambda: create_userns("root", "root"),
    "command": lambda: UsernsProcess(["/bin/true"], uid_map="root"),
    "holder": lambda: UsernsProcess(uid_map="root"),
}

def assert_all_fail(text, *words):
    for name, make in MAKERS.items():
        error = error_of(make)
        assert str(error) == text, f"{name}: {error}"
        for word in words:
            assert word in error.__notes__[0], f"{name}: {error.__notes__}"

def warm_up():
    for make in MAKERS.values():
        make().close()
    try:
        UsernsProcess(["/none"], uid_map="root")
    except FileNotFoundError:
        pass
"""

EAGAIN = "clone: Resource temporarily unavailable [EAGAIN, {}]"


# ---- no further process ----


@pytest.mark.root
def test_a_thread_with_a_deadline(script: Script) -> None:
    """SCHED_DEADLINE is not inherited: the kernel refuses children, unless they are to get another policy."""
    script(
        PRELUDE
        + f"""
def set_policy(flags):
    attributes = struct.pack("IIQiIQQQ", 48, 6, flags, 0, 0, 10_000_000, 100_000_000, 100_000_000)
    native.must(native.libc.syscall({NR_SCHED_SETATTR}, 0, attributes, 0))

warm_up()
set_policy(0)
assert_all_fail("{EAGAIN.format("sched-deadline")}", "SCHED_DEADLINE", "RESET_ON_FORK")
set_policy(1)
warm_up()
"""
    )


def test_the_limit_of_a_users_processes_is_counted(script: Script) -> None:
    """The note has the number of processes and the limit, and is not a guess."""
    script(
        PRELUDE
        + f"""
warm_up()
if os.geteuid() == 0:
    os.setgroups([])
    os.setresgid(65533, 65533, 65533)
    os.setresuid(65533, 65533, 65533)
    native.prctl(native.PR_SET_DUMPABLE, 1)
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
assert_all_fail("{EAGAIN.format("process-limit")}", f"User {{os.getuid()}} has ", "RLIMIT_NPROC (ulimit -u) is 1.")
"""
    )


def test_what_is_not_found_is_a_guess(script: Script) -> None:
    """As for a filter that answers EAGAIN."""
    script(
        PRELUDE
        + f"""
warm_up()
native.refuse_system_call({NR_CLONE}, errno.EAGAIN)
assert_all_fail("{EAGAIN.format("process-limit")}", "Likely one of: RLIMIT_NPROC")
"""
    )


@pytest.mark.root
@pytest.mark.kernel("6.14")
def test_the_limit_of_pids(script: Script) -> None:
    """kernel.pid_max, which each pid namespace has since Linux 6.14."""
    script(
        PRELUDE
        + f"""
inside = sys.argv[1:] == ["inside"]
if not inside:
    with UsernsProcess(
        [sys.executable, __file__, "inside"], uid_map="root", gid_map="root", namespaces=["pid"], mount_proc=True
    ) as process:
        sys.exit(process.wait())
warm_up()
Path("/proc/sys/kernel/pid_max").write_text("301")
try:
    while os.fork():
        pass
except BlockingIOError:
    assert_all_fail("{EAGAIN.format("pid-max")}", "kernel.pid_max is 301")
else:
    signal.pause()
"""
    )


# ---- refused ----

READ_ONLY_PROC = (
    PRELUDE
    + """
def read_only_proc():
    if os.geteuid():
        with create_userns("root", "root") as own:
            own.enter()
    native.unshare(native.CLONE_NEWNS)
    native.must(native.libc.mount(None, b"/", None, native.MS_REC | native.MS_PRIVATE, None))
    MS_BIND = 4096
    native.must(native.libc.mount(b"/proc", b"/proc", None, MS_BIND | native.MS_REC, None))
    flags = MS_BIND | native.MS_REMOUNT | native.MS_RDONLY | 14  # as it was: nosuid, nodev, noexec
    native.must(native.libc.mount(None, b"/proc", None, flags, None))
"""
)


def test_a_read_only_proc_is_named(script: Script) -> None:
    """The files are those of a child's maps, whoever writes them."""
    script(
        READ_ONLY_PROC
        + """
warm_up()
late = UsernsProcess()
read_only_proc()
for make in MAKERS.values():
    error = error_of(make)
    assert error.step in ("uid_map", "setgroups"), error
    assert str(error) == f"{error.step}: Read-only file system [EROFS, proc-read-only]", error
    assert "/proc is mounted read-only" in error.__notes__[0]
with UsernsProcess() as late:
    for write, value, step in (
        (late.write_uid_map, "root", "uid_map"), (late.write_gid_map, "root", "gid_map"),
        (late.write_setgroups, "deny", "setgroups"),
    ):
        error = error_of(write, value)
        assert str(error).endswith("Read-only file system [EROFS, proc-read-only]"), error
for number in (errno.EACCES, errno.EPERM):  # as security modules of containers answer
    for step in ("uid_map", "gid_map", "setgroups"):
        assert step_error(step, number).cause == "proc-read-only"
"""
    )


@pytest.mark.root
def test_newuidmap_where_proc_is_read_only() -> None:
    """The tool fails, and it is known why."""
    as_ordinary_user(
        """
        from usernsproc import *
        try:
            create_userns("rootless", "rootless")
        except MapToolError as error:
            assert (error.step, error.cause) == ("newuidmap", "proc-read-only"), error
            assert "/proc is mounted read-only" in error.__notes__[0]
        else:
            raise AssertionError("it works")
        """,
        before="mount -o remount,ro,bind /proc",
    )


def test_refused_calls_of_the_core(script: Script) -> None:
    """ENOSYS is an old kernel, unless there is a filter, which refuses with EPERM as well."""
    script(
        PRELUDE
        + """
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
"""
    )


def fake_ids(folder: Path) -> Path:
    library = folder / "fake_ids.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, TESTS / "fake_ids.c"], check=True)
    folder.chmod(0o755)
    return library


def test_ids_that_a_tool_fakes(tmp_path: Path, script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel's ids are in /proc. What is refused because of the others says so, not that
    subordinate ids or capabilities are missing."""
    monkeypatch.setenv("LD_PRELOAD", str(fake_ids(tmp_path)))
    script(
        PRELUDE
        + """
from usernsproc._evidence import faked_ids
real = Path("/proc/self/status").read_text().partition("Uid:\\t")[2].split()[1]
assert os.getuid() == 7
assert faked_ids() == f"this program is shown the user id 7, and the kernel has {real}"
assert step_error("uid_map", errno.EPERM).cause == "ids-faked"
if real != "0":
    for uid_map in ("subids", "0:100000:65536", "0:0:1"):
        error = error_of(create_userns, uid_map, "root")
        assert isinstance(error, IdMapPermissionError), error
        assert (error.step, error.errno, error.cause) == ("uid_map", errno.EPERM, "ids-faked")
        assert "fakeroot" in error.__notes__[0] and f"the kernel has {real}" in str(error)
"""
    )


@pytest.mark.root
def test_ids_that_a_tool_fakes_for_an_unprivileged_user(tmp_path: Path) -> None:
    """The same program as user 1000, for whom the maps are refused."""
    library = fake_ids(tmp_path)
    as_ordinary_user(
        """
        from usernsproc import *
        for uid_map in ("subids", "0:100000:65536", "0:0:1"):
            try:
                create_userns(uid_map, "root")
            except IdMapPermissionError as error:
                assert (error.step, error.cause) == ("uid_map", "ids-faked"), error
                assert "the user id 7, and the kernel has 1000" in str(error)
            else:
                raise AssertionError(uid_map)
        """,
        before=f"mount -t tmpfs tmpfs /mnt; cp {library} /mnt/fake_ids.so",
        drop=(*DROP, "env", "LD_PRELOAD=/mnt/fake_ids.so"),
    )


def test_without_such_a_tool_nothing_is_faked() -> None:
    assert faked_ids() is None
