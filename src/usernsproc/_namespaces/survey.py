"""What `/proc` tells about namespaces: who is in them, and what else holds them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from errno import EACCES, EAGAIN, EINVAL, EMFILE, ENFILE, ENOMEM, EPERM, EXDEV

from .. import _core
from .._proc import list_in, open_root, proc_error, read_in, read_stat
from .._typing import TYPE_CHECKING
from .kind import NamespaceKind
from .pin import nsfs_device

if TYPE_CHECKING:
    from typing_extensions import TypeAlias

Route: TypeAlias = "tuple[str | int, ...]"
"""A way to a namespace: a path, or its number in the kernel's list, and then the
`ioctl_ns(2)` requests that lead from there to an owner or a parent."""

_LINK = re.compile(r"(\w+):\[(\d+)\]")
_OCTAL = re.compile(r"\\([0-7]{3})")
_MEMBER_LINKS = tuple(str(kind) for kind in NamespaceKind)
# Of these, children that are made later will be members.
_CHILDREN_LINKS = ("pid_for_children", "time_for_children")


_PF_KTHREAD = 0x00200000

# What has gone, or may not be seen, is left out of a list. What is missing for want of
# descriptors, memory or processes must not be.
SHORTAGE = frozenset({EMFILE, ENFILE, ENOMEM, EAGAIN})


class Found:
    """What is known of one namespace."""

    __slots__ = ("detours", "gid_map", "links", "owner", "owner_uid", "parent", "pids", "pins", "uid_map")

    def __init__(self) -> None:
        self.owner: int | None = None
        self.owner_uid: int | None = None
        self.parent: int | None = None
        self.pids: set[int] = set()
        self.pins: list[str] = []
        self.links: list[str] = []
        self.detours: list[Route] = []
        self.uid_map: str | None = None
        self.gid_map: str | None = None

    @property
    def routes(self) -> list[Route]:
        """The ways to it, links of `/proc` first: the path of a pin can lead through a file system
        that does not answer."""
        return [*((link,) for link in self.links), *((path,) for path in self.pins[:ENOUGH]), *self.detours]


ENOUGH = 4  # ways, that one of them is there when it is asked for


class Survey:
    """One look at all processes. Those that end meanwhile are no error."""

    def __init__(self) -> None:
        self.device = nsfs_device()
        self._proc = -1
        self.found: dict[tuple[NamespaceKind, int], Found] = {}
        self.unseen: set[int] = set()
        self._seen_roots: set[tuple[bytes, int, int]] = set()
        self._seen_mounts: set[str] = set()

    def at(self, kind: NamespaceKind, inode: int) -> Found:
        return self.found.setdefault((kind, inode), Found())

    def look_at_processes(self) -> None:
        """Raises: UsernsError: step `open_proc`: there is no `/proc`, or it is forged."""
        try:
            with open_root() as self._proc:
                self._look_at_mounts("thread-self", "")
                for name in list_in(self._proc, "."):
                    if name.isdigit():
                        self._try_to_look_at_process(int(name))
        except OSError as error:
            raise proc_error("open_proc", error, error.filename or "/proc") from None

    def _try_to_look_at_process(self, pid: int) -> None:
        try:
            self._look_at_process(pid)
        except (FileNotFoundError, ProcessLookupError):
            pass  # it has ended
        except OSError as error:
            if error.errno == EINVAL:
                return  # it is about to end, and has no mounts any more
            if error.errno not in (EACCES, EPERM):
                raise
            if self._is_running_program(pid):
                self.unseen.add(pid)

    def _look_at_process(self, pid: int) -> None:
        base = str(pid)
        for task in list_in(self._proc, f"{base}/task"):
            self._look_at_thread(pid, f"{base}/task/{task}")
        self._look_at_mounts(base, f"/proc/{base}/root")
        for fd in list_in(self._proc, f"{base}/fd"):
            self._follow_link(f"{base}/fd/{fd}")

    def _look_at_thread(self, pid: int, base: str) -> None:
        """*base*, as all paths here: in `/proc`."""
        for name in _MEMBER_LINKS:
            found = self._follow_link(f"{base}/ns/{name}")
            if found is not None:
                found.pids.add(pid)
                if name == NamespaceKind.USER and found.uid_map is None:
                    found.uid_map, found.gid_map = self._map_text(base, "uid_map"), self._map_text(base, "gid_map")
        for name in _CHILDREN_LINKS:
            self._follow_link(f"{base}/ns/{name}")

    def _follow_link(self, path: str) -> Found | None:
        try:
            found = self._named(os.fsdecode(_core.read_link(self._proc, path)))
        except (FileNotFoundError, ProcessLookupError):
            return None  # it has ended, or been closed; or there is no such kind on this kernel
        if found is not None and len(found.links) < ENOUGH:
            found.links.append(f"/proc/{path}")
        return found

    def _named(self, name: str) -> Found | None:
        match = _LINK.fullmatch(name)
        if match is None or match[1] not in _MEMBER_LINKS:
            return None  # an open file, a socket
        return self.at(NamespaceKind(match[1]), int(match[2]))

    def _look_at_mounts(self, base: str, prefix: str) -> None:
        """Once for each mount namespace, and each root in it: the paths begin there."""
        namespace = _core.read_link(self._proc, f"{base}/ns/mnt")
        _core.read_link(self._proc, f"{base}/root")  # nothing is mounted over it
        root = os.stat(f"{base}/root/", dir_fd=self._proc)
        place = (namespace, root.st_dev, root.st_ino)
        if place in self._seen_roots:
            return
        self._seen_roots.add(place)
        for mount, name, path in _pins(read_in(self._proc, f"{base}/mountinfo")):
            found = self._named(name)
            if found is not None and mount not in self._seen_mounts:
                self._seen_mounts.add(mount)
                found.pins.append(prefix + path)

    def _is_running_program(self, pid: int) -> bool:
        """Neither a kernel thread, which are all in the initial namespaces, nor a zombie."""
        try:
            state, *fields = read_stat(self._proc, f"{pid}/stat")
        except (FileNotFoundError, ProcessLookupError):
            return False
        return state != "Z" and not int(fields[5]) & _PF_KTHREAD

    def _map_text(self, base: str, name: str) -> str | None:
        try:
            return ",".join(":".join(line.split()) for line in read_in(self._proc, f"{base}/{name}").splitlines())
        except OSError as error:
            if error.errno in SHORTAGE or error.errno == EXDEV:
                raise
            return None


def _pins(mountinfo: str) -> Iterator[tuple[str, str, str]]:
    """The number, the namespace and the path of each mount of one."""
    for line in mountinfo.split("\n"):
        fields, _, after = line.partition(" - ")
        if after.startswith("nsfs "):
            mount, _, _, name, path, *_ = fields.split(" ")
            yield mount, name, _OCTAL.sub(lambda octal: chr(int(octal[1], 8)), path)
