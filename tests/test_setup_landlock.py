"""The set-up step `Landlock`: each kind of rule, as the command meets it."""

from __future__ import annotations

import ctypes
import errno
import os
import pickle
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import native
import pytest
from alone import run_alone
from programs import setup_landlock
from step_processes import NEW, OWN, ROOT, done, joined, seen, status

from usernsproc import UsernsError, run
from usernsproc._system_calls import NR
from usernsproc.setup import Bind, Landlock, NoUserNamespaces, Root, Step, Tmpfs

pytestmark = pytest.mark.kernel("6.12")
ALL: dict[str, Any] = {
    "read": ["/"],
    "write": ["/"],
    "execute": ["/"],
    "ioctl": ["/"],
    "tcp_bind": None,
    "tcp_connect": None,
}
PROGRAMS = ["/usr", "/bin", "/lib", "/lib64"]
PYTHON = sorted({sys.prefix, sys.base_prefix, *PROGRAMS})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory that every user can use."""
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("text")
        (tmp_path / name / "file").chmod(0o666)
        (tmp_path / name).chmod(0o777)
    for path in (tmp_path, *tmp_path.parents[:3]):
        if path.owner() != "root" or path != Path("/tmp"):
            path.chmod(0o755)
    return tmp_path


def sandbox(**rules: Any) -> Landlock:
    return Landlock(execute=PROGRAMS, **rules)


def outcome(script: str, *steps: Step, **options: Any) -> str:
    """`yes`, or the message of the last program."""
    result = done(script, *steps, **options)
    return "yes" if result.returncode == 0 else result.stderr.strip().rpartition(": ")[2]


# ---- files ----


@pytest.mark.parametrize("options", NEW)
def test_what_can_be_read(folder: Path, options: dict[str, Any]) -> None:
    step = sandbox(read=[folder / "here"])
    for script in ("cat here/file", "ls here"):
        assert outcome(f"cd {folder} && {script}", step, **options) == "yes"
        assert outcome(f"cd {folder} && {script.replace('here', 'there')}", step, **options) == "Permission denied"
    assert outcome(f"cd {folder} && echo > here/file", step, **options) == "Permission denied"


CHANGES = {
    "write": "echo >> here/file",
    "truncate": "truncate --size 1 here/file",
    "create": "touch here/new",
    "mkdir": "mkdir here/new",
    "symlink": "ln -s x here/new",
    "fifo": "mkfifo here/new",
    "link": "ln here/file here/new",
    "rename": "mv here/file here/new",
    "rename to another directory": "mkdir -p here/a && mv here/file here/a/file",
    "remove": "rm here/file",
    "rmdir": "rmdir here/empty",
}


@pytest.mark.parametrize("script", CHANGES.values(), ids=CHANGES)
def test_what_can_be_written(folder: Path, script: str) -> None:
    (folder / "here" / "empty").mkdir()
    script = f"cd {folder} && {script}"
    for refused in (sandbox(read=[folder]), sandbox(read=[folder], write=[folder / "there"])):
        assert outcome(script, refused, **ROOT) in ("Permission denied", "Invalid cross-device link")
    assert outcome(script, sandbox(write=[folder / "here"]), **ROOT) == "yes"


def test_whatever_can_be_written_can_be_read(folder: Path) -> None:
    assert seen(f"cat {folder}/here/file", sandbox(write=[folder]), **ROOT) == "text"


def test_a_rule_for_a_file(folder: Path) -> None:
    """The rights of directories are left out of it, which the kernel would refuse."""
    file = folder / "here" / "file"
    step = sandbox(read=[file, "/dev/zero"], write=["/dev/null", file])
    assert outcome(f"cat {file} && echo 5 > {file} && head -c 1 /dev/zero > /dev/null", step, **ROOT) == "yes"
    assert outcome(f"ls {folder}/here", step, **ROOT) == "Permission denied"
    assert outcome(f"rm {file}", step, **ROOT) == "Permission denied"


def test_what_can_be_executed(folder: Path) -> None:
    program = folder / "here" / "file"
    program.write_text("#!/bin/sh\necho executed\n")
    program.chmod(0o755)
    assert seen(str(program), Landlock(execute=[*PROGRAMS, folder]), **ROOT) == "executed\n"
    assert outcome(str(program), sandbox(read=[folder]), **ROOT) == "Permission denied"
    assert outcome(str(program), sandbox(write=[folder]), **ROOT) == "Permission denied"


def test_a_command_that_cannot_be_executed_is_an_error_of_exec() -> None:
    for step in (Landlock(), Landlock(read=["/"]), Landlock(execute=["/etc"])):
        with pytest.raises(UsernsError) as caught:
            done("true", step, **ROOT)
        assert (caught.value.step, caught.value.errno, caught.value.cause) == ("exec", errno.EACCES, "landlock-exec")


IOCTL = """
import errno, fcntl
try:
    fcntl.ioctl(open("/dev/zero"), 0x5401)
