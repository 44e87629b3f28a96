"""Files of the system are not believed, and not executed, in a mount namespace that another user controls."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Script = Callable[..., str]

IN_A_FOREIGN_MOUNT_NAMESPACE = """
    import errno, os, sys
    import native
    from usernsproc import *
    from usernsproc._helper import find_tool
    from usernsproc._maps.side import UID
    from usernsproc._maps.subids import ranges_by_nss
    if os.geteuid():
        with create_userns("root", "root") as own:
            own.enter()
    CALLS = {
        "subids": subids,
        "subids of a name": lambda: subids("root"),
        "preset": lambda: create_userns("subids", "subids"),
        "preset of a command": lambda: UsernsProcess(["/bin/true"], uid_map="rootless"),
        "tool": lambda: find_tool("newuidmap"),
        "other source": lambda: ranges_by_nss("root", UID),
    }
    native.unshare(native.CLONE_NEWNS)
    CALLS["tool"](), CALLS["subids"]()
    with UsernsProcess(uid_map="root", namespaces=["mnt"]) as holder, holder.namespace("mnt") as mnt:
        with mnt.enter():
            try:
                CALLS[sys.argv[1]]()
            except PermissionError as error:
                told = error.errno, error.step, error.cause
                assert told == (errno.EPERM, "prepare", "foreign-mount-namespace"), told
                assert "join=" in error.__notes__[0]
            else:
                raise AssertionError("it was believed")
            create_userns("root", "root").close()
        CALLS["tool"](), CALLS["subids"]()
"""


@pytest.mark.parametrize(
    "call", ["subids", "subids of a name", "preset", "preset of a command", "tool", "other source"]
)
def test_in_a_foreign_mount_namespace(call: str, script: Script) -> None:
    """Neither /etc/subuid, /etc/passwd nor nsswitch.conf is read there, and no program of PATH is run. Before the
    thread enters, in a mount namespace of the caller's own, and after it has left, all works; so do maps that need
    no file."""
    script(IN_A_FOREIGN_MOUNT_NAMESPACE, call)
