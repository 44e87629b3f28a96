"""New namespaces for a test program, in which it is root, also if an unprivileged user runs it."""

from __future__ import annotations

import os

import native

from usernsproc import create_userns


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
    native.must(native.libc.mount(b"none", b"/", None, native.MS_REC | propagation, None))
