"""What a test asks for: its markers, and the fixture `userns`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from .._processes.interpreter import interpreter_options

if TYPE_CHECKING:
    from collections.abc import Mapping

_NODES: dict[str, type[pytest.Item | pytest.Collector]] = {
    "function": pytest.Item,
    "class": pytest.Class,
    "module": pytest.File,
}
_MAPS = ("uid_map", "gid_map", "join")
_LONGEST = 1_000_000
"""In seconds; `poll(2)` has an `int` of milliseconds."""


def uses_fixture(item: pytest.Item) -> bool:
    """Whether it uses the fixture `userns` of this package. A project can have its own of that name."""
    definitions: Any = getattr(getattr(item, "_fixtureinfo", None), "name2fixturedefs", {}).get("userns")
    return bool(definitions) and definitions[-1].func.__module__ == f"{__package__}.plugin"


class Request:
    """The options of the process, the time limit of the test, and the tests that share the process."""

    def __init__(self, item: pytest.Item, given: Mapping[str, Any]) -> None:
        options = dict(given)
        timeout = self.timeout = options.pop("timeout", None)
        if timeout is not None and not (isinstance(timeout, int | float) and 0 < timeout <= _LONGEST):
            raise ValueError(f"userns: timeout is a number of seconds from above 0 to {_LONGEST}, not {timeout!r}")
        scope = options.pop("scope", "function")
        if scope not in _NODES:
            raise ValueError(f"userns: scope is one of {', '.join(_NODES)}, not {scope!r}")
        if all(options.get(name) is None for name in _MAPS):
            options["uid_map"] = "root"
        self.options = interpreter_options(options, "userns")
        # A function that is in no class has a process of its own.
        shared = item.getparent(_NODES[scope]) or item
        self._shared = "" if shared is item else shared.nodeid

    @classmethod
    def of(cls, item: pytest.Item | None) -> Request | None:
        """`None`: the test runs in this process.

        Raises:
            ValueError, TypeError: the marker has options that cannot be used.
        """
        if item is None:
            return None
        marks = list(item.iter_markers("userns"))
        has_fixture = uses_fixture(item)
        if not marks and not has_fixture:
            return None
        parameters: Mapping[str, Any] = getattr(getattr(item, "callspec", None), "params", {}) if has_fixture else {}
        given: dict[str, Any] = {}
        for mark in reversed(marks):  # that of the test itself last
            if mark.args:
                raise TypeError(f"userns: the options are given by keyword, not as {mark.args!r}")
            given.update(mark.kwargs)
        parameter = parameters.get("userns", {})
        if not hasattr(parameter, "keys"):
            raise TypeError(f"userns: the parameter of the fixture is a dictionary of options, not {parameter!r}")
        given.update(parameter)
        return cls(item, given)

    def shares_process_with(self, other: Request | None) -> bool:
        return (
            other is not None and bool(self._shared) and (self._shared, self.options) == (other._shared, other.options)
        )
