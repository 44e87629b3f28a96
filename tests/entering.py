"""New namespaces for a test program, in which it is root, also if an unprivileged user runs it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import native
from leaks import close_kept

from usernsproc import NamespaceKind, UsernsProcess, create_userns

ALL_BUT_USER = [kind for kind in NamespaceKind if kind != "user"]


def enter_own_userns() -> None:
    """Create a user namespace and enter it as its root. Capabilities in the parent namespace are lost."""
    with create_userns("root", "root") as userns:
        userns.enter()


def be_root() -> None:
    """Become root in a new user namespace, unless the caller is root."""
    if os.geteuid():
        enter_own_userns()


def enter_own_mounts(propagation: int = native.MS_PRIVATE) -> None:
    """Become root, and enter a new mount namespace in which all mounts have that propagation."""
    be_root()
    native.unshare(native.CLONE_NEWNS)
    close_kept()  # a /proc of the mount namespace before
    native.must(native.libc.mount(b"none", b"/", None, native.MS_REC | propagation, None))


def become_root_with_namespaces() -> None:
    """Become root of a new user namespace that owns the other current namespaces, so that the thread can return."""
    enter_own_userns()
    native.unshare(native.CLONE_NEWNET | native.CLONE_NEWUTS | native.CLONE_NEWIPC | native.CLONE_NEWNS)


def link(kind: str) -> str:
    return os.readlink(f"/proc/thread-self/ns/{kind}")


def links() -> dict[str, str]:
    return {kind: os.readlink(f"/proc/self/ns/{kind}") for kind in os.listdir("/proc/self/ns")}


def holding(*kinds: str) -> UsernsProcess[bytes]:
    return UsernsProcess(uid_map="root", namespaces=kinds)


def in_child(action: Callable[[], None]) -> None:
    child = os.fork()
    if child == 0:
        action()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def in_thread(action: Callable[[], None]) -> None:
    thread = threading.Thread(target=action)
    thread.start()
    thread.join()
