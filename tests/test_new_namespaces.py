"""Namespaces that are created for a command, its init, its `/proc`, and its mounts."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import alone
import pytest
from alone import run_alone
from commands import SLEEP, output, sleeping
from programs import new_namespaces

from usernsproc import PIPE, Namespace, NamespaceKind, TimeoutExpired, UsernsError, UsernsProcess, run

OTHERS = [kind for kind in NamespaceKind if kind != "user"]
OWN_PID = ("/bin/sh", "-c", "echo $$")
WITH_INIT: dict[str, Any] = {"uid_map": "root", "namespaces": ("pid",), "init": True}
WITH_PROC: dict[str, Any] = {**WITH_INIT, "mount_proc": True}
INIT = "usernsproc-init\n"


# ---- the eight kinds ----


@pytest.mark.parametrize("kind", OTHERS)
def test_each_kind_is_created_and_owned_by_the_new_user_namespace(kind: NamespaceKind) -> None:
    with (
        sleeping(uid_map="root", namespaces=[kind]) as process,
        process.namespace() as userns,
        process.namespace(kind) as made,
        made.owner() as owner,
        Namespace.current(kind) as own,
    ):
        assert owner == userns
        assert made != own


@pytest.mark.parametrize("options", [{}, {"user": 0, "group": 0}, {"init": True}], ids=["direct", "with ids", "init"])
def test_all_kinds_at_once(options: dict[str, Any]) -> None:
    with sleeping(uid_map="root", namespaces=[*NamespaceKind], **options) as process, process.namespace() as userns:
        for kind in OTHERS:
            with process.namespace(kind) as made, made.owner() as owner, Namespace.current(kind) as own:
                assert owner == userns
                assert made != own


def test_no_other_kind_than_requested_is_created() -> None:
    with sleeping(uid_map="root", namespaces=["uts"]) as process:
        for kind in OTHERS:
            with process.namespace(kind) as its, Namespace.current(kind) as own:
                assert (its == own) == (kind != "uts")


def test_a_holder_has_them_too() -> None:
    with UsernsProcess(uid_map="root", namespaces=OTHERS) as holder, holder.namespace() as userns:
        for kind in OTHERS:
            with holder.namespace(kind) as made, made.owner() as owner:
                assert owner == userns


@pytest.mark.parametrize("options", [{}, {"user": 0}], ids=["direct", "with ids"])
def test_the_command_is_process_1_of_its_pid_namespace(options: dict[str, Any]) -> None:
    assert output(OWN_PID, uid_map="root", namespaces=["pid"], **options) == "1\n"
    assert output(OWN_PID, uid_map="root", namespaces=["pid", "time"], **options) == "1\n"


def test_a_new_namespace_is_the_commands_own_to_administer() -> None:
    """It has root's capabilities over it."""
    program = "import socket; socket.sethostname('other'); print(socket.gethostname(), socket.if_nameindex())"
    shown = output([sys.executable, "-c", program], uid_map="root", namespaces=["net", "uts"])
    assert shown == "other [(1, 'lo')]\n"
    assert os.uname().nodename != "other"


def test_after_the_next_children_were_sent_to_another_pid_namespace() -> None:
    """`pid` is its PID for the caller, and not the one in the PID namespace of the caller's other children."""
    run_alone(new_namespaces.after_the_next_children_were_sent_to_another_pid_namespace)


# ---- init ----


def test_with_init_the_command_is_process_2_and_process_1_is_init() -> None:
    script = "echo $$; cat /proc/1/comm"
    assert output(["sh", "-c", script], **WITH_PROC) == f"2\n{INIT}"


def test_pid_and_pidfd_are_those_of_init() -> None:
    with sleeping(**WITH_INIT) as process:
        assert Path(f"/proc/{process.pid}/comm").read_text() == INIT
        info = Path(f"/proc/self/fdinfo/{process.pidfd}").read_text().split()
        assert info[info.index("NSpid:") + 1 :][:2] == [str(process.pid), "1"]


