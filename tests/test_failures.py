"""Whatever fails is told exactly, with its step, and leaves nothing behind.

The functions named `alone_…` run in processes of their own: their limits,
namespaces and filters would be the test runner's as well.
"""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, Self

import native
import pytest
from leaks import assert_unchanged, descriptors, state

from conftest import IS_ROOT
from usernsproc import Namespace, UsernsError, UsernsProcess, create_userns
from usernsproc.lowlevel import fork_userns

Alone = Callable[..., str]

SLEEP = ("/bin/sleep", "1000")
MISSING = "/nonexistent/program"
SHIFTED = {"uid_map": "0:100000:65536", "gid_map": "0:100000:65536"}
CLOSED_TO_ORDINARY_USERS = "/proc/1/cwd"
ORDINARY_ID = 65533
SETTLES_IN = 0.05
ENDS_WITHIN = 60.0
MOST_DESCRIPTORS = 64
HIGH_DESCRIPTOR = 200
DEEPEST = 33
MS_NOEXEC, MS_REC, MS_PRIVATE = 8, 0x4000, 1 << 18
NR_CLOSE_RANGE, NR_CLONE3, NR_PIDFD_OPEN, NR_PIDFD_SEND_SIGNAL = 436, 435, 434, 424
PR_SET_PTRACER, PR_SET_PTRACER_ANY = 0x59616D61, -1

DIRECT: dict[str, Any] = {"uid_map": "root"}
WITH_IDS: dict[str, Any] = {"uid_map": "root", "user": 0, "group": 0}
each_way_to_run = pytest.mark.parametrize("options", [DIRECT, WITH_IDS], ids=["direct", "with ids"])


# ---- what cannot be executed: as Popen has it ----


class Attempt(NamedTuple):
    args: Any
    step: str
    options: dict[str, Any]


def make_files(folder: Path) -> None:
    (folder / "plain").write_text("no program\n")
    (folder / "orphan").write_text("#!/nonexistent/interpreter\n")
    (folder / "format").write_bytes(b"\x7fELF but no more\n")
    for name in ("orphan", "format"):
        (folder / name).chmod(0o755)


def attempts(folder: Path) -> dict[str, Attempt]:
    path = {"env": {"PATH": f"/nonexistent:{folder}"}}
    return {
        "missing": Attempt([MISSING], "exec", {}),
        "missing, as a word": Attempt(MISSING, "exec", {}),
        "missing, as bytes": Attempt([os.fsencode(MISSING)], "exec", {}),
        "missing in PATH": Attempt(["no-such-program"], "exec", {}),
        "missing in the PATH of env": Attempt(["no-such-program"], "exec", path),
        "not executable": Attempt([f"{folder}/plain"], "exec", {}),
        "not executable in PATH": Attempt(["plain"], "exec", path),
        "a directory": Attempt([str(folder)], "exec", {}),
        "below a file": Attempt([f"{folder}/plain/x"], "exec", {}),
        "no interpreter": Attempt([f"{folder}/orphan"], "exec", {}),
        "no format": Attempt([f"{folder}/format"], "exec", {}),
        "executable": Attempt(["x"], "exec", {"executable": MISSING}),
        "no shell": Attempt("exit 0", "exec", {"shell": True, "executable": MISSING}),
        "cwd missing": Attempt(SLEEP, "chdir", {"cwd": "/nonexistent"}),
        "cwd a Path": Attempt(SLEEP, "chdir", {"cwd": Path("/nonexistent")}),
        "cwd a file": Attempt(SLEEP, "chdir", {"cwd": str(folder / "plain")}),
        "cwd and program missing": Attempt([MISSING], "chdir", {"cwd": "/nonexistent"}),
    }


def failure_of(call: Callable[..., Any], *args: Any, **options: Any) -> OSError:
    with pytest.raises(OSError) as caught:  # noqa: PT011
        call(*args, **options)
    return caught.value


