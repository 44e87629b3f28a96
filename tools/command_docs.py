"""Writes what is made from the commands of `usernsproc._cli`: manual pages, completion, the command reference.

python tools/command_docs.py

A test fails while one of the files differs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import shtab

from usernsproc import NamespaceKind, __version__
from usernsproc._cli import COMMANDS, module_of
from usernsproc._cli.help import OVERVIEW
from usernsproc._cli.options import Command, Option
from usernsproc._diagnosis.probes import PROBES
from usernsproc._maps.idmap import PRESETS

ROOT = Path(__file__).parent.parent
SUMMARY = "run programs in Linux user namespaces"
COMPLETIONS = {
    "bash": "share/bash-completion/completions/usernsproc",
    "zsh": "share/zsh/site-functions/_usernsproc",
    "fish": "share/fish/vendor_completions.d/usernsproc.fish",
}
SUGGESTED = {"MAP": PRESETS, "KIND[,...]": [kind.value for kind in NamespaceKind], "ABILITY": list(PROBES)}
"""Completed in place of such a value; other values are possible as well."""
STATUS = {
    "125": "an error of usernsproc: on the command line, or a step failed",
    "126": "the command cannot be executed",
    "127": "the command was not found",
}


def commands() -> list[Command]:
    return [module_of(name).COMMAND for name in COMMANDS]


def files() -> dict[str, str]:
    """The content of each file, by its path."""
    found = {f"share/man/man1/usernsproc-{command.name}.1": manual_page(command) for command in commands()}
    parser = parser_of_all()
    return {
        **found,
        "share/man/man1/usernsproc.1": overview_page(),
        "docs/commands.md": reference(),
        **{path: f"{shtab.complete(parser, shell).rstrip()}\n" for shell, path in COMPLETIONS.items()},
    }


def groups_of(command: Command) -> Mapping[str, tuple[Option, ...]]:
    return {title: tuple(options) for title, options in {**command.groups, **command.more()}.items()}


# ---- manual pages: man(7) ----


def manual_page(command: Command) -> str:
    lines = [*_title(f"usernsproc-{command.name}", command.summary), f".B {_roff(command.usage)}"]
    lines += [".SH DESCRIPTION", _roff(command.description)]
    if command.groups:
        lines.append(".SH OPTIONS")
    for title, options in groups_of(command).items():
        lines.append(f".SS {_roff(title[0].upper() + title[1:])}")
        for option in options:
            lines += [".TP", f".B {_roff(option.shown)}", _roff(option.help)]
    if command.notes:
        lines += [".SH NOTES", "\n.PP\n".join(map(_roff, command.notes))]
    lines += _examples(command.examples)
    return "\n".join([*lines, ".SH SEE ALSO", ".BR usernsproc (1), user_namespaces (7)"]) + "\n"


def overview_page() -> str:
    lines = [*_title("usernsproc", SUMMARY), ".B usernsproc COMMAND ...", ".SH COMMANDS"]
    for command in commands():
        lines += [".TP", f".BR usernsproc\\-{command.name} (1)", _roff(command.summary)]
    lines.append(".SH EXIT STATUS")
    for status, meaning in STATUS.items():
        lines += [".TP", f".B {status}", _roff(meaning)]
    return "\n".join([*lines, *_examples(OVERVIEW), ".SH SEE ALSO", ".BR unshare (1), nsenter (1), bwrap (1)"]) + "\n"


def _title(name: str, summary: str) -> list[str]:
    heading = f'.TH {_roff(name.upper())} 1 "" "usernsproc {__version__}"'
    return [heading, ".SH NAME", f"{_roff(name)} \\- {_roff(summary)}", ".SH SYNOPSIS"]


def _examples(examples: Mapping[str, str]) -> Iterator[str]:
    if examples:
        yield ".SH EXAMPLES"
    for line, meaning in examples.items():
        yield from [".TP", f".B {_roff(line)}", _roff(meaning)]


def _roff(text: str) -> str:
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


# ---- the command reference: Markdown ----


def reference() -> str:
    parts = [
        "# Commands",
        "`usernsproc COMMAND --help` and the manual pages, such as `usernsproc-run(1)`, show the same.",
    ]
    for command in commands():
        parts += [f"## usernsproc {command.name}", f"```text\n{command.usage}\n```", _markdown(command.description)]
        for title, options in groups_of(command).items():
            rows = [f"| `{_cell(option.shown)}` | {_cell(_markdown(option.help))} |" for option in options]
            parts.append("\n".join([f"| {title} | |", "|---|---|", *rows]))
        parts += [_markdown(note) for note in command.notes]
        if command.examples:
            lines = [f"{line}{f'  # {meaning}' if meaning else ''}" for line, meaning in command.examples.items()]
            parts.append("```text\n" + "\n".join(lines) + "\n```")
    return "\n\n".join(parts) + "\n"


def _markdown(text: str) -> str:
    return text.replace("*", "\\*").replace("<", "&lt;").replace("[", "\\[")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


# ---- completion: shtab takes it from a parser of argparse ----


def parser_of_all() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="usernsproc", description=f"{SUMMARY[0].upper()}{SUMMARY[1:]}.")
    parser.add_argument("--version", action="version", version=__version__)
    subparsers = parser.add_subparsers()
    for command in commands():
        subparser = subparsers.add_parser(command.name, help=command.summary, description=command.summary)
        seen: set[str] = set()
        for options in groups_of(command).values():
            for option in options:
                names = [name for name in option.names if name not in seen]
                seen.update(names)
                if names:
                    _add(subparser, names, option)
        for word in command.arguments.strip("[]").replace("...", "").split():
            _complete(subparser.add_argument(word.lower(), nargs="?", help=word), word)
        if command.runs:
            _complete(subparser.add_argument("command", nargs="*", help="the command to run"), "FILE")
    return parser


def _add(parser: argparse.ArgumentParser, names: list[str], option: Option) -> None:
    values = option.values.split()
    settings: dict[str, Any] = {"action": "store_true"} if not values or option.is_optional else {}
    if option.choices:
        settings = {"choices": option.choices}
    elif values and not settings:
        settings = {"nargs": len(values), "metavar": tuple(values)} if len(values) > 1 else {}
    action = parser.add_argument(*names, help=option.help.replace("%", "%%"), **settings)
    if len(values) == 1:
        _complete(action, option.values)


def _complete(action: argparse.Action, value: str) -> None:
    if value == "DIR":
        action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    elif value in ("FILE", "PATH", "SOURCE", "TARGET"):
        action.complete = shtab.FILE  # type: ignore[attr-defined]
    elif value in SUGGESTED:
        action.choices = SUGGESTED[value]


if __name__ == "__main__":
    for path, content in files().items():
        file = ROOT / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists() or file.read_text() != content:
            file.write_text(content)
            print(path, file=sys.stderr)
