"""The right word for a mistyped one."""

from __future__ import annotations

from functools import wraps

from ._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, ParamSpec, TypeVar

    P = ParamSpec("P")
    R = TypeVar("R")


def closest(word: str, known: Iterable[str]) -> str | None:
    """The known word that is most like *word*, whatever its case, underscores and hyphens; `None`: none is like it."""
    from difflib import get_close_matches  # only after a mistake

    plain = {_plain(name): name for name in sorted(known, reverse=True)}
    found = get_close_matches(_plain(word), plain, 1, 0.6)
    return plain[found[0]] if found else None


def _plain(word: str) -> str:
    return word.lower().replace("_", "").replace("-", "")


def unexpected(function: str, name: str, meanings: dict[str, str]) -> TypeError:
    """For a keyword argument that *function* does not have. *meanings*: what to write instead, by the right name."""
    like = closest(name, meanings)
    hint = "" if like is None else f"; did you mean {meanings[like]}?"
    return TypeError(f"{function}() got an unexpected keyword argument {name!r}{hint}")


def suggesting(function: Callable[P, R]) -> Callable[P, R]:
    """The function, whose error for a mistyped keyword argument has the right one."""

    @wraps(function)
    def call(*args: Any, **options: Any) -> R:
        try:
            return function(*args, **options)
        except TypeError:
            code = function.__code__  # pyright: ignore[reportFunctionMemberAccess]
            names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
            for name in options:
                if name not in names:
                    raise unexpected(function.__name__, name, {right: f"{right}=" for right in names}) from None
            raise

    return call
