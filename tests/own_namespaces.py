"""Namespaces that a test program enters first, so that what it does is not seen outside of them."""

from __future__ import annotations

import os

import native

from usernsproc import create_userns


def enter_own_userns() -> None:
    """Become root of a new user namespace."""
    with create_userns("root", "root") as own:
        own.enter()


def become_root() -> None:
    """An unprivileged user becomes root of a new user namespace."""
    if os.geteuid():
        enter_own_userns()


def own_mount_namespace() -> None:
    """Enter a mount namespace whose mounts are not propagated. An unprivileged user becomes root for it."""
    become_root()
    native.unshare(native.CLONE_NEWNS)
    native.must(native.libc.mount(None, b"/", None, native.MS_REC | native.MS_PRIVATE, None))
