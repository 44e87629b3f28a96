"""Programs that find a forged `/proc`, or a genuine one of another kind, in a new mount namespace."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import native
from entering import enter_own_userns
from forging import (
    FAKE,
    REAL,
    Scene,
    bind,
    cover_link,
    forge,
    make_places,
    mount,
    outcome,
    own_mount_namespace,
    refuse_openat2,
    refuse_requests_of_pidfds,
    tmpfs_over_proc,
)
from leaks import close_kept
from recycle import OtherProcess

from usernsproc import Namespace, NamespaceKind, UsernsError, UsernsProcess, _core, create_userns
from usernsproc._proc import read_mounts, read_sysctl

UNPRIVILEGED = 1000
EVERY_ID = "0 0 4294967295"
OTHER_PROCESSES = 40
NR_PIDFD_OPEN = 434


def with_openat2(how: str) -> None:
    """Refuse openat2(2) with the errno of that name, unless it is `is there`."""
    if how != "is there":
        refuse_openat2(getattr(errno, how))


def assert_not_believed(read: Callable[[], object]) -> None:
    try:
        read()
    except OSError as error:
        assert error.errno == errno.EXDEV
    else:
        raise AssertionError("it was believed")


def forged(forgery: str, openat2: str) -> None:
    own_mount_namespace()
    scene = Scene()
    with_openat2(openat2)
    scene.assert_refused(*forge(forgery, scene))


def without_openat2(how: str) -> None:
    own_mount_namespace()
    scene = Scene()
    with_openat2(how)
    scene.assert_refused(*scene.attempts())
    assert str(scene.holder.uid_map) == str(scene.userns.uid_map) == f"0:{os.geteuid()}:1"


def without_requests_of_pidfds(openat2: str) -> None:
    own_mount_namespace()
    refuse_requests_of_pidfds()
    with_openat2(openat2)
    scene = Scene()
    scene.assert_refused(*scene.attempts())
    for kind in NamespaceKind:
        with Namespace.of(scene.joined, kind) as found, Namespace.current(kind) as own:
            assert (found != own) == (kind in ("user", "net")), kind
    forge("tmpfs over /proc", scene)
    scene.needs_proc = True
    scene.assert_refused()
    assert {outcome(find) for find in scene.namespaces().values()} == {"refused"}


# ---- root in a mount namespace of an unprivileged user ----


def child_of_user(prepare: Callable[[], None]) -> int:
    """Return the PID of an unprivileged child that has called *prepare* and waits."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(UNPRIVILEGED, UNPRIVILEGED, UNPRIVILEGED)
            os.setresuid(UNPRIVILEGED, UNPRIVILEGED, UNPRIVILEGED)
            native.prctl(native.PR_SET_PDEATHSIG, signal.SIGKILL)
            native.prctl(native.PR_SET_DUMPABLE, 1)
            prepare()
            os.write(write, b".")
            signal.pause()
        finally:
            os._exit(1)
    os.close(write)
    assert os.read(read, 1) == b"."
    os.close(read)
    return pid


def forge_for(victim: int) -> None:
    native.unshare(native.CLONE_NEWUSER | native.CLONE_NEWNS)
    id_map = f"0 {UNPRIVILEGED} 1"
    for name, text in ("setgroups", "deny"), ("uid_map", id_map), ("gid_map", id_map):
        Path(f"/proc/self/{name}").write_text(text)
    make_places()
    tmpfs_over_proc(victim)


def root_in_a_hostile_mount_namespace() -> None:
    victim = child_of_user(lambda: native.unshare(native.CLONE_NEWUSER))
    attacker = child_of_user(lambda: forge_for(victim))
    maps = os.open(f"/proc/{victim}", os.O_PATH | os.O_DIRECTORY)
    with Namespace.of(attacker, "mnt") as mnt:
        close_kept()
        with mnt.enter():
            for what in (
                lambda: create_userns("all", "all"),
                lambda: create_userns("0:0:65536", "0:0:65536"),
                lambda: UsernsProcess(["/bin/true"], uid_map="all"),
                lambda: UsernsProcess(uid_map="all"),
            ):
                assert outcome(what) == "refused"
    with open(os.open("uid_map", os.O_RDONLY, dir_fd=maps)) as file:
        assert file.read() == ""
    for pid in victim, attacker:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


# ---- one file, or one link ----


def file_of_another_process(name: str, openat2: str) -> None:
    own_mount_namespace()
    scene = Scene()
    before = scene.setgroups_of_victim()
    with_openat2(openat2)
    bind(f"/proc/{scene.victim.pid}/{name}", f"/proc/{scene.holder.pid}/{name}")
    holder = scene.holder
    write: dict[str, Callable[[], object]] = {
        "uid_map": lambda: holder.write_uid_map("root"),
        "gid_map": lambda: holder.write_gid_map("root"),
        "setgroups": lambda: holder.write_setgroups("deny"),
    }
    assert outcome(write[name]) == "refused"
    if name != "setgroups":
        assert outcome(lambda: getattr(holder, name)) == "refused"
    scene.assert_victim_is_untouched()
    assert scene.setgroups_of_victim() == before


