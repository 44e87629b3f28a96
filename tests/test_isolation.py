"""A holder has nothing of the process that created it, and root in its namespace gets nothing."""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import attacker
import pytest
from attacker import PIDFD, REFUSED, SECRET, WRITTEN

from conftest import IS_ROOT
from usernsproc import IdMap, Namespace, UsernsProcess, create_userns
from usernsproc.lowlevel import fork_userns

SUBORDINATE = "0:100000:65536"
EVERY_ID = "0:0:4294967295"
MAPS = (SUBORDINATE, EVERY_ID, "root") if IS_ROOT else ("root", "current")

HOLDER_NAME = "usernsproc-hold\n"
LARGEST_HOLDER_KB = 100
MANY = 50
NO_SIGNALS = "0" * 16
CONTROL_CHILD_UNCHANGED, CONTROL_CHILD_CHANGED = 0, 7

_libc = ctypes.CDLL(None, use_errno=True)


def write_maps(pid: int, id_map: str) -> None:
    if not IS_ROOT:
        Path(f"/proc/{pid}/setgroups").write_text("deny")
    for name, own_id in (("uid_map", os.geteuid()), ("gid_map", os.getegid())):
        text = {"root": f"0:{own_id}:1", "current": f"{own_id}:{own_id}:1"}.get(id_map, id_map)
        Path(f"/proc/{pid}/{name}").write_text(IdMap.parse(text).to_kernel())


@contextmanager
def userns_process(id_map: str = "root") -> Iterator[int]:
    with UsernsProcess(uid_map=id_map, gid_map=id_map) as holder:
        yield holder.pid


@contextmanager
def forked_userns(id_map: str = "root") -> Iterator[int]:
    pid, pidfd = fork_userns()
    try:
        write_maps(pid, id_map)
        yield pid
    finally:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        os.close(pidfd)


Holder = Callable[..., AbstractContextManager[int]]
each_holder = pytest.mark.parametrize("holder", [userns_process, forked_userns])
each_map = pytest.mark.parametrize("id_map", MAPS)


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def wait_until_parked(pid: int) -> int:
    """Wait until it has its name, which a holder sets last."""
    while Path(f"/proc/{pid}/comm").read_text() != HOLDER_NAME:
        os.sched_yield()
    return pid


def core_limits(pid: int) -> list[str]:
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(line.split()[4:6] for line in lines if line.startswith("Max core file size"))


# ---- the holder ----


@each_holder
def test_a_holder_has_an_empty_environment(holder: Holder) -> None:
    with holder() as pid:
        assert Path(f"/proc/{pid}/environ").read_bytes() == b""


@each_holder
def test_a_holder_has_one_descriptor_a_pidfd_of_its_creator(holder: Holder, tmp_path: Path) -> None:
    """Neither the inheritable descriptors of its creator, nor its standard input, output and error."""
    inheritable = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(inheritable, True)
    try:
        with holder() as pid:
            assert os.listdir(f"/proc/{wait_until_parked(pid)}/fd") == ["0"]
            assert os.readlink(f"/proc/{pid}/fd/0") == "anon_inode:[pidfd]"
            info = Path(f"/proc/{pid}/fdinfo/0").read_text().split()
            assert info[info.index("Pid:") + 1] == str(os.getpid())
    finally:
        os.close(inheritable)


def test_a_holder_without_pdeathsig_has_no_descriptor_at_all() -> None:
    with UsernsProcess(uid_map="root", pdeathsig=None) as holder:
        assert os.listdir(f"/proc/{wait_until_parked(holder.pid)}/fd") == []


@each_holder
def test_a_holder_keeps_no_directory_of_its_creator_busy(holder: Holder, tmp_path: Path) -> None:
    before = os.getcwd()
    os.chdir(tmp_path)
    try:
        with holder() as pid:
            assert os.readlink(f"/proc/{pid}/cwd") == "/"
    finally:
        os.chdir(before)


@each_holder
def test_a_holder_takes_a_few_kilobytes(holder: Holder) -> None:
    with holder() as pid:
        size, unit = status(pid)["VmRSS"].split()
        assert unit == "kB"
        assert int(size) < LARGEST_HOLDER_KB


@each_holder
def test_a_holder_leads_a_session_of_its_own(holder: Holder) -> None:
    """So that neither Ctrl-C nor a hangup of the terminal reaches it."""
    with holder() as pid:
        assert os.getsid(pid) == os.getpgid(pid) == pid


