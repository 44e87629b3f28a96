"""No child that other processes see, wait for or move to a cgroup shares the calling program's memory.

For the kernel, a child in shared memory is a part of the program: the out-of-memory killer
would kill both, and a write to its files in /proc would change both.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import alone
import cgroups
import native
import pytest
from alone import run_alone
from programs import never_exposed
from strace import Strace

from usernsproc import Namespace, UsernsError, UsernsProcess, create_userns, run
from usernsproc._setup.calls import SETUP_OF_HOLDER
from usernsproc._spawn import HIDDEN, start

TRUE = ["/bin/true"]
KCMP_VM = 1
NR_KCMP = {"x86_64": 312, "aarch64": 272, "riscv64": 272, "s390x": 343, "ppc64le": 354}[os.uname().machine]

KINDS: list[Any] = [
    pytest.param(TRUE, {"uid_map": "root"}, id="command"),
    pytest.param(TRUE, {"uid_map": "root", "namespaces": ["pid", "time"]}, id="command in other namespaces"),
    pytest.param(TRUE, {"uid_map": "root", "namespaces": ["pid"], "init": True}, id="init"),
    pytest.param(TRUE, {}, id="command without maps"),
    pytest.param(None, {"uid_map": "root"}, id="holder"),
    pytest.param(TRUE, {"uid_map": "0:100000:65536"}, id="other ids", marks=pytest.mark.root),
]
each_kind = pytest.mark.parametrize(("args", "options"), KINDS)


def shares_memory(pid: int) -> bool:
    return native.must(native.libc.syscall(NR_KCMP, os.getpid(), pid, KCMP_VM, 0, 0)) == 0


@each_kind
def test_what_on_created_sees_shares_no_memory(args: Any, options: dict[str, Any]) -> None:
    seen: list[bool] = []
    with UsernsProcess(args, on_created=lambda process: seen.append(shares_memory(process.pid)), **options):
        pass
    assert seen == [False]


@each_kind
@pytest.mark.parametrize("name", ["oom_score_adj", "coredump_filter"])
def test_what_on_created_writes_for_the_child_leaves_the_caller_as_it_was(
    args: Any, options: dict[str, Any], name: str
) -> None:
    def change(process: UsernsProcess[bytes]) -> None:
        path = Path(f"/proc/{process.pid}/{name}")
        path.write_text("500" if name == "oom_score_adj" else "0x1")
        changed.append(path.read_text() != before)

    before = Path(f"/proc/self/{name}").read_text()
    changed: list[bool] = []
    with UsernsProcess(args, on_created=change, **options):
        pass
    assert changed == [True]
    assert Path(f"/proc/self/{name}").read_text() == before


@pytest.mark.parametrize("args", [TRUE, None])
def test_on_created_sees_the_time_namespace_of_the_command(args: Any) -> None:
    def look(process: UsernsProcess[bytes]) -> None:
        with process.namespace("time") as theirs, Namespace.current("time") as own:
            seen.append(theirs != own)

    seen: list[bool] = []
    with UsernsProcess(args, uid_map="root", namespaces=["time"], on_created=look):
        pass
    assert seen == [True]


# ---- cgroups ----


@pytest.mark.root
@pytest.mark.parametrize("args", [TRUE, None])
def test_a_child_that_runs_out_of_memory_ends_alone(args: list[str] | None) -> None:
    """on_created moves it to a cgroup without memory, as a program does that uses version 1 of cgroups."""
    with cgroups.little_memory() as path:
        output = run_alone(never_exposed.a_child_that_runs_out_of_memory_ends_alone, args, str(path))
    assert int(output) == 10


@pytest.mark.root
@pytest.mark.cgroup2("memory")
@pytest.mark.parametrize("options", [{}, {"init": True, "namespaces": ["pid"]}])
def test_a_full_cgroup_ends_the_command_alone(options: dict[str, Any]) -> None:
    """Its memory is charged to the cgroup from the first page on, and the cause says so."""
    with cgroups.little_memory() as path:
        output = run_alone(never_exposed.a_full_cgroup_ends_the_command_alone, str(path), options)
    assert len(output.split()) == 10
    assert set(output.split()) <= {"cgroup-memory-max", "killed"}


@pytest.mark.root
@pytest.mark.cgroup2("pids")
@pytest.mark.parametrize("refused", [None, errno.ENOSYS, errno.EPERM])
def test_the_limit_of_processes_is_obeyed(refused: int | None) -> None:
    """Also where clone3(2), which places a process in a cgroup, is refused."""
    with cgroups.cgroup("pids") as path:
        output = run_alone(never_exposed.the_limit_of_processes_is_obeyed, str(path), refused)
    assert output.split() == ["0", "1", "3"]


@pytest.fixture
def cgroup() -> Iterator[Path]:
    with cgroups.cgroup() as path:
        yield path


@pytest.mark.root
@pytest.mark.parametrize("args", [["sleep", "100"], None])
def test_no_other_way_leads_around_a_limit(args: Any, cgroup: Path) -> None:
    """The result of clone3(2) is final, unless the call itself is refused."""
    with Strace("clone3:error=EAGAIN"), pytest.raises(BlockingIOError) as caught:
        UsernsProcess(args, uid_map="root", cgroup=cgroup)
    assert isinstance(caught.value, UsernsError)
    assert caught.value.step == "clone"


@pytest.mark.root
@pytest.mark.parametrize("refusal", ["ENOSYS", "EPERM"])
@pytest.mark.parametrize("args", [["sleep", "100"], None])
def test_a_refused_clone3_has_a_substitute(args: Any, refusal: str, cgroup: Path) -> None:
    with Strace(f"clone3:error={refusal}"):
        process = UsernsProcess(args, uid_map="root", cgroup=cgroup)
    with process:
        assert (cgroup / "cgroup.procs").read_text() == f"{process.pid}\n"
        process.kill()


@pytest.mark.root
@pytest.mark.parametrize("options", [{"uid_map": "root"}, {"uid_map": "0:100000:65536", "namespaces": ["pid"]}])
def test_a_cgroup_of_another_user_is_entered_with_the_rights_of_the_caller(
    cgroup: Path, options: dict[str, Any]
) -> None:
    """The capabilities are those that it has outside of the new namespaces."""
    for path in (cgroup, cgroup / "cgroup.procs"):
        os.chown(path, 1000, 1000)
    assert run(["grep", "-q", cgroup.name, "/proc/self/cgroup"], cgroup=cgroup, **options).returncode == 0


# ---- which calls start children in shared memory ----


CLONE_VM, CLONE_INTO_CGROUP = 0x100, 0x200000000


@pytest.mark.root
def test_a_cgroup_is_never_entered_in_shared_memory(cgroup: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    tracer = ["strace", "-f", "-qq", "-X", "raw", "-e", "trace=clone3", "-o", str(log)]
    command = [*tracer, *alone.command(never_exposed.run_and_hold_in, str(cgroup))]
    subprocess.run(command, check=True, timeout=60, env=alone.environment())
    flags = [int(word.split("flags=")[1].split(",")[0], 0) for word in log.read_text().splitlines() if "flags=" in word]
    assert [bits for bits in flags if bits & CLONE_INTO_CGROUP]
    assert not [bits for bits in flags if bits & CLONE_INTO_CGROUP and bits & CLONE_VM]


def test_a_map_that_a_tool_writes_is_waited_for_in_other_memory() -> None:
    """The namespace's child waits for milliseconds, for newuidmap or for the hook."""
    seen: list[bool] = []
    with start(None, setup=SETUP_OF_HOLDER, signals=HIDDEN, hook=lambda child: seen.append(shares_memory(child.pid))):
        assert seen == [False]


def test_the_keyboard_interrupts_on_created_and_nothing_is_left() -> None:
    def interrupt(_: object) -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        UsernsProcess(TRUE, uid_map="root", on_created=interrupt)


def test_yama_is_obeyed_while_on_created_runs() -> None:
    """A process of the same user that traces the child sees nothing of the program's memory."""
    secret = ctypes.create_string_buffer(b"a secret of the program")
    address = ctypes.addressof(secret)

    def look(process: UsernsProcess[bytes]) -> None:
        output = run_alone(never_exposed.read_memory, process.pid, address)
        seen.append(output.strip())

    seen: list[str] = []
    with UsernsProcess(TRUE, uid_map="root", on_created=look):
        pass
    assert seen == [os.strerror(errno.EIO)]  # no such address
    assert secret.value


def test_a_namespace_alone_needs_no_other_memory() -> None:
    """The common case: a map that the library writes itself."""
    with create_userns("root", "root") as userns:
        assert userns.owner_uid == os.geteuid()
