"""`usernsproc doctor`: what works here, and why the rest does not."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterator
from typing import Any

from .._diagnosis.diagnosis import Ability, Diagnosis, diagnose
from .._diagnosis.surroundings import Surroundings
from .._diagnosis.trials import TRIALS
from .output import columns, write_out

WORKS, SOME_DO_NOT, NO_USERNS = 0, 1, 2
WIDTH = 100  # where there is no terminal
INDENT: dict[str, Any] = {"initial_indent": "       ", "subsequent_indent": "       "}


def add_to(commands: Any) -> None:
    """The parser of this command."""
    names = [trial.name for trial in TRIALS]
    command = commands.add_parser(
        "doctor",
        help="tell what works here, and why the rest does not",
        description="Try what can be done with user namespaces, each thing once, in a child that is gone afterwards, "
        "and tell for what does not work why, and what to do. Nothing is changed.",
        epilog=f"Exit status: {WORKS} when all of it works, {SOME_DO_NOT} when something does not, {NO_USERNS} when "
        "there are no user namespaces at all; 125 for an error.",
    )
    command.add_argument(
        "abilities", metavar="ABILITY", nargs="*", help=f"only these: {', '.join(names)}; default: all of them"
    )
    command.add_argument("--path", default="/", help="what to mount for idmapped-mount; default: /")
    command.add_argument("--json", action="store_true", help="for programs")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    diagnosis = diagnose(*options.abilities, path=options.path)
    write_out(_as_json(diagnosis) if options.json else _as_text(diagnosis))
    if diagnosis:
        return WORKS
    return SOME_DO_NOT if diagnosis.has_userns else NO_USERNS


def _as_json(diagnosis: Diagnosis) -> str:
    document = {
        "works": bool(diagnosis),
        "has_userns": diagnosis.has_userns,
        "abilities": [ability._asdict() for ability in diagnosis.abilities],
        "surroundings": diagnosis.surroundings._asdict(),
    }
    return json.dumps(document, indent=2) + "\n"


def _as_text(diagnosis: Diagnosis) -> str:
    parts = [_described(ability) for ability in diagnosis.abilities]
    return "".join([*parts, "\n", *map(_row, _circumstances(diagnosis.surroundings))])


def _described(ability: Ability) -> str:
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


def _circumstances(around: Surroundings) -> Iterator[tuple[str, object]]:
    """What is the case everywhere is left out."""
    yield "kernel", around.kernel or "unknown"
    if around.max_user_namespaces is not None:
        yield "user namespaces", f"at most {around.max_user_namespaces} (user.max_user_namespaces)"
    if around.unprivileged_userns_clone is not None:
        yield "also for ordinary users", around.unprivileged_userns_clone
    yield "container", around.container or "no"
    yield "seccomp filter", around.seccomp
    yield "no_new_privs", around.no_new_privs
    if around.chroot is not None:
        yield "chroot", around.chroot
    if around.label:
        yield "security label", around.label
    if around.proc_mounts:
        yield "hides parts of /proc", ", ".join(around.proc_mounts)