@each_holder
def test_a_holder_has_no_signal_blocked_and_ignores_its_children_alone(holder: Holder) -> None:
    """Whatever its creator blocks, ignores or handles. A holder may be PID 1 of its namespace, whose
    orphans become its children: with SIGCHLD ignored none of them stays a zombie."""
    before = {
        signal.SIGUSR1: signal.signal(signal.SIGUSR1, signal.SIG_IGN),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: None),
    }
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR2, signal.SIGTERM})
    try:
        with holder() as pid:
            signals = status(pid)
            assert [signals[name] for name in ("SigBlk", "SigCgt")] == [NO_SIGNALS] * 2
            assert int(signals["SigIgn"], 16) == 1 << signal.SIGCHLD - 1
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for sig, handler in before.items():
            signal.signal(sig, handler)


@each_holder
def test_a_holder_leaves_no_core_file(holder: Holder) -> None:
    with holder() as pid:
        assert core_limits(wait_until_parked(pid)) == ["0", "0"]


@each_holder
def test_a_holder_is_complete_when_it_is_handed_out(holder: Holder) -> None:
    """A process that looks at it immediately sees the final state: its execve(2) is complete."""
    for _ in range(MANY):
        with holder() as pid:
            assert os.listdir(f"/proc/{pid}/fd") == ["0"]
        with holder() as pid:
            assert core_limits(pid) == ["0", "0"]


# ---- root in the namespace ----


