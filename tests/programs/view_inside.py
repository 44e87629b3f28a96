"""What a command finds in a sandbox, as JSON. It runs with the system's Python, without this package."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import socket
import stat
import struct
import sys
from pathlib import Path
from typing import Any

KINDS = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")
OPTIONS = {"ro", "nosuid", "nodev", "noexec"}
SIOCGIFFLAGS = 0x8913
IFF_UP = 1
MOST_DEPTH = 3
STATUS = {
    *("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters"),
    *("Uid", "Gid", "Groups", "SigBlk", "SigIgn", "Umask"),
}


def mounts() -> dict[str, list[Any]]:
    """By mount point, the uppermost: type, options, whether mounts of the host arrive there."""
    found: dict[str, list[Any]] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        middle = fields.index("-")
        propagation = sorted(field.partition(":")[0] for field in fields[6:middle])
        options = sorted(OPTIONS.intersection(fields[5].split(",")))
        found[fields[4]] = [fields[middle + 1], options, propagation]
    return found


def files(points: list[str], of_the_caller: dict[str, int]) -> dict[str, list[Any]]:
    """Mount points, what lies in `/`, and what was created beneath it: kind, permissions, owner, target of a link,
    whether it is a mount point."""
    found: dict[str, list[Any]] = {}
    new = [path for path in of_the_caller if os.path.isdir(path) and os.stat(path).st_dev != of_the_caller[path]]
    for path in (*points, *_below("/", MOST_DEPTH), *(below for directory in new for below in _below(directory))):
        try:
            status = os.lstat(path)
        except OSError as error:
            found[path] = [error.strerror]
            continue
        kind = stat.S_IFMT(status.st_mode)
        link = os.readlink(path) if stat.S_ISLNK(kind) else ""
        found[path] = [kind, stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, link, path in points]
    return found


def _below(directory: str, depth: int = 1) -> list[str]:
    try:
        paths = [os.path.join(directory, name) for name in sorted(os.listdir(directory))]
    except OSError:
        return []
    deeper = [path for path in paths if depth < MOST_DEPTH and os.path.isdir(path) and not os.path.islink(path)]
    return paths + [name for path in deeper for name in _below(path, depth + 1)]


def writable(points: list[str]) -> list[str]:
    return sorted(point for point in points if os.access(point, os.W_OK))


def status() -> dict[str, str]:
    text = Path("/proc/self/status").read_text()
    return {
        name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines()) if name in STATUS
    }


def mapped(name: str) -> list[list[str]]:
    """The IDs inside, and how many."""
    return [line.split()[::2] for line in Path(f"/proc/self/{name}").read_text().splitlines()]


def loopback_is_up() -> bool:
    request = struct.pack("16sH22x", b"lo", 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        flags = struct.unpack("16sH22x", fcntl.ioctl(any_socket, SIOCGIFFLAGS, request))[1]
    return bool(flags & IFF_UP)


def main(of_the_caller: dict[str, int], directories: dict[str, int], session: int) -> None:
    """The arguments: the caller's namespaces, the devices of some of its directories, and its session."""
    seen = mounts()
    new = [kind for kind in KINDS if os.stat(f"/proc/self/ns/{kind}").st_ino != of_the_caller[kind]]
    print(
        json.dumps(
            {
                "mounts": seen,
                "files": files(list(seen), directories),
                "writable": writable(list(seen)),
                "status": status(),
                "uid_map": mapped("uid_map"),
                "gid_map": mapped("gid_map"),
                "setgroups": Path("/proc/self/setgroups").read_text(),
                "namespaces": new,
                "limits": {str(number): resource.getrlimit(number) for number in range(resource.RLIM_NLIMITS)}
                if hasattr(resource, "RLIM_NLIMITS")
                else {str(number): resource.getrlimit(number) for number in range(16)},
                "session is the caller's": os.getsid(0) == session,
                "session of its own": os.getsid(0) == os.getpid() or ("pid" in new and os.getsid(0) == 1),
                "is PID 1": os.getpid() == 1,
                "hostname": socket.gethostname(),
                "environment": dict(os.environ),
                "cwd": os.getcwd(),
                "descriptors": [fd for fd in range(256) if _is_open(fd)],
                "size of /tmp": os.statvfs("/tmp").f_blocks if os.path.ismount("/tmp") else "",
                "nice": os.getpriority(os.PRIO_PROCESS, 0),
                "loopback": loopback_is_up(),
                "signals": [str(signal.getsignal(n)) for n in (signal.SIGPIPE, signal.SIGCHLD, signal.SIGHUP)],
                "/proc/sys can be written": os.access("/proc/sys/kernel/hostname", os.W_OK),
                "argument 0": Path("/proc/self/cmdline").read_bytes().split(b"\0")[0].decode(),
            }
        )
    )


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
