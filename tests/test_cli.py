"""`usernsproc run`."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = [str(Path(sys.executable).parent / "usernsproc")]
RUN = [*PROGRAM, "run"]


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


def test_a_signal_is_128_and_its_number() -> None:
    assert run("--map", "root", "sh", "-c", "kill -9 $$").returncode == 128 + 9


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--map", "root", "no-such-program"], 127, "no-such-program: No such file or directory"),
        (["--map", "root", "/etc/passwd"], 126, "/etc/passwd: Permission denied"),
        (["--map", "0:4294967296:1", "true"], 125, "range 0:4294967296:1"),
        (["--map", "everything", "true"], 125, "'everything' is no preset"),
        (["--map", "root", "--user", "5", "true"], 125, "user=5 is not mapped"),
        (["--map", "root", "--user", "nobody-of-that-name", "true"], 125, "nobody-of-that-name"),
        (["--map", "root"], 125, "which command?"),
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
    """Ctrl-C goes to the whole process group; forwarding it too would double it."""
    shell = (
        "n=0; trap 'n=$((n+1))' INT; echo ready; i=0; while [ $i -lt 40 ]; do sleep 0.01; i=$((i+1)); done; echo n=$n"
    )
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(RUN[0], [*RUN, "--map", "root", "sh", "-c", shell])
    output = b""
    try:
        while True:
            output += os.read(terminal, 1000)
            if b"ready" in output and b"^C" not in output:
                os.write(terminal, b"\x03")
    except OSError:
        pass  # EIO: the other end is closed
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert b"n=1" in output


def test_an_ignored_signal_stays_ignored() -> None:
    """As with nohup."""
    shell = f"trap '' HUP; exec {' '.join(RUN)} --map root cat /proc/self/status"
    status = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, timeout=60).stdout
    ignored = int(dict(line.split(":", 1) for line in status.splitlines())["SigIgn"], 16)
    assert ignored & 1 << signal.SIGHUP - 1


def test_the_command_ends_with_us() -> None:
    process = subprocess.Popen(
        [*RUN, "--map", "root", "sh", "-c", "echo $$; exec sleep 1000"], stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        command = int(process.stdout.readline())
        pidfd = os.pidfd_open(command)
        process.kill()
        process.wait()
    import select

    assert select.select([pidfd], [], [], 60)[0]
    os.close(pidfd)
