"""Any command line is parsed or refused: no traceback, no hang, no command that was not meant."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from usernsproc import _cli, _system_calls
from usernsproc._cli import COMMANDS, enter, module_of, run, sandbox
from usernsproc._cli.options import Command, Option, UsageError
from usernsproc._cli.parser import HelpWanted, parse

ALL = {name: module_of(name).COMMAND for name in COMMANDS}
VALUES = {
    "MAP": "0:1:1",
    "ID": "5",
    "DIR": "/",
    "CAP[,...]": "chown,net_raw",
    "NAME=VALUE": "A=B",
    "KIND[,...]": "net",
    "DURATION": "1.5h",
    "SIGNAL": "TERM",
    "NAME=SOFT[:HARD]": "NOFILE=64",
    "N": "3",
    "LIST": "0-3,5",
    "SECONDS": "7",
    "TARGET": "1",
    "PATH": "/",
    "FILE": "/",
    "PID": "1",
}


def options_of(command: Command) -> list[Option]:
    return list(chain.from_iterable(command.groups.values()))


def names_of(command: Command) -> set[str]:
    found = {**command.groups, **command.more()}
    return {name for option in chain.from_iterable(found.values()) for name in option.names}


NAMES = sorted(set().union(*map(names_of, ALL.values())))
# No number of an open descriptor: an option of bubblewrap would read it.
VALUE = st.sampled_from([*VALUES.values(), "root", "", "-", "--", "true", ",", "90000", "\udcff\n", "0:0:0", "-1", "é"])
WORD = st.one_of(
    st.sampled_from(NAMES),
    VALUE,
    st.builds("{}={}".format, st.sampled_from(NAMES), VALUE),
    st.builds(lambda name, end: name[:end], st.sampled_from(NAMES), st.integers(1, 8)),
    st.text(st.characters(exclude_characters="0123456789"), max_size=6).map("-{}".format),
)


def one_use(option: Option) -> st.SearchStrategy[list[str]]:
    """The option with a value that it accepts, in all forms."""
    value = option.choices[0] if option.choices else VALUES.get(option.values)
    name = st.sampled_from(option.names)
    if not option.values:
        return name.map(lambda name: [name])
    if option.is_optional:
        return name.map(lambda name: [name] if len(name) == 2 else [f"{name}={'TERM' if 'kill' in name else '/'}"])
    assert value is not None, option.shown
    return st.one_of(
        name.map(lambda name: [name, value]),
        name.map(lambda name: [f"{name}={value}" if name.startswith("--") else f"{name}{value}"]),
    )


CONTRADICTING = {"map", "uid_map", "gid_map"}
USES: Mapping[str, st.SearchStrategy[list[list[str]]]] = {
    command.name: st.lists(
        st.sampled_from([option for option in options_of(command) if option.to not in CONTRADICTING]).flatmap(one_use),
        max_size=6,
    )
    for command in (run.COMMAND, enter.COMMAND)
}
THE_COMMAND = ["true", "--map", "-x", "--", "--help"]


def target(command: str, uses: list[list[str]]) -> list[str]:
    given = any(word.startswith(("-t", "--target")) for use in uses for word in use)
    return ["4711"] if command == "enter" and not given else []


@given(st.sampled_from(COMMANDS), st.lists(WORD, max_size=6))
def test_any_words_are_parsed_or_refused_by_name(command: str, words: list[str]) -> None:
    try:
        options = parse(ALL[command], words)
    except HelpWanted:
        assert any(word.startswith(("-h", "--help", "-")) for word in words)
    except UsageError as error:
        message = str(error)
        parts = [part for word in words for part in (word, word.partition("=")[0], word[:2]) if part.strip("-")]
        expected = [
            *parts,
            *(f"-{letter}: " for word in words for letter in word[2:]),  # several short options in a word
            "which command?",
            "one argument too many",
            *(f"{name} is missing" for name in ("SOURCE", "TARGET", "PATH")),
        ]
        assert any(part in message for part in expected), message
    else:
        if ALL[command].runs:
            assert options.command == words[len(words) - len(options.command) :]


@pytest.mark.parametrize("command", USES)
@given(data=st.data())
def test_options_that_fit_leave_the_command_as_it_is(command: str, data: st.DataObject) -> None:
    uses = data.draw(USES[command])
    words = [*chain.from_iterable(uses), *target(command, uses)]
    separator = data.draw(st.sampled_from([[], ["--"]]))
    assert parse(ALL[command], [*words, *separator, *THE_COMMAND]).command == THE_COMMAND


@pytest.mark.parametrize("command", USES)
@given(data=st.data())
def test_one_mistyped_option_is_enough_to_start_nothing(command: str, data: st.DataObject) -> None:
    uses = data.draw(USES[command])
    name = data.draw(st.sampled_from([name for name in names_of(ALL[command]) if len(name) > 4]))
    position = data.draw(st.integers(2, len(name) - 1))
    mistyped = name[:position] + data.draw(st.sampled_from(["", "q", "_", "Z"])) + name[position + 1 :]
    if mistyped in names_of(ALL[command]) or mistyped == "--help":
        return
    uses.insert(data.draw(st.integers(0, len(uses))), [mistyped])
    with pytest.raises(UsageError) as caught:
        parse(ALL[command], [*chain.from_iterable(uses), *target(command, uses), "--", *THE_COMMAND])
    assert str(caught.value).startswith(f"{mistyped}: there is no such option")


@pytest.fixture(scope="module")
def started() -> Iterator[list[list[str]]]:
    """The commands that would have been started."""
    found: list[list[str]] = []

    def start(command: list[str], **_: Any) -> int:
        found.append(command)
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sandbox, "run_in_foreground", start)
        for module in (run, enter, sandbox):
            patch.setattr(module, "become_in_foreground", start)  # or this process would be the command
        patch.setattr(_system_calls, "set_death_signal", lambda _signum: None)
        yield found


@settings(deadline=None)
@given(st.sampled_from(["run", "enter"]), st.lists(WORD, max_size=6))
def test_an_error_is_two_lines_at_most_and_starts_nothing(
    started: list[list[str]], command: str, words: list[str]
) -> None:
    started.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", io.StringIO())
        patch.setattr("sys.stderr", errors := io.StringIO())
        status = _cli.main([command, *words])
    assert status in (0, 125)
    if status:
        assert started == []
        lines = [line for line in errors.getvalue().splitlines() if "Only the last" not in line]
        assert 1 <= len(lines) <= 2, lines
    for words_of_command in started:
        assert words_of_command[-1:] == words[-1:]
