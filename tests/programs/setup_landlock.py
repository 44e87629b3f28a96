"""The programs of `test_setup_landlock.py`."""

from __future__ import annotations

import errno

import native
from step_processes import ROOT, done, status

from usernsproc import UsernsError
from usernsproc._system_calls import NR
from usernsproc.setup import Landlock

CAUSES = {errno.ENOSYS: "kernel-too-old", errno.EOPNOTSUPP: "landlock-disabled"}


def without_landlock(number: int) -> None:
    native.refuse_system_call(NR["landlock_create_ruleset"], number)
    try:
        done("true", Landlock(read=["/"], execute=["/"]), **ROOT)
    except UsernsError as error:
        assert (error.step, error.call, error.errno) == ("Landlock", "landlock_create_ruleset", number)
        assert error.cause == CAUSES[number]
    else:
        raise AssertionError("it has started")
    assert status(Landlock(best_effort=True), **ROOT)["NoNewPrivs"] == "1"