def covered_link(openat2: str) -> None:
    own_mount_namespace()
    scene = Scene()
    victim_link = f"/proc/{scene.victim.pid}/ns/user"
    os.symlink(REAL / f"{scene.victim.pid}/ns/user", FAKE / "link")
    with_openat2(openat2)
    own, thread = f"/proc/{os.getpid()}/ns/user", "/proc/thread-self/ns/user"
    cover_link(FAKE / "link", thread)
    cover_link(FAKE / "link", own)
    assert os.stat(own).st_ino == os.stat(thread).st_ino == os.stat(victim_link).st_ino, "forged in vain"
    assert_not_believed(lambda: _core.open_namespace_link(-1, "self/ns/user"))
    assert_not_believed(lambda: _core.open_namespace_link(-1, "thread-self/ns/user"))
    scene.assert_namespaces_are_right()
    close_kept()
    native.refuse_system_call(NR_PIDFD_OPEN, errno.ENOSYS)
    assert outcome(Namespace.current) == "refused"
    assert outcome(lambda: create_userns("root", "root")) == "refused"


def own_map() -> None:
    enter_own_userns()
    native.unshare(native.CLONE_NEWNS)
    close_kept()
    make_places()
    (FAKE / "uid_map").write_text(EVERY_ID)
    bind(FAKE / "uid_map", f"/proc/{os.getpid()}/uid_map")
    assert Path("/proc/self/uid_map").read_text() == EVERY_ID
    for what in (
        lambda: create_userns("all", "all"),
        lambda: UsernsProcess(["/bin/true"], uid_map="all"),
        lambda: Namespace.current().uid_map,
    ):
        assert outcome(what) == "refused"


def table_of_mounts() -> None:
    own_mount_namespace()
    assert outcome(read_mounts) == "done"
    (FAKE / "mountinfo").write_text("")
    bind(FAKE / "mountinfo", f"/proc/{os.getpid()}/task/{os.getpid()}/mountinfo")
    assert outcome(read_mounts) == "refused"
    assert outcome(Namespace.list) == "refused"


def process_in_the_list() -> None:
    own_mount_namespace()
    scene = Scene()
    (FAKE / "uid_map").write_text("0 12345 1")
    assert outcome(Namespace.list) == "done"
    bind(FAKE / "uid_map", f"/proc/{scene.joined.pid}/task/{scene.joined.pid}/uid_map")
    assert outcome(Namespace.list) == "refused"


# ---- genuine ones ----


def proc_of_another_pid_namespace() -> None:
    own_mount_namespace()
    ready, done = os.pipe()
    with UsernsProcess() as holder:
        start = holder.pid + 100
    close_kept()

    def in_other_pid_namespace() -> None:
        native.prctl(native.PR_SET_PDEATHSIG, signal.SIGKILL)
        mount(b"proc", "/proc")
        for number in range(OTHER_PROCESSES):
            OtherProcess(start + number)
        os.write(done, b".")
        signal.pause()

    outer = os.fork()
    if outer == 0:
        try:
            native.prctl(native.PR_SET_PDEATHSIG, signal.SIGKILL)
            native.unshare(native.CLONE_NEWPID)
            if os.fork() == 0:
                in_other_pid_namespace()
            signal.pause()
        finally:
            os._exit(1)
    assert os.read(ready, 1) == b"."
    assert not os.path.exists("/proc/self")
    maps = [os.open(f"/proc/{start + number}/uid_map", os.O_RDONLY) for number in range(OTHER_PROCESSES)]
    for _ in range(300):  # each gets the next number
        try:
            create_userns("root", "root")
        except UsernsError as error:
            assert (error.step, error.cause) == ("open_proc", "no-proc"), error.step
        else:
            raise AssertionError("it was taken for another process")
    assert {os.pread(fd, 100, 0) for fd in maps} == {b""}
    os.kill(outer, signal.SIGKILL)
    os.waitpid(outer, 0)


def proc_with_options(options: str) -> None:
    own_mount_namespace()
    native.unshare(native.CLONE_NEWPID)  # whose procfs its first process may mount
    child = os.fork()
    if child == 0:
        is_read_only = options == "ro"
        flags = native.MS_RDONLY if is_read_only else 0
        data = None if is_read_only else options.encode()
        native.must(native.libc.mount(b"proc", b"/proc", b"proc", flags, data))
        if is_read_only:
            read_a_proc()
        else:
            use_a_proc()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def read_a_proc() -> None:
    with UsernsProcess() as holder:
        assert str(holder.uid_map) == ""
        with Namespace.of(holder) as userns, Namespace.current() as own:
            assert userns != own
    assert read_mounts()
    assert Namespace.list()


def use_a_proc() -> None:
    with create_userns("root", "root") as userns:
        assert str(userns.uid_map) == f"0:{os.geteuid()}:1"
    with UsernsProcess(uid_map="root") as holder:
        assert str(holder.uid_map) == f"0:{os.geteuid()}:1"
    assert UsernsProcess(["/bin/true"], uid_map="root").wait() == 0


def settings_below_proc_sys(openat2: str) -> None:
    own_mount_namespace()
    with_openat2(openat2)
    bind("/proc/sys", "/proc/sys")
    assert read_sysctl("kernel/overflowuid") == "65534\n"
    (FAKE / "overflowuid").write_text("0")
    bind(FAKE, "/proc/sys/kernel")
    assert_not_believed(lambda: read_sysctl("kernel/overflowuid"))
