"""For test programs that forge `/proc`: in a new mount namespace, so that nothing is left when they exit."""

from __future__ import annotations

import os
from collections.abc import Callable
from errno import ENOTTY
from pathlib import Path

import native
from leaks import close_kept

from usernsproc import IdMap, Namespace, UsernsError, UsernsProcess, create_userns
from usernsproc._caller import Caller
from usernsproc._maps.idmap import IDENTITY
from usernsproc._maps.permission import newidmap_violations
from usernsproc._maps.side import UID
from usernsproc._proc import read_mounts

MS_BIND = 0x1000
OPEN_TREE_CLONE, OPEN_TREE_CLOEXEC = 1, os.O_CLOEXEC
AT_EMPTY_PATH = 0x1000
AT_SYMLINK_NOFOLLOW = 0x100
MOVE_MOUNT_EMPTY_PATHS = 0x04 | 0x40
NR_OPEN_TREE, NR_MOVE_MOUNT, NR_OPENAT2 = 428, 429, 437
STRANGER = Caller(1, 1, 0, IDENTITY, IDENTITY)
REAL = Path("/mnt/real")
FAKE = Path("/mnt/fake")


def own_mount_namespace() -> None:
    """With the real `/proc` at another place. An unprivileged user gets a user namespace for it."""
    if os.geteuid():
        with create_userns("root", "root") as own:
            own.enter()
    native.unshare(native.CLONE_NEWNS)
    close_kept()  # a /proc of the mount namespace before, which cannot be covered here
    make_places()


def make_places() -> None:
    native.must(native.libc.mount(None, b"/", None, native.MS_REC | native.MS_PRIVATE, None))
    mount(b"tmpfs", "/mnt")
    REAL.mkdir()
    FAKE.mkdir()
    bind("/proc", REAL)


def mount(kind: bytes, target: str | Path) -> None:
    native.must(native.libc.mount(kind, os.fsencode(target), kind, 0, None))


def bind(source: str | Path, target: str | Path) -> None:
    native.must(native.libc.mount(os.fsencode(source), os.fsencode(target), None, MS_BIND | native.MS_REC, None))