@each_way_to_run
@pytest.mark.parametrize("name", attempts(Path()))
def test_what_cannot_be_started_fails_as_with_popen(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    """The same builtin exception, errno, message and file name; and the step."""
    make_files(tmp_path)
    attempt = attempts(tmp_path)[name]
    theirs = failure_of(subprocess.Popen, attempt.args, **attempt.options)
    ours = failure_of(UsernsProcess, attempt.args, **attempt.options, **options)
    assert isinstance(ours, type(theirs))
    assert (ours.errno, ours.strerror, ours.filename) == (theirs.errno, theirs.strerror, theirs.filename)
    assert isinstance(ours, UsernsError)
    assert ours.step == attempt.step
    assert str(ours).startswith(f"{attempt.step}: {theirs.strerror}")


def test_a_missing_program_is_a_file_not_found_error_in_a_thread_too() -> None:
    """Neither the child nor the thread that keeps it is left."""
    found: list[OSError] = []
    thread = threading.Thread(target=lambda: found.append(failure_of(UsernsProcess, [MISSING], **DIRECT)))
    thread.start()
    thread.join()
    assert isinstance(found[0], FileNotFoundError)
    assert found[0].filename == MISSING


@each_way_to_run
def test_pipes_of_a_program_that_is_missing_are_closed(options: dict[str, Any]) -> None:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    assert isinstance(failure_of(UsernsProcess, [MISSING], **pipes, **options), FileNotFoundError)


@pytest.mark.root
def test_a_directory_that_inside_root_may_not_enter(tmp_path: Path) -> None:
    """With other ids even root's child has to be let in. (Popen's would be root outside.)"""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0)
    error = failure_of(UsernsProcess, SLEEP, cwd=closed, **SHIFTED)
    assert isinstance(error, PermissionError)
    assert isinstance(error, UsernsError)
    assert (error.errno, error.filename, error.step) == (errno.EACCES, closed, "chdir")


def test_a_directory_that_an_ordinary_user_may_not_enter() -> None:
    if IS_ROOT:
        return  # test_a_directory_that_inside_root_may_not_enter
    theirs = failure_of(subprocess.Popen, SLEEP, cwd=CLOSED_TO_ORDINARY_USERS)
    ours = failure_of(UsernsProcess, SLEEP, cwd=CLOSED_TO_ORDINARY_USERS, **DIRECT)
    assert isinstance(ours, PermissionError)
    assert (ours.errno, ours.strerror, ours.filename) == (theirs.errno, theirs.strerror, theirs.filename)


# ---- kinds of calls ----