class Treasure:
    """A secret of this process: in its memory, and in an open file that no other process can open."""

    def __init__(self, folder: Path) -> None:
        self.secret = os.urandom(32)
        self.memory = ctypes.create_string_buffer(self.secret, len(self.secret))
        self.address = ctypes.addressof(self.memory)
        self.fd = os.open(folder / "secret", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        assert self.fd in attacker.DESCRIPTORS
        os.write(self.fd, self.secret)

    def attacked(self, pid: int, inside: int) -> dict[str, str]:
        """Return what root in the user namespace of process *inside* gets from process *pid*."""
        userns = os.open(f"/proc/{inside}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return attacker.attack(pid, userns, self.secret, self.address)
        finally:
            os.close(userns)

    def is_untouched(self) -> bool:
        return self.memory.raw == os.pread(self.fd, 64, 0) == self.secret


@pytest.fixture
def treasure(tmp_path: Path) -> Iterator[Treasure]:
    made = Treasure(tmp_path)
    yield made
    os.close(made.fd)


def obtained(report: dict[str, str]) -> dict[str, str]:
    """Return all results that are not plain refusals."""
    return {name: outcome for name, outcome in report.items() if outcome not in REFUSED}


@pytest.mark.root
@each_holder
@each_map
def test_inside_root_gets_nothing_out_of_a_holder_that_root_made(
    holder: Holder, id_map: str, treasure: Treasure
) -> None:
    """Its program is not readable, so root in the namespace cannot trace it: every attempt is refused."""
    with holder(id_map) as pid:
        assert obtained(treasure.attacked(pid, inside=pid)) == {}
        assert treasure.is_untouched()


@each_holder
@each_map
def test_inside_root_finds_nothing_of_the_creator_in_a_holder(holder: Holder, id_map: str, treasure: Treasure) -> None:
    """An unprivileged user's holder can be traced, but contains nothing except a pidfd, which gives no access."""
    with holder(id_map) as pid:
        report = treasure.attacked(pid, inside=pid)
        taken = {outcome for name, outcome in report.items() if "getfd" in name}
        assert SECRET not in report.values()
        assert WRITTEN not in report.values()
        assert taken <= {*REFUSED, "EBADF", PIDFD}
        assert treasure.is_untouched()


@each_holder
@each_map
def test_inside_root_gets_nothing_out_of_the_creator_itself(holder: Holder, id_map: str, treasure: Treasure) -> None:
    with holder(id_map) as pid:
        assert obtained(treasure.attacked(os.getpid(), inside=pid)) == {}
        assert treasure.is_untouched()


@contextmanager
def forked_copy(treasure: Treasure, id_map: str) -> Iterator[tuple[int, int]]:
    """The opposite of a holder: a copy of this process in a new user namespace, by `fork`.

    Yield its PID, and a descriptor that makes it exit when it is closed, with a status that shows
    whether its copy of the secret was changed.
    """
    is_inside, tell_inside = os.pipe()
    shall_end, tell_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(tell_end)
            if _libc.unshare(attacker.CLONE_NEWUSER) == 0:
                os.write(tell_inside, b".")
                os.read(shall_end, 1)
                unchanged = treasure.memory.raw == treasure.secret
                os._exit(CONTROL_CHILD_UNCHANGED if unchanged else CONTROL_CHILD_CHANGED)
        finally:
            os._exit(255)
    os.close(tell_inside)
    os.close(shall_end)
    try:
        assert os.read(is_inside, 1) == b"."
        write_maps(pid, id_map)
        yield pid, tell_end
    finally:
        os.close(is_inside)
        os.close(tell_end)


@each_map
def test_the_attacker_is_strong_enough_to_find_the_secret_in_a_forked_copy(id_map: str, treasure: Treasure) -> None:
    """The control experiment: if a holder was such a copy, the tests above would fail."""
    with forked_copy(treasure, id_map) as (pid, _):
        report = treasure.attacked(pid, inside=pid)
    _, wait_status = os.waitpid(pid, 0)
    ways = ["process_vm_readv", "ptrace, peek", f"getfd {treasure.fd}"]
    if id_map != SUBORDINATE:  # where the outer 0 is not mapped, permissions of the file refuse
        ways += ["mem, all mappings", "mem, the secret's address"]
    assert {way: report[way] for way in ways} == dict.fromkeys(ways, SECRET)
    assert report["process_vm_writev"] == report["ptrace, poke"] == WRITTEN
    assert os.waitstatus_to_exitcode(wait_status) == CONTROL_CHILD_CHANGED
    assert treasure.is_untouched()


@each_map
def test_inside_root_may_kill_the_holder_but_not_a_namespace_taken_from_it(id_map: str) -> None:
    with UsernsProcess(uid_map=id_map, gid_map=id_map) as holder, holder.namespace() as userns:
        maps = holder.uid_map, holder.gid_map
        inode = userns.inode
        attacker.kill(holder.pid, userns.fileno())
        assert holder.wait() == -signal.SIGKILL
        assert (userns.uid_map, userns.gid_map) == maps
        assert userns.inode == inode
        with userns.parent() as parent, Namespace.current() as current:
            assert parent == current


# ---- a namespace without a process ----


def processes_in(userns: Namespace) -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                inode = os.stat(f"/proc/{entry}/ns/user").st_ino
            except OSError:
                continue  # ended meanwhile, or of another user, so not in this namespace
            if inode == userns.inode:
                found.append(int(entry))
    return found


@each_map
def test_a_new_namespace_has_no_process_that_its_root_could_inspect(id_map: str) -> None:
    """The transient child has exited before the namespace is returned."""
    with create_userns(id_map, id_map) as userns:
        assert processes_in(userns) == []
        str(userns.uid_map)  # by a program that enters and leaves
        assert processes_in(userns) == []
    with UsernsProcess(uid_map=id_map, gid_map=id_map) as holder, holder.namespace() as userns:
        assert processes_in(userns) == [holder.pid]  # this is how such a process would be found


def images() -> list[int]:
    """Return the descriptors of this process that refer to internal helper programs."""
    links = {fd: Path(f"/proc/self/fd/{fd}") for fd in map(int, os.listdir("/proc/self/fd"))}
    return [fd for fd, link in links.items() if link.is_symlink() and "memfd:usernsproc" in str(link.readlink())]


CHANGES: dict[str, Callable[[int], object]] = {
    "written": lambda image: os.pwrite(image, b"x", 0),
    "appended to": lambda image: os.pwrite(image, b"x", os.fstat(image).st_size),
    "shortened": lambda image: os.ftruncate(image, 1),
    "extended": lambda image: os.ftruncate(image, 1 << 20),
    "mapped to be written": lambda image: mmap.mmap(image, 1),
    "given other seals": lambda image: fcntl.fcntl(image, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE),
}


@pytest.mark.parametrize("change", CHANGES)
def test_its_program_cannot_be(change: str) -> None:
    """Not even through the descriptor that it was created with, as a fork in another thread may have it."""

    [shared] = images()  # the one of launchers, which stays open

    def attempt(_: object) -> None:
        for image in images():
            with pytest.raises(PermissionError):
                CHANGES[change](image)
        assert len(images()) == 2

    with UsernsProcess(uid_map="root", on_created=attempt):
        assert images() == [shared]
