"""Abilities and their diagnosis: what works here, and why the rest does not."""

from __future__ import annotations

import os
import warnings
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from .._causes import at_step
from .._errors import IdMapPermissionError, UsernsError
from .._helper import find_tool
from .._typing import TYPE_CHECKING
from .chroot import is_in_chroot
from .environment import Environment
from .explanations import Failure, Seen, explain
from .features import Feature, read_features
from .fixes import Place, fix
from .probes import IDMAPPED_MOUNT, PROBES, Need, Probe
from .trials import TOTAL, Outcome, Trials

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .._place import Path

__all__ = ["Ability", "Diagnosis", "diagnose"]

_NO_ANSWER = "no-answer"


class Ability(NamedTuple):
    """One thing that can be done with user namespaces, or cannot. It is true if it can."""

    name: str
    """`userns`, `memfd-exec`, `many-ids`, `join`, `mount`, `bind-read-only`, `tmpfs`, `new-root`, `proc`, `net`,
    `overlay`, `seccomp`, `landlock`, `cgroup` or `idmapped-mount`."""
    meaning: str
    """The same in words."""
    works: bool
    """The answer."""
    step: str | None = None
    """The step that failed, as `UsernsError.step`."""
    errno: int | None = None
    """The kernel's answer to that step, or what it would have been."""
    cause: str | None = None
    """A stable identifier of the reason, if it is known."""
    reason: str | None = None
    """The same in a sentence."""
    remedy: str | None = None
    """What to do, the least invasive change first."""
    path: str | None = None
    """Of `idmapped-mount`: the directory."""
    need: str = Need.MANY.value
    """How many programs need it: `all`, `many` or `some`."""
    fix: tuple[str, ...] = ()
    """The remedy as lines of a shell script, if it consists of commands. They are not run."""

    def __bool__(self) -> bool:
        return self.works


class Diagnosis(NamedTuple):
    """The result of `diagnose`. It is true if everything that was asked for works."""

    abilities: tuple[Ability, ...]
    """In the order asked for."""
    has_userns: bool
    """Whether user namespaces can be created here at all."""
    environment: Environment
    """The limits, filters and security modules that affect the result, as they were read."""
    features: tuple[Feature, ...] = ()
    """What the kernel provides, and what the library uses."""

    def __bool__(self) -> bool:
        return all(self.abilities)

    def ability(self, name: str) -> Ability:
        """The (first) ability of that name.

        Raises:
            KeyError: it was not asked for.
        """
        for ability in self.abilities:
            if ability.name == name:
                return ability
        raise KeyError(name)


def diagnose(*abilities: str, path: Path | Iterable[Path] = "/", timeout: float = TOTAL) -> Diagnosis:
    """Try what works here; for each failure, report the cause and the remedy.

    Each ability is tried with the functions of this library, in a child process or a
    namespace that no longer exists when the function returns. Settings alone would
    mislead, since they do not show what else refuses a call. The limits, filters and
    security modules then determine which of the likely causes applies. Nothing on the
    system is changed. Neither root nor a network is required.

    Args:
        abilities: the names of what to try; default: all. `userns`: a user namespace
            in which the caller is root. `memfd-exec`: execution of the internal helper
            programs, which are in memory. `many-ids`: a user namespace with many IDs,
            for root all IDs of the caller's namespace (preset `all`), for other users
            their subordinate IDs (preset `rootless`). `join`: entering the namespaces of
            another process. `mount`: mounts in a new mount namespace. `bind-read-only`,
            `tmpfs`, `overlay`, `new-root`: the set-up steps `Bind`, `Tmpfs`, `Overlay` and
            `Root`. `proc`: a fresh `/proc` for a new PID namespace. `net`: a network
            namespace whose loopback interface is up. `seccomp`, `landlock`: a command under
            such a filter. `cgroup`: starting a process in a cgroup (version 2).
            `idmapped-mount`: *path*, or the file system that is mounted there, mounted with
            other owners (detached, so no other process sees it).
        path: the directory for `idmapped-mount`, or several.
        timeout: seconds for all trials together. One that has not ended by then fails with
            the cause `no-answer`; its thread is left behind until the kernel answers.

    Raises:
        ValueError: an unknown ability.
        UsernsError: `stat(2)` of *path* failed: it does not exist, or a directory above it
            cannot be searched (step `open_tree`).

    Takes about 0.1 s, the time of a few processes. Each ability is tried in a thread of its own, one after the other.
    """
    unknown = [name for name in abilities if name not in tuple(PROBES)]
    if unknown:
        raise ValueError(f"unknown ability {unknown[0]!r} (choose from {', '.join(PROBES)})")
    paths = [path] if isinstance(path, (str, bytes, os.PathLike)) else list(path)
    wanted = [
        (PROBES[name], place)
        for name in abilities or PROBES
        for place in (paths if name == IDMAPPED_MOUNT else paths[:1] or ["/"])
    ]
    trials = Trials(timeout)
    for place in paths:
        name = os.fsdecode(place)
        trials.start(f"stat {name}", partial(_refuse_missing, name))
        _raise_mistake(trials.outcome_so_far(f"stat {name}"))
    with warnings.catch_warnings():  # about helper programs that are executed from files: a feature reports that
        warnings.simplefilter("ignore", RuntimeWarning)
        return _try_all(wanted, trials)


