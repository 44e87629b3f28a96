"""`usernsproc doctor`: what works here, and why the rest does not."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from errno import errorcode
from typing import Any

from .._diagnosis.diagnosis import Ability, Diagnosis, diagnose
from .._diagnosis.environment import Environment
from .._diagnosis.features import Feature
from .._diagnosis.fixes import AS_THE_USER
from .._diagnosis.probes import PROBES, Need
from .._diagnosis.trials import TOTAL
from .._typing import TYPE_CHECKING
from .options import Command, Option, duration, each, one
from .output import columns, write_json, write_out

if TYPE_CHECKING:
    from .options import Options

WORKS, MANY_NEED_IT, NO_USERNS, SOME_NEED_IT = range(4)
SCHEMA = 1
"""Of `--json`: increased if a field is removed or changes its meaning."""
WIDTH = 100  # where there is no terminal
INDENT: dict[str, Any] = {"initial_indent": "       ", "subsequent_indent": "       "}
LONGEST = max(map(len, PROBES))


COMMAND = Command(
    "doctor",
    "show what works here, and why the rest does not",
    "Try each feature of user namespaces once, in child processes that then exit, and report the cause and the remedy "
    "of each failure. Nothing is changed.",
    {
        "options": (
            Option("--path", "PATH", "the directory for idmapped-mount; can be repeated; default: /", each(str)),
            Option("--timeout", "SECONDS", f"for all trials together; default: {TOTAL:g}", one(duration)),
        ),
        "output": (
            Option("--json", help="print an object for programs"),
            Option("--fix", help="print the remedies as a shell script; nothing is run"),
        ),
    },
    arguments="[ABILITY ...]",
    examples={
        "usernsproc doctor": "",
        "usernsproc doctor userns many-ids": f"only some of {', '.join(PROBES)}",
        "usernsproc doctor --fix": "what could be done, as commands",
    },
    notes=(
        f"Exit status: {WORKS} if everything works; {MANY_NEED_IT} if something does not that was named or that many "
        f"programs need; {SOME_NEED_IT} if only features fail that few programs need; {NO_USERNS} if user namespaces "
        "cannot be created at all; 125 for an error.",
    ),
)


def run(options: Options) -> int:
    if options.json and options.fix:
        raise ValueError("doctor: --json and --fix exclude each other")
    timeout = TOTAL if options.timeout is None else options.timeout
    diagnosis = diagnose(*options.ability, path=options.path or "/", timeout=timeout)
    status = exit_status(diagnosis, all_were_named=bool(options.ability))
    if options.json:
        write_json(_as_json(diagnosis, status))
    else:
        write_out(_as_script(diagnosis) if options.fix else _as_text(diagnosis))
    return status


def exit_status(diagnosis: Diagnosis, *, all_were_named: bool) -> int:
    """The class of the worst failure."""
    failed = [ability.need for ability in diagnosis.abilities if not ability]
    if not failed:
        return WORKS
    if not diagnosis.has_userns:
        return NO_USERNS
    return SOME_NEED_IT if set(failed) == {Need.SOME} and not all_were_named else MANY_NEED_IT


# ---- for programs ----


def _as_json(diagnosis: Diagnosis, status: int) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "works": bool(diagnosis),
        "has_userns": diagnosis.has_userns,
        "status": status,
        "abilities": [_ability_for_json(ability) for ability in diagnosis.abilities],
        "environment": diagnosis.environment._asdict(),
        "features": [feature._asdict() for feature in diagnosis.features],
    }


def _ability_for_json(ability: Ability) -> dict[str, Any]:
    return ability._asdict() | {"errno_name": errorcode.get(ability.errno or 0)}


# ---- the script ----


def _as_script(diagnosis: Diagnosis) -> str:
    """Each remedy once. What is not a command is a comment."""
    failed = {(ability.cause, ability.reason): ability for ability in reversed(diagnosis.abilities) if not ability}
    if not failed:
        return "# Everything works.\n"
    lines = [line for ability in reversed(failed.values()) for line in _remedy(ability, diagnosis)]
    return "\n".join(["# Read the commands before you run them: each changes this system.", *lines]) + "\n"


def _remedy(ability: Ability, diagnosis: Diagnosis) -> Iterator[str]:
    names = [other.name for other in diagnosis.abilities if not other and other.cause == ability.cause]
    yield ""
    yield from _comment(f"{', '.join(names)}: {ability.reason} ({ability.cause or 'unknown cause'})")
    if ability.fix:
        yield f"# As {'the user' if ability.cause in AS_THE_USER else 'root'}:"
        yield from ability.fix
    else:
        yield from _comment(ability.remedy or "There is no remedy that is known.")


def _comment(text: str) -> Iterator[str]:
    for line in text.splitlines():
        yield from textwrap.wrap(line, WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


# ---- in words ----


def _as_text(diagnosis: Diagnosis) -> str:
    described: set[str | None] = set()
    parts = [_describe(ability, described) for ability in diagnosis.abilities]
    rows = map(_row, _circumstances(diagnosis.environment))
    uses = map(_use, diagnosis.features)
    return "".join([*parts, "\n", *rows, "\n", *uses])


def _describe(ability: Ability, described: set[str | None]) -> str:
    """The reason and the remedy once, also if several abilities fail for that reason."""
    answer = "works" if ability else "fails"
    width = columns() or WIDTH
    lines = [f"{answer}  {ability.name:{LONGEST}}  {ability.meaning}"]
    if not ability and ability.reason in described:
        lines.append(f"       for the same reason ({ability.cause})" if ability.cause else "       for the same reason")
    elif not ability:
        described.add(ability.reason)
        where = f"{ability.step}: " if ability.step and f"{ability.step}:" not in str(ability.reason) else ""
        cause = f" ({ability.cause})" if ability.cause else ""
        said = [f"{where}{ability.reason}{cause}", *(ability.remedy or "").splitlines()]
        lines += [wrapped for line in said for wrapped in textwrap.wrap(line, width, **INDENT)]
    return "".join(f"{line}\n" for line in lines)


def _use(feature: Feature) -> str:
    return f"{'has' if feature.available else 'lacks':5}  {feature.name:{LONGEST + 3}}  {feature.used}\n"


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
    if environment.service:
        yield "service", environment.service
    yield "seccomp filter", environment.seccomp
    yield "no_new_privs", environment.no_new_privs
    if environment.chroot is not None:
        yield "chroot", environment.chroot
    if environment.label:
        yield "security label", environment.label
    if environment.proc_mounts:
        yield "hides parts of /proc", ", ".join(environment.proc_mounts)
