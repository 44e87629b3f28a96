"""What the parent does for a step while the child waits: never to another process that has its PID."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from usernsproc import UsernsError, UsernsProcess
from usernsproc._setup.compiler import Emitter
from usernsproc._setup.step import Phase
from usernsproc.setup import Step


class InParent(Step):
    phase: ClassVar[Phase] = Phase.SCHEDULING
    __slots__ = ("pids",)
    pids: list[int]

    def __init__(self, pids: list[int]) -> None:
        self._set(pids=pids)

    def emit(self, calls: Emitter) -> None:
        calls.in_parent("append", self.pids.append)


def end(process: UsernsProcess[Any]) -> None:
    process.kill()
    process.wait(timeout=60)


@pytest.mark.parametrize("how", [end, UsernsProcess.close])
def test_nothing_is_done_to_a_child_that_on_created_has_ended(how: Callable[[UsernsProcess[Any]], object]) -> None:
    pids: list[int] = []
    with pytest.raises(UsernsError) as caught:
        UsernsProcess(["true"], uid_map="root", on_created=how, setup=[InParent(pids)])
    assert (caught.value.step, caught.value.call, caught.value.errno) == ("InParent", "append", errno.ESRCH)
    assert pids == []


def test_it_is_done_to_a_child_that_waits() -> None:
    pids: list[int] = []
    with UsernsProcess(["true"], uid_map="root", setup=[InParent(pids)]) as process:
        assert pids == [process.pid]
