"""Who has which subordinate ids: /etc/subuid, /etc/subgid, or what nsswitch.conf says."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from typing import NamedTuple

from .._errors import userns_error
from .idmap import IdMap
from .presets import laid_out

__all__ = ["SubIds", "subids"]

FILES = {"uid_map": "/etc/subuid", "gid_map": "/etc/subgid"}
NSSWITCH = "/etc/nsswitch.conf"

Ranges = list[tuple[int, int]]


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

    See `subuid(5)`, `subgid(5)`.
    """
    owner = Owner.of(user)
    return SubIds(*(laid_out(ranges_of(owner, step)) for step in FILES))


def ranges_of(owner: Owner, step: str) -> Ranges:
    """First id and count of each, in order; as they are given, which may overlap."""
    if other_source() is not None and owner.name is not None:
        from .subids_nss import ranges_by_nss

        return ranges_by_nss(owner.name, step)
    return list(_in_file(FILES[step], {owner.name, None if owner.uid is None else str(owner.uid)} - {None}))


def other_source() -> str | None:
    """What `/etc/nsswitch.conf` names first for `subid`, if that is not the files."""
    for line in _lines(NSSWITCH):
        database, colon, sources = line.partition("#")[0].partition(":")
        if colon and database.strip().lower() == "subid" and sources.split():
            source = sources.split()[0]
            return None if source == "files" else source
    return None


def _in_file(path: str, owners: set[str | None]) -> Iterator[tuple[int, int]]:
    """Lines that are malformed are passed over, as newuidmap does."""
    for line in _lines(path):
        fields = line.rstrip("\n").split(":")
        if len(fields) < 3 or fields[0] not in owners:
            continue
        try:
            first, count = _number(fields[1]), _number(fields[2])
        except ValueError:
            continue
        if first >= 0 and count > 0:
            yield first, count


def _number(text: str) -> int:
    """As `strtoul(3)` with base 0 reads it."""
    digits = text.strip().replace("_", "no digit")
    if len(digits) > 1 and digits[0] == "0" and digits[1] not in "xX":
        return int(digits, 8)
    return int(digits, 0)


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.readlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise userns_error("prepare", error.errno or 0, path) from None