def traits(pid: int) -> dict[str, object]:
    """What a process is like, as seen from outside."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    names = ("Uid", "Gid", "Groups", "Umask", "SigBlk", "SigIgn", "CapInh", "CapPrm", "CapEff", "CapAmb")
    return {
        **{name: status[name] for name in names},
        "descriptors": sorted(os.listdir(f"/proc/{pid}/fd")),
        "directory": os.readlink(f"/proc/{pid}/cwd"),
        "leads a session": os.getsid(pid) == pid,
        "runs": Path(f"/proc/{pid}/cmdline").read_bytes(),
        **{name: Path(f"/proc/{pid}/{name}").read_text() for name in ("uid_map", "gid_map", "setgroups")},
    }


def settled_traits(pid: int) -> dict[str, object]:
    """When it has done its first steps: it sleeps, and is the same for a while."""
    seen = traits(pid)
    end = time.monotonic() + SETTLES_IN
    while time.monotonic() < end:
        before, seen = seen, traits(pid)
        if seen != before or not is_asleep(pid):
            end = time.monotonic() + SETTLES_IN
    return seen


def is_asleep(pid: int) -> bool:
    """And not just kept from running, by others on a busy machine."""
    return "\nState:\tS" in Path(f"/proc/{pid}/status").read_text()


class Kind:
    """One kind of call: a namespace, or a process started with these options."""

    def __init__(self, **options: Any) -> None:
        self.options = options
        self.usual: object = None

    def start(self) -> Any:
        return UsernsProcess(**self.options)

    def end(self, process: Any) -> None:
        process.close()

    def learn(self) -> None:
        process = self.start()
        self.usual = settled_traits(process.pid)
        self.end(process)

    def check(self, process: Any, *, allowed: frozenset[int] = frozenset()) -> None:
        """What was started is what it always is; or has ended with an allowed return code."""
        end = time.monotonic() + ENDS_WITHIN
        try:
            while process.poll() is None and (seen := self.look(process)) != self.usual:
                assert time.monotonic() < end, f"not as usual: {seen}, but {self.usual}"
            assert process.returncode is None or process.returncode in allowed, f"it ended: {process.returncode}"
        finally:
            self.end(process)

    def look(self, process: Any) -> object:
        try:
            return traits(process.pid)
        except (FileNotFoundError, ProcessLookupError, PermissionError, KeyError):
            return None  # it is just ending


class ThreadedKind(Kind):
    """By a thread that is there already."""

    def learn(self) -> None:
        self.pool = ThreadPoolExecutor(1)
        self.pool.submit(os.getpid).result()
        self.threads = set(os.listdir("/proc/self/task"))
        super().learn()

    def end(self, process: Any) -> None:
        super().end(process)
        end = time.monotonic() + ENDS_WITHIN
        while set(os.listdir("/proc/self/task")) != self.threads and time.monotonic() < end:
            os.sched_yield()  # until the keeper has ended

    def start(self) -> Any:
        return self.pool.submit(super().start).result()


class JoiningKind(Kind):
    """Into a user, a network and a pid namespace that are there."""

    def learn(self) -> None:
        kinds = ("user", "net", "pid")
        self.holder = UsernsProcess(uid_map="root", gid_map="root", namespaces=kinds[1:])
        self.options["join"] = [self.holder.namespace(kind) for kind in kinds]
        super().learn()


class ThreadedJoiningKind(ThreadedKind, JoiningKind):
    pass


class NamespaceKind(Kind):
    def start(self) -> Namespace:
        return create_userns("root", "root")

    def end(self, namespace: Namespace) -> None:
        namespace.close()

    def learn(self) -> None:
        with self.start() as namespace:
            self.usual = self.look(namespace)

    def check(self, namespace: Namespace, *, allowed: frozenset[int] = frozenset()) -> None:  # noqa: ARG002
        with namespace:
            assert self.look(namespace) == self.usual

    def look(self, namespace: Namespace) -> object:
        return namespace.uid_map, namespace.gid_map, namespace.owner_uid


class NamespaceOfAnotherKind(NamespaceKind):
    def start(self) -> Namespace:
        return create_userns(SHIFTED["uid_map"], SHIFTED["gid_map"], owner=1000)


class MapsKind(NamespaceKind):
    """Reading the maps of a namespace, by a program that enters it."""

    def start(self) -> Any:
        with create_userns("root", "root") as namespace:
            return namespace.uid_map

    def end(self, id_map: Any) -> None:
        pass

    def learn(self) -> None:
        self.usual = self.start()

    def check(self, id_map: Any, *, allowed: frozenset[int] = frozenset()) -> None:  # noqa: ARG002
        assert id_map == self.usual, f"another map: {id_map}"


COMMAND: dict[str, Any] = {"args": SLEEP, "cwd": "/", "umask": 0o027, "start_new_session": True}
KINDS = {
    "namespace": NamespaceKind(),
    "maps": MapsKind(),
    "command": Kind(**COMMAND, **DIRECT),
    "command with ids": Kind(**COMMAND, **WITH_IDS),
    "holder": Kind(**DIRECT),
}
OTHER_IDS = "command with other ids"
if IS_ROOT:
    KINDS[OTHER_IDS] = Kind(**COMMAND, **SHIFTED)
ALL_KINDS = {
    **KINDS,
    "command of a thread": ThreadedKind(**COMMAND, **DIRECT),
    "command with init": Kind(**COMMAND, **DIRECT, namespaces=("pid",), init=True, mount_proc=True),
    "command that joins": JoiningKind(**COMMAND),
    "command that joins, of a thread": ThreadedJoiningKind(**COMMAND),
    "holder that joins": JoiningKind(),
}
if IS_ROOT:
    ALL_KINDS["command with another owner"] = Kind(**COMMAND, **SHIFTED, owner=1000)
    ALL_KINDS["namespace with another owner"] = NamespaceOfAnotherKind()
    ALL_KINDS["holder with another owner"] = Kind(**SHIFTED, owner=1000)
each_kind = pytest.mark.parametrize("kind", ALL_KINDS)


@pytest.fixture
def alone(script: Callable[..., str]) -> Alone:
    """Run a function of this module in a process of its own; gives what it printed."""

    def run(function: Callable[..., None], *args: object, **options: Any) -> str:
        return script(f"import test_failures as tests; tests.{function.__name__}(*{args!r})", **options)

    return run


def failure(kind: Kind) -> OSError | None:
    """Start one and end it; gives the error, if there is one."""
    try:
        started = kind.start()
    except OSError as error:
        return error
    kind.end(started)
    return None


@contextmanager
def nothing_left() -> Iterator[None]:
    before = state()
    yield
    assert_unchanged(before)


def assert_is(name: str, error: BaseException | None, *expected: object, builtin: type[OSError] = OSError) -> None:
    assert isinstance(error, UsernsError), f"{name}: {error!r}"
    assert isinstance(error, builtin), name
    assert (error.errno, error.step, error.cause) == expected, name


def assert_all_fail(*expected: object, builtin: type[OSError] = OSError) -> None:
    for name, kind in KINDS.items():
        with nothing_left():
            assert_is(name, failure(kind), *expected, builtin=builtin)


def warm_up() -> None:
    """Everything is imported before the process can no longer read files."""
    for kind in KINDS.values():
        assert failure(kind) is None
    failure_of(UsernsProcess, [MISSING], **DIRECT)


def become_an_ordinary_user() -> None:
    if IS_ROOT:
        os.setgroups([])
        os.setresgid(ORDINARY_ID, ORDINARY_ID, ORDINARY_ID)
        os.setresuid(ORDINARY_ID, ORDINARY_ID, ORDINARY_ID)
        native.prctl(native.PR_SET_DUMPABLE, 1)
        KINDS.pop(OTHER_IDS)


def enter_own_userns() -> None:
    with create_userns("root", "root") as own:
        own.enter()
    KINDS.pop(OTHER_IDS, None)


# ---- limits ----


def alone_reach_the_limit_of_descriptors(name: str) -> None:
    """Let only so many more descriptors fit; one more each time, until it works."""
    kind = ALL_KINDS[name]
    kind.learn()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = max(map(int, descriptors())) + 1
    for limit in range(lowest, lowest + MOST_DESCRIPTORS):
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


@each_kind
def test_the_limit_of_descriptors_reached_at_every_count(kind: str, alone: Alone) -> None:
    steps = alone(alone_reach_the_limit_of_descriptors, kind).split()
    of_images = {"prepare", "memfd_create", "pidfd_open"}
    assert steps[0] in {*of_images, "open_proc"}
    assert set(steps) <= {*of_images, "clone", "open_proc", "setgroups", "uid_map", "gid_map", "open_ns", "stdio"}


def alone_reach_the_limit_of_a_files_size() -> None:
    """That of a program of ours, in memory. Python ignores the signal that comes with it."""
    kind = ALL_KINDS["command with init"]
    kind.learn()
    largest = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 1, 100, 1000):
        with nothing_left():
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, largest[1]))
            error = failure(kind)
            resource.setrlimit(resource.RLIMIT_FSIZE, largest)
            assert isinstance(error, UsernsError), limit
            assert error.step in ("prepare", "memfd_create"), limit
            assert (error.errno, error.cause) == (errno.EFBIG, "file-size-limit"), limit


def test_the_limit_of_a_files_size(alone: Alone) -> None:
    alone(alone_reach_the_limit_of_a_files_size)


def forbid_more_processes() -> None:
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))


def alone_reach_the_limit_of_processes() -> None:
    warm_up()
    become_an_ordinary_user()
    forbid_more_processes()
    assert_all_fail(errno.EAGAIN, "clone", "process-limit", builtin=BlockingIOError)


def test_the_limit_of_processes(alone: Alone) -> None:
    alone(alone_reach_the_limit_of_processes)


def alone_reach_the_limit_of_processes_in_a_thread() -> None:
    warm_up()
    become_an_ordinary_user()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(forbid_more_processes).result()
        pool.submit(assert_all_fail, errno.EAGAIN, "clone", "process-limit").result()


def test_the_limit_of_processes_in_a_thread(alone: Alone) -> None:
    """There it is the thread that keeps the child that cannot be made."""
    alone(alone_reach_the_limit_of_processes_in_a_thread)


def alone_forbid_user_namespaces() -> None:
    enter_own_userns()
    Path("/proc/sys/user/max_user_namespaces").write_text("0")
    assert_all_fail(errno.ENOSPC, "clone", "max-user-namespaces")


def test_user_namespaces_forbidden_by_their_limit(alone: Alone) -> None:
    alone(alone_forbid_user_namespaces)


def alone_nest_too_deep() -> None:
    depth = 0
    try:
        while depth <= DEEPEST:
            enter_own_userns()
            depth += 1
    except UsernsError:
        print(depth)
    assert_all_fail(errno.ENOSPC, "clone", "max-user-namespaces")


def test_user_namespaces_nested_too_deep(alone: Alone) -> None:
    assert 0 < int(alone(alone_nest_too_deep)) <= DEEPEST


# ---- surroundings ----


def alone_in_a_chroot(folder: str) -> None:
    """The way back out is the test's own business."""
    warm_up()
    if not IS_ROOT:
        enter_own_userns()
    outside = os.open("/", os.O_RDONLY)
    with nothing_left():
        os.chroot(folder)
        errors = {name: failure(kind) for name, kind in KINDS.items()}
        os.fchdir(outside)
        os.chroot(".")
    for name, error in errors.items():
        assert_is(name, error, errno.EPERM, "clone", "userns-refused", builtin=PermissionError)


