"""The lists that are ready made give what their docstrings say, as the command sees it."""

from __future__ import annotations

import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from conftest import IS_ROOT
from usernsproc import PIPE, CompletedCommand, run
from usernsproc.setup import Capabilities, Step, Tmpfs, host_read_only, minimal_root, untrusted

UNTRUSTED_IDS: dict[str, Any] = (
    {"uid_map": "0:100000:65536", "gid_map": "0:100000:65536"}
    if IS_ROOT
    else {"uid_map": "subids", "gid_map": "subids"}
)
PID: dict[str, Any] = {"namespaces": ["pid"], "init": True, "uid_map": "root"}
ISOLATED: dict[str, Any] = {"namespaces": ["pid", "net", "ipc", "uts"], "init": True, **UNTRUSTED_IDS}

WRITABLE = """
while read -r _ place _; do
    if touch "$place/new-file" 2>&- ; then echo "$place"; rm "$place/new-file"; fi
done < /proc/self/mounts
"""
"""Prints each mount point in which a file can be created."""


def script(text: str, steps: list[Step], **options: Any) -> CompletedCommand[str]:
    return run(["/bin/sh", "-c", text], setup=steps, stdout=PIPE, stderr=PIPE, text=True, **options)


def printed(text: str, steps: list[Step], **options: Any) -> list[str]:
    done = script(text, steps, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("make", [host_read_only, minimal_root, untrusted])
def test_each_is_a_list_of_steps_to_be_changed(make: Any) -> None:
    steps = make(write=["/mnt"])
    assert all(isinstance(step, Step) for step in steps)
    assert steps == make(write=["/mnt"])
    assert steps is not make(write=["/mnt"])


# ---- host_read_only ----


def test_of_the_host_no_mount_is_writable_but_those_given(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    steps = [*host_read_only(write=[tmp_path]), Capabilities()]
    places = printed(WRITABLE, steps, uid_map="root")
    assert set(places) - {"/dev", "/dev/shm"} == {str(tmp_path)}
    assert list(tmp_path.iterdir()) == [tmp_path / "sub"]


def test_without_capabilities_the_mounts_stay_read_only(tmp_path: Path) -> None:
    remount = f"mount -o remount,bind,rw / 2>&-; unshare -Ur mount -o remount,bind,rw / 2>&-; touch {tmp_path}/x"
    assert script(remount, [*host_read_only(), Capabilities()], uid_map="root").returncode != 0
    assert not list(tmp_path.iterdir())


def test_the_host_can_be_read_and_its_programs_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text\n")
    assert printed(f"cat {tmp_path}/file; echo x > /dev/null", host_read_only(), uid_map="root") == ["text"]
    assert printed("touch /tmp/x; ls /tmp", [*host_read_only(), Tmpfs("/tmp")], uid_map="root") == ["x"]


# ---- minimal_root ----


def test_the_minimal_root_has_nothing_else_of_the_host() -> None:
    beside_usr = {name for name in ("bin", "lib", "lib32", "lib64", "libx32", "sbin") if os.path.lexists(f"/{name}")}
    found = printed("ls -A /", minimal_root(), **PID)
    assert set(found) == {"dev", "etc", "proc", "tmp", "usr", *beside_usr}
    links = printed(f"cd /; for name in {' '.join(beside_usr)}; do readlink $name || echo; done", minimal_root(), **PID)
    assert links == [os.readlink(f"/{name}") if os.path.islink(f"/{name}") else "" for name in beside_usr]


def test_in_the_minimal_root_only_tmp_and_what_is_given_is_writable(tmp_path: Path) -> None:
    readable, writable = tmp_path / "readable", tmp_path / "writable"
    for path in (readable, writable):
        path.mkdir()
        (path / "file").write_text(f"{path.name}\n")
    steps = [*minimal_root(read=[readable], write=[writable]), Capabilities()]
    places = printed(WRITABLE, steps, **PID)
    assert set(places) == {"/tmp", "/dev", str(writable)}
    assert printed(f"cat {readable}/file {writable}/file", steps, **PID) == ["readable", "writable"]


def test_secrets_of_etc_and_other_processes_are_not_seen() -> None:
    assert script("cat /etc/shadow /etc/ssl/private", minimal_root(), **PID).returncode != 0
    assert set(printed("ls -d /proc/[0-9]*", minimal_root(), **PID)) <= {"/proc/1", "/proc/2", "/proc/3"}
    assert set(printed("ls -A /etc", minimal_root(read=["/etc"]), **PID)) == set(os.listdir("/etc"))


def test_python_runs_in_it() -> None:
    prefixes = sorted({sys.base_prefix, sys.prefix})
    command = [sys.executable, "-I", "-c", "import ssl, pwd; print(pwd.getpwuid(0).pw_name)"]
    done = run(command, setup=minimal_root(read=prefixes), stdout=PIPE, text=True, **PID)
    assert done.stdout == "root\n"


# ---- untrusted ----


def test_an_untrusted_program_has_no_capabilities_and_gets_none() -> None:
    lines = printed("grep ^Cap /proc/self/status", untrusted(), **ISOLATED)
    assert [int(line.split()[1], 16) for line in lines] == [0] * 5
    refused = script("unshare --user --map-root-user true || unshare --mount true", untrusted(), **ISOLATED)
    assert refused.returncode != 0


def test_it_has_the_limits_that_are_given() -> None:
    steps = untrusted(memory=512 << 20, processes=50, cpu_seconds=5, file_size=1 << 20)
    limits = {line[:25].strip(): line[26:].split()[:2] for line in printed("cat /proc/self/limits", steps, **ISOLATED)}
    assert limits["Max address space"] == [str(512 << 20)] * 2
    assert limits["Max processes"] == ["50", "50"]
    assert limits["Max cpu time"] == ["5", "6"]
    assert limits["Max file size"] == [str(1 << 20)] * 2
    assert limits["Max core file size"] == ["0", "0"]


def test_the_limit_that_ends_it_is_reported() -> None:
    done = script("exec head -c 2000000 /dev/zero > /tmp/file", untrusted(file_size=1 << 20), **ISOLATED)
    assert (done.returncode, done.ended_by) == (-signal.SIGXFSZ, "file-size-limit")
    done = script("while :; do :; done", untrusted(cpu_seconds=1), **ISOLATED)
    assert (done.returncode, done.ended_by) == (-signal.SIGXCPU, "cpu-limit")


def test_it_reaches_no_network_but_its_own() -> None:
    """Neither a server of the host on 127.0.0.1, nor an abstract Unix socket."""
    prefixes = sorted({sys.base_prefix, sys.prefix})
    with socket.create_server(("127.0.0.1", 0)) as inet, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(f"\0usernsproc-{os.getpid()}")
        unix.listen()
        connects = (
            "import socket, sys\n"
            f"for family, address in (2, {inet.getsockname()!r}), (1, {unix.getsockname()!r}):\n"
            "    try: socket.socket(family).connect(address)\n"
            "    except ConnectionRefusedError: print('refused')\n"
            "server = socket.create_server(('127.0.0.1', 0))\n"
            "socket.create_connection(server.getsockname())\n"
        )
        command = [sys.executable, "-I", "-c", connects]
        done = run(command, setup=untrusted(read=prefixes), stdout=PIPE, text=True, **ISOLATED)
    assert done.stdout.split() == ["refused", "refused"]
    assert done.returncode == 0


@pytest.mark.parametrize("missing", ["pid", "net"])
def test_it_refuses_to_be_used_without_the_namespaces_that_isolate(missing: str) -> None:
    options = {**ISOLATED, "namespaces": [kind for kind in ISOLATED["namespaces"] if kind != missing]}
    options["init"] = missing != "pid"
    with pytest.raises(ValueError, match=f'namespaces=."{missing}",.'):
        run(["true"], setup=untrusted(), **options)
