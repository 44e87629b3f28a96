"""A test of a coroutine function, on each event loop."""

from __future__ import annotations

import asyncio
import gc
import inspect
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from alone import A_HANG
from loops import LOOPS


def run_in(loop: str, main: Coroutine[Any, Any, None]) -> None:
    """Run *main*. Check that no task is left and that the loop has logged nothing."""
    complaints: list[dict[str, Any]] = []
    with asyncio.Runner(debug=True, loop_factory=LOOPS[loop]) as runner:
        runner.get_loop().set_exception_handler(lambda _loop, context: complaints.append(context))
        runner.run(asyncio.wait_for(main, A_HANG))
        left = asyncio.all_tasks(runner.get_loop())
    gc.collect()
    assert not complaints
    assert not left


def in_each_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Make a test of a coroutine function. What it leaves behind is reported when the loop is closed."""

    def run(loop: str, **fixtures: Any) -> None:
        run_in(loop, test(**fixtures))

    signature = inspect.signature(test)
    loop = inspect.Parameter("loop", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = signature.replace(parameters=[loop, *signature.parameters.values()])  # type: ignore[attr-defined]
    run.__name__, run.__doc__, run.__module__ = test.__name__, test.__doc__, test.__module__
    run.pytestmark = getattr(test, "pytestmark", [])  # type: ignore[attr-defined]
    decorated: Callable[..., None] = pytest.mark.parametrize("loop", LOOPS)(run)
    return decorated