def test_in_a_chroot(alone: Alone, tmp_path: Path) -> None:
    alone(alone_in_a_chroot, str(tmp_path))


def own_mount_namespace() -> None:
    if not IS_ROOT:
        enter_own_userns()
    native.unshare(native.CLONE_NEWNS)
    native.must(native.libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None))


def mount(kind: bytes, target: str, flags: int = 0) -> None:
    native.must(native.libc.mount(kind, target.encode(), kind, flags, None))


def alone_without_proc() -> None:
    warm_up()
    own_mount_namespace()
    with nothing_left():
        mount(b"tmpfs", "/proc")
        errors = {name: failure(kind) for name, kind in KINDS.items()}
        _, pidfd = fork_userns()
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)
        native.must(native.libc.umount2(b"/proc", 0))
    for name, error in errors.items():
        assert_is(name, error, errno.ENOENT, "open_proc", "no-proc", builtin=FileNotFoundError)


def test_without_proc(alone: Alone) -> None:
    """Id maps can only be written through it; a holder without maps needs none."""
    alone(alone_without_proc)


def alone_look_without_proc() -> None:
    own_mount_namespace()
    with UsernsProcess() as holder:
        mount(b"tmpfs", "/proc")
        looks = (holder.namespace_path, lambda: holder.uid_map, lambda: holder.write_uid_map("root"))
        for look in looks:
            assert_is(repr(look), failure_of(look), errno.ENOENT, "open_proc", "no-proc", builtin=FileNotFoundError)
        if native.KERNEL >= (6, 11):
            holder.namespace().close()
        else:
            assert_is("namespace", failure_of(holder.namespace), errno.ENOENT, "open_proc", "no-proc")
        native.must(native.libc.umount2(b"/proc", 0))


