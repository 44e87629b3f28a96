"""bubblewrap's words on the command line: how they are read, what is refused, and options beside them."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from alone import A_HANG

from usernsproc._cli.bubblewrap import WORDS
from usernsproc._cli.view import View

PROGRAM = str(Path(sys.executable).parent / "usernsproc")
RUN = [PROGRAM, "run"]
HOST = ["--dev-bind", "/", "/"]
FAILED = 125
DOCUMENT = Path(__file__).parent.parent / "docs" / "coming-from-bubblewrap.md"


def run(*arguments: str, fds: tuple[int, ...] = (), **options: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **options}
    return subprocess.run([*RUN, *arguments], capture_output=True, text=True, timeout=60, pass_fds=fds, env=environment)


def output(*arguments: str, fds: tuple[int, ...] = ()) -> str:
    result = run(*arguments, fds=fds)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout


def pipe_with(data: bytes) -> int:
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    return reader


# ---- how words are read ----


def test_a_value_may_begin_with_a_dash() -> None:
    assert output(*HOST, "--setenv", "A", "--setenv", "--unshare-ipc", "printenv", "A") == "--setenv\n"


def test_words_end_where_the_command_begins() -> None:
    assert output(*HOST, "echo", "--bind", "/", "--nice") == "--bind / --nice\n"
    assert output(*HOST, "--", "echo", "--bind") == "--bind\n"


def test_other_options_stand_between_them() -> None:
    assert output("--map", "root", *HOST, "--user=0", "--setenv", "A", "b", "sh", "-c", "id -u; echo $A") == "0\nb\n"


def test_words_from_a_descriptor() -> None:
    fd = pipe_with(b"--setenv\0A\0b\0--setenv\0B\0\0")
    try:
        assert (
            output(*HOST, "--args", str(fd), "--setenv", "C", "d", "sh", "-c", "echo $A-$B-$C", fds=(fd,)) == "b--d\n"
        )
    finally:
        os.close(fd)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--bind"], "--bind requires SRC DEST"),
        (["--perms", "0700", "--bind", "/", "/"], "--perms must be followed by an option that creates a file"),
        (["--perms", "0700", "--perms", "0700", "--dir", "/a"], "given twice"),
        (["--perms", "8", "--dir", "/a"], "octal"),
        (["--size", "1", "--dir", "/a"], "--size must be followed by --tmpfs"),
        (["--size", "0", "--tmpfs", "/a"], "a number of bytes"),
        (["--overlay-src", "/usr", "--chdir", "/"], "--overlay-src must be followed by"),
        (["--ro-overlay", "/a"], "requires at least two --overlay-src"),
        (["--file", "x", "/a"], "'x' is not a descriptor"),
        (["--file", "200", "/a"], "descriptor 200 is not open"),
        (["--uid", "-1"], "is not an ID"),
        (["--cap-add", "CAP_NONE"], "is not a capability"),
        (["--exec-label", "x"], "SELinux labels of processes are not supported"),
        (["--file-label", "x"], "SELinux labels of files are not supported"),
        (["--userns2", "0"], "only one can be joined"),
        (["--level-prefix"], "messages have no levels"),
        (["--argv0", "a", "--argv0", "b"], "given twice"),
    ],
    ids=str,
)
def test_what_is_refused_names_the_word(words: list[str], message: str) -> None:
    result = run(*words, "true")
    assert result.returncode == FAILED
    assert message in result.stderr
    assert words[0] in result.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--disable-userns"], "--disable-userns requires --unshare-user"),
        (["--hostname", "x"], "Hostname"),
        (["--as-pid-1"], "--as-pid-1 requires --unshare-pid"),
        (["--map", "root", "--uid", "0"], "--uid and --gid are for a map of one ID"),
        (["--chdir", "/", "--cwd", "/"], "--chdir and --cwd: one of them"),
        (["--userns", "0", "--unshare-user"], "--userns: the user namespace is joined"),
        (["--dir", "/a/../b"], "leads upwards"),
        (["--lock-file", "/tmp/none", "--tmpfs", "/tmp"], "--lock-file /tmp/none: not a file of the caller's"),
    ],
    ids=str,
)
def test_what_does_not_fit_together_is_refused(words: list[str], message: str) -> None:
    result = run(*HOST, *words, "true")
    assert result.returncode == FAILED
    assert message in result.stderr


def test_an_error_of_a_step_names_the_word() -> None:
    result = run("--tmpfs", "/tmp", "--ro-bind", "/none", "/x", "true")
    assert result.returncode == FAILED
    message, note = result.stderr.splitlines()
    assert message.startswith("usernsproc: setup[2] Bind: open_tree: No such file or directory: '/none' [ENOENT")
    assert note.endswith(" The option is '--ro-bind /none /x'.")


def test_only_the_last_of_some_words_counts() -> None:
    result = run(*HOST, "--chdir", "/usr", "--chdir", "/", "pwd")
    assert (result.returncode, result.stdout) == (0, "/\n")
    assert result.stderr == "usernsproc: Only the last --chdir option will take effect\n"


# ---- the rule: one word, and the rest is as with bubblewrap ----


def test_the_root_is_empty() -> None:
    result = run("--unshare-ipc", "true")
    assert result.returncode == 127
    assert "exec: No such file or directory" in result.stderr


def test_without_a_word_nothing_changes() -> None:
    assert output("--map", "root", "--nice", "5", "sh", "-c", "id -u; nice; pwd") == f"0\n5\n{os.getcwd()}\n"


def test_the_working_directory_is_that_of_the_caller_or_home_or_the_root(tmp_path: Path) -> None:
    here = subprocess.run([*RUN, *HOST, "pwd"], capture_output=True, text=True, cwd=tmp_path)
    assert here.stdout == f"{tmp_path}\n"
    command = [
        *RUN,
        "--ro-bind",
        "/usr",
        "/usr",
        *_links(),
        "--setenv",
        "HOME",
        "/usr/lib",
        "sh",
        "-c",
        "pwd; echo $PWD",
    ]
    assert subprocess.run(command, capture_output=True, text=True, cwd=tmp_path).stdout == "/usr/lib\n/usr/lib\n"
    command[-4] = "/none"
    assert subprocess.run([*command[:-3], "/usr/bin/env"], capture_output=True, text=True, cwd=tmp_path).stdout.count(
        "PWD=/\n"
    )


def _links() -> list[str]:
    return [
        word
        for name in ("bin", "lib", "lib64")
        if Path("/", name).is_symlink()
        for word in ("--symlink", os.readlink(f"/{name}"), f"/{name}")
    ]


def test_inheritable_descriptors_are_inherited_except_those_of_words() -> None:
    kept, used = pipe_with(b""), pipe_with(b"content")
    try:
        script = f"test -e /proc/self/fd/{kept} && ! test -e /proc/self/fd/{used} && cat /tmp/file"
        words = ["--tmpfs", "/tmp", "--file", str(used), "/tmp/file"]
        assert output(*HOST, *words, "sh", "-c", script, fds=(kept, used)) == "content"
    finally:
        os.close(kept)
        os.close(used)


def test_what_is_written_about_the_process() -> None:
    reader, writer = os.pipe()
    status_reader, status_writer = os.pipe()
    with open(reader) as info, open(status_reader) as status:
        words = ["--unshare-all", "--info-fd", str(writer), "--json-status-fd", str(status_writer)]
        result = run(*HOST, *words, "sh", "-c", "kill -9 $$", fds=(writer, status_writer))
        os.close(writer)
        os.close(status_writer)
        shown = json.load(info)
        first, second = map(json.loads, status)
    assert result.returncode == 128 + signal.SIGKILL
    assert first == shown
    assert shown.keys() == {
        "child-pid",
        *(f"{kind}-namespace" for kind in ("cgroup", "ipc", "mnt", "net", "pid", "uts")),
    }
    assert second == {"exit-code": 128 + signal.SIGKILL}


def test_another_program_writes_the_maps() -> None:
    """`--userns-block-fd`, as with bubblewrap."""
    (reader, writer), (info_reader, info_writer) = os.pipe(), os.pipe()
    words = ["--unshare-user", "--userns-block-fd", str(reader), "--info-fd", str(info_writer)]
    command = [*RUN, *HOST, *words, "cat", "/proc/self/uid_map"]
    with (
        open(writer, "wb") as release,
        open(info_reader) as info,
        subprocess.Popen(command, stdout=-1, text=True, pass_fds=(reader, info_writer)) as process,
    ):
        os.close(reader)
        os.close(info_writer)
        pid = json.load(info)["child-pid"]
        Path(f"/proc/{pid}/uid_map").write_text(f"7 {os.geteuid()} 1")
        release.write(b"1")
        release.close()
        assert process.stdout is not None
        assert process.stdout.read().split() == ["7", str(os.geteuid()), "1"]


def test_the_end_of_the_parent() -> None:
    """`--die-with-parent`: it is that of the program which has started `usernsproc`."""
    reader, writer = os.pipe()
    script = f"{PROGRAM} run --dev-bind / / --die-with-parent sh -c 'echo started; exec sleep infinity' & wait"
    with open(reader) as shown:
        parent = subprocess.Popen(["sh", "-c", script], stdout=writer)
        os.close(writer)
        assert shown.readline() == "started\n"
        parent.kill()
        parent.wait()
        assert select.select([shown], [], [], A_HANG)[0]
        assert shown.read() == ""


def test_limits_beside_the_words() -> None:
    script = "ulimit -n; ulimit -Hn; nice; grep Cpus_allowed_list /proc/self/status"
    options = ["--rlimit", "NOFILE=50:60", "--nice", "3", "--cpu-affinity", "0-0"]
    assert output(*HOST, *options, "sh", "-c", script).split() == ["50", "60", "3", "Cpus_allowed_list:", "0"]
    assert output("--map", "root", *options, "sh", "-c", script).split() == ["50", "60", "3", "Cpus_allowed_list:", "0"]


@pytest.mark.parametrize("text", ["NOFILE", "NOFILE=", "NOFILE=x", "NONE=1", "NOFILE=2:1"])
def test_a_limit_that_is_none(text: str) -> None:
    assert run("--rlimit", text, "true").returncode == FAILED


@pytest.mark.parametrize("text", ["", "x", "1-", "3-1"])
def test_a_list_of_cpus_that_is_none(text: str) -> None:
    assert run("--cpu-affinity", text, "true").returncode == FAILED


def test_loopback_without_a_network_namespace() -> None:
    assert "net" in run("--loopback", "true").stderr
    assert output("--map", "root", "--namespaces", "net", "--loopback", "sh", "-c", "cat /sys/class/net/lo/flags || :")


# ---- help and documentation ----


def test_the_help_has_each_word() -> None:
    text = run("--help").stdout
    assert [name for name in WORDS if not re.search(rf"^  {name}\b", text, re.MULTILINE)] == []


def test_the_documentation_has_each_word() -> None:
    text = DOCUMENT.read_text()
    assert [name for name in WORDS if f"`{name}" not in text] == []


# ---- what lies at a path ----


def test_a_view_knows_what_covers_what(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    view = View()
    assert view.has_directory("/")
    assert not view.has_directory("/x")
    view.mount("/x", str(tmp_path))
    assert (view.source_of("/x/a"), view.has_directory("/x/a")) == (str(tmp_path / "a"), True)
    assert (view.source_of("/x/b"), view.has_directory("/x/b")) == (str(tmp_path / "b"), False)
    view.mount("/x/a")
    assert (view.source_of("/x/a/c"), view.has_directory("/x/a")) == (None, True)
    view.make("/y/z")
    assert view.has_directory("/y")
    assert not view.has_directory("/y/z/a")
