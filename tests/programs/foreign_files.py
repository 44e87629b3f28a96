"""Calls that need files or programs of the system, in a mount namespace that another user namespace owns."""

from __future__ import annotations

import errno
from collections.abc import Callable

import native
from entering import be_root

from usernsproc import UsernsError, UsernsProcess, create_userns, subids
from usernsproc._helper import find_tool
from usernsproc._maps.side import UID
from usernsproc._maps.subids import ranges_by_nss

CALLS: dict[str, Callable[[], object]] = {
    "subids": subids,
    "subids of a name": lambda: subids("root"),
    "preset": lambda: create_userns("subids", "subids"),
    "preset of a command": lambda: UsernsProcess(["/bin/true"], uid_map="rootless"),
    "tool": lambda: find_tool("newuidmap"),
    "other source": lambda: ranges_by_nss("root", UID),
}


def refused_there(name: str) -> None:
    """Make the call in that namespace. Before and after it, the same files are used."""
    be_root()
    native.unshare(native.CLONE_NEWNS)
    use_files()
    with UsernsProcess(uid_map="root", namespaces=["mnt"]) as holder, holder.namespace("mnt") as mnt:
        with mnt.enter():
            try:
                CALLS[name]()
            except PermissionError as error:
                assert isinstance(error, UsernsError)
                reported = error.errno, error.step, error.cause
                assert reported == (errno.EPERM, "prepare", "foreign-mount-namespace"), reported
                assert "join=" in error.__notes__[0]
            else:
                raise AssertionError("the files were used")
            create_userns("root", "root").close()
        use_files()


def use_files() -> None:
    find_tool("newuidmap")
    subids()
