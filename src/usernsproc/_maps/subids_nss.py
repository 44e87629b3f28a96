"""Subordinate ids of a source that nsswitch.conf names: by shadow's own library, which
knows its plugins, in a program of its own or in this one."""

from __future__ import annotations

import os
import re
from typing import Any

from .._errors import userns_error
from .tool import find_tool, run_tool

_LINE = re.compile(r"^\d+: .* (\d+) (\d+)$", re.MULTILINE)
"""Number of the range, name of the user (which may have blanks), first id, count."""
_LIBRARIES = ("libsubid.so.5", "libsubid.so.4")


def ranges_by_nss(name: str, step: str) -> list[tuple[int, int]]:
    """Ask `getsubids(1)`; where it is not installed, libsubid.

    Raises:
        UsernsError: neither is there (`ENOENT`, step `prepare`, cause `getsubids-missing`).
    """
    path = find_tool("getsubids")
    if path is not None:
        # It ends with status 1 when there are none, as well as when it fails.
        ended = run_tool(path, *(("-g", name) if step == "gid_map" else (name,)))
        return [(int(first), int(count)) for first, count in _LINE.findall(ended.stdout)]
    library = _libsubid()
    if library is not None:
        return _ranges_by_libsubid(library, name, step)
    raise userns_error(
        "prepare",
        2,
        "getsubids",
        cause="getsubids-missing",
        note="/etc/nsswitch.conf names a source of subordinate ids that only getsubids(1) and libsubid can ask: "
        "install the package uidmap (Debian, Ubuntu), shadow-utils-subid (Fedora, RHEL) or shadow.",
    )


def _libsubid() -> Any:
    import ctypes

    for name in _LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def _ranges_by_libsubid(library: Any, name: str, step: str) -> list[tuple[int, int]]:
    import ctypes

    class Range(ctypes.Structure):
        """`struct subid_range` of shadow/subid.h."""

        _fields_ = (("start", ctypes.c_ulong), ("count", ctypes.c_ulong))

    ranges = ctypes.POINTER(Range)()
    get = library.subid_get_gid_ranges if step == "gid_map" else library.subid_get_uid_ranges
    count = get(os.fsencode(name), ctypes.byref(ranges))
    try:
        return [(ranges[i].start, ranges[i].count) for i in range(count)]  # -1: none
    finally:
        if ranges:
            ctypes.CDLL(None).free(ranges)
