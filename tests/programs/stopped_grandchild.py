"""The programs of `test_stopped_grandchild.py`."""

from __future__ import annotations

import os
import signal

from stepping import Stepped, children_of

from usernsproc import create_userns

SUBORDINATE = "0:100000:65536"
OWNER = 1000


def stop_the_holder() -> None:
    def create(_: object) -> None:
        with create_userns(SUBORDINATE, SUBORDINATE, owner=OWNER) as userns:
            assert userns.owner_uid == OWNER

    with Stepped(lambda: None, create) as caller:
        child = caller.step_until_it_has_a_child()
        while not (grandchildren := children_of(child)):
            assert caller.step()
        os.kill(grandchildren[0], signal.SIGSTOP)
        assert caller.ends_with() == 0
