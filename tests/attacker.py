"""Root in a user namespace, which tries every attack on one process.

As a module: `attack` starts one against a process and returns the results. As a
program: the attacker. It is started outside, by the user that runs the tests, and enters the
namespace when it has imported all modules: in the namespace it may have no access to the
interpreter's files.

It knows where in memory the secret was, and it knows the secret as well, so that
it can recognize it: reversed, so that it does not find its own copy.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

REFUSED = frozenset({"EPERM", "EACCES"})
SECRET = "secret found"
READ = "read, no secret"
WRITTEN = "written"
PIDFD = "a pidfd"

DESCRIPTORS = range(64)
"""Those that it tries to take."""

CLONE_NEWUSER = 0x10000000
CLONE_NEWNS = 0x00020000
CLONE_NEWNET = 0x40000000
PTRACE_PEEKDATA, PTRACE_POKEDATA, PTRACE_ATTACH, PTRACE_DETACH = 2, 5, 16, 17
WALL = 0x40000000
LARGEST_MAPPING = 1 << 28
SYS_PIDFD_GETFD = 438

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.restype = ctypes.c_long
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.process_vm_readv.restype = _libc.process_vm_writev.restype = ctypes.c_ssize_t


def attack(pid: int, userns: int, secret: bytes, address: int) -> dict[str, str]:
    """Return what root in the namespace *userns* (a descriptor) achieves on process *pid*, by attack:
    `REFUSED`, another errno's name, or one of the other constants."""
    request = {"pid": pid, "userns": userns, "terces": secret[::-1].hex(), "address": address}
    return dict(json.loads(_run("attack", request)))


def kill(pid: int, userns: int) -> None:
    """Root in the namespace *userns* kills process *pid*."""
    _run("kill", {"pid": pid, "userns": userns})


def _run(what: str, request: dict[str, object]) -> str:
    return subprocess.run(
        [sys.executable, "-I", "-S", __file__, what, json.dumps(request)],
        pass_fds=[int(str(request["userns"]))],
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    ).stdout


# ---- the program ----


