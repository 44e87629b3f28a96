"""`usernsproc run`: a command in a new user namespace."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from .._maps.writer import SETGROUPS
from .._processes.become import become_in_foreground
from ._arguments import STATUS, add_command_arguments, add_step_arguments, command_of, process_options, steps_of
from .bubblewrap import add_words, take_words


def add_to(commands: Any) -> None:
    """The parser of this command."""
    command = commands.add_parser(
        "run",
        help="run a command in a new user namespace",
        usage="usernsproc run [options] [--] COMMAND [ARGUMENT ...]",
        description="Run a command in a new user namespace. A MAP is inside:outside:count[,...], or "
        "'root' (own id is 0 inside), 'current' (own id stays the same), 'rootless' (own id is 0, subordinate ids "
        "from 1 on), 'subids' (subordinate ids from 0 on) or 'all' (each id stays the same). "
        "'usernsproc map MAP' shows what a preset is for you.",
        epilog=STATUS,
    )
    command.add_argument("--map", metavar="MAP", help="both id maps; without any map no id is mapped")
    command.add_argument("--uid-map", metavar="MAP", help="the user id map")
    command.add_argument("--gid-map", metavar="MAP", help="the group id map")
    command.add_argument(
        "--setgroups", choices=SETGROUPS, help="whether setgroups(2) may be called; by default what the map needs"
    )
    command.add_argument("--owner", metavar="ID", type=int, help="the id outside that shall own the namespace")
    add_step_arguments(command)
    add_command_arguments(command)
    command.first = partial(_take_words, command)
    command.set_defaults(run=run)
    add_words(command)


def _take_words(command: argparse.ArgumentParser, arguments: list[str], options: argparse.Namespace) -> list[str]:
    own = {name: int(action.nargs != 0) for action in command._actions for name in action.option_strings}
    options.sandbox, rest = take_words(arguments, own)
    return rest


def run(options: argparse.Namespace) -> int:
    if options.mount_proc and "pid" not in options.namespaces.split(","):
        raise ValueError("--mount-proc shows another pid namespace: --namespaces pid is needed with it")
    own: dict[str, Any] = {
        "uid_map": options.map if options.uid_map is None else options.uid_map,
        "gid_map": options.map if options.gid_map is None else options.gid_map,
        "setgroups": options.setgroups,
        "owner": options.owner,
        "setup": steps_of(options),
        **process_options(options),
    }
    if options.sandbox is not None:
        return options.sandbox.run(command_of(options, "run"), own)  # type: ignore[no-any-return]
    return become_in_foreground(command_of(options, "run"), **own)