def test_a_process_cannot_be_looked_at_without_proc(alone: Alone) -> None:
    """But for its namespaces, which its pidfd leads to (Linux 6.11)."""
    alone(alone_look_without_proc)


def alone_not_dumpable() -> None:
    warm_up()
    become_an_ordinary_user()
    native.prctl(native.PR_SET_DUMPABLE, 0)
    alone = [KINDS.pop("holder"), KINDS.pop("command with ids")]
    assert_all_fail(errno.EACCES, "setgroups", "not-dumpable", builtin=PermissionError)
    for kind in alone:
        with nothing_left():
            assert failure(kind) is None


@pytest.mark.root
def test_a_process_that_changed_its_ids_and_is_not_dumpable(alone: Alone) -> None:
    """The files of its children in /proc are root's: told with the remedy. A holder, and a command that changes its
    ids, have executed a program already when their maps are written, so these work."""
    alone(alone_not_dumpable)


def alone_without_new_privileges() -> None:
    for kind in KINDS.values():
        kind.learn()
    native.prctl(native.PR_SET_NO_NEW_PRIVS, 1)
    for name, kind in KINDS.items():
        print(name)
        kind.check(kind.start())


def test_no_new_privileges_take_nothing_away_inside(alone: Alone) -> None:
    """In services and containers with NoNewPrivileges a command has the capabilities that it always has."""
    alone(alone_without_new_privileges)


# ---- refused system calls ----


def descriptors_of_a_command(options: dict[str, Any]) -> list[str]:
    """When one of ours, below, and one far above, could be inherited."""
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


