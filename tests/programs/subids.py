"""The programs of `test_subids.py`."""

from __future__ import annotations

import os
import sys
import tempfile

from usernsproc import IdMapPermissionError, UsernsError, create_userns
from usernsproc import subids as subids_of_caller
from usernsproc._maps import subids
from usernsproc._maps.side import UID


def ask() -> None:
    """Print the caller's subordinate IDs, a map of them, and how other IDs fail."""
    try:
        print(*subids_of_caller())
        with create_userns("rootless", "rootless") as userns:
            print(userns.uid_map, userns.gid_map)
        create_userns("0:100000:5", "root")
    except (IdMapPermissionError, UsernsError) as error:
        print(error.cause, error)


def names_are_not_ascii() -> None:
    assert sys.getfilesystemencoding() == "ascii"
    name = b"j\xc3\xb6rg"
    with tempfile.NamedTemporaryFile() as file:
        file.write(name + b":100:5\n")
        file.flush()
        UID.subids_file = file.name
        assert subids.Owner(os.fsdecode(name), None).ranges(UID) == [(100, 5)]
