"""A program that carries out requests from messages, while its system calls are tampered with."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from typing import Any

from leaks import state, state_again

from usernsproc import Namespace, UsernsProcess, create_userns

Made = Namespace | UsernsProcess[Any]


def written_late() -> UsernsProcess[Any]:
    holder = UsernsProcess()
    try:
        holder.write_uid_map("rootless")
        holder.write_gid_map("rootless")
    except BaseException:
        holder.close()
        raise
    return holder


KINDS: dict[str, Callable[[], Made]] = {
    "late": written_late,
    "namespace": lambda: create_userns("rootless", "rootless"),
    "command": lambda: UsernsProcess(["sleep", "100"], uid_map="rootless"),
    "holder": lambda: UsernsProcess(uid_map="rootless"),
}


def look(made: Made) -> list[str]:
    """Return its maps, and close it."""
    try:
        return [str(made.uid_map), str(made.gid_map)]
    finally:
        made.close()


class Worker:
    def __init__(self) -> None:
        self.made: Made | None = None
        self.before: dict[str, object] = {}

    def answer(self, what: str) -> object:
        if what == "before":
            self.before = state()
            return self.before
        if what == "after":
            before, after = self.before, state_again(self.before)
            return {name: [before[name], after[name]] for name in before if before[name] != after[name]}
        if what == "look":
            made, self.made = self.made, None
            return made and look(made)
        try:
            self.made = KINDS[what]()
        except BaseException as error:
            found = {"error": repr(error), "os": isinstance(error, OSError)}
            return found | {name: getattr(error, name, None) for name in ("step", "filename")}
        return "made"


def serve(fd: int) -> None:
    """Answer the requests of a socket, by calls that are not tampered with, unlike read(2) and write(2)."""
    worker = Worker()
    for make in KINDS.values():
        for _ in range(2):
            look(make())
    requests = socket.socket(fileno=fd)
    requests.send(b'"ready"')
    while what := requests.recv(1000):
        requests.send(json.dumps(worker.answer(what.decode()), default=str).encode())