def alone_refuse(number: int, error: int) -> None:
    """All goes on as usual."""
    native.prctl(native.PR_SET_NO_NEW_PRIVS, 1)
    for kind in KINDS.values():
        kind.learn()
    usual = [descriptors_of_a_command(options) for options in (DIRECT, WITH_IDS)]
    native.refuse_system_call(number, error)
    found = [descriptors_of_a_command(options) for options in (DIRECT, WITH_IDS)]
    assert found == usual, f"a command has the descriptors {found}, not {usual}"
    for kind in KINDS.values():
        kind.check(kind.start())


each_refusal = pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM], ids=["ENOSYS", "EPERM"])


@each_refusal
def test_descriptors_are_closed_without_close_range(error: int, alone: Alone) -> None:
    """Linux before 5.9, or a filter that does not know it: one by one."""
    alone(alone_refuse, NR_CLOSE_RANGE, error)


@each_refusal
def test_clone3_is_not_needed(error: int, alone: Alone) -> None:
    """Filters cannot look into its arguments, so they refuse it."""
    alone(alone_refuse, NR_CLONE3, error)


def alone_without_pidfds(error: int) -> None:
    native.refuse_system_call(NR_PIDFD_OPEN, error)
    assert_all_fail(error, "pidfd_open", "seccomp-refused")


@each_refusal
def test_without_pidfds_nothing_is_started(error: int, alone: Alone) -> None:
    alone(alone_without_pidfds, error)


def alone_without_pidfd_send_signal(name: str) -> None:
    native.refuse_system_call(NR_PIDFD_SEND_SIGNAL, errno.EPERM)
    with nothing_left():
        if name == "namespace":
            KINDS[name].start().close()
        else:
            assert isinstance(failure_of(UsernsProcess, [MISSING], **DIRECT), FileNotFoundError)


@pytest.mark.parametrize("name", ["namespace", "missing"])
def test_no_call_waits_for_a_child_that_it_could_not_kill(name: str, alone: Alone) -> None:
    """Where a filter refuses `pidfd_send_signal`."""
    alone(alone_without_pidfd_send_signal, name, timeout=ENDS_WITHIN)


# ---- programs may not be executed from memory ----


def alone_without_executable_memory() -> None:
    warm_up()
    own_mount_namespace()
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
    """The descriptor of the launcher's image, which is open as long as the program runs."""
    [fd] = (int(fd) for fd, name in descriptors().items() if name.startswith("/memfd:usernsproc "))
    return fd


def alone_lose_the_shared_image(replaced: bool) -> None:
    fd = shared_image()
    assert not os.get_inheritable(fd)
    os.close(fd)
    if replaced:
        assert os.open("/dev/null", os.O_RDONLY) == fd
    with nothing_left():
        command = UsernsProcess(["/bin/true"], uid_map="root", gid_map="root", user=0)
        assert command.wait() == 0
        del command


@pytest.mark.parametrize("replaced", [False, True])
def test_a_program_may_close_the_image_that_stays_open(replaced: bool, alone: Alone) -> None:
    """Then each command has one of its own, and another file of that number is not touched."""
    alone(alone_lose_the_shared_image, replaced)


@pytest.mark.root
def test_where_memory_is_not_executable(alone: Alone) -> None:
    """vm.memfd_noexec=2 (Linux 6.3), which is set for one pid namespace: an unlinked file serves, with a warning;
    as an error the warning leaves nothing; and where no file system allows it either, it is told."""
    alone(alone_without_executable_memory)


# ---- every system call, failing once ----

