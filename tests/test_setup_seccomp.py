"""The set-up step `Seccomp`, and programs of libseccomp for it."""

from __future__ import annotations

import errno
import os
import pickle
import signal
import struct
import sys
import tempfile
from pathlib import Path
from typing import Any

import native
import pyseccomp
import pytest
from alone import run_alone
from programs import setup_seccomp
from step_processes import NEW, OWN, ROOT, done, joined, seen, status

from usernsproc import UsernsError, run
from usernsproc._system_calls import NR
from usernsproc.setup import Capabilities, Seccomp, Step, Tmpfs
from usernsproc.setup.seccomp import deny

ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


def instruction(code: int, yes: int, no: int, value: int) -> bytes:
    return struct.pack("@HBBI", code, yes, no, value)


def program(name: str, action: int, otherwise: int = ALLOW) -> bytes:
    """One system call, on the architecture of this process."""
    return b"".join(
        (
            instruction(0x20, 0, 0, 0),
            instruction(0x15, 0, 1, NR[name]),
            instruction(0x06, 0, 0, action),
            instruction(0x06, 0, 0, otherwise),
        )
    )


ALLOW_ALL = instruction(0x06, 0, 0, ALLOW)
NO_HOSTNAME = program("sethostname", ERRNO | errno.ENOTTY)
HOSTNAME = "import socket; socket.sethostname('x')"
UTS: dict[str, Any] = {"namespaces": ["uts"]}


def python(code: str, *steps: Step, **options: Any) -> str:
    """What an interpreter says at its end."""
    command = [sys.executable, "-S", "-c", code]
    result = run(command, capture_output=True, text=True, setup=steps, timeout=60, check=False, **options)
    return str(result.stderr).strip().rpartition("\n")[2] if result.returncode else str(result.stdout).strip()


# ---- what a filter does ----


@pytest.mark.parametrize("options", NEW)
@pytest.mark.parametrize("more", [{}, {"init": True, "namespaces": ["uts", "pid"]}], ids=["", "init"])
def test_a_call_fails_with_the_errno_of_the_program(options: dict[str, Any], more: dict[str, Any]) -> None:
    result = done("hostname x", Seccomp(program("sethostname", ERRNO | errno.EINVAL)), **{**options, **UTS, **more})
    assert (result.returncode, result.stderr) == (1, "hostname: name too long\n")


def test_in_a_user_namespace_that_is_joined_and_in_the_callers_own() -> None:
    with joined(ROOT) as options:
        assert python(HOSTNAME, Seccomp(NO_HOSTNAME), **options, **UTS).startswith("OSError: [Errno 25]")
    assert python(HOSTNAME, Seccomp(NO_HOSTNAME), **OWN).startswith("OSError: [Errno 25]")


def test_it_sets_no_new_privs_and_is_shown() -> None:
    found = status(Seccomp(ALLOW_ALL), Seccomp(ALLOW_ALL), **ROOT)
    assert (found["NoNewPrivs"], found["Seccomp"], found["Seccomp_filters"]) == ("1", "2", "2")
    assert status(**ROOT)["NoNewPrivs"] == "0"


def test_it_is_for_the_command_and_not_for_the_init_above_it() -> None:
    script = "grep -E '^Seccomp:' /proc/1/status /proc/self/status"
    options = {**ROOT, "namespaces": ["pid"], "init": True, "mount_proc": True}
    assert seen(script, Seccomp(ALLOW_ALL), **options).split()[1::2] == ["0", "2"]


def test_a_call_that_kills_is_the_signal_of_the_command() -> None:
    command = [sys.executable, "-S", "-c", HOSTNAME]
    result = run(command, setup=[Seccomp(program("sethostname", KILL))], check=False, **ROOT, **UTS)
    assert result.returncode == -signal.SIGSYS


def test_a_program_that_kills_at_exec() -> None:
    assert done("true", Seccomp(program("execve", KILL)), **ROOT).returncode == -signal.SIGSYS


def test_a_program_that_refuses_exec_is_an_error_of_exec() -> None:
    with pytest.raises(UsernsError) as caught:
        done("true", Seccomp(program("execve", ERRNO | errno.EPERM)), **ROOT)
    error = caught.value
    assert (error.step, error.errno, error.cause) == ("exec", errno.EPERM, "seccomp-exec")
    assert "refuses execve(2)" in error.__notes__[0]


def test_it_is_the_last_thing_before_exec() -> None:
    """A program may refuse whatever set-up steps, IDs and signals need."""
    names = {"prctl", "setresuid", "setresgid", "capset", "mount", "openat2", "move_mount", "umask", "fchdir"} & {*NR}
    steps = [Seccomp(deny(names)), Tmpfs("/mnt"), Capabilities(["chown"])]
    assert seen("grep -c ' /mnt tmpfs ' /proc/mounts", *steps, namespaces=["mnt"], **ROOT) == "1\n"


def test_several_in_order() -> None:
    """The second is installed under the first."""
    steps = Seccomp(NO_HOSTNAME), Seccomp(program("setdomainname", ERRNO | errno.EIO))
    both = "import ctypes; c = ctypes.CDLL(None, use_errno=True); "
    both += "print(*((c[n](b'x', 1), ctypes.get_errno()) for n in ('sethostname', 'setdomainname')))"
    assert python(both, *steps, **ROOT, **UTS) == f"(-1, {errno.ENOTTY}) (-1, {errno.EIO})"


