"""The error of a call that has to fail. Test programs import this, so it does not import pytest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from usernsproc import UsernsError


def error_of(call: Callable[..., Any], *arguments: Any, **options: Any) -> UsernsError:
    try:
        call(*arguments, **options)
    except UsernsError as error:
        return error
    raise AssertionError("it did not fail")
