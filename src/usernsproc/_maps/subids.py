"""Who has which subordinate ids: /etc/subuid, /etc/subgid, or what nsswitch.conf says."""

from __future__ import annotations

import os
import pwd
import re
from collections.abc import Iterator
from typing import NamedTuple

from .._errors import userns_error
from .foreign_files import refuse_foreign_files
from .idmap import IdMap
from .presets import laid_out

__all__ = ["SubIds", "subids"]

FILES = {"uid_map": "/etc/subuid", "gid_map": "/etc/subgid"}
NSSWITCH = "/etc/nsswitch.conf"

Ranges = list[tuple[int, int]]

_NUMBER = re.compile(r"[ \t\v\f\r]*\+?(0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)", re.ASCII)


class SubIds(NamedTuple):
    """Subordinate ranges, each laid out one after the other from inside 0."""

    uids: IdMap
    gids: IdMap


class Owner(NamedTuple):
    """A user by name and by number; `None` where it is not known."""

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


def subids(user: str | int | None = None) -> SubIds:
    """The subordinate ids of a user: `uids, gids = subids()`.

    Two maps, empty where there are none, with the ranges in the order of their lines
    in `/etc/subuid` and `/etc/subgid`, from inside 0 on: what preset `"subids"` stands
    for. Subordinate group ids are looked up for the *user* as well, and a line counts
    that has the user's name or number. Where `/etc/nsswitch.conf` names another source
    for `subid`, `getsubids(1)` or libsubid is asked, as `newuidmap(1)` asks it.

    Nothing is kept between calls: files may change.

    Args:
        user: a name or a number; `None`: the real user id of this process.

    Raises:
        IdMapError: there are more ranges than a map takes.
        UsernsError: a file cannot be read (one that does not exist has no lines), or
            nothing that could ask the other source is installed (step `prepare`).
        PermissionError: the calling thread is in a mount namespace that belongs to a user
            namespace below its own (`EPERM`, step `prepare`, cause `foreign-mount-namespace`).

    See `subuid(5)`, `subgid(5)`.
    """
    owner = Owner.of(user)
    return SubIds(*(laid_out(ranges_of(owner, step)) for step in FILES))


def ranges_of(owner: Owner, step: str) -> Ranges:
    """First id and count of each, in order; as they are given, which may overlap."""
    if other_source() is not None and owner.name is not None:
        from .subids_nss import ranges_by_nss

        return ranges_by_nss(owner.name, step)
    return [found for line in _own_lines(owner, step) if (found := _range(line))]


def malformed_line(owner: Owner, step: str) -> str | None:
    """A line of this user that does not count, in a file that does."""
    if other_source() is not None:
        return None
    return next((line for line in _own_lines(owner, step) if not _range(line)), None)


def other_source() -> str | None:
    """What `/etc/nsswitch.conf` names first for `subid`, if that is not the files."""
    for line in _lines(NSSWITCH):
        database, colon, sources = line.partition("#")[0].partition(":")
        if colon and database.strip().lower() == "subid" and sources.split():
            source = sources.split()[0]
            return None if source == "files" else source
    return None


def _own_lines(owner: Owner, step: str) -> Iterator[str]:
    names = {owner.name, None if owner.uid is None else str(owner.uid)}
    return (line for line in _lines(FILES[step]) if line.partition(":")[0] in names)


def _range(line: str) -> tuple[int, int] | None:
    """First id and count; `None` for a malformed line, which newuidmap passes over."""
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
    if number >= 2**64:  # ERANGE; int() is quick with as many digits as it takes
        raise ValueError(text)
    return number


def _lines(path: str) -> list[str]:
    """Decoded as names of users are."""
    refuse_foreign_files(path)
    try:
        with open(path, "rb") as file:
            return os.fsdecode(file.read()).split("\n")
    except FileNotFoundError:
        return []
    except PermissionError as error:
        note = f"Let root make it readable for everybody: chmod a+r {path}. It holds no secret."
        raise userns_error("prepare", error.errno or 0, path, cause="subids-unreadable", note=note) from None
    except OSError as error:
        raise userns_error("prepare", error.errno or 0, path) from None
