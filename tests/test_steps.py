"""Every call of the library that fails has a step: never a plain `OSError`.

Each operation on namespaces, pins, mounts, maps and pipes is repeated with its Nth system
call failing, by strace(1). It raises a `UsernsError` that names the step and the errno, or
succeeds; it leaves nothing behind, and works the next time.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import native
import pytest
from alone import run_alone
from entering import enter_own_mounts
from leaks import assert_unchanged, state
from strace import Strace, allow_tracers

from conftest import IS_ROOT
from usernsproc import (
    PIPE,
    Namespace,
    UsernsError,
    UsernsProcess,
    create_userns,
    diagnose,
    idmapped_mount,
    open_idmapped,
    supports_idmap,
)

Operation = Callable[[], object]
MAPS = ("0:1:1", "0:1:1") if IS_ROOT else ("0:0:1", "0:0:1")

FAULTS = (
    "openat:error=EMFILE",
    "openat:error=EIO",
    "newfstatat:error=EIO",
    "readlink:error=EIO",
    "read:error=EIO",
    "getdents64:error=EIO",
    "ioctl:error=EMFILE",
    "ioctl:error=EIO",
    "fcntl:error=EMFILE",
    "dup:error=EMFILE",
    "pipe2:error=EMFILE",
    "statx:error=EIO",
    "statfs:error=EIO",
    "pidfd_open:error=EMFILE",
    "pidfd_send_signal:error=EIO",
    "setns:error=ENOMEM",
    "open_tree:error=ENOMEM",
    "mount_setattr:error=ENOMEM",
    "move_mount:error=ENOMEM",
    "umount2:error=ENOMEM",
    "unlink:error=EIO",
)
WITHOUT = {
    "pidfd_send_signal:error=EIO": ("join", "diagnose", "on_created", "pipes"),  # nothing else kills a child
    "newfstatat:error=EIO": ("join",),  # the loader of the command calls it as well
}
EACH = tuple(range(1, 40))
SOME = tuple(range(1, 6)) + tuple(2**power for power in range(3, 13))
"""For what makes thousands of calls."""


class Scene:
    """The objects that the operations work on."""

    def __init__(self) -> None:
        self.late: UsernsProcess[bytes] | None = None
        self.folder = Path(tempfile.mkdtemp())
        native.must(native.libc.mount(b"tmpfs", os.fsencode(self.folder), b"tmpfs", 0, None))
        self.userns = create_userns("root", "root")
        self.holder = UsernsProcess(uid_map="root", gid_map="root", namespaces=["net"])
        self.net = self.holder.namespace("net")
        self.pin = self.folder / "pin"
        self.source, self.target = self.folder / "source", self.folder / "target"
        for path in (self.source, self.target):
            path.mkdir()
        (self.source / "sub").mkdir()
        native.must(native.libc.mount(b"tmpfs", os.fsencode(self.source / "sub"), b"tmpfs", 0, None))

    @property
    def operations(self) -> dict[str, Operation]:
        net, holder = self.net, self.holder
        return {
            "pin": self.pin_and_unpin,
            "list": Namespace.list,
            "open what is listed": self.open_listed,
            "open": lambda: Namespace.open("/proc/self/ns/net").close(),
            "of": lambda: Namespace.of(holder, "net").close(),
            "of a pid": lambda: Namespace.of(holder.pid, "net").close(),
            "kind": self.kind,
            "members": lambda: (net.inode, net.device, net == self.userns, self.userns.owner_uid),
            "relatives": self.relatives,
            "maps": lambda: (self.userns.uid_map, self.userns.gid_map),
            "enter": self.enter,
            "maps of a process": lambda: (holder.uid_map, holder.gid_map, holder.namespace_path("net")),
            "write maps": self.write_maps,
            "mount": lambda: self.mount(recursive=False),
            "mount a tree": lambda: self.mount(recursive=True),
            "maps of a mount": self.maps_of_mount,
            "supports_idmap": lambda: supports_idmap(self.source),
            "pipes": self.pipes,
            "on_created": self.on_created,
            "join": lambda: UsernsProcess(["/bin/true"], join=holder).wait(),
            "diagnose": lambda: diagnose("userns", path=self.source),
        }

    def pin_and_unpin(self) -> None:
        self.net.pin(self.pin)
        Namespace.unpin(self.pin)

    def tidy(self) -> None:
        """Remove pins and mounts that could not be removed before: the errors say so."""
        if self.late is not None:
            self.late.close()
            self.late = None
        for path in (self.pin, self.target):
            while native.libc.umount2(os.fsencode(path), 2) == 0:
                pass
        self.pin.unlink(missing_ok=True)

    def open_listed(self) -> None:
        for found in self.listed:
            found.open().close()

    def relatives(self) -> None:
        for related in (self.net.owner, self.userns.parent):
            related().close()

    def kind(self) -> None:
        with Namespace.open(self.net.path) as namespace:
            assert namespace.kind == "net"

    def enter(self) -> None:
        with self.net.enter():
            pass

    def write_maps(self) -> None:
        self.late = UsernsProcess()
        self.late.write_setgroups("deny")
        self.late.write_uid_map("root")
        self.late.write_gid_map("root")

    def mount(self, *, recursive: bool) -> None:
        with idmapped_mount(self.source, self.target, self.userns, recursive=recursive):
            pass
        with open_idmapped(self.source, MAPS, recursive=recursive) as detached:
            detached.attach(self.target).unmount(lazy=True)

    def maps_of_mount(self) -> None:
        with idmapped_mount(self.source, self.target, self.userns) as mount:
            assert mount.uid_map

    def pipes(self) -> None:
        with UsernsProcess(["/bin/true"], uid_map="root", stdin=PIPE, stdout=PIPE, stderr=PIPE):
            pass

    def on_created(self) -> None:
        UsernsProcess(["/bin/true"], uid_map="root", on_created=lambda _: None).wait()

    def learn(self) -> None:
        self.listed = [info for info in Namespace.list() if info.inode in (self.net.inode, self.userns.inode)]


NAMES = (
    "pin", "list", "open what is listed", "open", "of", "of a pid", "kind", "members", "relatives", "maps", "enter",
    "maps of a process", "write maps", "mount", "mount a tree", "maps of a mount", "supports_idmap", "pipes",
    "on_created", "join", "diagnose",
)  # fmt: skip


MADE_UP_FOR = ("diagnose", "of")
"""No call of theirs is the only way: `of` asks the pidfd, or opens the link in `/proc`."""


def fail_each_call(name: str) -> None:
    allow_tracers()
    enter_own_mounts()
    native.unshare(native.CLONE_NEWNET)  # a namespace to return to, also for an unprivileged user
    scene, steps, complaints = Scene(), set[str](), list[str]()
    scene.learn()
    operation = scene.operations[name]
    operation()
    scene.tidy()
    for fault in FAULTS:
        if name in WITHOUT.get(fault, ()):
            continue
        for count in SOME if name == "list" else EACH:
            before = state()
            failed, has_struck = attempt(operation, f"{fault}:when={count}")
            scene.tidy()
            try:
                if failed is not None:
                    steps.add(checked_step(failed, fault))
                assert_unchanged(before)
                operation()
                scene.tidy()
            except (AssertionError, OSError) as error:
                complaints.append(f"{fault}:when={count}: {error}")
            if not has_struck:
                break
    assert not complaints, "\n".join(complaints)
    print(*sorted(steps))


def attempt(operation: Operation, fault: str) -> tuple[OSError | None, bool]:
    failed: OSError | None = None
    with Strace(fault) as strace:
        try:
            operation()
        except OSError as error:
            failed = error
    return failed, strace.has_struck


def checked_step(failed: OSError, fault: str) -> str:
    assert isinstance(failed, UsernsError), repr(failed)
    assert failed.step, repr(failed)
    assert str(failed).startswith(f"{failed.step}: {failed.strerror}"), str(failed)
    allowed = [getattr(errno, fault.partition("=")[2])]
    if fault.startswith("newfstatat"):
        allowed.append(errno.ENOENT)  # os.path.exists() does not report an error
    if fault.startswith("read:") and failed.cause == "child-killed":
        allowed.append(errno.ESRCH)  # the launcher exits when it cannot read its messages; the note says how
    if failed.cause == "no-way-back":
        allowed.append(errno.EPERM)  # the note has what the kernel answered
    assert failed.errno in allowed, str(failed)
    return failed.step


@pytest.mark.parametrize("name", NAMES)
def test_whatever_fails_has_a_step(name: str) -> None:
    """A call that the kernel refuses is reported with the step, and with the errno of the call."""
    steps = run_alone(fail_each_call, name)
    assert steps.split() or name in MADE_UP_FOR
