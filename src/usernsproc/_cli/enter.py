"""`usernsproc enter`: a command in existing namespaces."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from .._namespaces.join import open_joins
from .._namespaces.namespace import Namespace
from .._processes.become import become_in_foreground
from ._arguments import STATUS, add_command_arguments, command_of, process_options


def add_to(commands: Any) -> None:
    """The parser of this command."""
    command = commands.add_parser(
        "enter",
        help="run a command in existing namespaces",
        usage="usernsproc enter TARGET [options] [--] COMMAND [ARGUMENT ...]",
        description="Run a command in the namespaces of a process (PID: every namespace of that process that differs "
        "from the caller's), or in those of namespace files (paths, separated by commas). If none of them is a user "
        "namespace, the command stays in the caller's.",
        epilog=STATUS,
    )
    add_command_arguments(command)
    command.set_defaults(run=partial(run, command))


def run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    # For argparse the command begins with TARGET: options come after that, and before as well.
    target, *rest = options.command or [""]
    if not target:
        parser.error("TARGET is missing")
    command = command_of(parser.parse_args(rest, options), "enter")
    targets = [int(part) if part.isascii() and part.isdigit() else part for part in target.split(",")]
    with open_joins(targets) as joins:
        has_userns = joins.userns is not None
    if has_userns:
        return become_in_foreground(command, join=targets, **process_options(options))
    with Namespace.current() as own:
        return become_in_foreground(command, join=[*targets, own], **process_options(options))
