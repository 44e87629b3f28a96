"""The programs of `test_on_created.py`."""

from __future__ import annotations

import subprocess

import native

from usernsproc import UsernsProcess, run


def move_an_interface_in() -> None:
    native.unshare(native.CLONE_NEWNET)

    def move(process: UsernsProcess[bytes]) -> None:
        subprocess.run(["ip", "link", "add", "outer", "type", "veth", "peer", "name", "inner"], check=True)
        subprocess.run(["ip", "link", "set", "inner", "netns", str(process.pid)], check=True)

    shifted = "0:100000:65536"
    result = run(
        ["ip", "-brief", "link", "show", "inner"],
        uid_map=shifted,
        gid_map=shifted,
        namespaces=["net"],
        on_created=move,
        capture_output=True,
        text=True,
    )
    assert result.stdout.startswith("inner@"), result
