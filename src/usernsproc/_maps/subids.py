"""The subordinate IDs of a user, from /etc/subuid and /etc/subgid or from the source that nsswitch.conf names.

Another source than these files is asked by shadow's own library, which loads its plugins: in a
child (`getsubids(1)`), or in this process (libsubid).
"""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterator
from errno import ENOENT
from typing import NamedTuple

from .._causes import at_step, userns_error
from .._helper import find_tool, refuse_foreign_files, run_tool
from .._typing import TYPE_CHECKING
from .idmap import IdMap
from .presets import stacked
from .side import GID, SIDES, Side

if TYPE_CHECKING:
    from typing import Any

__all__ = ["SubIds", "subids"]

NSSWITCH = "/etc/nsswitch.conf"

Ranges = list[tuple[int, int]]

_NUMBER = re.compile(r"[ \t\v\f\r]*\+?(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)", re.ASCII)
_PRINTED = re.compile(r"^\d+: .* (\d+) (\d+)$", re.MULTILINE)
"""Number of the range, name of the user (which may contain blanks), first ID, count."""
_LIBRARIES = ("libsubid.so.5", "libsubid.so.4")


class SubIds(NamedTuple):
    """Subordinate ranges, each stacked one after the other from inside 0."""

    uids: IdMap
    gids: IdMap


class Owner(NamedTuple):
    """A user by name and by number; `None`: it is not known."""

    name: str | None
    uid: int | None

    @classmethod
    def of(cls, user: str | int | None) -> Owner:
        refuse_foreign_files("/etc/passwd")
        if isinstance(user, str):
            try:
                return cls(user, pwd.getpwnam(user).pw_uid)
            except KeyError:
                return cls(user, None)
        uid = os.getuid() if user is None else user
        try:
            return cls(pwd.getpwuid(uid).pw_name, uid)
        except KeyError:
            return cls(None, uid)

    def __str__(self) -> str:
        if self.name is None:
            return f"user id {self.uid}"
        return f"user {self.name!r}" if self.uid is None else f"user {self.name!r} ({self.uid})"

    def ranges(self, side: Side) -> Ranges:
        """First ID and count of each, in order; as they are given, which may overlap."""
        if other_source() is not None and self.name is not None:
            return ranges_by_nss(self.name, side)
        return [found for line in self._lines(side) if (found := _range(line))]

    def malformed_line(self, side: Side) -> str | None:
        """A line of this user that does not count, in a file that does."""
        if other_source() is not None:
            return None
        return next((line for line in self._lines(side) if not _range(line)), None)

    def source(self, side: Side) -> str:
        """For messages."""
        source = other_source()
        return side.subids_file if source is None else f"{source!r} (of /etc/nsswitch.conf)"

    def _lines(self, side: Side) -> Iterator[str]:
        names = {self.name, None if self.uid is None else str(self.uid)}
        return (line for line in _lines(side.subids_file) if line.partition(":")[0] in names)


def subids(user: str | int | None = None) -> SubIds:
    """The subordinate IDs of a user: `uids, gids = subids()`.

    Two maps, as of the preset `"subids"`: the ranges in the order of their lines in
    `/etc/subuid` and `/etc/subgid`, from inside 0 on; empty if there are none. A line
    counts that has the user's name or number, in both files. If `/etc/nsswitch.conf`
    names another source for `subid`, `getsubids(1)` or libsubid is asked, as
    `newuidmap(1)` asks it.

    Nothing is kept between calls, because files may change.

    Args:
        user: a name or a number; `None`: the real user ID of this process.

    Raises:
        IdMapError: there are more ranges than a map may have.
        UsernsError: a file cannot be read (one that does not exist has no lines), or
            nothing that could ask the other source is installed (step `prepare`).
        PermissionError: the calling thread is in a mount namespace that belongs to a user
            namespace below its own (`EPERM`, step `prepare`, cause `foreign-mount-namespace`).

    See `subuid(5)`, `subgid(5)`.
    """
    owner = Owner.of(user)
    return SubIds(*(stacked(owner.ranges(side)) for side in SIDES))


def other_source() -> str | None:
    """The first source that `/etc/nsswitch.conf` names for `subid`, if that is not the files."""
    for line in _lines(NSSWITCH):
        database, colon, sources = line.partition("#")[0].partition(":")
        if colon and database.strip().lower() == "subid" and sources.split():
            source = sources.split()[0]
            return None if source == "files" else source
    return None


def _range(line: str) -> tuple[int, int] | None:
    """First ID and count; `None` for a malformed line, which newuidmap skips."""
    fields = line.split(":")
    try:
        first, count = _number(fields[1]), _number(fields[2])
    except (IndexError, ValueError):
        return None
    return (first, count) if count else None


def _number(text: str) -> int:
    """As `strtoul(3)` with base 0 reads it, and to the end: a blank after it, or the carriage
    return of a file that was edited elsewhere, makes the line malformed."""
    found = _NUMBER.fullmatch(text)
    if not found:
        raise ValueError(text)
    digits = found[1]
    is_octal = len(digits) > 1 and digits[1] not in "xX" and digits[0] == "0"
    number = int(digits, 8 if is_octal else 0)
    if number >= 2**64:  # ERANGE; int() is quick with as many digits as it accepts
        raise ValueError(text)
    return number


def _lines(path: str) -> list[str]:
    """Decoded like the names of users."""
    refuse_foreign_files(path)
    with at_step("prepare", path):
        try:
            with open(path, "rb") as file:
                return os.fsdecode(file.read()).split("\n")
        except FileNotFoundError:
            return []
        except PermissionError as error:
            note = f"As root, make it readable for all users: chmod a+r {path}. It contains no secret."
            raise userns_error("prepare", error.errno or 0, path, cause="subids-unreadable", note=note) from None


# ---- another source ----


def ranges_by_nss(name: str, side: Side) -> Ranges:
    """Ask `getsubids(1)`; if it is not installed, libsubid.

    Raises:
        UsernsError: neither is installed (`ENOENT`, step `prepare`, cause `getsubids-missing`).
    """
    path = find_tool("getsubids")
    if path is not None:
        # Its exit status is 1 if there are none, as well as when it fails.
        ended = run_tool(path, *(("-g", name) if side is GID else (name,)))
        return [(int(first), int(count)) for first, count in _PRINTED.findall(ended.stdout)]
    library = _libsubid()
    if library is not None:
        return _ranges_by_libsubid(library, name, side)
    note = (
        "/etc/nsswitch.conf names a source of subordinate ids that only getsubids(1) and libsubid can ask: "
        "install the package uidmap (Debian, Ubuntu), shadow-utils-subid (Fedora, RHEL) or shadow."
    )
    raise userns_error("prepare", ENOENT, "getsubids", cause="getsubids-missing", note=note)


def _libsubid() -> Any:
    import ctypes

    for name in _LIBRARIES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


def _ranges_by_libsubid(library: Any, name: str, side: Side) -> Ranges:
    import ctypes

    class Range(ctypes.Structure):
        """`struct subid_range` of shadow/subid.h."""

        _fields_ = (("start", ctypes.c_ulong), ("count", ctypes.c_ulong))

    ranges = ctypes.POINTER(Range)()
    get = library.subid_get_gid_ranges if side is GID else library.subid_get_uid_ranges
    count = get(os.fsencode(name), ctypes.byref(ranges))
    try:
        return [(ranges[i].start, ranges[i].count) for i in range(count)]  # -1: none
    finally:
        if ranges:
            ctypes.CDLL(None).free(ranges)
