"""Abilities and their diagnosis: what works here, and why the rest does not."""

from __future__ import annotations

import os
from typing import NamedTuple

from .._causes import at_step
from .._errors import IdMapPermissionError, UsernsError
from .._typing import TYPE_CHECKING
from .environment import Environment
from .explanations import explain
from .probes import PROBES, Probe

if TYPE_CHECKING:
    from .._place import Path

__all__ = ["Ability", "Diagnosis", "diagnose"]


class Ability(NamedTuple):
    """One thing that can be done with user namespaces, or cannot. It is true if it can."""

    name: str
    """`userns`, `many-ids`, `mount`, `proc`, `net` or `idmapped-mount`."""
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

    def __bool__(self) -> bool:
        return self.works


class Diagnosis(NamedTuple):
    """The result of `diagnose`. It is true if everything that was asked for works."""

    abilities: tuple[Ability, ...]
    """In the order asked for."""
    has_userns: bool
    """Whether user namespaces can be created here at all."""
    surroundings: Environment
    """The limits, filters and security modules that affect the result, as they were read."""

    def __bool__(self) -> bool:
        return all(self.abilities)

    def ability(self, name: str) -> Ability:
        """The ability of that name.

        Raises:
            KeyError: it was not asked for.
        """
        for ability in self.abilities:
            if ability.name == name:
                return ability
        raise KeyError(name)


def diagnose(*abilities: str, path: Path = "/") -> Diagnosis:
    """Try what works here; for each failure, report the cause and the remedy.

    Each ability is tried with the functions of this library, in a child process or a
    namespace that no longer exists when the function returns. Settings alone would
    mislead, since they do not show what else refuses a call. The limits, filters and
    security modules then determine which of the likely causes applies. Nothing on the
    system is changed. Neither root nor a network is required.

    Args:
        abilities: the names of what to try; default: all. `userns`: a user namespace
            in which the caller is root. `many-ids`: a user namespace with many IDs,
            for root all IDs of the caller's namespace (preset `all`), for other users
            their subordinate IDs (preset `rootless`). `mount`: mounts in a new mount
            namespace. `proc`: a fresh `/proc` for a new PID namespace. `net`: a network
            namespace whose loopback interface is up. `idmapped-mount`: *path*, or the
            file system that is mounted there, mounted with other owners (detached, so
            no other process sees it).
        path: the directory for `idmapped-mount`.

    Raises:
        ValueError: an unknown ability.
        UsernsError: `stat(2)` of *path* failed: it does not exist, or a directory above it
            cannot be searched (step `open_tree`).

    Takes about 0.1 s, the time of a few processes.
    """
    with at_step("open_tree", os.fspath(path)):
        os.stat(path)
    unknown = [name for name in abilities if name not in PROBES]
    if unknown:
        raise ValueError(f"unknown ability {unknown[0]!r} (choose from {', '.join(PROBES)})")
    environment = Environment.read()
    userns = _try(PROBES["userns"], path, environment)
    found = [
        userns if name == "userns" else _try_after(userns, PROBES[name], path, environment)
        for name in abilities or PROBES
    ]
    return Diagnosis(tuple(found), userns.works, environment)


def _try_after(userns: Ability, probe: Probe, path: Path, environment: Environment) -> Ability:
    """Without user namespaces, the other probes fail for the same reason."""
    if userns:
        return _try(probe, path, environment)
    return userns._replace(name=probe.name, meaning=_meaning(probe, path))


def _try(probe: Probe, path: Path, environment: Environment) -> Ability:
    try:
        probe.attempt(path)
    except (OSError, ValueError) as error:
        return _explain_failure(probe, path, error, environment)
    return Ability(probe.name, _meaning(probe, path), works=True)


def _explain_failure(probe: Probe, path: Path, error: OSError | ValueError, environment: Environment) -> Ability:
    errno = error.errno if isinstance(error, OSError) else None
    step: str | None = getattr(error, "step", None)
    row = explain(step, errno, environment, foreseen=isinstance(error, IdMapPermissionError))
    if row:
        return Ability(probe.name, _meaning(probe, path), False, step, errno, row.cause, *row.describe(environment))
    cause = error.cause if isinstance(error, UsernsError) else None
    remedy = "\n".join(getattr(error, "__notes__", ())) or None
    return Ability(probe.name, _meaning(probe, path), False, step, errno, cause, _reason(error), remedy)


def _reason(error: OSError | ValueError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else str(error)


def _meaning(probe: Probe, path: Path) -> str:
    return probe.meaning.format(path=os.fsdecode(path))