FAULTS = (
    "capget:error=EPERM",
    "capset:error=EPERM",
    "chdir:error=EACCES",
    "clone:error=EAGAIN",
    "clone:error=EPERM",
    "clone3:error=EAGAIN",
    "close_range:error=ENOSYS",
    "close_range:error=EPERM",
    "dup3:error=EBADF",
    "execve:error=ENOMEM",
    "execveat:error=EACCES",
    "fchmod:error=EPERM",
    "fcntl:error=EMFILE",
    "memfd_create:error=EINVAL",
    "memfd_create:error=EMFILE",
    "mmap:error=ENOMEM",
    "mprotect:error=ENOMEM",
    "ioctl:error=ENOTTY",
    "openat:error=EMFILE",
    "openat2:error=EMFILE",
    "openat2:error=ENOSYS",
    "openat2:error=EPERM",
    "pidfd_open:error=EMFILE",
    "pipe2:error=EMFILE",
    "prctl:error=EPERM",
    "read:error=EINTR",
    "recvmsg:error=EINTR",
    "sendmsg:error=ENOMEM",
    "setgroups:error=EPERM",
    "setns:error=EPERM",
    "setpgid:error=EPERM",
    "setresgid:error=EPERM",
    "setresuid:error=EPERM",
    "setsid:error=EPERM",
    "socketpair:error=EMFILE",
    "unshare:error=ENOSPC",
    "waitid:error=EINTR",
    "write:error=EPERM",
    "writev:error=ENOSPC",
)
"""What fails, and how. Not those that cannot be told or made up for (`close`, `munmap`, what kills and reaps), nor
`futex`, which libc needs."""
LOADER_CALLS = ("mmap", "mprotect", "openat", "read")
"""Those of `ld.so`, which may be hit in the command itself."""
LOADER_FAILED = frozenset({1, 127, -signal.SIGSEGV, 128 + signal.SIGSEGV})
NO_THREAD = {"ENOMEM": (errno.EAGAIN,)}
"""What `pthread_create(3)` makes of it."""
NO_WORD = {"write": (errno.ESRCH,)}
"""What is told of a child that cannot tell, and ends."""
MOST_CALLS = 40


class Strace:
    """Follows this process in a block, and tampers with calls: the Nth in each thread and each child."""

    def __init__(self, *faults: str) -> None:
        self.path = Path(tempfile.mkdtemp(), "log")
        calls = ",".join(fault.partition(":")[0] for fault in faults)
        self.options = ["-f", "-qq", "-o", str(self.path), "-e", f"trace={calls}"]
        for fault in faults:
            self.options += ["-e", f"inject={fault}"]
        threads = os.listdir("/proc/self/task")
        self.status = [os.open(f"/proc/self/task/{t}/status", os.O_RDONLY | os.O_CLOEXEC) for t in threads]

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(["strace", *self.options, "-p", str(os.getpid())])
        while not all(map(self.is_followed, self.status)):
            assert self.process.poll() is None, "strace"
        return self

    @staticmethod
    def is_followed(status: int) -> bool:
        """Found out with no call that is tampered with."""
        try:
            return b"TracerPid:\t0\n" not in os.pread(status, 4096, 0)
        except ProcessLookupError:
            return True  # a thread that has ended

    def __exit__(self, *exc: object) -> None:
        self.process.terminate()
        self.process.wait()
        for fd in self.status:
            os.close(fd)
        log = self.path.read_text()
        self.has_struck = "(INJECTED)" in log or "--- stopped by SIGSTOP" in log
        shutil.rmtree(self.path.parent)


class Outcome(NamedTuple):
    started: Any
    failed: BaseException | None
    has_struck: bool


def start_with(kind: Kind, *faults: str) -> Outcome:
    started = failed = None
    with Strace(*faults) as strace:
        try:
            started = kind.start()
        except (OSError, MemoryError) as error:
            failed = error
    return Outcome(started, failed, strace.has_struck)


def assert_told(kind: Kind, outcome: Outcome, *numbers: int, allowed: frozenset[int] = frozenset()) -> None:
    """An exact error, or what was asked for."""
    failed = outcome.failed
    if failed is None:
        kind.check(outcome.started, allowed=allowed)
    elif not isinstance(failed, MemoryError):  # the interpreter's own
        assert isinstance(failed, UsernsError)
        assert failed.step, "no step"
        assert failed.errno in numbers, f"{failed!r} at {failed.step}"


class Complaints:
    """Goes on after an assertion that failed, to see the others."""

    def __init__(self) -> None:
        self.found: list[str] = []

    @contextmanager
    def about(self, what: object) -> Iterator[None]:
        try:
            with nothing_left():
                yield
        except AssertionError as error:
            self.found.append(f"{what}: {error}")
            for fd in set(descriptors()) - {"0", "1", "2"}:
                os.close(int(fd))  # what was left

    def raise_all(self) -> None:
        assert not self.found, "\n".join(self.found)


