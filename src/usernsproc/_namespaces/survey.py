"""A survey of `/proc`: which processes are in which namespaces, and what else keeps these alive."""

from __future__ import annotations

import os
import re
from errno import EACCES, EAGAIN, EINVAL, EMFILE, ENFILE, ENOMEM, EPERM, EXDEV

from .._proc import MountEntry, list_in, nsfs_device, open_root, proc_error, read_in, read_link, read_state
from .._typing import TYPE_CHECKING
from .kind import NamespaceKind

if TYPE_CHECKING:
    from typing_extensions import TypeAlias

Route: TypeAlias = "tuple[str | int, ...]"
"""A way to a namespace: a path, or its number in the kernel's list, and then the
`ioctl_ns(2)` requests that lead from there to an owner or a parent."""

_LINK = re.compile(r"(\w+):\[(\d+)\]")
_MEMBER_LINKS = tuple(str(kind) for kind in NamespaceKind)
# Children that are created later will be in these.
_CHILDREN_LINKS = ("pid_for_children", "time_for_children")

# A namespace that no longer exists, or that the caller may not see, is left out of a list.
# A shortage of descriptors, memory or processes must not leave one out.
SHORTAGE = frozenset({EMFILE, ENFILE, ENOMEM, EAGAIN})


class Found:
    """What is known about one namespace."""

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
        that hangs."""
        return [*((link,) for link in self.links), *((path,) for path in self.pins[:ENOUGH]), *self.detours]


ENOUGH = 4  # links and pins to remember, so that one of them still exists later


class Survey:
    """One pass over all processes. Those that exit meanwhile are skipped."""

    def __init__(self) -> None:
        self.device = nsfs_device()
        self._proc = -1
        self.found: dict[tuple[NamespaceKind, int], Found] = {}
        self.unseen: set[int] = set()
        self._seen_roots: set[tuple[str, int, int]] = set()
        self._seen_mounts: set[int] = set()

    def at(self, kind: NamespaceKind, inode: int) -> Found:
        return self.found.setdefault((kind, inode), Found())

    def look_at_processes(self) -> None:
        """Raises: UsernsError: step `open_proc`: `/proc` is not mounted, or is forged."""
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
            pass  # it has exited
        except OSError as error:
            if error.errno == EINVAL:
                return  # it is about to exit, and has no mounts left
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
        """*base*, like all paths here, is relative to `/proc`."""
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
            found = self._named(read_link(self._proc, path))
        except (FileNotFoundError, ProcessLookupError):
            return None  # it has exited or been closed, or this kernel lacks the kind
        if found is not None and len(found.links) < ENOUGH:
            found.links.append(f"/proc/{path}")
        return found

    def _named(self, name: str) -> Found | None:
        match = _LINK.fullmatch(name)
        if match is None or match[1] not in _MEMBER_LINKS:
            return None  # an open file, a socket
        return self.at(NamespaceKind(match[1]), int(match[2]))

    def _look_at_mounts(self, base: str, prefix: str) -> None:
        """Once for each mount namespace and each root in it, where the paths begin."""
        namespace = read_link(self._proc, f"{base}/ns/mnt")
        read_link(self._proc, f"{base}/root")  # nothing is mounted over it
        root = os.stat(f"{base}/root/", dir_fd=self._proc)
        place = (namespace, root.st_dev, root.st_ino)
        if place in self._seen_roots:
            return
        self._seen_roots.add(place)
        for line in read_in(self._proc, f"{base}/mountinfo").split("\n"):
            if " - nsfs " not in line:
                continue
            pin = MountEntry(line)
            found = self._named(pin.root)
            if found is not None and pin.number not in self._seen_mounts:
                self._seen_mounts.add(pin.number)
                found.pins.append(prefix + pin.point)

    def _is_running_program(self, pid: int) -> bool:
        """Neither a kernel thread, which are all in the initial namespaces, nor a zombie."""
        try:
            state, is_kernel_thread = read_state(self._proc, f"{pid}/stat")
        except (FileNotFoundError, ProcessLookupError):
            return False
        return state != "Z" and not is_kernel_thread

    def _map_text(self, base: str, name: str) -> str | None:
        try:
            return ",".join(":".join(line.split()) for line in read_in(self._proc, f"{base}/{name}").splitlines())
        except OSError as error:
            if error.errno in SHORTAGE or error.errno == EXDEV:
                raise
            return None