def test_init_leaves_no_zombies() -> None:
    """Grandchildren whose parent has exited become its children and are reaped. Only init and the shell remain."""
    orphans = "for i in 1 2 3 4 5; do (/bin/true & exec /bin/true) ; done"
    script = f"{orphans}; until set -- /proc/[0-9]*; [ $# = 2 ]; do sleep 0.01; done; echo $@"
    with UsernsProcess(["sh", "-c", script], stdout=PIPE, text=True, **WITH_PROC) as process:
        found, _ = process.communicate(timeout=60)
    assert found == "/proc/1 /proc/2\n"


def test_without_init_such_zombies_stay() -> None:
    """The control experiment. (A shell reaps only its own children.)"""
    alone_there = {"uid_map": "root", "namespaces": ["pid"], "mount_proc": True, "env": alone.environment()}
    output(alone.command(new_namespaces.leave_orphans_until, 6, 5), **alone_there)  # and it does end
    output(alone.command(new_namespaces.leave_orphans_until, 2, 0), init=True, **alone_there)


def test_signals_are_forwarded_to_the_command() -> None:
    """Including those that the kernel drops for process 1, and real-time signals."""
    names = [f"SIG{name}" for name in ["HUP", "INT", "QUIT", "USR1", "USR2", "ALRM", "TERM", "CONT", "WINCH", "RTMIN"]]
    signals = [getattr(signal, name) for name in names]
    command = alone.command(new_namespaces.print_signals, *map(int, signals))
    with UsernsProcess(command, stdout=PIPE, text=True, env=alone.environment(), **WITH_INIT) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for name, sig in zip(names, signals, strict=True):
            process.send_signal(sig)
            assert process.stdout.readline() == f"{name}\n"
    assert process.returncode == 0


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_forwarded_signal_ends_the_command_and_the_status_says_which(sig: signal.Signals) -> None:
    with sleeping(**WITH_INIT) as process:
        process.send_signal(sig)
        assert process.wait(timeout=60) == -sig


def test_a_signal_at_once_after_the_start_is_not_lost() -> None:
    for _ in range(50):
        with sleeping(**WITH_INIT) as process:
            process.terminate()
            assert process.wait(timeout=60) == -signal.SIGTERM


def test_a_command_that_ignores_a_signal_goes_on() -> None:
    with UsernsProcess(["sh", "-c", "trap '' TERM; echo; read line"], stdin=PIPE, stdout=PIPE, **WITH_INIT) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.terminate()
        with pytest.raises(TimeoutExpired):
            process.wait(timeout=0.1)
        process.communicate(b"\n", timeout=60)
    assert process.returncode == 0


def test_every_exit_status_is_the_commands() -> None:
    for status in range(256):
        assert run(["/bin/sh", "-c", f"exit {status}"], **WITH_INIT).returncode == status


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGPIPE, signal.SIGRTMAX])
def test_a_command_that_a_signal_ends_is_reported_as_by_popen(sig: int) -> None:
    assert run(["/bin/sh", "-c", f"ulimit -c 0; kill -{int(sig)} $$"], **WITH_INIT).returncode == -sig


def test_all_of_the_namespace_ends_with_the_command() -> None:
    """Including all processes that it left: the process at the other end of the pipe has ended."""
    with UsernsProcess(["sh", "-c", "sleep 1000 & sleep 1000 & exit 3"], stdout=PIPE, **WITH_INIT) as process:
        assert process.communicate(timeout=60) == (b"", None)
    assert process.returncode == 3


def test_killing_it_ends_all() -> None:
    with UsernsProcess(["sh", "-c", "sleep 1000 & echo; exec sleep 1000"], stdout=PIPE, **WITH_INIT) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
        assert process.stdout.read() == b""
    assert process.returncode == -signal.SIGKILL


