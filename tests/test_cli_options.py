"""What the options mean, and how they are combined."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from commands import USERNSPROC

from usernsproc import UsernsProcess
from usernsproc._cli import COMMANDS, module_of, run
from usernsproc._cli.options import UsageError
from usernsproc._cli.parser import parse

STATUS = ["cat", "/proc/self/status"]


def usernsproc(*arguments: str, status: int = 0) -> str:
    """What the command has printed on standard output, or for an error on standard error."""
    result = subprocess.run([USERNSPROC, *arguments], capture_output=True, text=True, timeout=60)
    assert result.returncode == status, result.stderr
    return result.stderr if status == 125 else result.stdout


def inode(kind: str) -> str:
    return str(os.stat(f"/proc/self/ns/{kind}").st_ino)


def refusal(command: str, *arguments: str) -> str:
    with pytest.raises(UsageError) as caught:
        parse(module_of(command).COMMAND, arguments)
    return str(caught.value)


# ---- lists and contradictions ----


def test_a_list_given_twice_means_both() -> None:
    options = ["--namespaces", "net", "--namespaces", "uts,ipc", "-p"]
    assert parse(run.COMMAND, [*options, "true"]).namespaces == ("net", "uts", "ipc", "pid")
    shown = usernsproc(
        "run", "-r", *options, "--", "stat", "-Lc", "%i", *(f"/proc/self/ns/{k}" for k in ("net", "uts"))
    )
    assert not {inode("net"), inode("uts")} & set(shown.split())
    both = ["--ambient-caps", "chown", "--ambient-caps", "net_raw", "--cpu-affinity", "0", "--cpu-affinity", "0"]
    lines = usernsproc("run", "--map", "current", *both, "--", *STATUS).splitlines()
    assert f"CapAmb:\t{1 << 0 | 1 << 13:016x}" in lines
    assert "Cpus_allowed_list:\t0" in lines


def test_ranges_given_twice_are_one_map() -> None:
    options = parse(run.COMMAND, ["--uid-map", "0:1:1", "--uid-map", "1:100:5,6:200:1", "true"])
    assert options.uid_map == "0:1:1,1:100:5,6:200:1"
    assert "--uid-map 0:5:1: ranges 0:1:1 and" in refusal("run", "--uid-map=0:1:1", "--uid-map", "0:5:1", "true")
    assert "--map all: the map is root already" in refusal("run", "--map", "root", "--map", "all", "true")


@pytest.mark.parametrize("option", ["--namespaces", "--ambient-caps", "--cpu-affinity"])
@pytest.mark.parametrize("value", ["", ",", "pid,,net", "pid,", ",pid"])
def test_empty_parts_are_refused(option: str, value: str) -> None:
    assert refusal("run", option, value, "true") == f"{option} {value}: the list has an empty part"


@pytest.mark.parametrize("command", ["run", "create", "mount"])
def test_maps_that_contradict_each_other_are_refused(command: str, tmp_path: Path) -> None:
    path = str(tmp_path / "pin")
    rest = {"run": ["true"], "create": ["--pin", path], "mount": [path, path]}[command]
    for option in ("--uid-map", "--gid-map"):
        message = usernsproc(command, "--map", "0:0:1", option, "0:1:1", *rest, status=125)
        assert message == f"usernsproc: --map 0:0:1 and {option} 0:1:1 contradict each other\n"
    assert not os.path.exists(path)
    assert usernsproc("run", "--map", "root", "--uid-map", "root", "id", "-u") == "0\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_no_option_can_be_abbreviated(command: str) -> None:
    groups = module_of(command).COMMAND.groups
    names = [name for options in groups.values() for option in options for name in option.names]
    for name in names:
        short = name[:-1]
        if short not in (*names, "-", "--cpu-affinit", "--help"):
            assert f"{short}: there is no such option" in refusal(command, short)


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        ("run", ["--mapp", "root", "true"], "--mapp: there is no such option; did you mean --map?"),
        ("run", ["--ro_bind", "/", "/", "true"], "--ro_bind: there is no such option; did you mean --ro-bind?"),
        ("run", ["--user", "--map-root-user", "true"], "for a user namespace, did you mean -U?"),
        ("run", ["--user", "true"], "--user true: no such name on this system; for a user namespace, did you mean -U?"),
        ("run", ["--cgroup", "-r", "true"], "for a cgroup namespace, did you mean -C?"),
        ("run", ["--cwd", "--", "true"], "--cwd requires DIR, and -- is not a value"),
        ("run", ["--net=/run/x", "true"], "--net=/run/x: --net has no value"),
        ("run", ["-rx", "true"], "-x: there is no such option"),
        ("run", ["--timeout", "soon", "true"], "--timeout soon: a number of seconds is needed"),
        ("run", ["--env", "PATH", "true"], "--env PATH: NAME=VALUE is needed"),
        ("run", ["--kill-child=none", "true"], "--kill-child=none: there is no such signal"),
        ("enter", ["--wd", "/", "1", "true"], "--wd: there is no such option; did you mean --wdns"),
        ("enter", ["1", "--target", "2", "true"], "--target: takes the place of an argument, and 1 has it already"),
        ("enter", ["1"], "which command?"),
        ("mount", ["/a"], "TARGET is missing"),
        ("umount", ["/a", "/b"], "one argument too many: '/b'"),
        ("unpin", [], "PATH is missing"),
        ("ls", ["--kind", "mount"], "--kind mount: 'mount' is not a kind of namespace"),
    ],
)
def test_a_mistake_is_answered_with_what_was_meant(command: str, arguments: list[str], message: str) -> None:
    assert message in refusal(command, *arguments)


def test_a_mistyped_command() -> None:
    assert "rnu: there is no such command; did you mean run?" in usernsproc("rnu", "-r", "true", status=125)


# ---- as in unshare(1) ----


def test_the_words_of_unshare() -> None:
    script = "id -u; cat /proc/self/uid_map; stat -Lc %i /proc/self/ns/net /proc/self/ns/uts; pwd"
    result = usernsproc("run", "-Urnu", "--wd", "/usr", "--", "sh", "-c", script).split()
    assert result[:4] == ["0", "0", str(os.geteuid()), "1"]
    assert not {inode("net"), inode("uts")} & set(result)
    assert result[-1] == "/usr"
    assert usernsproc("run", "-c", "id", "-u") == f"{os.geteuid()}\n"
    assert usernsproc("run", "--map-user", "7", "--map-group=8", "id", "-u") == "7\n"


def test_presets_of_unshare_add_up() -> None:
    maps = {("-r",): "root", ("--map-auto",): "subids", ("-r", "--map-auto"): "rootless", ("-c",): "current"}
    for words, preset in maps.items():
        assert parse(run.COMMAND, [*words, "true"]).map == preset
        assert parse(run.COMMAND, [*words[::-1], "true"]).map == preset
    assert parse(run.COMMAND, ["--map-users=auto", "true"]).uid_map == "subids"
    assert "the map is root already" in refusal("run", "-rc", "true")


def test_a_root_directory() -> None:
    """With a relative path, as for unshare(1)."""
    result = usernsproc("run", "-r", "--root", os.path.relpath("/usr"), "--", "/bin/ls", "-A", "/")
    assert set(result.split()) == set(os.listdir("/usr"))


def test_clocks() -> None:
    offsets = ["-T", "--boottime", "1000", "--monotonic=-5"]
    result = usernsproc("run", "-r", *offsets, "cat", "/proc/self/timens_offsets").split()
    assert result == ["monotonic", "-5", "0", "boottime", "1000", "0"]
    assert "require --namespaces time" in usernsproc("run", "--boottime", "1", "true", status=125)


def test_all_capabilities_are_kept() -> None:
    lines = usernsproc("run", "--map", "current", "--keep-caps", "--", *STATUS).splitlines()
    [effective] = [line for line in lines if line.startswith("CapEff")]
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    assert effective == f"CapEff:\t{(1 << last + 1) - 1:016x}"


def test_environment_variables() -> None:
    script = 'echo "$A|$B|${HOME+set}"'
    assert (
        usernsproc("run", "--env", "A=1", "--env", "B=x=y z", "--env", "HOME=/", "sh", "-c", script) == "1|x=y z|set\n"
    )


def test_a_new_session() -> None:
    script = "cut -d' ' -f1,6 /proc/self/stat"
    pid, session = usernsproc("run", "--new-session", "--", "sh", "-c", f"exec {script}").split()
    assert pid == session
    assert usernsproc("run", "--", "sh", "-c", f"exec {script}").split()[1] == str(os.getsid(0))


# ---- as in timeout(1) ----

STUBBORN = ["sh", "-c", "trap '' TERM; while :; do sleep 0.01; done"]
GRACEFUL = ["sh", "-c", "trap 'echo got; exit 3' TERM; while :; do sleep 0.01; done"]


@pytest.mark.parametrize("init", [[], ["--namespaces", "pid", "--init"]], ids=["alone", "with an init"])
def test_the_time_limit(init: list[str]) -> None:
    assert usernsproc("run", *init, "--timeout", "0.2", *GRACEFUL, status=124) == "got\n"
    assert usernsproc("run", *init, "--timeout", ".1s", "--kill-after", "0.1", *STUBBORN, status=137) == ""


def test_a_command_that_is_fast_enough_has_its_own_status() -> None:
    for limit in ("60", "1.5m", "1d", "0"):
        usernsproc("run", "--timeout", limit, "sh", "-c", "exit 7", status=7)
    usernsproc("run", "--timeout", "60", "sh", "-c", "kill -KILL $$", status=137)


def test_a_stopped_command_ends_at_the_limit() -> None:
    usernsproc("run", "--timeout", "0.2", "sh", "-c", "kill -STOP $$", status=124)


def test_the_time_limit_of_enter() -> None:
    with UsernsProcess(uid_map="root") as holder:
        usernsproc("enter", str(holder.pid), "--timeout", "0.1", "sleep", "60", status=124)


# ---- the end of the caller ----


@pytest.mark.parametrize(
    "option", ["--pdeathsig=TERM", "--kill-child=SIGTERM"], ids=["of the caller", "of the process between"]
)
def test_the_signal_at_the_end_of_the_other_process(option: str) -> None:
    """For `--pdeathsig` that is the process which has started usernsproc, as after setpriv(1)."""
    shell = "trap 'echo got; exit' TERM; echo ready; while :; do sleep 0.01; done"
    parent = ["sh", "-c", '"$@"; :', "sh"] if "pdeathsig" in option else []
    command = [*parent, USERNSPROC, "run", option, "sh", "-c", shell]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.kill()
        assert process.stdout.read() == "got\n"


def test_the_signal_without_a_name_is_kill() -> None:
    assert parse(run.COMMAND, ["--kill-child", "true"]).kill_child == signal.SIGKILL
    assert parse(run.COMMAND, ["--kill-child=15", "true"]).kill_child == signal.SIGTERM


# ---- as in nsenter(1) ----


def test_the_words_of_nsenter() -> None:
    with UsernsProcess(uid_map="root", namespaces=("net", "uts")) as holder:
        script = "id -u; stat -Lc %i /proc/self/ns/net /proc/self/ns/uts"
        command = ["sh", "-c", script]
        uts = holder.namespace_path("uts")
        with holder.namespace("net") as net, holder.namespace("uts") as own:
            target = ["--target", str(holder.pid)]
            assert usernsproc("enter", *target, "-Un", *command).split() == ["0", str(net.inode), inode("uts")]
            assert usernsproc("enter", *target, "--all", *command).split()[1:] == [str(net.inode), str(own.inode)]
            named = ["-U", "--net", f"--uts={uts}", str(holder.pid)]
            assert usernsproc("enter", *named, *command).split() == ["0", str(net.inode), str(own.inode)]
        refused = usernsproc("enter", "--net", uts, "true", status=125)
        assert "TARGET has to be a PID" in refused


# ---- JSON ----


def test_what_was_created_as_json(tmp_path: Path) -> None:
    script = 'usernsproc=$1; shift; mount -t tmpfs none "$1"; "$usernsproc" create --json --map root --pin "$1/user" '
    script += '--pin-net "$1/net"; stat -Lc %i "$1/user" "$1/net"'
    command = ["run", "-rm", "--", "sh", "-c", script, "sh", USERNSPROC, str(tmp_path)]
    printed, _, inodes = usernsproc(*command).rpartition("}\n")
    user, net = (int(line) for line in inodes.split())
    assert json.loads(printed + "}") == {
        "namespaces": [
            {"kind": "net", "path": f"{tmp_path}/net", "inode": net},
            {"kind": "user", "path": f"{tmp_path}/user", "inode": user, "uid_map": "0:0:1", "gid_map": "0:0:1"},
        ]
    }
