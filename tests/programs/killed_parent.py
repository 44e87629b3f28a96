"""A program that repeats one call until it is killed."""

from __future__ import annotations

import os
from collections.abc import Callable

from usernsproc import UsernsProcess, create_userns, run


def repeat(kind: str, cgroup: str | None = None) -> None:
    """Write "ready" once it has been done."""
    with create_userns("root", "root") as target:
        kinds: dict[str, Callable[[], object]] = {
            "namespace": lambda: create_userns("root", "root").close(),
            "command": lambda: run(["true"], uid_map="root"),
            "init": lambda: run(["true"], uid_map="root", init=True, namespaces=["pid", "mnt"]),
            "callback": lambda: run(["true"], uid_map="root", on_created=lambda _: None),
            "holder": lambda: UsernsProcess(uid_map="root", namespaces=["net"]).close(),
            "holder without maps": lambda: UsernsProcess().close(),
            "joined": lambda: run(["true"], join=[target]),
            "cgroup": lambda: run(["true"], uid_map="root", cgroup=cgroup),
        }
        kinds[kind]()
        os.write(1, b"ready")
        while True:
            kinds[kind]()