def test_init_holds_none_of_the_commands_descriptors() -> None:
    """A reader sees the end when the command closes its output, and the command sees the end of its input."""
    reader, writer = os.pipe()
    try:
        script = f"exec >&- 2>&- {writer}>&-; read line; exit 4"
        with UsernsProcess(
            ["bash", "-c", script], stdin=PIPE, stdout=PIPE, stderr=PIPE, pass_fds=[writer], **WITH_INIT
        ) as process:
            os.close(writer)
            writer = -1
            assert process.stdout is not None
            assert process.stderr is not None
            assert process.stdin is not None
            assert process.stdout.read() == process.stderr.read() == os.read(reader, 1) == b""
            (own,) = os.listdir(f"/proc/{process.pid}/fd")
            assert os.readlink(f"/proc/{process.pid}/fd/{own}").startswith("socket:")  # for its report
            assert process.poll() is None
            process.stdin.close()
            assert process.wait(timeout=60) == 4
    finally:
        os.close(reader)
        if writer >= 0:
            os.close(writer)


def test_the_command_has_no_more_descriptors_than_without() -> None:
    assert output(["ls", "/proc/self/fd"], **WITH_PROC) == "0\n1\n2\n3\n"


def test_with_text_and_communicate() -> None:
    with UsernsProcess(["tr", "a-z", "A-Z"], stdin=PIPE, stdout=PIPE, text=True, **WITH_INIT) as process:
        assert process.communicate("words\n" * 50_000, timeout=60) == ("WORDS\n" * 50_000, None)
    assert process.returncode == 0


def test_init_where_sigchld_is_ignored_and_blocked() -> None:
    """In the calling program. The command inherits both, as always."""
    run_alone(new_namespaces.init_where_sigchld_is_ignored_and_blocked)


def test_init_from_a_thread_that_ends() -> None:
    started: list[UsernsProcess[bytes]] = []
    thread = threading.Thread(target=lambda: started.append(UsernsProcess(["sleep", "0.3"], **WITH_INIT)))
    thread.start()
    thread.join()
    with started[0] as process:
        assert process.wait(timeout=60) == 0


