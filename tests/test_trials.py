"""Trials run one after the other; one that does not end delays none of the others."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping

from alone import run_alone
from programs import doctor

from usernsproc._diagnosis.diagnosis import _try_all
from usernsproc._diagnosis.probes import Need, Probe
from usernsproc._diagnosis.trials import Outcome, Trials

IN_TIME = math.inf


def run_all(attempts: Mapping[str, Callable[[], object]], timeout: float) -> dict[str, Outcome]:
    trials = Trials(timeout)
    for name, attempt in attempts.items():
        trials.start(name, attempt)
    return trials.outcomes()


def raising(error: BaseException) -> Callable[[], None]:
    def attempt() -> None:
        raise error

    return attempt


def test_each_outcome_is_reported_in_order() -> None:
    error = OSError(1, "refused")
    outcomes = run_all({"a": lambda: None, "b": raising(error), "c": lambda: None}, IN_TIME)
    assert [(name, outcome.works, outcome.error) for name, outcome in outcomes.items()] == [
        ("a", True, None),
        ("b", False, error),
        ("c", True, None),
    ]


def test_they_run_one_after_the_other() -> None:
    running: list[str] = []
    seen: list[list[str]] = []

    def attempt(name: str) -> Callable[[], None]:
        def run() -> None:
            running.append(name)
            seen.append(list(running))
            running.remove(name)

        return run

    run_all({name: attempt(name) for name in "abc"}, IN_TIME)
    assert seen == [["a"], ["b"], ["c"]]


def test_one_that_does_not_end_is_left_behind() -> None:
    answer, ended = threading.Event(), threading.Event()

    def waiting() -> None:
        answer.wait()
        ended.set()

    outcomes = run_all({"waits": waiting, "works": lambda: None}, 0.5)
    assert [(outcome.has_ended, outcome.works) for outcome in outcomes.values()] == [(False, False), (True, True)]
    answer.set()
    assert ended.wait(60)
    for thread in threading.enumerate():
        if thread.name == "trial of usernsproc":
            thread.join()


def test_one_that_ends_late_but_in_time_counts() -> None:
    late = threading.Event()
    outcomes = run_all({"late": lambda: late.wait(60) or 1 / 0, "next": late.set}, IN_TIME)
    assert [outcome.works for outcome in outcomes.values()] == [True, True]


def test_the_diagnosis_names_what_has_not_ended() -> None:
    answer = threading.Event()
    probes = [Probe("slow", "a slow trial", Need.SOME, lambda _: answer.wait(60))]
    diagnosis = _try_all([(probe, "/") for probe in probes], Trials(0.5))
    [ability] = diagnosis.abilities
    assert (ability.works, ability.cause, diagnosis.has_userns) == (False, "no-answer", True)
    answer.set()
    for thread in threading.enumerate():
        if thread.name == "trial of usernsproc":
            thread.join()


def test_all_have_one_deadline() -> None:
    """If it is over, each trial is started, and none is waited for."""
    answer = threading.Event()
    outcomes = run_all(dict.fromkeys("abc", answer.wait), 0)
    assert [outcome.has_ended for outcome in outcomes.values()] == [False] * 3
    answer.set()
    for thread in threading.enumerate():
        if thread.name == "trial of usernsproc":
            thread.join()


def test_no_thread_is_left() -> None:
    """The process can enter a user namespace at once, for which it must have a single thread."""
    assert run_alone(doctor.enter_a_namespace_afterwards).split() == ["0"]
