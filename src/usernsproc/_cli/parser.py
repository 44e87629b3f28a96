"""The parser of the command line.

Not `argparse`: loading it and filling it takes longer than all else that `usernsproc run` does, and
it has neither options with several values that begin with dashes, nor values that can only be attached.
"""

from __future__ import annotations

from .._suggest import closest
from .._typing import TYPE_CHECKING
from .options import Options, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from .options import Command, Option


class HelpWanted(Exception):
    """`--help` was given."""


def parse(command: Command, arguments: Sequence[str]) -> Options:
    """The options and arguments as attributes; the command to run as `command`.

    Raises:
        UsageError: something is missing, unknown or malformed.
        HelpWanted: `--help`.
    """
    return _Parser(command).parse(list(arguments))


class _Parser:
    def __init__(self, command: Command) -> None:
        self._command = command
        self._options = Options()
        self._known: dict[str, Option] = {}
        self._add(command.groups)
        self._loaded_more = False

    def _add(self, groups: Mapping[str, Iterable[Option]]) -> None:
        for option in (option for group in groups.values() for option in group):
            for name in option.names:
                self._known.setdefault(name, option)
            if not hasattr(self._options, option.to):
                setattr(self._options, option.to, option.take.default)

    def parse(self, words: list[str]) -> Options:
        arguments: list[str] = []
        words.reverse()  # what comes next is at the end
        while words:
            word = words.pop()
            if word == "--":
                arguments += reversed(words)
                break
            if word[:1] == "-" and word != "-":
                self._take(word, words)
                if self._command.runs and len(arguments) > len(self._argument_names()):
                    raise UsageError(f"{word}: takes the place of an argument, and {arguments[0]} has it already")
                continue
            arguments.append(word)
            if self._command.runs and len(arguments) > len(self._argument_names()):
                arguments += reversed(words)
                break
        self._keep(arguments)
        return self._options

    # ---- options ----

    def _take(self, word: str, following: list[str]) -> None:
        """One option; its values, or further short options in the same word, are taken from *following*."""
        name, equals, attached = word.partition("=") if word.startswith("--") else (word[:2], "", word[2:])
        if name in ("--help", "-h"):
            raise HelpWanted
        option = self._find(name)
        values = [attached] if equals or attached else []
        if not option.values and attached and not equals:
            following.append(f"-{attached}")
            values = []
        elif not option.values and equals:
            raise self._error(option, f"{word}: {name} has no value")
        elif not option.is_optional:
            values += self._values(option, name, following, len(option.values.split()) - len(values))
        shown = word if equals else " ".join([name, *values])
        if option.choices and values[0] not in option.choices:
            raise self._error(option, f"{shown}: {' or '.join(option.choices)} is needed")
        try:
            kept = option.take.add(getattr(self._options, option.to), *values)
        except UsageError:
            raise  # it names the option
        except OSError as error:
            raise self._error(option, f"{shown}: {error.strerror or error}") from None
        except (ValueError, TypeError, OverflowError) as error:
            raise self._error(option, f"{shown}: {error}") from None
        setattr(self._options, option.to, kept)

    def _values(self, option: Option, name: str, following: list[str], count: int) -> list[str]:
        values = [following.pop() for _ in range(min(count, len(following)))]
        mistaken = [value for value in values if not option.free and (value == "--" or value in self._known)]
        if len(values) < count or mistaken:
            found = f", and {mistaken[0]} is not a value" if mistaken else ""
            raise self._error(option, f"{name} requires {option.values}{found}")
        return values

    def _find(self, name: str) -> Option:
        if name not in self._known and not self._loaded_more:
            self._loaded_more = True
            self._add(self._command.more())
        if name in self._known:
            return self._known[name]
        hint = self._command.hints.get(name)
        if hint is None and (like := closest(name, self._known)) is not None:
            hint = f"did you mean {like}?"
        raise UsageError(f"{name}: there is no such option" + (f"; {hint}" if hint else ""))

    def _error(self, option: Option, message: str) -> UsageError:
        return UsageError(f"{message}; {option.hint}" if option.hint else message)

    # ---- arguments ----

    def _argument_names(self) -> list[str]:
        names = self._command.arguments.removesuffix("]").removesuffix(" ...").split()
        return [name for name in names if getattr(self._options, name.lower(), None) is None]

    def _keep(self, arguments: list[str]) -> None:
        names = self._argument_names()
        takes_all = " ..." in self._command.arguments
        for name in names:
            attribute = name.removeprefix("[").lower()
            if not arguments and not name.startswith("["):
                raise UsageError(f"{name} is missing")
            if takes_all:
                setattr(self._options, attribute, arguments)
                return
            setattr(self._options, attribute, arguments.pop(0) if arguments else None)
        if self._command.runs:
            self._options.command = arguments
            if not arguments:
                raise UsageError("which command?")
        elif arguments:
            raise UsageError(f"one argument too many: {arguments[0]!r}")
