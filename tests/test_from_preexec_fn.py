"""Each row of the table in `docs/from-preexec-fn.md`: the right-hand cell is run, and the command looks from inside."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import output
from setup_steps import python

import usernsproc.setup
from conftest import IS_ROOT

PAGE = (Path(__file__).parent.parent / "docs" / "from-preexec-fn.md").read_text()
CELLS = re.findall(r"^\| .* \| \d* ?\| `(.*)` \|$", PAGE.partition("## The table")[2], re.MULTILINE)
SHIFTED: dict[str, Any] = {"uid_map": "0:100000:65536", "gid_map": "0:100000:65536"}
SUBIDS: dict[str, Any] = {"uid_map": "subids", "gid_map": "subids"}
ALLOW = struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)

STATUS = 'dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)'


def limit(name: str) -> str:
    return f'list(__import__("resource").getrlimit({getattr(resource, f"RLIMIT_{name}")}))'


def has_signal(field: str, number: int) -> str:
    return f'int({STATUS}["{field}"], 16) >> {number - 1} & 1'


def read(path: str) -> str:
    return f'open("{path}").read().strip()'


CONNECT = """[s := __import__("socket"), server := s.create_server(("127.0.0.1", 0)),
s.create_connection(server.getsockname(), timeout=60).close()] and True"""
PDEATHSIG = """[c := __import__("ctypes"), n := c.c_int(), c.CDLL(None).prctl(2, c.byref(n))] and n.value"""


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the cells refer to."""
    folder = tmp_path_factory.mktemp("folder")
    (folder / "file").write_text("found\n")
    controller, terminal = os.openpty()
    with open(folder / "log", "w") as log:
        cpu = min(os.sched_getaffinity(0))
        known = {"folder": str(folder), "terminal": terminal, "log": log.fileno(), "cpu": cpu, "program": ALLOW}
        yield {**known, **vars(usernsproc.setup), "signal": signal}
    os.close(controller)
    os.close(terminal)


LOOKS: dict[str, tuple[str, Callable[[dict[str, Any]], Any] | Any]] = {
    'setup=[Rlimit("CPU", 10)]': (limit("CPU"), [10, 10]),
    'setup=[Rlimit("AS", 1 << 32)]': (limit("AS"), [1 << 32] * 2),
    'setup=[Rlimit("NPROC", 50)]': (limit("NPROC"), [50, 50]),
    'setup=[Rlimit("FSIZE", 1 << 20)]': (limit("FSIZE"), [1 << 20] * 2),
    'setup=[Rlimit("CORE", 0)]': (limit("CORE"), [0, 0]),
    'setup=[Rlimit("NOFILE", 256)]': (limit("NOFILE"), [256, 256]),
    'setup=[Rlimit("STACK", 1 << 20)]': (limit("STACK"), [1 << 20] * 2),
    'setup=[Signals(default=["USR1"])]': (has_signal("SigIgn", signal.SIGUSR1), 0),
    "start_new_session=True, setup=[ControllingTerminal(terminal)]": (
        'os.ttyname(os.open("/dev/tty", os.O_RDWR)) and os.tcgetpgrp(os.open("/dev/tty", os.O_RDWR)) == os.getpgrp()',
        True,
    ),
    "setup=[Nice(10)]": ("os.getpriority(os.PRIO_PROCESS, 0)", 10),
    'setup=[Signals(ignore=["INT"])]': (has_signal("SigIgn", signal.SIGINT), 1),
    "setup=[Descriptors({9: log})]": (
        'os.readlink("/proc/self/fd/9")',
        lambda names: os.readlink(f"/proc/self/fd/{names['log']}"),
    ),
    "setup=[Affinity([cpu])]": ("list(os.sched_getaffinity(0))", lambda names: [names["cpu"]]),
    'setup=[Personality("ADDR_NO_RANDOMIZE")]': (read("/proc/self/personality"), "00040000"),
    'namespaces=["net"], setup=[Loopback()]': (CONNECT, True),
    "start_new_session=True": ("os.getsid(0) == os.getpid()", True),
    "process_group=0": ("os.getpgrp() == os.getpid()", True),
    "cwd=folder": ("os.getcwd()", lambda names: os.path.realpath(names["folder"])),
    "umask=0o077": ("os.umask(0)", 0o077),
    "pdeathsig=signal.SIGTERM": (PDEATHSIG, signal.SIGTERM),
    "no_new_privs=True": (f'{STATUS}["NoNewPrivs"]', "1"),
    "stderr=log": ('os.readlink("/proc/self/fd/2")', lambda names: os.readlink(f"/proc/self/fd/{names['log']}")),
    "pass_fds=[log]": (
        '[os.path.basename(os.path.realpath(f"/proc/self/fd/{n}")) for n in range(3, 99)].count("log")',
        1,
    ),
    'setup=[Signals(block=["USR1"])]': (has_signal("SigBlk", signal.SIGUSR1), 1),
    'env={"NAME": "value"}': ('os.environ.get("NAME")', "value"),
    'namespaces=["mnt"], setup=[Bind(folder, "/mnt")]': (read("/mnt/file"), "found"),
    'namespaces=["uts"], setup=[Hostname("box")]': ("os.uname().nodename", "box"),
    'setup=[Scheduler("BATCH")]': ("os.sched_getscheduler(0)", os.SCHED_BATCH),
    "setup=[OomScoreAdj(500)]": (read("/proc/self/oom_score_adj"), "500"),
    "setup=[Capabilities()]": (f'{STATUS}["CapBnd"]', "0" * 16),
    "setup=[Seccomp(program)]": (f'{STATUS}["Seccomp"]', "2"),
    'setup=[Call("prctl", 41, 1)]': (f'{STATUS}["THP_enabled"]', "0"),
}
"""By the cell: an expression, and its value in the command, never that without the cell."""