def test_one_that_refuses_the_next() -> None:
    with pytest.raises(UsernsError) as caught:
        done("true", Seccomp(program("prctl", ERRNO | errno.EPERM)), Seccomp(ALLOW_ALL), **ROOT)
    error = caught.value
    assert (error.step, error.setup_index, error.call) == ("Seccomp", 1, "prctl")
    assert (error.errno, error.cause) == (errno.EPERM, "seccomp-refused")


def test_a_program_that_the_kernel_refuses() -> None:
    with pytest.raises(UsernsError) as caught:
        done("true", Seccomp(instruction(0x15, 9, 9, 0)), **ROOT)
    assert (caught.value.step, caught.value.errno, caught.value.cause) == ("Seccomp", errno.EINVAL, "seccomp-program")


def test_a_kernel_that_does_not_let_it() -> None:
    run_alone(setup_seccomp.without_seccomp)


def test_as_long_as_possible() -> None:
    longest = instruction(0x20, 0, 0, 0) * 4095 + ALLOW_ALL
    assert done("true", Seccomp(longest), **ROOT).returncode == 0


# ---- what is passed ----


def test_a_descriptor_is_read_to_the_end() -> None:
    with tempfile.TemporaryFile() as file:
        file.write(NO_HOSTNAME)
        for passed in (file, file.fileno()):
            file.seek(0)
            assert Seccomp(passed) == Seccomp(NO_HOSTNAME)
        file.seek(8)
        assert Seccomp(file).program == NO_HOSTNAME[8:]


def test_a_pipe() -> None:
    source, sink = os.pipe()
    os.write(sink, NO_HOSTNAME)
    os.close(sink)
    assert Seccomp(source) == Seccomp(NO_HOSTNAME)
    os.close(source)


def test_other_objects_that_contain_bytes() -> None:
    assert Seccomp(bytearray(ALLOW_ALL)) == Seccomp(memoryview(ALLOW_ALL)) == Seccomp(ALLOW_ALL)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (b"", ValueError, "Seccomp: a program is instructions of 8 bytes each, not 0 bytes"),
        (bytes(9), ValueError, "not 9 bytes"),
        (bytes(8 * 4097), ValueError, "at most 4096 instructions, not 4097"),
        ("mount", TypeError, "Seccomp: program"),
        (-1, ValueError, "Seccomp: program is a number from 0"),
    ],
)
def test_wrong_programs(value: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Seccomp(value)


def test_a_descriptor_that_cannot_be_read(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file, pytest.raises(OSError, match="Bad file descriptor"):
        Seccomp(file)


def test_it_is_a_value() -> None:
    step = Seccomp(ALLOW_ALL)
    assert step == pickle.loads(pickle.dumps(step))
    assert step != Seccomp(NO_HOSTNAME)
    assert repr(step) == f"Seccomp({ALLOW_ALL!r})"


# ---- libseccomp ----


def test_a_program_that_libseccomp_writes() -> None:
    made = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
    made.add_rule(pyseccomp.ERRNO(errno.ENOTTY), "sethostname")
    with tempfile.TemporaryFile() as file:
        made.export_bpf(file)
        file.seek(0)
        assert python(HOSTNAME, Seccomp(file), **ROOT, **UTS).startswith("OSError: [Errno 25]")


def test_deny() -> None:
    step = Seccomp(deny(["sethostname", "setdomainname"]))
    assert python(HOSTNAME, step, **ROOT, **UTS).startswith("PermissionError: [Errno 1]")
    assert python("print(5)", step, **ROOT) == "5"
    assert python(HOSTNAME, Seccomp(deny(["sethostname"], errno=errno.ENOTTY)), **ROOT, **UTS).startswith(
        "OSError: [Err"
    )


def test_deny_nothing() -> None:
    assert seen("echo 5", Seccomp(deny([])), **ROOT) == "5\n"


OTHER_ARCHITECTURES = """
import ctypes, mmap, struct
def of_i386(number):
    code = mmap.mmap(-1, 4096, prot=7)
    code.write(bytes.fromhex("53 31db 31c9 31d2 b8") + struct.pack("<I", number) + bytes.fromhex("cd80 5b c3"))
    return ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()
def of_x32(number):
    c = ctypes.CDLL(None, use_errno=True)
    return c.syscall(0x40000000 | number, 0, 0, 0, 0, 0) and -ctypes.get_errno()
import os
print(of_i386(74), of_x32(170), of_i386(20) == os.getpid())
"""


if native.MACHINE == "x86_64":

    def test_deny_on_all_architectures_of_x86() -> None:
        """sethostname of i386 and of x32; getpid of i386 is allowed."""
        step = Seccomp(deny(["sethostname"], errno=errno.ENOTTY))
        assert python(OTHER_ARCHITECTURES, step, **ROOT, **UTS) == f"-{errno.ENOTTY} -{errno.ENOTTY} True"


@pytest.mark.parametrize(
    ("names", "error", "text"),
    [
        (["mount", "mountt"], ValueError, "deny: libseccomp does not know the system call 'mountt'"),
        ("mount", TypeError, "deny takes several names"),
    ],
)
def test_wrong_names(names: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        deny(names)


def test_without_the_extra() -> None:
    run_alone(setup_seccomp.without_pyseccomp)
