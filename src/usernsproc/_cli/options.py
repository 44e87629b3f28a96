"""Commands and their options as data: for the parser, the help, the manual pages and the completion."""

from __future__ import annotations

from types import SimpleNamespace

from .._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Any, Protocol

    class Add(Protocol):
        def __call__(self, kept: Any, /, *values: str) -> Any: ...


class Options(SimpleNamespace):
    """What was given on a command line: an attribute for each option and argument."""


class UsageError(ValueError):
    """The command line is wrong. The message names the option or the argument."""


class Take:
    """How an option is kept: its value if it is not given, and what each use of it adds to that."""

    __slots__ = ("add", "default")

    def __init__(self, default: Any, add: Add) -> None:
        self.default = default
        self.add = add
        """Called with what is kept so far and the values of the option. A `ValueError` of it names neither."""


def one(convert: Callable[..., Any] = str) -> Take:
    """The last value."""
    return Take(None, lambda _kept, *values: convert(*values))


def each(convert: Callable[..., Any]) -> Take:
    """All values."""
    return Take((), lambda kept, *values: (*kept, convert(*values)))


def several(convert: Callable[[str], Any] = str) -> Take:
    """All values, each of which is a list with commas."""
    return Take((), lambda kept, *values: (*kept, *map(convert, parts(*values))))


def adds(value: Any) -> Take:
    """An option without a value that stands for this one."""
    return Take((), lambda kept, *_values: (*kept, value))


FLAG = Take(False, lambda _kept, *_values: True)
TEXT = one()


def parts(text: str) -> list[str]:
    found = text.split(",")
    if "" in found:
        raise ValueError("the list has an empty part")
    return found


def number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError("a number is needed")
    return int(text)


def duration(text: str) -> float:
    """In seconds. A number with a unit, as for timeout(1)."""
    import re  # few commands need it

    found = re.fullmatch(r"([0-9]+\.?[0-9]*|\.[0-9]+)([smhd]?)", text)
    if not found or float(found[1]) > 1e9:
        raise ValueError("a number of seconds is needed, or with a unit: 1.5s, 10m, 2h, 1d")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


class Option:
    """One option, under all its names."""

    __slots__ = ("help", "hint", "names", "take", "to", "values")

    free = False
    """Whether a value can be the name of another option."""

    def __init__(
        self, names: str, values: str = "", help: str = "", take: Take | None = None, *, to: str = "", hint: str = ""
    ) -> None:
        self.names = names.split()
        self.values = values
        """Separated by spaces; `allow|deny`: one of these; `[=SIG]`: can be left out, and is attached otherwise."""
        self.help = help
        self.take = take or (TEXT if values else FLAG)
        self.to = to or self.names[0].lstrip("-").replace("-", "_")
        """The attribute of the parsed options."""
        self.hint = hint
        """For an error: what else could be meant, because another program has an option of that name."""

    @property
    def is_optional(self) -> bool:
        return self.values.startswith("[")

    @property
    def choices(self) -> list[str]:
        return self.values.split("|") if "|" in self.values else []

    @property
    def shown(self) -> str:
        """With its names and values, as in the help."""
        value = self.values if self.is_optional else f" {self.values}" if self.values else ""
        return ", ".join(sorted(self.names, key=len)) + value


def _nothing() -> Mapping[str, Iterable[Option]]:
    return {}


class Command:
    """One command. Its module has the function `run` too, which is called with the parsed options."""

    __slots__ = ("arguments", "description", "examples", "groups", "hints", "more", "name", "notes", "runs", "summary")

    def __init__(
        self,
        name: str,
        summary: str,
        description: str,
        groups: Mapping[str, Iterable[Option]],
        *,
        arguments: str = "",
        runs: bool = False,
        more: Callable[[], Mapping[str, Iterable[Option]]] | None = None,
        hints: Mapping[str, str] | None = None,
        examples: Mapping[str, str] | None = None,
        notes: Iterable[str] = (),
    ) -> None:
        self.name = name
        self.summary = summary
        self.description = description
        self.groups = groups
        """The options, by the title in the help."""
        self.arguments = arguments
        """`SOURCE TARGET`, `[MAP]`, `PATH ...`; an option of the same name takes the place of an argument."""
        self.runs = runs
        """Whether the rest is a command with its own arguments."""
        self.more = more or _nothing
        """Further groups, which are only loaded for an option that *groups* does not have."""
        self.hints = hints or {}
        """Options of other programs, with what to write instead."""
        self.examples = examples or {}
        """Command lines, with what each does."""
        self.notes = tuple(notes)

    @property
    def usage(self) -> str:
        words = ["usernsproc", self.name, "[OPTION ...]", self.arguments]
        return " ".join(filter(None, [*words, "[--] COMMAND [ARGUMENT ...]" if self.runs else ""]))


def only_one(options: Options, *names: str) -> None:
    """Refuse several of these options together.

    Raises:
        ValueError: names them.
    """
    given = [
        name for name in names if getattr(options, name.lstrip("-").replace("-", "_").lower()) not in (None, False)
    ]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} cannot be combined")