except OSError as error:
    print(errno.errorcode[error.errno])
"""
"""TCGETS, which /dev/zero does not know."""


def python(code: str, *steps: Step, **options: Any) -> str:
    command = [sys.executable, "-S", "-c", code]
    result = run(command, capture_output=True, text=True, setup=steps, timeout=60, check=True, **options)
    return str(result.stdout).strip()


def test_devices_that_the_command_opens_itself() -> None:
    for ioctl, found in ((["/dev"], "ENOTTY"), (["/dev/zero"], "ENOTTY"), (["/dev/null"], "EACCES"), ([], "EACCES")):
        assert python(IOCTL, Landlock(read=["/dev"], execute=PYTHON, ioctl=ioctl), **ROOT) == found


def test_descriptors_that_the_command_inherits_are_not_restricted(folder: Path) -> None:
    with (folder / "there" / "file").open() as file:
        assert run(["/bin/cat"], stdin=file, capture_output=True, setup=[sandbox()], **ROOT).stdout == b"text"


# ---- paths ----


def test_paths_are_those_of_the_new_root(folder: Path) -> None:
    steps = [Root("tmpfs"), *map(Bind, PROGRAMS), Bind(folder / "here", "/a"), Bind(folder / "there", "/b")]
    step = Landlock(read=["/a"], execute=PROGRAMS)
    assert outcome("cat /a/file", *steps, step, **ROOT) == "yes"
    assert outcome("cat /b/file", *steps, step, **ROOT) == "Permission denied"


def test_links_are_followed_when_the_command_starts(folder: Path) -> None:
    (folder / "link").symlink_to("there")
    step = sandbox(read=[folder / "link"])
    assert outcome(f"cat {folder}/there/file", step, **ROOT) == "yes"
    assert outcome(f"cat {folder}/here/file", step, **ROOT) == "Permission denied"


def test_a_path_that_does_not_exist(folder: Path) -> None:
    missing = str(folder / "missing")
    with pytest.raises(UsernsError) as caught:
        done("true", sandbox(read=[missing]), **ROOT)
    error = caught.value
    assert (error.step, error.call, error.errno, error.filename) == ("Landlock", "openat2", errno.ENOENT, missing)
    step = sandbox(read=[missing, folder / "here"], missing_ok=True)
    assert outcome(f"cat {folder}/here/file", step, **ROOT) == "yes"
    assert outcome(f"cat {folder}/there/file", step, **ROOT) == "Permission denied"


def test_a_magic_link_is_refused() -> None:
    with pytest.raises(UsernsError) as caught:
        done("true", sandbox(read=["/proc/self/root"]), **ROOT)
    assert (caught.value.errno, caught.value.cause) == (errno.ELOOP, "path-is-magic-link")
    assert caught.value.filename == "/proc/self/root"


def test_many_paths_need_few_descriptors(folder: Path) -> None:
    paths = [folder / "here" / f"file{n}" for n in range(300)]
    for path in paths:
        path.touch()
    script = f"cat {' '.join(map(str, paths))} && ls /proc/self/fd"
    assert seen(script, sandbox(read=[*paths, "/proc"]), **ROOT).split() == ["0", "1", "2", "3"]


# ---- TCP ----

TCP = """
import errno, socket
def attempt(call, *arguments):
    try:
        getattr(socket.socket(), call)(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "yes"
print(attempt("connect", ("127.0.0.1", {connect})), attempt("bind", ("127.0.0.1", {bind})))
"""


@pytest.fixture
def port() -> Iterator[int]:
    """One that can be connected to."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


@pytest.mark.parametrize(
    ("connect", "bind", "found"),
    [
        ((), (), "EACCES EACCES"),
        ("port", (), "yes EACCES"),
        ((), (0,), "EACCES yes"),
        ("port", (0,), "yes yes"),
        ((1, 2), (3,), "EACCES EACCES"),
        (None, (), "yes EACCES"),
        ((), None, "EACCES yes"),
        (None, None, "yes yes"),
    ],
)
def test_tcp_ports(connect: Any, bind: Any, found: str, port: int) -> None:
    step = Landlock(execute=PYTHON, tcp_connect=(port,) if connect == "port" else connect, tcp_bind=bind)
    assert python(TCP.format(connect=port, bind=0), step, **ROOT) == found


def test_the_same_port_for_both(port: int) -> None:
    step = Landlock(execute=PYTHON, tcp_connect=[port], tcp_bind=[port])
    assert python(TCP.format(connect=port, bind=port), step, **ROOT) == "yes EADDRINUSE"


# ---- scopes ----


def test_the_scope_of_abstract_unix_sockets() -> None:
    name = f"\\0usernsproc-{os.getpid()}"
    code = f"import socket; socket.socket(socket.AF_UNIX).connect('{name}')"
    with closing(socket.socket(socket.AF_UNIX)) as server:
        server.bind(f"\0usernsproc-{os.getpid()}")
        server.listen()
        command = [sys.executable, "-S", "-c", code]
        for scopes, status in (((), 0), (("signal",), 0), (("abstract_unix_socket",), 1)):
            result = run(command, capture_output=True, text=True, setup=[Landlock(scopes=scopes, **ALL)], **ROOT)
            assert result.returncode == status
            assert ("PermissionError" in result.stderr) == bool(status)


def test_the_scope_of_signals() -> None:
    script = f"kill -0 {os.getpid()}"
    assert outcome(script, Landlock(scopes=["abstract_unix_socket"], **ALL), **ROOT) == "yes"
    for scopes in (["signal"], ["signal", "abstract_unix_socket"]):
        assert outcome(script, Landlock(scopes=scopes, **ALL), **ROOT) in ("Operation not permitted", "")


# ---- the process ----


def test_it_sets_no_new_privs() -> None:
    assert status(Landlock(**ALL), **ROOT)["NoNewPrivs"] == "1"


def test_several_are_all_in_force(folder: Path) -> None:
    steps = sandbox(read=[folder]), sandbox(read=[folder / "here"])
    for both in (steps, steps[::-1]):
        assert outcome(f"cat {folder}/here/file", *both, **ROOT) == "yes"
        assert outcome(f"cat {folder}/there/file", *both, **ROOT) == "Permission denied"


def test_more_than_the_kernel_accepts() -> None:
    with pytest.raises(UsernsError) as caught:
        done("true", *[sandbox()] * 17, **ROOT)
    assert (caught.value.setup_index, caught.value.errno, caught.value.cause) == (16, errno.E2BIG, "landlock-layers")


def test_in_other_user_namespaces_and_with_an_init(folder: Path) -> None:
    step = sandbox(read=[folder / "here"])
    ways = [OWN, {**ROOT, "namespaces": ["pid"], "init": True}]
    with joined(ROOT) as options:
        for way in (*ways, options):
            assert outcome(f"cat {folder}/here/file", step, **way) == "yes"
            assert outcome(f"cat {folder}/there/file", step, **way) == "Permission denied"


def test_steps_that_mount_come_before_it() -> None:
    steps = [sandbox(read=["/mnt", "/proc"]), Tmpfs("/mnt"), NoUserNamespaces()]
    assert outcome("ls /mnt && grep -q ' /mnt tmpfs ' /proc/mounts", *steps, namespaces=["mnt"], **ROOT) == "yes"


def test_a_ruleset_that_was_made_elsewhere(folder: Path) -> None:
    """It handles nothing but making directories."""
    handled = struct.pack("=Q", 1 << 7)
    libc = ctypes.CDLL(None, use_errno=True)
    ruleset = native.must(libc.syscall(NR["landlock_create_ruleset"], handled, len(handled), 0))
    try:
        assert outcome(f"mkdir {folder}/new", Landlock(ruleset), **ROOT) == "Permission denied"
        assert outcome(f"touch {folder}/new && ls /proc/self/fd", Landlock(ruleset), **ROOT) == "yes"
    finally:
        os.close(ruleset)


def test_a_descriptor_that_is_closed() -> None:
    with pytest.raises(ValueError, match=r"setup\[0\]: Landlock\(ruleset=999\): descriptor 999 is closed"):
        done("true", Landlock(999), **ROOT)


def test_a_descriptor_of_another_file() -> None:
    with open("/dev/null") as file, pytest.raises(UsernsError) as caught:
        done("true", Landlock(file), **ROOT)
    assert (caught.value.step, caught.value.call, caught.value.errno) == (
        "Landlock",
        "landlock_restrict_self",
        errno.EBADFD,
    )


# ---- older kernels ----


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP])
def test_without_landlock(number: int) -> None:
    run_alone(setup_landlock.without_landlock, number)


