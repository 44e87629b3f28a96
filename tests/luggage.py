"""Everything that a child could inherit from a process: how to set it, and how to see it in a process.

As a program: sets all of it, starts commands, holders and inits, and prints as JSON what
became of each thing in each of them, see `outcome`.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import keys
import native
import remote

from conftest import IS_ROOT, is_for_this_kernel
from usernsproc import UsernsProcess

Someone: TypeAlias = remote.Here | remote.There

# For x86-64, as everything in `remote`.
NR_PRCTL, NR_GETITIMER, NR_MKDIRAT, NR_SET_MEMPOLICY, NR_GET_MEMPOLICY = 157, 36, 258, 238, 239
NR_IOPRIO_SET, NR_IOPRIO_GET = 251, 252

PR_GET_PDEATHSIG, PR_GET_DUMPABLE, PR_SET_KEEPCAPS, PR_GET_KEEPCAPS = 2, 3, 8, 7
PR_CAPBSET_DROP, PR_SET_SECUREBITS, PR_GET_SECUREBITS, PR_SET_TIMERSLACK, PR_GET_TIMERSLACK = 24, 28, 27, 29, 30
PR_SET_CHILD_SUBREAPER, PR_GET_CHILD_SUBREAPER, PR_SET_THP_DISABLE, PR_GET_THP_DISABLE = 36, 37, 41, 42
PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, PR_SET_MDWE, PR_GET_MDWE = 47, 2, 65, 66
ADDR_NO_RANDOMIZE = 0x0040000
MPOL_LOCAL = 4
SECBIT_NOROOT = 1
CHOWN, MKNOD = 0, 27
DESCRIPTOR = 50
VARIABLE = "USERNSPROC_LUGGAGE"
SLEEP = ("/bin/sleep", "1000")


@dataclass(frozen=True)
class Thing:
    name: str
    pack: Callable[[], object]
    look: Callable[[Someone], object]
    root: bool = False
    """Only root can have it."""
    since: str = "0.0"
    """The kernel that has it."""
    words: Mapping[str, str] = field(default_factory=dict)
    """What some of the values are called. The empty one stands for all others."""


def status(name: str) -> Callable[[Someone], str]:
    def look(someone: Someone) -> str:
        lines = Path(f"/proc/{someone.pid}/status").read_text().splitlines()
        (found,) = (line.partition(":")[2].strip() for line in lines if line.startswith(f"{name}:"))
        return found

    return look


def has_bit(name: str, number: int) -> Callable[[Someone], bool]:
    """Return whether a mask in the status file has the bit."""
    return lambda someone: bool(int(status(name)(someone), 16) >> number & 1)


def has_signal(name: str, number: int) -> Callable[[Someone], bool]:
    return has_bit(name, number - 1)


def stat(number: int) -> Callable[[Someone], int]:
    """A field of `proc_pid_stat(5)`."""
    return lambda someone: int(Path(f"/proc/{someone.pid}/stat").read_text().rpartition(")")[2].split()[number - 3])


def link(name: str) -> Callable[[Someone], str | None]:
    def look(someone: Someone) -> str | None:
        try:
            return os.readlink(f"/proc/{someone.pid}/{name}")
        except FileNotFoundError:
            return None

    return look


def text(name: str) -> Callable[[Someone], str]:
    return lambda someone: Path(f"/proc/{someone.pid}/{name}").read_text()


def prctl(option: int, *, fills_word: bool = False) -> Callable[[Someone], int]:
    def look(someone: Someone) -> int:
        result, word = someone.call(NR_PRCTL, option, None if fills_word else 0, 0, 0, 0)
        return word if fills_word else result

    return look


def refused_directory(someone: Someone) -> bool:
    path = f"{DIRECTORY}/made-by-{someone.pid}"
    result, _ = someone.call(NR_MKDIRAT, -100, path.encode(), 0o700)
    if result == 0:
        os.rmdir(path)
    return result < 0


def capabilities(*, inheritable: int = 0, without: int = 0) -> None:
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    native.must(native.libc.capget(header, data))
    data[0] &= ~without
    data[1] &= ~without
    data[2] |= inheritable
    native.must(native.libc.capset(header, data))


def raise_ambient() -> None:
    native.must(native.libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CHOWN, 0, 0))


def get_terminal() -> None:
    """Give the session, which has none yet, a controlling terminal."""
    _, slave = os.openpty()
    path = os.ttyname(slave)
    os.close(slave)
    os.open(path, os.O_RDWR | os.O_CLOEXEC)


def pend() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    os.kill(os.getpid(), signal.SIGUSR1)


def open_descriptor() -> None:
    os.dup2(os.open(f"{DIRECTORY}/file", os.O_RDONLY), DESCRIPTOR, inheritable=True)


def another_input() -> None:
    os.dup2(os.open(f"{DIRECTORY}/file", os.O_RDONLY), 0)


def move_to_cgroup() -> None:
    (CGROUP / "cgroup.procs").write_text(str(os.getpid()))


DIRECTORY = os.environ.get(VARIABLE, "")
"""With a file named "file"."""
CGROUP = Path(DIRECTORY, "cgroup")
"""A link."""

NO_CAPABILITIES = "0" * 16
ALL_OR_NONE = {"True": "all", "False": "none"}
"""Of the capabilities, by one that the caller has not."""

THINGS = [
    Thing("working directory", lambda: os.chdir(DIRECTORY), link("cwd"), words={"/": "/"}),
    Thing("environment", lambda: None, lambda someone: VARIABLE in text("environ")(someone), words={"False": "empty"}),
    Thing("standard streams", another_input, link("fd/0"), words={"anon_inode:[pidfd]": "replaced", "None": "closed"}),
    Thing("other descriptors", open_descriptor, link(f"fd/{DESCRIPTOR}"), words={"None": "closed"}),
    Thing("umask", lambda: os.umask(0o27), status("Umask")),
    Thing("session", os.setsid, stat(6)),
    Thing("process group", lambda: None, stat(5)),
    Thing("controlling terminal", get_terminal, stat(7), words={"0": "none"}),
    Thing("cgroup", move_to_cgroup, text("cgroup"), root=True),
    Thing("other namespaces", lambda: native.unshare(0x04000000), link("ns/uts"), root=True),
    Thing(
        "session keyring",
        keys.join_new_session,
        lambda someone: someone.call(keys.NR_KEYCTL, keys.GET_KEYRING_ID, keys.SESSION, 0)[0],
        words={"": "new"},
    ),
    Thing(
        "blocked signals",
        lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTIN]),
        status("SigBlk"),
        words={"": "all"},
    ),
    Thing("pending signals", pend, has_signal("ShdPnd", signal.SIGUSR1)),
    Thing(
        "ignored signals",
        lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN),
        has_signal("SigIgn", signal.SIGUSR2),
    ),
    Thing(
        "signal handlers",
        lambda: signal.signal(signal.SIGHUP, lambda *_: None),
        has_signal("SigCgt", signal.SIGHUP),
    ),
    Thing(
        "interval timers",
        lambda: signal.setitimer(signal.ITIMER_REAL, 1e6, 77),
        lambda someone: someone.call(NR_GETITIMER, 0, None)[1] != 0,
    ),
    Thing(
        "parent-death signal",
        lambda: native.prctl(native.PR_SET_PDEATHSIG, signal.SIGURG),
        prctl(PR_GET_PDEATHSIG, fills_word=True),
        words={"9": "SIGKILL", "0": "none"},
    ),
    Thing(
        "resource limits",
        lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (200, 300)),
        lambda someone: resource.prlimit(someone.pid, resource.RLIMIT_NOFILE),
    ),
    Thing("nice value", lambda: os.nice(3), lambda someone: os.getpriority(os.PRIO_PROCESS, someone.pid)),
    Thing(
        "scheduling policy",
        lambda: os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)),
        lambda someone: os.sched_getscheduler(someone.pid),
    ),
    Thing(
        "I/O priority",
        lambda: native.must(native.libc.syscall(NR_IOPRIO_SET, 1, 0, 2 << 13 | 6)),
        lambda someone: remote.Here().call(NR_IOPRIO_GET, 1, someone.pid)[0],
    ),
    Thing(
        "memory policy",
        lambda: native.must(native.libc.syscall(NR_SET_MEMPOLICY, MPOL_LOCAL, None, 0)),
        lambda someone: someone.call(NR_GET_MEMPOLICY, None, 0, 0, 0, 0)[1],
    ),
    Thing("timer slack", lambda: native.prctl(PR_SET_TIMERSLACK, 123456), prctl(PR_GET_TIMERSLACK)),
    Thing("out-of-memory score", lambda: Path("/proc/self/oom_score_adj").write_text("77"), text("oom_score_adj")),
    Thing("personality", lambda: native.libc.personality(ADDR_NO_RANDOMIZE), text("personality")),
    Thing("core dump filter", lambda: Path("/proc/self/coredump_filter").write_text("0x11"), text("coredump_filter")),
    Thing("huge pages", lambda: native.prctl(PR_SET_THP_DISABLE, 1), prctl(PR_GET_THP_DISABLE)),
    Thing("memory-deny-write-execute", lambda: native.prctl(PR_SET_MDWE, 1), prctl(PR_GET_MDWE), since="6.3"),
    Thing("subreaper", lambda: native.prctl(PR_SET_CHILD_SUBREAPER, 1), prctl(PR_GET_CHILD_SUBREAPER, fills_word=True)),
    Thing(
        "dumpable flag",
        lambda: native.prctl(native.PR_SET_DUMPABLE, 0),
        prctl(PR_GET_DUMPABLE),
        root=True,
        words={"0": "off", "1": "on"},
    ),
    Thing("no_new_privs", lambda: native.prctl(native.PR_SET_NO_NEW_PRIVS, 1), status("NoNewPrivs")),
    Thing("seccomp filters", lambda: native.refuse_system_call(9999, 1), status("Seccomp")),
    Thing("Landlock domain", native.forbid_making_directories, refused_directory, since="5.13"),
    Thing(
        "capabilities",
        lambda: capabilities(without=1 << MKNOD),
        has_bit("CapEff", MKNOD),
        root=True,
        words=ALL_OR_NONE,
    ),
    Thing(
        "bounding set",
        lambda: native.prctl(PR_CAPBSET_DROP, MKNOD),
        has_bit("CapBnd", MKNOD),
        root=True,
        words=ALL_OR_NONE,
    ),
    Thing(
        "inheritable capabilities",
        lambda: capabilities(inheritable=1 << CHOWN),
        status("CapInh"),
        root=True,
        words={NO_CAPABILITIES: "none"},
    ),
    Thing("ambient capabilities", raise_ambient, status("CapAmb"), root=True, words={NO_CAPABILITIES: "none"}),
    Thing("securebits", lambda: native.prctl(PR_SET_SECUREBITS, SECBIT_NOROOT), prctl(PR_GET_SECUREBITS), root=True),
    Thing("keep-capabilities flag", lambda: native.prctl(PR_SET_KEEPCAPS, 1), prctl(PR_GET_KEEPCAPS)),
]
"""In the order in which the caller gets them: each leaves the next possible."""


def things_of_here() -> list[Thing]:
    return [thing for thing in THINGS if (IS_ROOT or not thing.root) and is_for_this_kernel(thing.since)]


@contextmanager
def ways() -> Iterator[dict[str, list[UsernsProcess[bytes]]]]:
    """Return, by column of the table, each way to start such a process."""
    with ExitStack() as stack:

        def started(*args: object, **options: object) -> UsernsProcess[bytes]:
            process: UsernsProcess[bytes] = UsernsProcess(*args, **options)  # type: ignore[call-overload]
            stack.callback(process.close)
            return process

        holder = started(uid_map="root")
        yield {
            "new": [started(SLEEP, uid_map="root"), started(SLEEP, uid_map="root", user=0, group=0)],
            "joined": [started(SLEEP, join=holder), started(SLEEP, join=holder, namespaces=["net"])],
            "holder": [holder, started(uid_map="root", namespaces=["net"])],
            "joined holder": [started(join=holder)],
            "init": [started(SLEEP, uid_map="root", namespaces=["pid"], init=True)],
        }


def seen(someone: Someone, things: list[Thing]) -> dict[str, object]:
    return {thing.name: thing.look(someone) for thing in things}


def outcome(thing: Thing, value: object, pid: int, packed: object, before: object) -> str:
    """Return one word: what the thing calls it, or as the caller has it, as the caller had it before,
    the process' own PID."""
    if str(value) in thing.words:
        return thing.words[str(value)]
    if value == packed:
        return "inherited"
    if value == before:
        return "reset"
    return "new" if value == pid else thing.words.get("", str(value))


def main() -> None:
    things, here = things_of_here(), remote.Here()
    before = seen(here, things)
    before["environment"] = False
    for thing in things:
        thing.pack()
    packed = seen(here, things)
    unchanged = [name for name in before if before[name] == packed[name]]
    assert not unchanged, unchanged
    found: dict[str, dict[str, list[str]]] = {thing.name: {} for thing in things}
    with ways() as processes:
        for way, several in processes.items():
            for process in several:
                with remote.There(process.pid) as there:
                    values = seen(there, things)
                for thing in things:
                    name = thing.name
                    word = outcome(thing, values[name], process.pid, packed[name], before[name])
                    found[name].setdefault(way, []).append(word)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
