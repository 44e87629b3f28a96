"""For test programs that are to be root in namespaces of their own, whoever runs them."""

from __future__ import annotations

import os

import native

from usernsproc import create_userns


def enter_own_userns() -> None:
    """As its root. Root itself has no rights over the machine after that."""
    with create_userns("root", "root") as userns:
        userns.enter()


def be_root() -> None:
    """In a user namespace of its own, unless root runs the program."""
    if os.geteuid():
        enter_own_userns()


def enter_own_mounts(propagation: int = native.MS_PRIVATE) -> None:
    """Be root, in a mount namespace whose mounts all have that propagation."""
    be_root()
    native.unshare(native.CLONE_NEWNS)
    native.must(native.libc.mount(b"none", b"/", None, native.MS_REC | propagation, None))
