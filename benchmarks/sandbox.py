"""Measure a command in a new root: against bubblewrap, without one, in a large process; and each set-up step.

python benchmarks/sandbox.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence

from _measure import finish, heading, in_turns, median, row, touched

from usernsproc import UsernsProcess
from usernsproc.setup import Bind, Dev, Proc, Root, Step, Tmpfs

COUNT, ROUNDS = 40, 9
TRUE = ["/bin/true"]
LINKS = [name for name in ("bin", "sbin", "lib", "lib32", "lib64", "libx32") if os.path.lexists(f"/{name}")]
NAMESPACES = ("net", "pid", "ipc")

OURS = "UsernsProcess, a minimal root"
PLAIN = "subprocess.run"
BWRAP = "subprocess.run of bwrap, the same root"
"""A new root: /usr and /etc read-only, /tmp, /dev, /proc, no network."""


def minimal_root() -> list[Step]:
    links: list[Step] = [Bind(f"/{name}", read_only=True) for name in LINKS]
    return [
        Root("tmpfs"),
        Bind("/usr", read_only=True),
        Bind("/etc", read_only=True),
        *links,
        Tmpfs("/tmp"),
        Dev(),
        Proc(),
    ]


def bwrap_words() -> list[str]:
    links = [word for name in LINKS for word in ("--symlink", os.readlink(f"/{name}"), f"/{name}")]
    binds = ["--ro-bind", "/usr", "/usr", "--ro-bind", "/etc", "/etc", *links]
    return ["bwrap", *binds, "--tmpfs", "/tmp", "--dev", "/dev", "--proc", "/proc", "--unshare-user", "--unshare-net",
            "--unshare-pid", "--unshare-ipc", *TRUE]  # fmt: skip


def started(setup: Sequence[Step] = (), namespaces: Sequence[str] = ()) -> Callable[[], object]:
    def start() -> None:
        status = UsernsProcess(TRUE, uid_map="current", namespaces=namespaces, setup=setup).wait()
        assert status == 0, status

    return start


def run(command: list[str]) -> Callable[[], object]:
    return lambda: subprocess.run(command, check=True)


def sandboxes(gib: float) -> None:
    contestants = {PLAIN: run(TRUE), OURS: started(minimal_root(), NAMESPACES)}
    contestants["UsernsProcess, the same namespaces alone"] = started((), ("mnt", *NAMESPACES))
    if shutil.which("bwrap"):
        contestants[BWRAP] = run(bwrap_words())
    with touched(gib):
        result = in_turns(ROUNDS, **{name: lambda f=f: median(f, COUNT) for name, f in contestants.items()})
    heading(f"/bin/true, {gib:g} GiB touched")
    for name, value in result.items():
        row(name, value, result[PLAIN], most=2.2 if name == OURS else None)
    if BWRAP in result:
        row("of bubblewrap's time", result[OURS], result[BWRAP], most=0.6)


if __name__ == "__main__":
    for gib in (0, 2):
        sandboxes(gib)
    finish()