def cover_link(source: str | Path, target: str | Path) -> None:
    """Mount *source* on a link itself, which `mount(2)` would follow."""
    tree = native.must(
        native.libc.syscall(
            NR_OPEN_TREE, -100, os.fsencode(source), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_SYMLINK_NOFOLLOW
        )
    )
    point = os.open(target, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        native.must(native.libc.syscall(NR_MOVE_MOUNT, tree, b"", point, b"", MOVE_MOUNT_EMPTY_PATHS))
    finally:
        os.close(tree)
        os.close(point)


# ---- forgeries: each gets the PID of the process that is to be mistaken for another one ----


def tmpfs_over_proc(victim: int) -> None:
    close_kept()
    """Make every pidfd appear to be the victim's."""
    for folder in ("me/fdinfo", "me/ns", "me/fd"):
        (FAKE / folder).mkdir(parents=True)
    os.symlink("me", FAKE / "self")
    os.symlink("me", FAKE / "thread-self")
    os.symlink("user:[4026531837]", FAKE / "me/ns/user")
    for number in range(256):
        (FAKE / f"me/fdinfo/{number}").write_text("pos: 0\nPid:\t777\n")
    os.symlink(REAL / str(victim), FAKE / "777")
    (FAKE / "me/uid_map").write_text("0 0 4294967295\n")
    (FAKE / "me/gid_map").write_text("0 0 4294967295\n")
    bind(FAKE, "/proc")


def directory_of_procfs_over_proc(victim: int) -> None:
    close_kept()
    bind(REAL / str(victim), "/proc")


def process_over_own(victim: int) -> None:
    bind(REAL / str(victim), f"/proc/{os.getpid()}")


def link_over_self(victim: int) -> None:
    for name in ("self", "thread-self"):
        os.symlink(str(victim), FAKE / name)
        cover_link(FAKE / name, f"/proc/{name}")


def tmpfs_over_fdinfo(victim: int) -> None:
    for number in range(256):
        (FAKE / str(number)).write_text(f"pos: 0\nPid:\t{victim}\n")
    bind(FAKE, f"/proc/{os.getpid()}/fdinfo")
    bind(FAKE, f"/proc/{os.getpid()}/task/{os.getpid()}/fdinfo")


BY_ITS_MOUNT = frozenset({"create", "command", "command of another id"} if native.KERNEL >= (6, 8) else ())
"""From Linux 6.8 on it is known that /proc is still the one that was proven before; the pids in it are the caller's."""

WITHOUT_OWN_FILES = BY_ITS_MOUNT if os.geteuid() == 0 else frozenset[str]()
"""In a user namespace of its own the caller's map is read before, in /proc/self."""

OF_ONE_FILE = frozenset({"list", "mounts", "newidmap rules"}) | BY_ITS_MOUNT
FORGERIES: dict[str, tuple[Callable[[int], None], frozenset[str]]] = {
    "tmpfs over /proc": (tmpfs_over_proc, frozenset()),
    "directory of procfs over /proc": (directory_of_procfs_over_proc, frozenset()),
    "another process over the caller's": (process_over_own, WITHOUT_OWN_FILES),
    "links over self and thread-self": (link_over_self, WITHOUT_OWN_FILES),
    "tmpfs over fdinfo": (tmpfs_over_fdinfo, OF_ONE_FILE),
}
"""And what does not open what is forged."""


def refuse_openat2(errno: int) -> None:
    native.refuse_system_call(NR_OPENAT2, errno)


PIDFD_REQUESTS = range(0xFF01, 0xFF0B)
"""`PIDFD_GET_CGROUP_NAMESPACE` to `PIDFD_GET_UTS_NAMESPACE`, as `ioctl(2)` takes them on most architectures."""


def refuse_requests_of_pidfds() -> None:
    """Behave as Linux before 6.11."""
    for request in PIDFD_REQUESTS:
        native.refuse_argument(native.NR_IOCTL, 1, request, ENOTTY)


# ---- attempts ----


def outcome(what: Callable[[], object]) -> str:
    """Return `refused` if a forged `/proc` is reported, `done` for success, otherwise the error."""
    try:
        result = what()
    except UsernsError as error:
        return "refused" if (error.step, error.cause) == ("open_proc", "proc-forged") else f"{error.step}: {error!r}"
    except Exception as error:
        return repr(error)
    if isinstance(result, (Namespace, UsernsProcess)):
        result.close()
    return "done"


class Scene:
    """A holder, and another process in an unmapped user namespace, before `/proc` is forged."""

    needs_proc = native.KERNEL < (6, 11)

    def __init__(self) -> None:
        self.holder, self.victim = UsernsProcess(), UsernsProcess()
        self.joined = UsernsProcess(uid_map="root", namespaces=["net"])
        self.userns = create_userns("root", "root")
        self.truth = {
            "of": os.stat(f"/proc/{self.holder.pid}/ns/user").st_ino,
            "current": os.stat("/proc/self/ns/user").st_ino,
        }
        self.victim_dir = os.open(f"/proc/{self.victim.pid}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

    def attempts(self) -> dict[str, Callable[[], object]]:
        """Calls that need `/proc`."""
        return {
            "create": lambda: create_userns("root", "root"),
            "command": lambda: UsernsProcess(["/bin/true"], uid_map="root"),
            "command of another id": lambda: UsernsProcess(["/bin/true"], uid_map="root", user=0),
            "holder": lambda: UsernsProcess(uid_map="root"),
            "write": lambda: self.holder.write_uid_map("root"),
            "read": lambda: self.holder.uid_map,
            "path": self.holder.namespace_path,
            "join": lambda: UsernsProcess(["/bin/true"], join=self.joined.pid),
            "maps": lambda: self.userns.uid_map,
            "list": Namespace.list,
            "mounts": read_mounts,
            "newidmap rules": lambda: list(
                newidmap_violations(UID, IdMap.parse("0:5:1"), Caller(1, 1, 0, IDENTITY, IDENTITY))
            ),
        }

    def namespaces(self) -> dict[str, Callable[[], Namespace]]:
        """Calls that the kernel can answer without `/proc`, since Linux 6.11."""
        return {"of": lambda: Namespace.of(self.holder), "current": Namespace.current}

    def assert_refused(self, *but: str) -> None:
        """Check that all others are refused, and that the victim is unchanged."""
        outcomes = {name: outcome(what) for name, what in self.attempts().items()}
        assert outcomes == {name: "done" if name in but else "refused" for name in outcomes}, outcomes
        self.assert_namespaces_are_right()
        self.assert_victim_is_untouched()

    def assert_namespaces_are_right(self) -> None:
        """Check that they are refused (if the kernel needs `/proc` for them), or are the requested ones."""
        for name, find in self.namespaces().items():
            if self.needs_proc and outcome(find) == "refused":
                continue
            with find() as found:
                assert found.inode == self.truth[name], name

    def assert_victim_is_untouched(self) -> None:
        for name in ("uid_map", "gid_map"):
            assert self._of_victim(name) == "", f"{name} of another process was written"

    def setgroups_of_victim(self) -> str:
        return self._of_victim("setgroups")

    def _of_victim(self, name: str) -> str:
        with open(os.open(name, os.O_RDONLY, dir_fd=self.victim_dir)) as file:
            return file.read()


def forge(name: str, scene: Scene) -> frozenset[str]:
    function, but = FORGERIES[name]
    function(scene.victim.pid)
    return but