def test_init_from_many_threads_at_once() -> None:
    statuses: list[int] = []

    def work(status: int) -> None:
        for _ in range(10):
            statuses.append(run(["/bin/sh", "-c", f"exit {status}"], **WITH_PROC).returncode)

    threads = [threading.Thread(target=work, args=(status,)) for status in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(statuses) == sorted([*range(8)] * 10)


@pytest.mark.parametrize("death", ["SIGKILL", "SIGTERM"])
def test_the_namespace_ends_with_the_creating_process(death: str) -> None:
    """With SIGTERM, init forwards the signal to the command, which may handle it."""
    run_alone(new_namespaces.the_namespace_ends_with_the_creating_process, death)


def test_a_new_session_is_the_commands() -> None:
    script = "ps -o pid=,sid= -p $$"
    assert output(["sh", "-c", script], start_new_session=True, **WITH_PROC).split() == ["2", "2"]


def test_the_creator_can_look_at_init_and_its_namespaces() -> None:
    with sleeping(user=0, **WITH_INIT) as process:
        for kind in ("user", "pid"):
            with process.namespace(kind) as its, Namespace.current(kind) as own:
                assert its != own
        assert str(process.uid_map) == f"0:{os.geteuid()}:1"


def test_a_missing_program_is_reported_through_init_as_well() -> None:
    with pytest.raises(FileNotFoundError) as caught:
        UsernsProcess(["/nonexistent/program"], **WITH_PROC)
    assert isinstance(caught.value, UsernsError)
    assert (caught.value.step, caught.value.filename) == ("exec", "/nonexistent/program")


@pytest.mark.root
def test_init_and_other_ids() -> None:
    options = {**WITH_PROC, "uid_map": "0:100000:65536", "gid_map": "0:100000:65536", "user": 7, "group": 8}
    shown = output(["sh", "-c", "id -u; id -g; grep Uid /proc/1/status"], **options)
    assert shown.split() == ["7", "8", "Uid:", *["7"] * 4]


@pytest.mark.root
def test_init_keeps_one_capability_whatever_the_command_is() -> None:
    """CAP_KILL, to forward signals to a command that has become another user."""
    options = {**WITH_PROC, "uid_map": "0:100000:65536", "gid_map": "0:100000:65536", "user": 7, "group": 8}
    shown = output(["grep", "-h", "CapEff", "/proc/1/status", "/proc/self/status"], **options)
    assert shown.split() == ["CapEff:", f"{1 << 5:016x}", "CapEff:", "0" * 16]


# ---- /proc ----


def test_mount_proc_shows_the_processes_of_that_namespace_alone() -> None:
    shown = output(["sh", "-c", "echo /proc/[0-9]*"], uid_map="root", namespaces=["pid"], mount_proc=True)
    assert shown == "/proc/1\n"
    assert output(["sh", "-c", "echo /proc/[0-9]*"], **WITH_PROC) == "/proc/1 /proc/2\n"


def test_mount_proc_creates_a_mount_namespace_and_leaves_the_callers_proc() -> None:
    before = Path("/proc/self/mountinfo").read_text()
    with sleeping(**WITH_PROC) as process:
        with process.namespace("mnt") as its, Namespace.current("mnt") as own:
            assert its != own
        assert Path("/proc/self/mountinfo").read_text() == before
        assert Path(f"/proc/{os.getpid()}").exists()


def test_mount_proc_for_other_ids_and_a_holder() -> None:
    with UsernsProcess(uid_map="root", gid_map="root", namespaces=["pid"], mount_proc=True) as holder:
        mounts = Path(f"/proc/{holder.pid}/mountinfo").read_text()
        assert mounts.count(" /proc ") == Path("/proc/self/mountinfo").read_text().count(" /proc ") + 1


def test_a_masked_proc_is_not_unmasked() -> None:
    """As in containers: the kernel does not allow a new `/proc` that shows more than the existing one."""
    run_alone(new_namespaces.a_masked_proc_is_not_unmasked)


# ---- propagation ----


@pytest.mark.parametrize("init", [False, True], ids=["direct", "init"])
@pytest.mark.parametrize(
    ("asked", "tags"),
    [
        (None, ()),
        ("private", ()),
        ("slave", ("master",)),
        ("shared", ("shared", "master")),
        ("unchanged", ("master",)),
    ],
)
def test_propagation_is_as_asked_for(asked: str | None, tags: tuple[str, ...], init: bool) -> None:
    """Private by default. In a mount namespace of another user namespace, the shared mounts become slaves
    (`mount_namespaces(7)`): "unchanged" keeps that, and "shared" adds to it."""
    shown = run_alone(new_namespaces.print_propagation, asked, init)
    assert sorted(field.partition(":")[0] for field in shown.split()) == sorted(tags)


def test_mounts_of_the_command_do_not_reach_the_caller(tmp_path: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    script = f"mount -t tmpfs none {tmp_path} && grep -c {tmp_path} /proc/self/mountinfo"
    assert output(["sh", "-c", script], uid_map="root", namespaces=["mnt"]) == "1\n"
    assert Path("/proc/self/mountinfo").read_text() == before


# ---- refused before anything is created ----


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"namespaces": "mnt"}, TypeError, r"one string: \('mnt',\)"),
        ({"namespaces": "mnt,pid"}, TypeError, r"one string: \('mnt', 'pid'\)"),
        ({"namespaces": 0x20000}, TypeError, "namespaces are several kinds"),
        ({"namespaces": ["mount"]}, ValueError, "not a kind of namespace"),
        ({"init": True}, ValueError, "init= requires namespaces=..pid"),
        ({"mount_proc": True}, ValueError, "mount_proc= requires namespaces=..pid"),
        ({"propagation": "slave"}, ValueError, "propagation= requires namespaces=..mnt"),
        ({"propagation": "masters", "namespaces": ["mnt"]}, ValueError, "propagation is one of"),
    ],
)
def test_what_has_no_meaning_is_refused(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        UsernsProcess(SLEEP, uid_map="root", **options)


def test_a_holder_has_no_init() -> None:
    """It is the init of its PID namespace itself."""
    with pytest.raises(ValueError, match="init= has no meaning"):
        UsernsProcess(uid_map="root", namespaces=["pid"], init=True)


@pytest.mark.parametrize("kind", ["net", "uts", "ipc", "mnt", "pid", "cgroup", "time"])
def test_a_limit_of_a_kind_is_reported(kind: str) -> None:
    """`user.max_…_namespaces`, set in a new user namespace."""
    run_alone(new_namespaces.a_limit_of_a_kind_is_reported, kind)