def _must(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def become_root_in(userns: int) -> None:
    """Get all capabilities in the namespace, and ID 0 if it is mapped."""
    _must(_libc.setns(userns, CLONE_NEWUSER))
    steps: tuple[Callable[[], None], ...] = (
        lambda: os.setgroups([]),
        lambda: os.setresgid(0, 0, 0),
        lambda: os.setresuid(0, 0, 0),
    )
    for step in steps:
        try:
            step()
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EPERM):  # 0 not mapped, setgroups denied
                raise


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class Victim:
    def __init__(self, pid: int, secret: bytes, address: int) -> None:
        self.pid, self.secret, self.address = pid, secret, address
        self.size = len(secret)
        self.mark = b"\xee" * self.size
        self.pidfd = os.pidfd_open(pid)

    def attacks(self) -> Iterator[tuple[str, Callable[[], bytes | str]]]:
        yield "mem, all mappings", self.read_mappings
        yield "mem, the secret's address", self.read_mem
        yield "process_vm_readv", self.vm_read
        yield "ptrace, peek", lambda: self.traced(self.peek)
        yield "environ", lambda: self.read("environ")
        yield "root", lambda: "".join(os.listdir(f"/proc/{self.pid}/root/")).encode()
        yield "cwd", lambda: "".join(os.listdir(f"/proc/{self.pid}/cwd/")).encode()
        yield "exe", lambda: self.read("exe")
        for n in DESCRIPTORS:
            yield f"getfd {n}", lambda n=n: self.what_is(_getfd(self.pidfd, n))  # type: ignore[misc]
        for name, flag in (("user", CLONE_NEWUSER), ("mnt", CLONE_NEWNS), ("net", CLONE_NEWNET)):
            yield f"setns {name}", lambda flag=flag: _setns(self.pidfd, flag)  # type: ignore[misc]
        yield "mem, write", self.write_mem
        yield "process_vm_writev", self.vm_write
        yield "ptrace, poke", lambda: self.traced(self.poke)

    def outcome(self, attempt: Callable[[], bytes | str]) -> str:
        try:
            result = attempt()
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        if isinstance(result, bytes):
            return SECRET if self.secret in result else READ
        return result

    def read(self, name: str) -> bytes:
        with open(f"/proc/{self.pid}/{name}", "rb") as file:
            return file.read()

    def read_mappings(self) -> bytes:
        found = b""
        with open(f"/proc/{self.pid}/maps") as maps, open(f"/proc/{self.pid}/mem", "rb", buffering=0) as mem:
            for line in maps:
                start, end = (int(address, 16) for address in line.split()[0].split("-"))
                try:
                    content = os.pread(mem.fileno(), min(end - start, LARGEST_MAPPING), start)
                except (OSError, OverflowError):
                    continue  # the kernel's own, or a guard page
                if self.secret in content:
                    found += content
        return found

    def read_mem(self) -> bytes:
        with open(f"/proc/{self.pid}/mem", "rb", buffering=0) as mem:
            return os.pread(mem.fileno(), self.size, self.address)

    def write_mem(self) -> str:
        with open(f"/proc/{self.pid}/mem", "r+b", buffering=0) as mem:
            os.pwrite(mem.fileno(), self.mark, self.address)
        return WRITTEN

    def vm(self, call: Callable[..., int], buffer: ctypes.Array[ctypes.c_char]) -> None:
        own = _Vector(ctypes.addressof(buffer), self.size)
        its = _Vector(self.address, self.size)
        _must(call(self.pid, ctypes.byref(own), 1, ctypes.byref(its), 1, 0))

    def vm_read(self) -> bytes:
        buffer = ctypes.create_string_buffer(self.size)
        self.vm(_libc.process_vm_readv, buffer)
        return buffer.raw

    def vm_write(self) -> str:
        self.vm(_libc.process_vm_writev, ctypes.create_string_buffer(self.mark, self.size))
        return WRITTEN

    def traced(self, attempt: Callable[[], bytes | str]) -> bytes | str:
        _must(_libc.ptrace(PTRACE_ATTACH, self.pid, None, None))
        os.waitpid(self.pid, WALL)
        try:
            return attempt()
        finally:
            _libc.ptrace(PTRACE_DETACH, self.pid, None, None)

    def words(self) -> range:
        return range(self.address, self.address + self.size, ctypes.sizeof(ctypes.c_long))

    def peek(self) -> bytes:
        found = b""
        for at in self.words():
            ctypes.set_errno(0)
            word = _libc.ptrace(PTRACE_PEEKDATA, self.pid, at, None)
            if ctypes.get_errno():
                _must(-1)
            found += int(word).to_bytes(ctypes.sizeof(ctypes.c_long), sys.byteorder, signed=True)
        return found

    def poke(self) -> str:
        word = int.from_bytes(self.mark[: ctypes.sizeof(ctypes.c_long)], sys.byteorder)
        for at in self.words():
            _must(_libc.ptrace(PTRACE_POKEDATA, self.pid, at, word))
        return WRITTEN

    def what_is(self, fd: int) -> bytes | str:
        """Describe a descriptor that was obtained. A pidfd is tried as a way to its process."""
        try:
            link = os.readlink(f"/proc/self/fd/{fd}")
            if "pidfd" in link:
                return self.through(fd)
            try:
                return os.pread(fd, 1 << 16, 0)
            except OSError:
                return link
        finally:
            os.close(fd)

    def through(self, pidfd: int) -> str:
        outcomes = {self.outcome(lambda n=n: self.what_is(_getfd(pidfd, n))) for n in DESCRIPTORS}  # type: ignore[misc]
        outcomes |= {self.outcome(lambda f=f: _setns(pidfd, f)) for f in (CLONE_NEWUSER, CLONE_NEWNS)}  # type: ignore[misc]
        return PIDFD if outcomes <= REFUSED else f"{PIDFD}, through which: {outcomes}"


def _getfd(pidfd: int, number: int) -> int:
    return _must(_libc.syscall(SYS_PIDFD_GETFD, pidfd, number, 0))


def _setns(fd: int, flags: int) -> str:
    _must(_libc.setns(fd, flags))
    return "entered"


def main() -> None:
    what, request = sys.argv[1], json.loads(sys.argv[2])
    pid = request["pid"]
    if what == "kill":
        become_root_in(request["userns"])
        os.kill(pid, signal.SIGKILL)
        return
    victim = Victim(pid, bytes.fromhex(request["terces"])[::-1], request["address"])
    become_root_in(request["userns"])
    print(json.dumps({name: victim.outcome(attempt) for name, attempt in victim.attacks()}))


if __name__ == "__main__":
    main()
