"""`usernsproc doctor`: what works here, and why the rest does not."""

from __future__ import annotations

import argparse
import json
import textwrap
from collections.abc import Iterator
from typing import Any

from .._diagnosis.diagnosis import Ability, Diagnosis, diagnose
from .._diagnosis.environment import Environment
from .._diagnosis.probes import PROBES
from .output import columns, write_out

WORKS, SOME_DO_NOT, NO_USERNS = 0, 1, 2
WIDTH = 100  # where there is no terminal
INDENT: dict[str, Any] = {"initial_indent": "       ", "subsequent_indent": "       "}


def add_to(commands: Any) -> None:
    """The parser of this command."""
    command = commands.add_parser(
        "doctor",
        help="show what works here, and why the rest does not",
        description="Try each feature of user namespaces once, in child processes that then exit, and report the "
        "cause and the remedy of each failure. Nothing is changed.",
        epilog=f"Exit status: {WORKS} if everything works, {SOME_DO_NOT} if something does not, {NO_USERNS} if "
        "user namespaces cannot be created at all; 125 for an error.",
    )
    command.add_argument(
        "abilities", metavar="ABILITY", nargs="*", help=f"only these: {', '.join(PROBES)}; default: all of them"
    )
    command.add_argument("--path", default="/", help="the directory for idmapped-mount; default: /")
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
