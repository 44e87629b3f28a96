"""`usernsproc run` on a real terminal behaves as `unshare -r` does, which becomes the command.

Each test is run with that program, and with each way in which `usernsproc run` starts a command: it becomes the
command; or a small program stays above it, in a new time namespace, in a new pid namespace, and there above an init.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from stepping import sleeps, wait_until
from terminal import Terminal

PROGRAM = str(Path(sys.executable).parent / "usernsproc")
RUN = f"{PROGRAM} run --map root"
WAYS = {
    "unshare": "unshare -r",
    "becomes": RUN,
    "time": f"{RUN} --namespaces time",
    "pid": f"{RUN} --namespaces pid,mnt --mount-proc",
    "init": f"{RUN} --namespaces pid,mnt --mount-proc --init",
}
STAYING = [f"{RUN} {option}" for option in ("--fork", "--kill-child", "--timeout 60", "--new-session")]
STOPPABLE = [name for name in WAYS if name != "pid"]
"""Process 1 of a pid namespace cannot be stopped by a key, nor by itself: `pid_namespaces(7)`."""
SHELLS = ["bash", "dash", *filter(shutil.which, ("zsh",))]
INTERACTIVE = {"bash": "bash --norc --noediting -i", "dash": "dash -i", "zsh": "zsh -f -i +Z"}
COUNTS = "n=0; trap 'n=$((n+1))' {signal}; echo rea'dy'; while [ $n = 0 ]; do sleep 0.01; done; sleep 0.15; echo n=$n; "

ways = pytest.mark.parametrize("way", WAYS)
PAIRS = [("bash", way) for way in WAYS] + [(shell, way) for shell in SHELLS[1:] for way in ("becomes", "init")]
shells_and_ways = pytest.mark.parametrize(("shell", "way"), PAIRS)
shells_and_stoppable_ways = pytest.mark.parametrize(("shell", "way"), [pair for pair in PAIRS if pair[1] != "pid"])


def quoted(script: str) -> str:
    return "'" + script.replace("'", "'\\''") + "'"


def shell_on_terminal(shell: str) -> Terminal:
    terminal = Terminal(*INTERACTIVE[shell].split(), env={**os.environ, "PS1": "$ ", "PROMPT": "$ ", "TERM": "dumb"})
    terminal.type("PS1='prompt''> '\r")
    terminal.wait_for("prompt> ")
    return terminal


# ---- keys ----


@shells_and_ways
def test_ctrl_c_arrives_once(way: str, shell: str) -> None:
    with shell_on_terminal(shell) as terminal:
        terminal.type(f"{WAYS[way]} sh -c {quoted(COUNTS.format(signal='INT') + 'exit 9')}; echo status=$?\r")
        terminal.wait_for("ready")
        terminal.type("\x03")
        assert terminal.wait_for(r"n=\d") == "n=1"
        assert terminal.wait_for(r"status=\d+") == "status=9"


@ways
def test_a_new_size_arrives_once(way: str) -> None:
    with Terminal(*WAYS[way].split(), "bash", "-c", COUNTS.format(signal="WINCH") + "stty size") as terminal:
        terminal.wait_for("ready")
        terminal.resize(11, 77)
        assert terminal.wait_for(r"n=\d") == "n=1"
        terminal.wait_for("11 77")
        assert terminal.wait() == 0


@shells_and_stoppable_ways
def test_ctrl_z_gives_the_prompt_and_fg_gives_the_terminal(way: str, shell: str) -> None:
    with shell_on_terminal(shell) as terminal:
        terminal.type(f"{WAYS[way]} sh -c 'echo rea''dy; while read x; do echo got-$x; done; exit 5'; echo status=$?\r")
        terminal.wait_for("ready")
        for word in ("one", "two"):
            terminal.type("\x1a")
            terminal.wait_for("prompt> ")
            terminal.type("fg\r")
            terminal.wait_for("fg")
            terminal.type(f"{word}\r")
            terminal.wait_for(f"got-{word}")
        terminal.type("\x04")
        terminal.wait_for("prompt> ")
        terminal.type("echo still''-alive\r")
        terminal.wait_for("still-alive")


@shells_and_stoppable_ways
@pytest.mark.parametrize("sig", ["STOP", "TSTP"])
def test_a_command_that_stops_itself(way: str, shell: str, sig: str) -> None:
    with shell_on_terminal(shell) as terminal:
        terminal.type(f"{WAYS[way]} sh -c 'kill -{sig} $$; read x; echo got-$x'\r")
        terminal.wait_for("(?i)(stopped|suspended).*(.|\n)*prompt> ")
        terminal.type("fg\r")
        terminal.wait_for("fg")
        terminal.type("hello\r")
        terminal.wait_for("got-hello")
        terminal.wait_for("prompt> ")


@pytest.mark.parametrize("way", STOPPABLE)
def test_a_shell_inside_is_suspended_and_continued(way: str) -> None:
    with shell_on_terminal("bash") as terminal:
        terminal.type(f"{WAYS[way]} bash --norc --noediting -i\r")
        terminal.type("PS1='inner''> '\r")
        terminal.wait_for("inner> ")
        terminal.type("suspend -f\r")
        terminal.wait_for("prompt> ")
        terminal.type("fg\r")
        terminal.type("\recho in'side'\r")
        terminal.wait_for("inside")
        terminal.type("exit 3\r")
        terminal.wait_for("prompt> ")
        terminal.type("echo status=$?\r")
        assert terminal.wait_for(r"status=\d+") == "status=3"


@pytest.mark.parametrize("way", ["time", "pid", "init"])
def test_a_job_in_the_background_does_not_take_the_terminal(way: str) -> None:
    with shell_on_terminal("bash") as terminal:
        terminal.type(f"{WAYS[way]} sleep 0.2 & cat\r")
        terminal.type("one\r")
        terminal.wait_for("one(.|\n)*one")
        time.sleep(0.4)
        terminal.type("two\r")
        terminal.wait_for("two(.|\n)*two")
        terminal.type("\x04")
        terminal.wait_for("prompt> ")


@shells_and_ways
def test_a_script_has_its_terminal_again_after_a_shell(way: str, shell: str) -> None:
    script = f"{WAYS[way]} bash --norc --noediting -i; echo after; read x; echo script-$x"
    with Terminal(shell, "-c", script) as terminal:
        terminal.type("echo in'side'; exit\r")
        terminal.wait_for("inside")
        terminal.wait_for("after")
        terminal.type("hello\r")
        terminal.wait_for("script-hello")
        assert terminal.wait() == 0


# ---- the end of the terminal ----


@ways
@pytest.mark.parametrize("above", ["", "sh -c '{}; :'", "bash --norc -ic '{}; :'"], ids=["leader", "script", "bash"])
def test_a_closed_terminal_ends_the_command(way: str, above: str) -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    command = f'{WAYS[way]} sh -c "echo ready; exec sleep 1000"'
    with Terminal("sh", "-c", f"exec {above.format(command)}" if above else f"exec {command}") as terminal:
        os.close(writer)
        terminal.wait_for("ready")
        terminal.hang_up()
        terminal.wait()
        assert os.read(reader, 1) == b""  # when no process has it, which also the command inherits
    os.close(reader)


# ---- managers ----


@ways
@pytest.mark.parametrize("whom", ["process", "group"])
def test_a_signal_arrives_once_and_the_end_is_graceful(way: str, whom: str) -> None:
    script = COUNTS.format(signal="TERM") + "exit 12$((n+2))"
    with subprocess.Popen(
        [*WAYS[way].split(), "sh", "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        (os.kill if whom == "process" else os.killpg)(process.pid, signal.SIGTERM)
        assert process.stdout.read() == "n=1\n"
    assert process.returncode == 123


@pytest.mark.parametrize("way", ["becomes", "pid", "init"])
def test_a_signal_to_the_group_gets_to_a_command_in_a_session_of_its_own(way: str) -> None:
    command = [*WAYS[way].split(), "--new-session", "sh", "-c", COUNTS.format(signal="INT") + "exit 9"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout.read() == "n=1\n"
    assert process.returncode == 9


@ways
def test_a_command_that_waits_for_signals_without_a_handler_ends_gracefully(way: str) -> None:
    script = (
        "from signal import *; waited = {SIGTERM, SIGUSR1}; pthread_sigmask(SIG_BLOCK, waited)\n"
        "print('ready', flush=True)\n"
        "while (got := sigwait(waited)) == SIGUSR1: print('again', flush=True)\n"
        "print(got.name); exit(9)"
    )
    with subprocess.Popen([*WAYS[way].split(), sys.executable, "-c", script], stdout=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        for _ in range(20):
            process.send_signal(signal.SIGUSR1)
            assert process.stdout.readline() == "again\n"
        process.terminate()
        assert process.stdout.read() == "SIGTERM\n"
    assert process.returncode == 9


def test_a_signal_that_process_1_loses_ends_it() -> None:
    """It has a handler when the signal is sent, and none any more when the signal is delivered, as after an exec."""
    script = (
        "import signal, time; signal.signal(signal.SIGTERM, print); "
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM}); print('ready', flush=True)\n"
        "while not signal.sigpending(): time.sleep(0.001)\n"
        "time.sleep(0.05); signal.signal(signal.SIGTERM, signal.SIG_DFL); "
        "signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM}); time.sleep(1000)"
    )
    with subprocess.Popen([*WAYS["pid"].split(), sys.executable, "-c", script], stdout=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.wait(60) == 128 + signal.SIGTERM


@ways
def test_timeout_ends_it(way: str) -> None:
    begin = time.monotonic()
    result = subprocess.run(["timeout", "0.3", *WAYS[way].split(), "sleep", "1000"], timeout=60)
    assert result.returncode == 124
    assert time.monotonic() - begin < 30


@ways
def test_below_make(way: str, tmp_path: Path) -> None:
    recipes = [f"{name}:\n\t@{WAYS[way]} sh -c 'echo made-{name}'\n" for name in "ab"]
    (tmp_path / "Makefile").write_text(f"all: a b bad\n{''.join(recipes)}bad:\n\t@{WAYS[way]} sh -c 'exit 7'\n")
    result = subprocess.run(["make", "-k", "-C", tmp_path, "-j", "3"], capture_output=True, text=True, timeout=60)
    assert sorted(word for word in result.stdout.split() if word.startswith("made-")) == ["made-a", "made-b"]
    assert "Error 7" in result.stderr


@ways
def test_ctrl_c_ends_make_and_all_jobs(way: str, tmp_path: Path) -> None:
    jobs = "".join(f"{name}:\n\t@{WAYS[way]} sh -c 'echo rea''dy; exec sleep 1000'\n" for name in ("a", "b"))
    (tmp_path / "Makefile").write_text("all: a b\n" + jobs)
    with Terminal("make", "-C", str(tmp_path), "-j", "2") as terminal:
        terminal.wait_for("ready")
        terminal.wait_for("ready")
        terminal.type("\x03")
        assert terminal.wait() in (2, -signal.SIGINT)


@pytest.mark.parametrize("way", [name for name in WAYS if name != "unshare"])
def test_sigchld_that_was_ignored(way: str) -> None:
    """The command inherits that. (unshare resets it.)"""
    command = ["env", "--ignore-signal=CHLD", *WAYS[way].split(), "grep", "SigIgn"]
    result = subprocess.run([*command, "/proc/self/status", "/none"], capture_output=True, text=True, timeout=60)
    assert int(result.stdout.split()[1], 16) & 1 << signal.SIGCHLD - 1
    assert result.returncode == 2


@ways
def test_as_process_1_it_reaps(way: str) -> None:
    """Children of the command that it has left behind."""
    orphans = "for i in 1 2 3; do (sleep 0.05 &); done; sleep 0.2; grep -ls zombie /proc/[0-9]*/status | wc -l; exit 6"
    script = f"exec {WAYS[way]} sh -c {quoted(orphans)}"
    outer = ["unshare", "-r", "--fork", "--pid", "--mount-proc", "sh", "-c", script]
    result = subprocess.run(outer, capture_output=True, text=True, timeout=60)
    assert (result.stdout, result.returncode) == ("0\n", 6), result.stderr


@ways
def test_a_pipe_ends_when_the_command_closes_it(way: str) -> None:
    with subprocess.Popen([*WAYS[way].split(), "sh", "-c", "exec >&-; read x; exit 4"], stdin=-1, stdout=-1) as process:
        assert process.stdout is not None
        assert process.stdout.read() == b""
        process.communicate(b"x\n")
    assert process.returncode == 4


@ways
def test_no_descriptor_of_it_stays_open_in_the_command(way: str) -> None:
    """The command lists its descriptors by another one."""
    result = subprocess.run([*WAYS[way].split(), "ls", "/proc/self/fd"], capture_output=True, text=True, timeout=60)
    assert result.stdout.split() == ["0", "1", "2", "3"]


@pytest.mark.parametrize("way", [*WAYS.values(), *STAYING])
def test_an_inheritable_descriptor_gets_to_the_command(way: str) -> None:
    reader, writer = os.pipe()
    subprocess.run([*way.split(), "bash", "-c", f"echo here >&{writer}"], pass_fds=(writer,), check=True, timeout=60)
    os.close(writer)
    with open(reader) as pipe:
        assert pipe.read() == "here\n"


# ---- what stays is small, and its end is that of the command ----


@pytest.mark.parametrize("way", [*(WAYS[name] for name in ("time", "pid", "init")), *STAYING])
def test_no_python_stays_above(way: str) -> None:
    with subprocess.Popen([*way.split(), "sh", "-c", "echo ready; read x"], stdin=-1, stdout=-1) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        status = Path(f"/proc/{process.pid}/status").read_text()
        fields = dict(line.split(":\t", 1) for line in status.splitlines())
        assert fields["Name"] == "usernsproc-run"
        assert int(fields["VmSize"].split()[0]) < 1000
        process.communicate(b"\n")


@pytest.mark.parametrize("way", ["time", "pid", "init"])
def test_it_sleeps_until_something_happens(way: str) -> None:
    with subprocess.Popen([*WAYS[way].split(), "sh", "-c", "echo ready; read x"], stdin=-1, stdout=-1) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        wait_until(lambda: sleeps(process.pid))
        process.communicate(b"\n")


@pytest.mark.parametrize("way", ["time", "pid", "init"])
def test_when_it_is_killed_the_command_ends(way: str) -> None:
    with subprocess.Popen([*WAYS[way].split(), "sh", "-c", "echo ready; exec sleep 1000"], stdout=-1) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.kill()
        assert process.stdout.read() == b""


# ---- standard error ----


@pytest.mark.parametrize("way", ["becomes", "init"])
@pytest.mark.parametrize("stream", ["2>&-", "2>/dev/full", "2>&1 | :"], ids=["closed", "full", "unread"])
@pytest.mark.parametrize(
    ("arguments", "status"),
    [("no-such-program", 127), ("/etc/passwd", 126), ("--cwd /nonexistent true", 125), ("--map 0:0:0 true", 125)],
)
def test_the_status_of_a_failure_needs_no_standard_error(way: str, stream: str, arguments: str, status: int) -> None:
    script = f"{WAYS[way]} {arguments} {stream}; echo ${{PIPESTATUS[0]}}"
    result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert result.stdout == f"{status}\n"