def alone_with_each_fault(name: str) -> None:
    kind, complaints = ALL_KINDS[name], Complaints()
    native.libc.prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0)  # where Yama is in force
    kind.learn()
    for fault in FAULTS:
        for count in range(1, MOST_CALLS):
            has_struck = True
            with complaints.about(f"{fault}:when={count}"):
                outcome = start_with(kind, f"{fault}:when={count}")
                has_struck = outcome.has_struck
                call, _, error = fault.partition(":error=")
                allowed = LOADER_FAILED if call in LOADER_CALLS else frozenset[int]()
                numbers = (getattr(errno, error), *NO_THREAD.get(error, ()), *NO_WORD.get(call, ()))
                assert_told(kind, outcome, *numbers, allowed=allowed)
                kind.check(kind.start())
            if not has_struck:
                break
        print(fault, count - 1)
    complaints.raise_all()


@each_kind
def test_every_system_call_failing_once(kind: str, alone: Alone) -> None:
    """It is an error with its step and the errno, or what was asked for is there all the same. Nothing is left, and
    the next call works."""
    struck = dict(line.rsplit(maxsplit=1) for line in alone(alone_with_each_fault, kind).splitlines())
    assert int(struck["clone:error=EAGAIN"]) > 0
    assert int(struck["openat2:error=EMFILE"]) > 2


CHILD_STARTS_LATE = "prctl:delay_enter=30000:when=1"
DELAY = "delay_enter=80000"
"""Microseconds: this process gets as far as a certain file of /proc, and the child dies while it opens it."""
KILLED_EARLY = ("ppoll", "getppid")
"""What children call, and this process does not, before their maps are written."""
KILLED_LATE = ("chdir", "setsid", "execveat", "setns", "unshare", "sendmsg", "mount", "setresuid", "capset", "execve")
"""And afterwards."""


TOGETHER = ("sendmsg:signal=KILL:when=1", "ppoll:signal=KILL:when=1")
"""Who was to tell of another process, and that one, if there are such."""


def alone_with_children_killed(name: str) -> None:
    kind, complaints = ALL_KINDS[name], Complaints()
    native.libc.prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0)
    kind.learn()
    failures = 0
    kills: list[tuple[str, ...]] = [TOGETHER]
    for call in (*KILLED_EARLY, *KILLED_LATE):
        for delayed in range(6 if call in KILLED_EARLY else 1):  # the files of /proc that are opened too late
            delay = (CHILD_STARTS_LATE, f"openat:{DELAY}:when={delayed}") if delayed else ()
            kills.append((f"{call}:signal=KILL:when=1", *delay))
    for faults in kills:
        with complaints.about(faults):
            outcome = start_with(kind, *faults)
            failures += outcome.failed is not None
            assert_told(kind, outcome, errno.ESRCH, allowed=frozenset({-signal.SIGKILL, 128 + signal.SIGKILL}))
            kind.check(kind.start())
    print(failures)
    complaints.raise_all()


@each_kind
def test_a_child_that_is_killed_at_any_time(kind: str, alone: Alone) -> None:
    """It is told as a process that is gone, never as what its remains look like; or it was started, and was killed."""
    assert int(alone(alone_with_children_killed, kind)) > 0


STOPPED = ("setns", "sendmsg", "ppoll", "chdir")
"""What a child calls when it is in the namespaces, whose root may stop it; or is about to be."""


def alone_with_children_stopped(name: str) -> None:
    kind, complaints = ALL_KINDS[name], Complaints()
    native.libc.prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY, 0, 0, 0)
    kind.learn()
    struck = 0
    for call in STOPPED:
        with complaints.about(call):
            outcome = start_with(kind, f"{call}:signal=STOP:when=1")
            struck += outcome.has_struck
            assert outcome.failed is None, f"{outcome.failed!r}"
            kind.check(outcome.started)
    print(struck)
    complaints.raise_all()


@pytest.mark.parametrize("kind", [name for name in ALL_KINDS if "joins" in name])
def test_a_child_that_is_stopped_while_it_joins(kind: str, alone: Alone) -> None:
    """It is let go on; the call does not wait for ever."""
    assert int(alone(alone_with_children_stopped, kind)) > 2


def test_who_reads_the_maps_is_stopped(alone: Alone) -> None:
    """Its parent, which alone is told, lets it go on."""
    assert int(alone(alone_with_children_stopped, "maps")) > 0
