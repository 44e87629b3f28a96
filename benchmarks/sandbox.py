"""Measure a command in a new root: against bubblewrap, without one, in a large process; and each set-up step.

python benchmarks/sandbox.py
"""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Callable, Sequence

from _measure import compiled, finish, heading, in_turns, median, of_program, row, touched

from usernsproc import UsernsProcess
from usernsproc.setup import (
    Affinity,
    Bind,
    Capabilities,
    Descriptors,
    Dev,
    Dir,
    File,
    Hostname,
    Landlock,
    Mask,
    Nice,
    NoUserNamespaces,
    OomScoreAdj,
    Overlay,
    Proc,
    Rlimit,
    Root,
    Seccomp,
    Signals,
    Step,
    Symlink,
    Tmpfs,
)

COUNT, ROUNDS = 40, 9
TRUE = ["/bin/true"]
LINKS = [name for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32") if os.path.lexists(f"/{name}")]

PLAIN = "subprocess.run"
OURS = "UsernsProcess, a minimal root"
BWRAP = "bwrap by subprocess.run, the same root"
OURS_PID = "UsernsProcess, in PID and IPC namespaces as well"
BWRAP_PID = "bwrap, in PID and IPC namespaces as well"
"""A minimal root: /usr and /etc read-only, /tmp, /dev, /proc, no network."""
FLOOR = "the system calls of the minimal root alone, from C"
NAMESPACES = ("net",)
LIMIT = "UsernsProcess with Rlimit"
ALLOW = struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)
"""A seccomp program that refuses nothing."""
MORE = ("net", "pid", "ipc")


def minimal_root(proc: Step) -> list[Step]:
    links: list[Step] = [Symlink(os.readlink(f"/{name}"), f"/{name}") for name in LINKS]
    binds = [Bind("/usr", read_only=True), Bind("/etc", read_only=True)]
    return [Root("tmpfs"), *binds, *links, Tmpfs("/tmp"), Dev(), proc]


def bwrap(*namespaces: str) -> Callable[[], object]:
    links = [word for name in LINKS for word in ("--symlink", os.readlink(f"/{name}"), f"/{name}")]
    root = ["--ro-bind", "/usr", "/usr", "--ro-bind", "/etc", "/etc", *links, "--tmpfs", "/tmp"]
    return run(["bwrap", *root, "--dev", "/dev", "--proc", "/proc", "--unshare-user", *namespaces, *TRUE])


def started(setup: Sequence[Step] = (), namespaces: Sequence[str] = ()) -> Callable[[], object]:
    def start() -> None:
        status = UsernsProcess(TRUE, uid_map="current", namespaces=namespaces, setup=setup).wait()
        assert status == 0, status

    return start


def popen() -> None:
    subprocess.Popen(TRUE).wait()


def run(command: list[str]) -> Callable[[], object]:
    return lambda: subprocess.run(command, check=True)


def sandboxes(gib: float) -> None:
    program = compiled("minimal_root.c")
    contestants = {
        PLAIN: run(TRUE),
        OURS: started(minimal_root(Bind("/proc")), NAMESPACES),
        BWRAP: bwrap("--unshare-net"),
        OURS_PID: started(minimal_root(Proc()), MORE),
        BWRAP_PID: bwrap("--unshare-net", "--unshare-pid", "--unshare-ipc"),
        "UsernsProcess, mount and network namespace alone": started((), ("mnt", *NAMESPACES)),
        "UsernsProcess, all these namespaces alone": started((), ("mnt", *MORE)),
    }
    with touched(gib):
        measures = {name: lambda f=f: median(f, COUNT) for name, f in contestants.items()}
        result = in_turns(ROUNDS, **measures, **{FLOOR: lambda: of_program(program, COUNT)})
    heading(f"/bin/true, {gib:g} GiB touched")
    for name, value in result.items():
        row(name, value, result[PLAIN], goal=2.2 if name == OURS else None)
    for ours, theirs in ((OURS, BWRAP), (OURS_PID, BWRAP_PID)):
        row(f"of the time of {theirs}", result[ours], result[theirs], most=0.6)


def each_step() -> None:
    """What a step adds to a command with the same namespaces, which is started by a launcher as well."""
    base: list[Step] = [Tmpfs("/mnt")]
    steps: dict[str, list[Step]] = {
        "Tmpfs": [Tmpfs("/mnt/a")],
        "Bind, read-only": [Bind("/usr", "/mnt/a", read_only=True)],
        "Dir": [Dir("/mnt/a")],
        "Symlink": [Symlink("/usr", "/mnt/a")],
        "File": [File("/mnt/a", "text")],
        "Mask": [Mask("/mnt")],
        "Dev": [Dev("/mnt/a")],
        "Overlay": [Overlay("/mnt/a", "/etc")],
        "Hostname": [Hostname("box")],
        "Nice": [Nice(5)],
        "Affinity": [Affinity(os.sched_getaffinity(0))],
        "OomScoreAdj": [OomScoreAdj(500)],
        "Signals": [Signals(default="all")],
        "Descriptors": [Descriptors({9: 1})],
        "Rlimit": [Rlimit("CORE", 0)],
        "Capabilities": [Capabilities()],
        "NoUserNamespaces": [NoUserNamespaces()],
        "Landlock, two paths": [Landlock(read=["/"], execute=["/"])],
        "Seccomp": [Seccomp(ALLOW)],
    }
    namespaces = ("mnt", "uts")
    contestants = {name: started((*base, *more), namespaces) for name, more in {"none": [], **steps}.items()}
    result = in_turns(ROUNDS, **{name: lambda f=f: median(f, COUNT) for name, f in contestants.items()})
    heading("what a step costs")
    for name in steps:
        row(name, result[name] - result["none"])


def limits() -> None:
    contestants = {"subprocess.Popen": popen, LIMIT: started([Rlimit("CORE", 0)])}
    result = in_turns(ROUNDS, **{name: lambda f=f: median(f, 200) for name, f in contestants.items()})
    heading("a limit alone")
    for name, value in result.items():
        row(name, value, result["subprocess.Popen"], most=1.3 if name == LIMIT else None)


if __name__ == "__main__":
    for gib in (0, 2):
        sandboxes(gib)
    limits()
    each_step()
    finish()
