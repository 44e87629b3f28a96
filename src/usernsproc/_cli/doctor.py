"""`usernsproc doctor`: what works here, and why the rest does not."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from .._diagnosis.diagnosis import Ability, Diagnosis, diagnose
from .._diagnosis.environment import Environment
from .._diagnosis.probes import PROBES
from .._typing import TYPE_CHECKING
from .options import Command, Option
from .output import columns, write_json, write_out

if TYPE_CHECKING:
    from .options import Options

WORKS, SOME_DO_NOT, NO_USERNS = 0, 1, 2
WIDTH = 100  # where there is no terminal
INDENT: dict[str, Any] = {"initial_indent": "       ", "subsequent_indent": "       "}


COMMAND = Command(
    "doctor",
    "show what works here, and why the rest does not",
    "Try each feature of user namespaces once, in child processes that then exit, and report the cause and the remedy "
    "of each failure. Nothing is changed.",
    {
        "options": (
            Option("--path", "PATH", "the directory for idmapped-mount; default: /"),
            Option("--json", help="as JSON"),
        ),
    },
    arguments="[ABILITY ...]",
    examples={"usernsproc doctor": "", "usernsproc doctor userns many-ids": f"only some of {', '.join(PROBES)}"},
    notes=(
        f"Exit status: {WORKS} if everything works, {SOME_DO_NOT} if something does not, {NO_USERNS} if user "
        "namespaces cannot be created at all; 125 for an error.",
    ),
)


def run(options: Options) -> int:
    diagnosis = diagnose(*options.ability, path=options.path or "/")
    if options.json:
        write_json(_as_json(diagnosis))
    else:
        write_out(_as_text(diagnosis))
    if diagnosis:
        return WORKS
    return SOME_DO_NOT if diagnosis.has_userns else NO_USERNS


def _as_json(diagnosis: Diagnosis) -> dict[str, Any]:
    return {
        "works": bool(diagnosis),
        "has_userns": diagnosis.has_userns,
        "abilities": [ability._asdict() for ability in diagnosis.abilities],
        "surroundings": diagnosis.surroundings._asdict(),
    }


def _as_text(diagnosis: Diagnosis) -> str:
    parts = [_describe(ability) for ability in diagnosis.abilities]
    return "".join([*parts, "\n", *map(_row, _circumstances(diagnosis.surroundings))])


def _describe(ability: Ability) -> str:
    answer = "works" if ability else "fails"
    width = columns() or WIDTH
    lines = [f"{answer}  {ability.name:15} {ability.meaning}"]
    if not ability:
        where = f"{ability.step}: " if ability.step and f"{ability.step}:" not in str(ability.reason) else ""
        cause = f" ({ability.cause})" if ability.cause else ""
        said = [f"{where}{ability.reason}{cause}", *(ability.remedy or "").splitlines()]
        lines += [wrapped for line in said for wrapped in textwrap.wrap(line, width, **INDENT)]
    return "".join(f"{line}\n" for line in lines)


def _row(row: tuple[str, object]) -> str:
    name, value = row
    if isinstance(value, bool):
        value = "yes" if value else "no"
    return f"{name:22} {value}\n"


def _circumstances(environment: Environment) -> Iterator[tuple[str, object]]:
    """Without the values that are the same everywhere."""
    yield "kernel", environment.kernel or "unknown"
    if environment.max_user_namespaces is not None:
        yield "user namespaces", f"at most {environment.max_user_namespaces} (user.max_user_namespaces)"
    if environment.unprivileged_userns_clone is not None:
        yield "unprivileged userns", environment.unprivileged_userns_clone
    yield "container", environment.container or "no"
    yield "seccomp filter", environment.seccomp
    yield "no_new_privs", environment.no_new_privs
    if environment.chroot is not None:
        yield "chroot", environment.chroot
    if environment.label:
        yield "security label", environment.label
    if environment.proc_mounts:
        yield "hides parts of /proc", ", ".join(environment.proc_mounts)
