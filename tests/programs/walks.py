"""The path of a value: the functions of the package that get it as an argument, in any of its forms."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import FrameType

import usernsproc
from usernsproc import IdMap, UsernsProcess
from usernsproc._maps.writer import Maps

PACKAGE = Path(usernsproc.__file__).parent


def is_whole(value: object) -> bool:
    """Return whether it is complete: not the map whose constructor runs."""
    return isinstance(value, str) or (isinstance(value, IdMap) and hasattr(value, "_hash"))


def parts_of(value: object) -> tuple[object, ...]:
    if isinstance(value, Maps):
        return tuple(getattr(value, name) for name in ("uid_map", "gid_map") if hasattr(value, name))
    return value if isinstance(value, tuple) and not isinstance(value, IdMap) else (value,)


def walk_of_a_map(text: str) -> None:
    """Print the files and the types, each in the order of their first occurrence."""
    forms: list[object] = [text, IdMap.parse(text), IdMap.parse(text).to_kernel()]
    files: list[str] = []
    types: list[str] = []

    def look(frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event != "call" or PACKAGE not in path.parents:
            return
        for value in frame.f_locals.values():
            for part in parts_of(value):
                if is_whole(part) and part in forms:
                    name = str(path.relative_to(PACKAGE))
                    files.extend([name] * (name not in files))
                    kind = f"{type(part).__name__} {forms.index(part)}"
                    types.extend([kind] * (kind not in types))

    UsernsProcess(["/bin/true"], uid_map="root").wait()  # loads modules that are loaded when they are first needed
    sys.setprofile(look)
    process = UsernsProcess(["/bin/true"], uid_map=text)
    sys.setprofile(None)
    process.wait()
    print(json.dumps([files, types]))