@pytest.mark.parametrize(
    ("abi", "rules", "kernel"),
    [
        (1, {}, "6.10"),
        (4, {}, "6.10"),
        (5, {"scopes": ["signal"]}, "6.12"),
    ],
)
def test_a_part_that_the_kernel_lacks(
    abi: int, rules: dict[str, Any], kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usernsproc._system_calls.landlock_create_ruleset", lambda _: abi)
    with pytest.raises(UsernsError) as caught:
        done("true", sandbox(**rules), **ROOT)
    error = caught.value
    assert (error.step, error.setup_index, error.call) == ("Landlock", 0, "landlock_create_ruleset")
    assert (error.errno, error.cause) == (errno.EOPNOTSUPP, "kernel-too-old")
    assert f"requires Linux {kernel}" in error.__notes__[0]
    assert done("true", sandbox(best_effort=True, **rules), **ROOT).returncode == 0


def test_with_best_effort_the_rest_is_in_force(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """As a kernel with version 1 has it: no truncation, no devices, no TCP, no scopes."""
    monkeypatch.setattr("usernsproc._system_calls.landlock_create_ruleset", lambda _: 1)
    rules: dict[str, Any] = {"best_effort": True, "scopes": ["signal"], "ioctl": ["/dev/null"], "execute": PYTHON}
    step = Landlock(read=["/dev"], **rules)
    assert outcome(f"truncate --size 1 {folder}/here/file", step, **ROOT) == "Permission denied"
    assert python(IOCTL, step, **ROOT) == "ENOTTY"
    assert python(TCP.format(connect=1, bind=0), step, **ROOT) == "ECONNREFUSED yes"
    assert outcome(f"kill -0 {os.getpid()}", step, **ROOT) == "yes"


@pytest.mark.parametrize("abi", range(1, 7))
def test_each_version_is_a_ruleset_that_the_kernel_accepts(abi: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("usernsproc._system_calls.landlock_create_ruleset", lambda _: abi)
    assert done("true", Landlock(best_effort=True, **ALL), **ROOT).returncode == 0


# ---- values ----


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: Landlock(read="/etc"), TypeError, "Landlock: read is several paths"),
        (lambda: Landlock(write=["etc"]), ValueError, "Landlock: write is an absolute path"),
        (lambda: Landlock(execute=["/a/../b"]), ValueError, "execute leads upwards"),
        (lambda: Landlock(ioctl=["/a\0"]), ValueError, "null byte"),
        (lambda: Landlock(tcp_bind=[65536]), ValueError, "Landlock: tcp_bind is a number from 0 to 65535"),
        (lambda: Landlock(tcp_connect=["http"]), TypeError, "tcp_connect is a number"),  # type: ignore[list-item]
        (lambda: Landlock(scopes="signal"), TypeError, "scopes are several names"),
        (lambda: Landlock(scopes=["signals"]), ValueError, "a scope is one of 'abstract_unix_socket', 'signal'"),
        (lambda: Landlock(5, read=["/"]), ValueError, r"a ruleset has its rules: read=\('/',\) cannot be"),
        (lambda: Landlock(-1), ValueError, "Landlock: ruleset is a number"),
    ],
)
def test_wrong_values(make: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        make()


def test_it_is_a_value() -> None:
    step = Landlock(read=["/etc/", Path("/usr")], tcp_bind=None, scopes=["signal"])
    assert (
        step == pickle.loads(pickle.dumps(step)) == Landlock(read=("/etc", "/usr"), tcp_bind=None, scopes=("signal",))
    )
    assert hash(step) != hash(Landlock())
    assert repr(step) == "Landlock(read=('/etc', '/usr'), tcp_bind=None, scopes=('signal',))"
