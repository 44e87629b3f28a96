"""Lists of set-up steps for common needs, to be used, or to be read and copied."""

from __future__ import annotations

import os

from .._typing import TYPE_CHECKING
from .file_systems import Bind, Dev, Proc, Root, Tmpfs
from .files import Remount, Symlink
from .names import Loopback, SessionKeyring
from .privileges import Capabilities, NoUserNamespaces
from .process import Rlimit
from .signals import Signals

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .step import Path, Step

_BESIDE_USR = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")
_ETC = (
    *("alternatives", "ca-certificates", "crypto-policies", "group", "hosts", "ld.so.cache", "ld.so.conf"),
    *("ld.so.conf.d", "localtime", "nsswitch.conf", "passwd", "pki/ca-trust", "pki/tls/certs", "protocols"),
    *("resolv.conf", "services", "ssl/certs", "ssl/openssl.cnf"),
)
"""What common programs and the C library read, and no secrets."""


def host_read_only(write: Iterable[Path] = ()) -> list[Step]:
    """The file system of the caller, read-only except for the paths in *write*, and a minimal `/dev`.

    Args:
        write: paths of the host that the command can write to, with the mounts below them. The temporary directory
            belongs to them if the command needs one; `Tmpfs("/tmp")` after this list is an empty one.

    `/proc` is read-only as well: add `Proc()` for a program that writes there, such as ID maps.

    It protects files outside of *write* from being changed, created, renamed or removed, on all mounts, whatever
    the user ID of the command. Device nodes do not work, except those of `Dev`.

    It does **not** protect:

    * what the caller can read: keys, passwords, other users' processes in `/proc`. All of it is readable.
    * what is reached by other means than writing files: the network, Unix sockets such as those of D-Bus or of a
      container engine, the caller's terminal, System V memory. A service behind a socket may write files for the
      command.
    * from a command with `CAP_SYS_ADMIN` in its user namespace, which can make the mounts writable again: user 0 in the
      namespace has it. Run the command as another user ID, or add `Capabilities()`.
    """
    return [Root("/"), Remount("/", recursive=True), Dev(), *(Bind(path) for path in write)]


def minimal_root(
    read: Iterable[Path] = (), write: Iterable[Path] = (), *, tmp_size: int | str | None = None
) -> list[Step]:
    """A new root with the programs of the host, and with little else: `/usr` read-only, parts of `/etc` read-only, an
    empty `/tmp`, `/dev` and `/proc`.

    Args:
        read: further paths of the host that the command can read, at the same place.
        write: paths that it can write to, at the same place.
        tmp_size: of `/tmp`, as of `Tmpfs`.

    `/bin`, `/lib`, `/sbin` and so on are links into `/usr` or directories, as on the host. Of `/etc` there is what
    the dynamic linker, the name service, time zones and TLS need; `read=["/etc"]` shows all of it. `/proc` requires
    `namespaces=["pid"]`, and shows the processes of that namespace alone.

    It protects all other files of the host, also from being read: home directories, `/var`, `/run` with its
    sockets, `/root`, `/boot`, `/sys`, other users' processes. Nothing is writable but `/tmp`, `/dev` and *write*,
    and what is in the first two is gone with the command.

    It does **not** protect:

    * the network, with the abstract Unix sockets in it: pass `namespaces=["net"]` as well.
    * secrets in `/usr`, and in what *read* and *write* contain. Sockets in them can be connected to.
    * the memory of the host, which `/tmp` and `/dev/shm` use: see *tmp_size*, and `cgroup`.
    * from a command that has `CAP_SYS_ADMIN` in its user namespace: it can make the mounts writable again, and write
      what its user ID outside is allowed to write. Run it as another user ID than 0, or add `Capabilities()`.
    """
    steps: list[Step] = [Root("tmpfs"), Bind("/usr", read_only=True)]
    for name in _BESIDE_USR:
        if os.path.islink(f"/{name}"):
            steps.append(Symlink(os.readlink(f"/{name}"), f"/{name}"))
        else:
            steps.append(Bind(f"/{name}", read_only=True, missing_ok=True))
    steps += (Bind(f"/etc/{name}", read_only=True, missing_ok=True) for name in _ETC)
    steps += (Tmpfs("/tmp", mode=0o1777, size=tmp_size), Dev(), Proc())
    steps += (Bind(path, read_only=True) for path in read)
    steps += (Bind(path) for path in write)
    steps.append(Remount("/"))
    return steps


def untrusted(
    read: Iterable[Path] = (),
    write: Iterable[Path] = (),
    *,
    memory: int = 1 << 30,
    processes: int = 100,
    cpu_seconds: int = 60,
    file_size: int = 100 << 20,
) -> list[Step]:
    """For a program that is not trusted: `minimal_root` without network, capabilities and user namespaces, and limits.

    Args:
        read: further paths of the host that the command can read, at the same place.
        write: paths that it can write to, at the same place.
        memory: bytes of address space of each process (`RLIMIT_AS`), and of `/tmp`.
        processes: how many processes and threads the user has in the user namespace (`RLIMIT_NPROC`).
        cpu_seconds: of each process (`RLIMIT_CPU`): `SIGXCPU`, and a second later `SIGKILL`.
        file_size: bytes of each file that is written (`RLIMIT_FSIZE`).

    It requires `namespaces=["pid", "net", "ipc", "uts"]` with `init=True`, and maps that contain no ID that owns
    files on the host: `uid_map="subids"`, or as root for example `uid_map="0:100000:65536"` and the same `gid_map`.
    Pass `no_new_privs=True`, `start_new_session=True` and a `timeout` as well.

    In addition to `minimal_root` it protects from: the network and abstract Unix sockets (only 127.0.0.1 of a
    network of its own exists); any use of capabilities, also by set-user-ID programs; the parts of the kernel that
    only the root of a user namespace reaches; a fork bomb; core dumps; the caller's keys. What it has in *read*,
    *write* and open descriptors remains.

    It does **not** protect:

    * from a fault of the kernel: all system calls are possible. Add a `Seccomp` program, or use a virtual machine.
    * the whole machine from load: the limits are for each process, and there are *processes* of them. A `cgroup`
      with `memory.max` and `cpu.max` limits their sum.
    * disk space in *write*; what is read from there afterwards: do not follow links that the command has left.
    * the time that it takes: pass `timeout` to `run`.
    * what the command prints: do not show it on a terminal unfiltered.
    """
    return [
        *minimal_root(read, write, tmp_size=memory),
        Loopback(),
        SessionKeyring(),
        Signals(default="all"),
        Rlimit("AS", memory),
        Rlimit("NPROC", processes),
        Rlimit("CPU", cpu_seconds, cpu_seconds + 1),
        Rlimit("FSIZE", file_size),
        Rlimit("CORE", 0),
        Capabilities(),
        NoUserNamespaces(),
    ]