BY_SHELL = {
    "user=1, group=2, extra_groups=[3]": ('test "$(id -u) $(id -G)" = "1 2 3"', 'test "$(id -u)" = 0'),
    'setup=[Chroot("/usr")]': ("test -d /share && test ! -e /etc/passwd", "test -e /etc/passwd"),
    'setup=[Landlock(read=["/"], execute=["/"])]': ("! true >> {folder}/log", "true >> {folder}/log"),
}
"""By the cell: what succeeds with it, and what without it, where an interpreter cannot be read."""


def options_of(cell: str, names: dict[str, Any]) -> dict[str, Any]:
    options: dict[str, Any] = eval(f"dict({cell})", names)
    maps = (SHIFTED if IS_ROOT else SUBIDS) if "user" in options else {"uid_map": "root"}
    return {**maps, **options}


@pytest.fixture(autouse=True)
def ignored_signal() -> Iterator[None]:
    """So that the default action is a change."""
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGUSR1, before)


def test_each_row_is_run() -> None:
    assert len(CELLS) == len(set(CELLS)) > 30
    assert sorted({*LOOKS, *BY_SHELL}) == sorted(CELLS)


@pytest.mark.parametrize("cell", LOOKS)
def test_a_row_does_what_it_says(cell: str, names: dict[str, Any]) -> None:
    expression, value = LOOKS[cell]
    wanted = value(names) if callable(value) else value
    command = python(f"import json, os; print(json.dumps({expression}))")
    assert json.loads(output(command, **options_of(cell, names))) == wanted


@pytest.mark.parametrize("cell", BY_SHELL)
def test_a_row_that_is_not_for_python_does_what_it_says(cell: str, names: dict[str, Any]) -> None:
    inside, outside = (text.format(**names) for text in BY_SHELL[cell])
    assert output(["/bin/sh", "-c", f"({inside}) 2>&- && echo so"], **options_of(cell, names)) == "so\n"
    assert output(["/bin/sh", "-c", f"({outside}) && echo so"], uid_map="root") == "so\n"
