"""The warning of `python -X warn_default_encoding` (PEP 597), at the user's line."""

from __future__ import annotations

import locale
import os
import subprocess
import sys
import warnings

from .._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

_UNIVERSAL_NEWLINES_POSITION = 10  # in Popen's parameters after `args`
_NOT_THE_USERS = (os.path.dirname(__file__) + os.sep, subprocess.__file__)


def name_default_encoding(popen_args: tuple[Any, ...], options: dict[str, Any]) -> None:
    """Put the default into *options* where the user chose text but no encoding, with a warning.

    `Popen` would do so itself, but takes the first line outside of its own file
    for the user's, which is one of ours.
    """
    if options.get("encoding") is not None or not _is_text(popen_args, options):
        return
    frame, stacklevel = sys._getframe(), 1
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_NOT_THE_USERS):
        frame, stacklevel = frame.f_back, stacklevel + 1
    warnings.warn("'encoding' argument not specified.", EncodingWarning, stacklevel)
    options["encoding"] = "utf-8" if sys.flags.utf8_mode else locale.getencoding()


def _is_text(popen_args: tuple[Any, ...], options: dict[str, Any]) -> bool:
    by_position = popen_args[_UNIVERSAL_NEWLINES_POSITION : _UNIVERSAL_NEWLINES_POSITION + 1]
    return any((*by_position, *(options.get(name) for name in ("text", "errors", "universal_newlines"))))
