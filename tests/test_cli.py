"""`usernsproc run` and `usernsproc enter`."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from usernsproc import Namespace, UsernsProcess

PROGRAM = [str(Path(sys.executable).parent / "usernsproc")]
RUN = [*PROGRAM, "run"]
ENTER = [*PROGRAM, "enter"]
TRY = "Try 'usernsproc run --help'.\n"
MOUNTINFO = Path("/proc/self/mountinfo")


def run(*arguments: str, command: list[str] = RUN) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60)


def test_the_main_job() -> None:
    result = run("--map", "root", "--", "sh", "-c", "id -u; cat /proc/self/uid_map /proc/self/gid_map")
    assert result.stdout.split() == ["0", "0", str(os.geteuid()), "1", "0", str(os.getegid()), "1"]
    assert (result.returncode, result.stderr) == (0, "")


def test_as_a_module_and_without_the_dashes() -> None:
    result = run("run", "--map", "root", "id", "-u", command=[sys.executable, "-m", "usernsproc"])
    assert (result.stdout, result.stderr) == ("0\n", "")


def test_current_keeps_the_id() -> None:
    assert run("--map", "current", "id", "-u").stdout == f"{os.geteuid()}\n"


def test_the_two_maps_apart() -> None:
    result = run("--uid-map", "root", "--gid-map", f"7:{os.getegid()}:1", "id")
    assert result.stdout.startswith("uid=0(root) gid=7")


@pytest.mark.root
def test_a_map_and_ids_inside() -> None:
    assert run("--map", "0:100000:65536", "id", "-u").stdout == "0\n"
    result = run("--map", "0:100000:65536", "--user", "5", "--group", "6", "id")
    assert result.stdout.startswith("uid=5")
    assert "gid=6" in result.stdout
    assert run("--map", "0:100000:65536", "--user", "root", "id", "-u").stdout == "0\n"


@pytest.mark.parametrize("status", [0, 3, 125, 255])
def test_the_exit_status_is_the_commands(status: int) -> None:
    assert run("--map", "root", "sh", "-c", f"exit {status}").returncode == status


def test_a_signal_ends_the_process_itself() -> None:
    """It has become the command."""
    assert run("--map", "root", "sh", "-c", "kill -9 $$").returncode == -9


def test_a_signal_is_128_and_its_number_where_the_command_is_a_child() -> None:
    assert run("--map", "root", "--namespaces", "time", "sh", "-c", "kill -9 $$").returncode == 128 + 9


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--map", "root", "no-such-program"], 127, "exec: No such file or directory: 'no-such-program' [ENOENT]"),
        (["--map", "root", "/etc/passwd"], 126, "exec: Permission denied: '/etc/passwd' [EACCES]"),
        (["--map", "0:4294967296:1", "true"], 125, "range 0:4294967296:1"),
        (["--map", "everything", "true"], 125, "'everything' is neither a preset"),
        (["--map", "root", "--user", "5", "true"], 125, "user=5 is not mapped"),
        (["--map", "root", "--user", "nobody-of-that-name", "true"], 125, "nobody-of-that-name"),
        (["--map", "root"], 125, "which command?"),
        (["--map", "root", "--namespaces", "pids", "true"], 125, "'pids' is not a kind of namespace"),
        (["--map", "root", "--init", "true"], 125, "--init requires --namespaces pid"),
        (["--map", "root", "--mount-proc", "true"], 125, "--mount-proc requires --namespaces pid"),
        (["--map", "root", "--propagation", "slave", "true"], 125, "--propagation requires --namespaces mnt"),
        (["--map", "root", "--kill-after", "1", "true"], 125, "--kill-after requires --timeout"),
        (["--map", "root", "--boottime", "1", "true"], 125, "--boottime and --monotonic require --namespaces time"),
        (["--map", "root", "--loopback", "true"], 125, "Loopback(): the step requires --namespaces net\n"),
        (["--map", "root", "--hostname", "x", "true"], 125, "Hostname('x'): the step requires --namespaces uts\n"),
        (["--map", "root", "--propagation", "up", "true"], 125, "--propagation"),
        (
            ["--map", "root", "--cwd", "/nonexistent", "true"],
            125,
            "chdir: No such file or directory: '/nonexistent' [ENOENT]",
        ),
        (["--map", "root", "--owner", "me", "true"], 125, "--owner"),
        (["--no-such-option", "true"], 125, "--no-such-option"),
    ],
)
def test_errors_are_one_or_two_readable_lines(arguments: list[str], status: int, words: str) -> None:
    result = run(*arguments)
    assert result.returncode == status
    assert words in result.stderr
    assert result.stderr.startswith("usernsproc")
    assert 1 <= result.stderr.count("\n") <= 2
    assert result.stdout == ""


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGQUIT])
def test_signals_are_forwarded(sig: signal.Signals) -> None:
    name = sig.name.removeprefix("SIG")
    shell = f"trap 'echo got {name}; exit 9' {name}; echo ready; while :; do sleep 0.01; done"
    process = subprocess.Popen([*RUN, "--map", "root", "sh", "-c", shell], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(sig)
        assert process.stdout.readline() == f"got {name}\n"
    assert process.returncode == 9


def test_what_the_terminal_sends_arrives_once() -> None:
    """Ctrl-C is sent to the whole process group. If it was forwarded too, the command would get it twice."""
    once = "while [ $n = 0 ]; do sleep 0.01; done"
    twice = "i=0; while [ $i -lt 40 ]; do sleep 0.01; i=$((i+1)); done"
    shell = f"n=0; trap 'n=$((n+1))' INT; echo ready; {once}; {twice}; echo n=$n"
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(RUN[0], [*RUN, "--map", "root", "sh", "-c", shell])
    output = b""
    try:
        while b"ready" not in output:
            output += os.read(terminal, 1000)
        os.write(terminal, b"\x03")
        while True:
            output += os.read(terminal, 1000)
    except OSError:
        pass  # EIO: the other end is closed
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert b"n=1" in output


def test_an_ignored_signal_stays_ignored() -> None:
    """As with nohup(1)."""
    shell = f"trap '' HUP; exec {' '.join(RUN)} --map root cat /proc/self/status"
    status = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, timeout=60).stdout
    ignored = int(dict(line.split(":", 1) for line in status.splitlines())["SigIgn"], 16)
    assert ignored & 1 << signal.SIGHUP - 1


def test_the_command_ends_with_the_launching_process() -> None:
    process = subprocess.Popen(
        [*RUN, "--map", "root", "sh", "-c", "echo $$; exec sleep 1000"], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        command = int(process.stdout.readline())
        pidfd = os.pidfd_open(command)
        process.kill()
        process.wait()
    assert select.select([pidfd], [], [], 60)[0]
    os.close(pidfd)


# ---- further namespaces ----


def test_further_namespaces_with_an_init_and_a_proc() -> None:
    script = "echo $$; cat /proc/1/comm; cd /proc; echo [0-9]*"
    result = run("--map", "root", "--namespaces", "pid,uts", "--init", "--mount-proc", "sh", "-c", script)
    assert (result.stdout, result.stderr) == ("2\nusernsproc-init\n1 2\n", "")
    assert run("--map", "root", "--namespaces", "pid", "sh", "-c", "echo $$").stdout == "1\n"


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_signals_are_forwarded_through_init_too(sig: signal.Signals) -> None:
    name = sig.name.removeprefix("SIG")
    shell = f"trap 'echo got {name}; exit 9' {name}; echo ready; while :; do sleep 0.01; done"
    command = [*RUN, "--map", "root", "--namespaces", "pid", "--init", "sh", "-c", shell]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(sig)
        assert process.stdout.readline() == f"got {name}\n"
    assert process.returncode == 9


@pytest.mark.parametrize("ending", ["exit 77", "kill -9 $$"])
def test_the_exit_status_comes_through_init(ending: str) -> None:
    status = run("--map", "root", "--namespaces", "pid", "--init", "sh", "-c", ending).returncode
    assert status == {"exit 77": 77, "kill -9 $$": 128 + 9}[ending]


def test_the_directory_propagation_and_no_new_privileges() -> None:
    script = "pwd; grep NoNewPrivs /proc/self/status; grep ' / / ' /proc/self/mountinfo | grep -c shared:"
    options = ["--cwd", "/usr", "--no-new-privs", "--namespaces", "mnt"]
    for propagation, shared in (([], "0"), (["--propagation", "shared"], "1"), (["--propagation", "private"], "0")):
        result = run("--map", "root", *options, *propagation, "sh", "-c", script)
        assert result.stdout.split() == ["/usr", "NoNewPrivs:", "1", shared]


def test_capabilities_that_are_kept() -> None:
    """Also for a command that is not user 0 in the namespace: otherwise execve(2) would drop them."""
    ambient = ["grep", "CapAmb", "/proc/self/status"]
    kept = run("--map", "current", "--ambient-caps", "chown,CAP_NET_RAW", "--", *ambient)
    assert int(kept.stdout.split()[1], 16) == 1 << 0 | 1 << 13
    refused = run("--map", "current", "--ambient-caps", "chown,flying", "--", *ambient)
    assert (refused.returncode, refused.stderr) == (
        125,
        "usernsproc run: --ambient-caps chown,flying: 'flying' is not a capability\n" + TRY,
    )


@pytest.mark.root
def test_the_cgroup() -> None:
    (mount_point,) = [line.split()[4] for line in MOUNTINFO.read_text().splitlines() if " - cgroup2 " in line][:1]
    cgroup = Path(mount_point, f"usernsproc-cli-{os.getpid()}")
    cgroup.mkdir()
    try:
        result = run("--map", "root", "--cgroup", str(cgroup), "--", "cat", "/proc/self/cgroup")
    finally:
        cgroup.rmdir()
    assert f"0::/{cgroup.name}\n" in result.stdout


def test_what_is_not_a_cgroup(tmp_path: Path) -> None:
    result = run("--map", "root", "--cgroup", str(tmp_path), "--", "true")
    assert result.returncode == 125
    assert result.stderr.startswith(f"usernsproc: cgroup: Invalid argument: '{tmp_path}' [EINVAL, not-cgroup2]\n")


@pytest.mark.root
def test_another_owner() -> None:
    with subprocess.Popen(
        [*RUN, "--map", "0:100000:65536", "--owner", "1000", "sh", "-c", "echo $$; exec sleep 1000"],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        with Namespace.of(int(process.stdout.readline())) as userns:
            assert userns.owner_uid == 1000
        process.terminate()


# ---- enter ----


@pytest.fixture
def container() -> Iterator[UsernsProcess[bytes]]:
    with UsernsProcess(uid_map="root", gid_map="root", namespaces=("net", "uts", "pid")) as holder:
        yield holder


def enter(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run(*arguments, command=ENTER)


def test_enter_all_namespaces_of_a_process(container: UsernsProcess[bytes]) -> None:
    result = enter(str(container.pid), "--", "sh", "-c", "id -u; stat -Lc %i /proc/self/ns/*")
    uid, *inodes = result.stdout.split()
    assert (uid, result.returncode, result.stderr) == ("0", 0, "")
    for kind in ("user", "net", "uts", "pid"):
        with container.namespace(kind) as namespace:
            assert str(namespace.inode) in inodes


def test_enter_namespace_files(container: UsernsProcess[bytes]) -> None:
    paths = ",".join(container.namespace_path(kind) for kind in ("net", "user"))
    result = enter(paths, "sh", "-c", "id -u; stat -Lc %i /proc/self/ns/net /proc/self/ns/uts")
    with container.namespace("net") as net, Namespace.current("uts") as own_uts:
        assert result.stdout == f"0\n{net.inode}\n{own_uts.inode}\n"


def test_enter_and_create_others_in_the_namespace(container: UsernsProcess[bytes]) -> None:
    userns = container.namespace_path()
    result = enter(userns, "--namespaces", "pid", "--init", "--mount-proc", "sh", "-c", "cat /proc/1/comm; echo $$")
    assert result.stdout == "usernsproc-init\n2\n"


@pytest.mark.root
def test_enter_as_another_user() -> None:
    with UsernsProcess(uid_map="0:100000:65536", gid_map="0:100000:65536") as holder:
        result = enter(str(holder.pid), "--user", "5", "--group", "6", "sh", "-c", "id -u; id -g")
        assert result.stdout == "5\n6\n"


@pytest.mark.root
def test_enter_keeps_the_callers_user_namespace_where_none_is_named() -> None:
    with subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep 1000"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        inode = os.stat(f"/proc/{process.pid}/ns/net").st_ino
        for target in (str(process.pid), f"/proc/{process.pid}/ns/net"):
            result = enter(target, "sh", "-c", "stat -Lc %i /proc/self/ns/net; cat /proc/self/uid_map")
            assert result.stdout.split() == [str(inode), *Path("/proc/self/uid_map").read_text().split()]
        process.kill()


def test_enter_forwards_signals_and_gives_the_status(container: UsernsProcess[bytes]) -> None:
    shell = "trap 'echo got; exit 9' TERM; echo ready; while :; do sleep 0.01; done"
    command = [*ENTER, str(container.pid), "sh", "-c", shell]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.stdout.readline() == "got\n"
    assert process.returncode == 9
    assert enter(str(container.pid), "sh", "-c", "kill -9 $$").returncode == 128 + 9


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["TARGET", "no-such-program"], 127, "exec: No such file or directory: 'no-such-program' [ENOENT]"),
        (["TARGET", "/etc/passwd"], 126, "exec: Permission denied: '/etc/passwd' [EACCES]"),
        (["TARGET", "--user", "5", "true"], 125, "user=5 is not mapped"),
        (["TARGET"], 125, "which command?"),
        ([], 125, "TARGET"),
        (["/nonexistent/ns", "true"], 125, "open_ns: No such file or directory: '/nonexistent/ns' [ENOENT]"),
        (["/etc/passwd", "true"], 125, "/etc/passwd"),
        (["TARGET", "--namespaces", "pid", "true"], 125, "a pid namespace is joined"),
        ([str(os.getpid()), "true"], 125, "nothing to join"),
        (["999999999", "true"], 125, "open_proc: No such process: '/proc/999999999' [ESRCH, process-gone]"),
    ],
)
def test_errors_of_enter(arguments: list[str], status: int, words: str, container: UsernsProcess[bytes]) -> None:
    result = enter(*(str(container.pid) if argument == "TARGET" else argument for argument in arguments))
    assert result.returncode == status
    assert words in result.stderr
    assert result.stderr.startswith("usernsproc")
    assert 1 <= result.stderr.count("\n") <= 2
    assert result.stdout == ""
