"""`usernsproc run` and `enter` start a command as `unshare(1)` and `nsenter(1)` do: the same attributes, the same end.

Each case starts the same script twice, from the same process, and compares what it prints about itself.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from usernsproc import UsernsProcess

PROGRAM = str(Path(sys.executable).parent / "usernsproc")
RUN = f"{PROGRAM} run"
ROOT = f"{RUN} --map root --setgroups deny"
"""unshare denies it always."""

SHOW = r"""
echo "$$ $PPID"
cd_=$(pwd -P)
show() { while IFS= read -r line; do printf '%s\n' "$line"; done; }
show </proc/$$/status
show </proc/$$/limits
cut -d' ' -f5-8,18-20 /proc/$$/stat
cd /proc/$$ || exit
for f in fd/* root exe ns/*; do echo "$f $(readlink $f)"; done
cat oom_score_adj personality uid_map gid_map setgroups coredump_filter
tr '\0' '\n' <cmdline
tr '\0' '\n' <environ
echo "$cd_"
awk '{print $5, $6, $7}' mountinfo | sort | sed 's/:[0-9]*$//'
"""
"""Without another process where the shell might block signals meanwhile."""
KEPT = (
    "Uid",
    "Gid",
    "Groups",
    "Umask",
    "Sig",
    "ShdPnd",
    "Cap",
    "NoNewPrivs",
    "Seccomp",
    "Threads",
    "NSpid",
    "Cpus_allowed",
)

PAIRS = {
    "root": ("unshare -r", f"{ROOT}"),
    "current": ("unshare -c", f"{RUN} --map current --setgroups deny"),
    "no map": ("unshare -U", RUN),
    "net": ("unshare -rn", f"{ROOT} --namespaces net"),
    "mnt": ("unshare -rm", f"{ROOT} --namespaces mnt"),
    "mnt slave": ("unshare -rm --propagation slave", f"{ROOT} --namespaces mnt --propagation slave"),
    "mnt shared": ("unshare -rm --propagation shared", f"{ROOT} --namespaces mnt --propagation shared"),
    "mnt unchanged": (
        "unshare -rm --propagation unchanged",
        f"{ROOT} --namespaces mnt --propagation unchanged",
    ),
    "ipc": ("unshare -ri", f"{ROOT} --namespaces ipc"),
    "uts": ("unshare -ru", f"{ROOT} --namespaces uts"),
    "cgroup": ("unshare -rC", f"{ROOT} --namespaces cgroup"),
    "all": ("unshare -rmniuC", f"{ROOT} --namespaces mnt,net,ipc,uts,cgroup"),
    "directory": ("unshare -r --wd=/usr", f"{ROOT} --cwd /usr"),
    "pid": ("unshare -r --fork --pid --mount-proc", f"{ROOT} --namespaces pid,mnt --mount-proc"),
    "time": ("unshare -rT --fork", f"{ROOT} --namespaces time"),
}
JOINS = {
    "user": "-U",
    "net": "-U -n",
    "mnt": "-U -m",
    "uts": "-U -u",
    "ipc": "-U -i",
    "several": "-U -n -u -i",
}
FILES = {"-U": "user", "-n": "net", "-m": "mnt", "-u": "uts", "-i": "ipc"}


# ---- what the starting process is like ----


def with_signals(handler: signal.Handlers, *signals: int) -> Callable[[], object]:
    return lambda: {one: signal.signal(one, handler) for one in signals}


def with_mask(*signals: int) -> Callable[[], object]:
    return lambda: signal.pthread_sigmask(signal.SIG_BLOCK, signals)


def with_limit(which: int, soft: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(which, (soft, resource.getrlimit(which)[1]))


def with_descriptors(*numbers: int) -> Callable[[], None]:
    def prepare() -> None:
        for number in numbers:
            fd = os.open("/usr", os.O_RDONLY)
            os.dup2(fd, number)
            os.close(fd)

    return prepare


def with_closed(*numbers: int) -> Callable[[], object]:
    return lambda: os.closerange(min(numbers), max(numbers) + 1)


def with_score() -> None:
    Path("/proc/self/oom_score_adj").write_text("700")


def nothing() -> None: ...


STARTS: dict[str, Callable[[], object]] = {
    "a signal is ignored": with_signals(signal.SIG_IGN, signal.SIGINT, signal.SIGQUIT),
    "hang-up is ignored": with_signals(signal.SIG_IGN, signal.SIGHUP),
    "stops are ignored": with_signals(signal.SIG_IGN, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU),
    "a real-time signal is ignored": with_signals(signal.SIG_IGN, signal.SIGRTMIN + 3),
    "signals are default": with_signals(signal.SIG_DFL, signal.SIGPIPE, signal.SIGXFSZ),
    "signals are blocked": with_mask(signal.SIGTERM, signal.SIGUSR1),
    "all signals are blocked": with_mask(*signal.valid_signals()),
    "a descriptor is open": with_descriptors(7),
    "many descriptors are open": with_descriptors(3, 4, 5, 6, 9, 20, 63),
    "a high descriptor is open": with_descriptors(900),
    "no input": with_closed(0),
    "no error": with_closed(2),
    "a session": os.setsid,
    "a process group": os.setpgrp,
    "a directory": lambda: os.chdir("/usr/lib"),
    "a mask of modes": lambda: os.umask(0o077),
    "few files": with_limit(resource.RLIMIT_NOFILE, 99),
    "no core": with_limit(resource.RLIMIT_CORE, 0),
    "a small stack": with_limit(resource.RLIMIT_STACK, 1 << 20),
    "nice": lambda: os.nice(7),
    "one processor": lambda: os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}),
    "a policy": lambda: os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)),
    "a score": with_score,
    "an environment": lambda: os.environ.update(A="1", B="a\nb", EMPTY=""),
    "no environment": os.environ.clear,
    "an odd environment": lambda: os.environb.update({b"ODD": b"\xff\xfe"}),
}


def shown(prefix: list[str], start: Callable[[], object]) -> tuple[int, list[str]]:
    """The status, and what the script prints, with what must differ replaced."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            for one in (signal.SIGPIPE, signal.SIGXFSZ):  # usernsproc cannot know that they were ignored
                signal.signal(one, signal.SIG_DFL)
            os.dup2(writer, 1)
            os.dup2(1, 2)
            os.closerange(3, 1024)
            start()
            os.execvpe(prefix[0], [*prefix, "sh", "-c", SHOW], {"PATH": "/usr/bin:/bin", **os.environ})
        finally:
            os._exit(99)
    os.close(writer)
    with open(reader, errors="backslashreplace") as file:
        first, *lines = file.read().splitlines()
    status = os.waitpid(pid, 0)[1]
    own, parent = first.split()
    who = {own: "command", parent: "parent", str(pid): "child"}
    relation = ["same" if int(own) == pid else "another", "caller" if int(parent) == os.getpid() else who[parent]]
    return status, relation + [_comparable(line, who) for line in lines if _is_kept(line)]


def _is_kept(line: str) -> bool:
    name, colon, _ = line.partition(":\t")
    return not colon or name.startswith(KEPT)


def _comparable(line: str, who: dict[str, str]) -> str:
    line = re.sub(r"pipe:\[\d+\]", "pipe", line)
    if line.startswith("ns/"):
        file, found = line.split()
        return f"{file} {'as the caller' if found == os.readlink(f'/proc/self/{file}') else 'another'}"
    return "\t".join(" ".join(who.get(word, word) for word in part.split(" ")) for part in line.split("\t"))


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("pair", ["root"])
def test_whatever_the_caller_is_like(pair: str, start: str) -> None:
    theirs, own = (shown(command.split(), STARTS[start]) for command in PAIRS[pair])
    assert own == theirs
    assert len(own[1]) > 50


@pytest.mark.parametrize("pair", PAIRS)
def test_whatever_is_created(pair: str) -> None:
    theirs, own = (shown(command.split(), nothing) for command in PAIRS[pair])
    assert own == theirs
    assert len(own[1]) > 50


@pytest.fixture(scope="module")
def holder() -> Iterator[int]:
    with UsernsProcess(uid_map="root", namespaces=["net", "mnt", "uts", "ipc", "pid"]) as process:
        yield process.pid


@pytest.mark.parametrize("join", JOINS)
def test_whatever_is_joined(join: str, holder: int) -> None:
    options = JOINS[join].split()
    files = ",".join(f"/proc/{holder}/ns/{FILES[option]}" for option in options)
    theirs = shown(["nsenter", "-t", str(holder), "--preserve-credentials", *options], nothing)
    own = shown([PROGRAM, "enter", files, "--session-keyring", "inherit"], nothing)
    assert own == theirs
    assert len(own[1]) > 50


ENDS = ["exit 0", "exit 1", "exit 125", "exit 255", "kill -TERM $$", "kill -KILL $$", "kill -PIPE $$", "kill -INT $$"]


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("pair", ["root", "net"])
def test_whatever_the_end(pair: str, end: str) -> None:
    theirs, own = (subprocess.run([*command.split(), "sh", "-c", end]).returncode for command in PAIRS[pair])
    assert own == theirs


@pytest.mark.parametrize("end", ENDS[:4])
def test_whatever_the_status_of_a_child(end: str) -> None:
    theirs, own = (subprocess.run([*command.split(), "sh", "-c", end]).returncode for command in PAIRS["pid"])
    assert own == theirs


@pytest.mark.parametrize("pair", ["root", "pid"])
@pytest.mark.parametrize(("program", "status"), [("nonexistent", 127), ("/etc/passwd", 126), ("/", 126)])
def test_a_program_that_cannot_be_executed(pair: str, program: str, status: int) -> None:
    for command in PAIRS[pair]:
        with contextlib.suppress(subprocess.TimeoutExpired):
            result = subprocess.run([*command.split(), program], stderr=subprocess.PIPE, timeout=60)
            assert result.returncode == status