def _refuse_missing(path: str) -> None:
    with at_step("open_tree", path):
        os.stat(path)


def _raise_mistake(outcome: Outcome) -> None:
    """An error that is not the answer to a trial."""
    if outcome.error is not None:
        raise outcome.error


def _try_all(wanted: list[tuple[Probe, Path]], trials: Trials) -> Diagnosis:
    first = PROBES["userns"]
    trials.start(first.name, partial(first.attempt, "/"))
    userns = trials.outcome(first.name)
    if userns.works:
        for probe, path in wanted:
            if probe is not first:
                trials.start(_key(probe, path), partial(probe.attempt, path))
    known = _Known(Environment.read(), has_userns=userns.works)
    trials.start("look", known.look)
    outcomes = trials.outcomes()
    _raise_mistake(outcomes["look"])
    seen = Seen(known.environment, {name: outcome.works for name, outcome in outcomes.items()})
    found = [
        _ability(probe, path, outcomes.get(_key(probe, path), userns), seen, known.place) for probe, path in wanted
    ]
    return Diagnosis(tuple(found), userns.works, known.environment, known.features)


class _Known:
    """What is looked up besides the trials. A lookup may wait, as of a user in a directory service, and is then left
    out."""

    def __init__(self, environment: Environment, *, has_userns: bool) -> None:
        self._has_userns = has_userns
        self.environment = environment
        self.place: Place | None = None
        self.features: tuple[Feature, ...] = ()

    def look(self) -> None:
        with suppress(OSError):
            self._look()

    def _look(self) -> None:
        self.features = tuple(read_features(has_userns=self._has_userns))
        if not self._has_userns and self.environment.chroot is None:
            self.environment = self.environment._replace(chroot=is_in_chroot())
        self.place = Place.of(self.environment, tuple(find_tool(name) or name for name in ("newuidmap", "newgidmap")))


def _key(probe: Probe, path: Path) -> str:
    return f"{probe.name} {os.fsdecode(path)}" if probe.name == IDMAPPED_MOUNT else probe.name


def _ability(probe: Probe, path: Path, outcome: Outcome, seen: Seen, place: Place | None) -> Ability:
    name = os.fsdecode(path)
    ability = Ability(
        probe.name,
        probe.meaning.format(path=name),
        outcome.works,
        path=name if probe.name == IDMAPPED_MOUNT else None,
        need=probe.need.value,
    )
    if outcome.works:
        return ability
    if not outcome.has_ended:
        return ability._replace(
            cause=_NO_ANSWER,
            reason="The trial has not ended in time.",
            remedy="Find out what it waits for: a network file system or a directory service. On a busy machine, try "
            "again with a longer timeout.",
        )
    if not isinstance(outcome.error, (OSError, ValueError)):
        raise outcome.error or AssertionError
    failed = _explained(ability, outcome.error, seen)
    return failed if place is None else failed._replace(fix=fix(failed.cause, place))


def _explained(ability: Ability, error: OSError | ValueError, seen: Seen) -> Ability:
    errno = error.errno if isinstance(error, OSError) else None
    step: str | None = getattr(error, "step", None)
    failure = Failure(step, errno, getattr(error, "call", None), isinstance(error, IdMapPermissionError))
    row = explain(failure, seen)
    if row:
        reason, remedy = row.describe(seen.environment)
        return ability._replace(step=step, errno=errno, cause=row.cause, reason=reason, remedy=remedy)
    return ability._replace(
        step=step,
        errno=errno,
        cause=error.cause if isinstance(error, UsernsError) else None,
        reason=error.strerror or str(error) if isinstance(error, OSError) else str(error),
        remedy="\n".join(getattr(error, "__notes__", ())) or None,
    )
