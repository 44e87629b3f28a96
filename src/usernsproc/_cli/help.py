"""The text of `--help`."""

from __future__ import annotations

import textwrap

from .._typing import TYPE_CHECKING
from .output import columns, has_colours

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from .options import Command

WIDTH = 100  # where there is no terminal, and at most
INDENT = 26  # of the meaning of an option

OVERVIEW = {
    "usernsproc run --map root -- id -u": "run a command as root of a new user namespace",
    "usernsproc enter 1234 -- sh": "run a command in the namespaces of a process",
    "usernsproc doctor": "what works on this machine, and why the rest does not",
}


def help_of(command: Command) -> str:
    bold = _bold()
    parts = [f"{bold('usage:')} {command.usage}", *_filled(command.description)]
    parts += [
        "\n".join([bold(f"{title}:"), *(line for option in options for line in _row(option.shown, option.help, bold))])
        for title, options in {**command.groups, **command.more()}.items()
    ]
    if command.examples:
        parts.append("\n".join([bold("examples:"), *_examples(command.examples)]))
    return "\n\n".join([*parts, *_filled(*command.notes)]) + "\n"


def overview(commands: Sequence[Command]) -> str:
    """The help of the program itself."""
    bold = _bold()
    parts = [
        f"{bold('usage:')} usernsproc COMMAND ...",
        "Run programs in Linux user namespaces.",
        "\n".join([bold("commands:"), *(f"  {bold(command.name.ljust(8))} {command.summary}" for command in commands)]),
        "\n".join([bold("examples:"), *_examples(OVERVIEW)]),
        "'usernsproc COMMAND --help' shows the options of a command, 'usernsproc --version' the version.",
    ]
    return "\n\n".join(parts) + "\n"


def _bold() -> Callable[[str], str]:
    return (lambda text: f"\x1b[1m{text}\x1b[0m") if has_colours() else str


def _width() -> int:
    return max(40, min(columns() or WIDTH, WIDTH))


def _filled(*texts: str) -> list[str]:
    return [textwrap.fill(text, _width()) for text in texts]


def _row(name: str, meaning: str, bold: Callable[[str], str]) -> list[str]:
    lines = textwrap.wrap(meaning, _width(), initial_indent=" " * INDENT, subsequent_indent=" " * INDENT)
    if lines and len(name) + 4 <= INDENT:
        lines[0] = f"  {bold(name)}{' ' * (INDENT - 2 - len(name))}{lines[0].lstrip()}"
        return lines
    return [f"  {bold(name)}", *lines]


def _examples(examples: Mapping[str, str]) -> Iterator[str]:
    for line, meaning in examples.items():
        yield f"  {line}"
        if meaning:
            yield f"      {meaning}"
