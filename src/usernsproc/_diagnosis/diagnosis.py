"""What works here, and why the rest does not."""

from __future__ import annotations

import os
from typing import NamedTuple

from .._errors import IdMapPermissionError, UsernsError, at_step
from .._typing import TYPE_CHECKING
from .explanations import explain
from .surroundings import Surroundings
from .trials import TRIALS, Trial

if TYPE_CHECKING:
    from .._place import Path

__all__ = ["Ability", "Diagnosis", "diagnose"]


class Ability(NamedTuple):
    """One thing that can be done with user namespaces, or not. It is true if it can."""

    name: str
    """`userns`, `many-ids`, `mount`, `proc`, `net` or `idmapped-mount`."""
    meaning: str
    """The same in words."""
    works: bool
    """The answer."""
    step: str | None = None
    """Where it failed, as `UsernsError.step`."""
    errno: int | None = None
    """The kernel's answer to that, or what it would have been."""
    cause: str | None = None
    """A stable identifier of the reason, where it is known."""
    reason: str | None = None
    """The same in a sentence."""
    remedy: str | None = None
    """What to do about it, beginning with what changes least."""

    def __bool__(self) -> bool:
        return self.works


class Diagnosis(NamedTuple):
    """What `diagnose` found. It is true if all that was asked for works."""

    abilities: tuple[Ability, ...]
    """In the order asked for."""
    has_userns: bool
    """Whether there are user namespaces here at all."""
    surroundings: Surroundings
    """What bears on it: limits, filters, security modules, as they were read."""

    def __bool__(self) -> bool:
        return all(self.abilities)

    def ability(self, name: str) -> Ability:
        """The one of that name.

        Raises:
            KeyError: it was not asked for.
        """
        for ability in self.abilities:
            if ability.name == name:
                return ability
        raise KeyError(name)


def diagnose(*abilities: str, path: Path = "/") -> Diagnosis:
    """Find out what works here, and for what does not, why and what to do.

    Each thing is done for real, with the functions of this library, in a child or a
    namespace that is gone when the function returns: settings alone would mislead,
    as they do not say who else refuses it. The reading of the surroundings then tells
    which of the likely causes it is. Nothing is changed, no root and no network is
    needed.

    Args:
        abilities: what to try, by name; all of it when none is named. `userns`: a
            user namespace in which the own id is root. `many-ids`: one with many ids,
            for root all that it has (preset `all`), for others their subordinate ones
            (preset `rootless`). `mount`: mounts in a mount namespace of its own.
            `proc`: a fresh `/proc` for a pid namespace of its own. `net`: a network
            namespace, and its loopback interface up. `idmapped-mount`: *path*, or
            what is mounted there, mounted with other owners (detached: nobody sees it).
        path: see there.

    Raises:
        ValueError: there is no such ability.
        UsernsError: `stat(2)` of *path* failed: it does not exist, or a directory above it
            cannot be searched (step `open_tree`).

    The cost is that of a few processes: some 0.1 s.
    """
    with at_step("open_tree", os.fspath(path)):
        os.stat(path)
    trials = [_trial(name) for name in abilities] or list(TRIALS)
    around = Surroundings.read()
    needed = _tried(TRIALS[0], path, around)
    found = [needed if trial is TRIALS[0] else _tried_after(needed, trial, path, around) for trial in trials]
    return Diagnosis(tuple(found), needed.works, around)


def _trial(name: str) -> Trial:
    for trial in TRIALS:
        if trial.name == name:
            return trial
    known = ", ".join(trial.name for trial in TRIALS)
    raise ValueError(f"unknown ability {name!r} (choose from {known})")


def _tried_after(needed: Ability, trial: Trial, path: Path, around: Surroundings) -> Ability:
    """What takes a user namespace need not be tried where there is none."""
    if needed:
        return _tried(trial, path, around)
    return needed._replace(name=trial.name, meaning=_meaning(trial, path))


def _tried(trial: Trial, path: Path, around: Surroundings) -> Ability:
    try:
        trial.attempt(path)
    except (OSError, ValueError) as error:
        return _failed(trial, path, error, around)
    return Ability(trial.name, _meaning(trial, path), works=True)


def _failed(trial: Trial, path: Path, error: OSError | ValueError, around: Surroundings) -> Ability:
    errno = error.errno if isinstance(error, OSError) else None
    step: str | None = getattr(error, "step", None)
    row = explain(step, errno, around, foreseen=isinstance(error, IdMapPermissionError))
    if row:
        return Ability(trial.name, _meaning(trial, path), False, step, errno, row.cause, *row.told(around))
    cause = error.cause if isinstance(error, UsernsError) else None
    remedy = "\n".join(getattr(error, "__notes__", ())) or None
    return Ability(trial.name, _meaning(trial, path), False, step, errno, cause, _in_words(error), remedy)


def _in_words(error: OSError | ValueError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _meaning(trial: Trial, path: Path) -> str:
    return trial.meaning.format(path=os.fsdecode(path))
