"""`execvp`: the program becomes the command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from alone import command, environment, run_alone
from programs import becoming

import usernsproc
from usernsproc import UsernsProcess, execvp

STATUS = "/proc/self/status"


def become(args: list[str], function: Any = becoming.become, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(function, args, options), capture_output=True, text=True, timeout=60, env=environment()
    )


def shell(script: str, **options: Any) -> list[str]:
    result = become(["sh", "-c", script], **options)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout.split()


def test_the_maps_are_there() -> None:
    own = str(os.geteuid())
    assert shell("id -u; cat /proc/self/uid_map", uid_map="root") == ["0", "0", own, "1"]
    assert shell("id -u", uid_map="current") == [own]


def test_without_a_map_none_is_written() -> None:
    assert shell("cat /proc/self/uid_map; id -u") == [Path("/proc/sys/kernel/overflowuid").read_text().strip()]


@pytest.mark.root
def test_a_map_of_many_ids_and_ids_inside() -> None:
    options = {"uid_map": "0:100000:65536", "gid_map": "0:100000:65536"}
    assert shell("id -u; id -g; id -G", **options) == ["0", "0", "0"]
    assert shell("id -u; id -g; id -G", user=5, group=6, extra_groups=[7], **options) == ["5", "6", "6", "7"]


def test_the_pid_is_that_of_the_program() -> None:
    process = subprocess.Popen(
        command(becoming.become, ["sh", "-c", "echo $$ $PPID"], {"uid_map": "root"}),
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.communicate()[0].split() == [str(process.pid), str(os.getpid())]


@pytest.mark.parametrize("function", [becoming.become, becoming.become_in_thread])
def test_the_exit_status_is_the_commands(function: Any) -> None:
    assert become(["sh", "-c", "exit 7"], function, uid_map="root").returncode == 7
    assert become(["sh", "-c", "kill -9 $$"], function, uid_map="root").returncode == -9


def test_in_a_thread_the_others_end() -> None:
    result = become(["grep", "Threads", STATUS], becoming.become_in_thread, uid_map="root")
    assert result.stdout.split() == ["Threads:", "1"]


def test_nothing_of_the_launcher_stays_open() -> None:
    """The command lists its descriptors by another one."""
    assert shell("ls /proc/self/fd", uid_map="root", namespaces=["mnt", "net"], setup=["Tmpfs('/mnt')"]) == [*"0123"]


def test_signals_that_python_ignores() -> None:
    def ignored(**options: Any) -> int:
        return int(become(["grep", "SigIgn", STATUS], uid_map="root", **options).stdout.split()[1], 16)

    both = 1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1
    assert ignored() & both == 0
    assert ignored(restore_signals=False) & both == both


def test_pass_fds() -> None:
    """Also one that is not inheritable."""
    reader, writer = os.pipe()
    prepare = f"import os, usernsproc; os.set_inheritable({writer}, False)"
    become = f"usernsproc.execvp(['sh', '-c', 'echo hello >/dev/fd/{writer}'], pass_fds=[{writer}])"
    subprocess.run([sys.executable, "-c", f"{prepare}; {become}"], pass_fds=[writer], check=True)
    os.close(writer)
    with open(reader) as file:
        assert file.read() == "hello\n"


def test_other_namespaces_and_steps() -> None:
    script = "cat /mnt/a; hostname; ulimit -n; umask; pwd; readlink /proc/self/ns/net"
    *found, net = shell(
        script,
        uid_map="root",
        namespaces=["mnt", "net", "uts"],
        cwd="/usr",
        umask=0o027,
        setup=["Tmpfs('/mnt')", "File('/mnt/a', 'text\\n')", "Hostname('inside')", "Rlimit('NOFILE', 99)"],
    )
    assert found == ["text", "inside", "99", "0027", "/usr"]
    assert net != os.readlink("/proc/self/ns/net")


def test_join() -> None:
    with UsernsProcess(uid_map="root", namespaces=["net"]) as holder:
        expected = [os.readlink(holder.namespace_path(kind)) for kind in ("user", "net")]
        assert shell("readlink /proc/self/ns/user /proc/self/ns/net", join=holder.pid) == expected


@pytest.mark.root
def test_join_a_network_and_have_a_new_user_namespace() -> None:
    with UsernsProcess(uid_map="root", namespaces=["net"]) as holder:
        path = holder.namespace_path("net")
        user, net = shell("readlink /proc/self/ns/user /proc/self/ns/net", join=path, uid_map="root")
        assert net == os.readlink(path)
        assert user not in (os.readlink("/proc/self/ns/user"), os.readlink(holder.namespace_path()))


def test_no_capabilities_but_those_in_the_namespace() -> None:
    own = become(["grep", "Cap", STATUS], uid_map="current")
    child = usernsproc.run(["grep", "Cap", STATUS], uid_map="current", capture_output=True, text=True)
    assert own.stdout == child.stdout
    kept = become(["grep", "CapAmb", STATUS], uid_map="current", ambient_caps=["CAP_NET_ADMIN"])
    assert int(kept.stdout.split()[1], 16) == 1 << 12


def test_no_new_privs() -> None:
    assert shell("grep NoNewPrivs /proc/self/status", uid_map="root", no_new_privs=True) == ["NoNewPrivs:", "1"]


# ---- refused, with what to do ----


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"stdin": -1}, "stdin= has no meaning for execvp: .* os.dup2"),
        ({"stdout": -1}, "stdout= has no meaning"),
        ({"stderr": -2}, "stderr= has no meaning"),
        ({"text": True}, "text= has no meaning"),
        ({"init": True}, "init= has no meaning for execvp: .* UsernsProcess or run"),
        ({"mount_proc": True}, "mount_proc= has no meaning"),
        ({"on_created": print}, "on_created= has no meaning for execvp: .* join="),
        ({"pdeathsig": 9}, "pdeathsig= has no meaning"),
        ({"close_fds": True}, "close_fds= has no meaning for execvp: .* os.set_inheritable"),
        ({"namespaces": ["pid"]}, "pid and time namespaces have no meaning for execvp: .* UsernsProcess or run"),
        ({"namespaces": ["time"]}, "pid and time namespaces have no meaning"),
        ({"uid_map": "0:0:0"}, "range"),
        ({"preexec_fn": print}, "preexec_fn is not supported"),
    ],
)
def test_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        execvp(["true"], **options)


def test_a_command_is_needed() -> None:
    with pytest.raises(TypeError, match="needs a command"):
        execvp(None)


# ---- an error before: nothing has changed ----

CHANGES = {"setup": ["Nice(5)", "OomScoreAdj(500)", "Rlimit('NOFILE', 77)", "Tmpfs('/mnt')"], "namespaces": ["mnt"]}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"uid_map": "root", **CHANGES}, "exec: Argument list too long: 'true' [E2BIG"),
        ({"uid_map": "root", "cwd": "/usr", "umask": 0o77, "pass_fds": [0]}, "exec: Argument list too long"),
    ],
)
def test_nothing_changes_if_the_launcher_cannot_be_executed(options: dict[str, Any], words: str) -> None:
    assert words in run_alone(becoming.fail_and_compare, options, True)


def test_nothing_changes_if_a_parameter_is_refused() -> None:
    assert "'/nonexistent'" in run_alone(becoming.fail_and_compare, {"join": "/nonexistent"}, False)
    assert "IdMap" in run_alone(becoming.fail_and_compare, {"uid_map": "0:0:0"}, False)


# ---- an error after: one message, with the text of the exception ----


@pytest.mark.parametrize(
    ("args", "options"),
    [
        (["nonexistent"], {}),
        (["/etc/passwd"], {}),
        (["/"], {}),
        (["true"], {"cwd": "/nonexistent"}),
        (["true"], {"cwd": "/etc/passwd"}),
        (["true"], {"cwd": "/a \n\x1b\udcff"}),
        (["true"], {"process_group": 1}),
        (["true"], {"namespaces": ["mnt"], "setup": ["Tmpfs('/mnt')", "Bind('/nonexistent', '/mnt')"]}),
        (["true"], {"namespaces": ["mnt"], "setup": ["Tmpfs('/etc/passwd')"]}),
    ],
)
def test_the_message_is_that_of_the_exception(args: list[str], options: dict[str, Any]) -> None:
    result = become(args, uid_map="root", **options)
    with pytest.raises(OSError, match=".") as caught:
        usernsproc.run(args, uid_map="root", **becoming._options(options))
    message, *note = result.stderr.splitlines()
    assert message == f"usernsproc: {caught.value}"
    assert note == [f"usernsproc: {line}" for line in getattr(caught.value, "__notes__", ())]
    status = 125 if caught.value.step != "exec" else 127 if isinstance(caught.value, FileNotFoundError) else 126  # type: ignore[attr-defined]
    assert result.returncode == status
