"""ID maps as values: no system calls, no privileges.

A range is written `inside:outside:count`: `count` IDs from `inside` in the
namespace stand for those from `outside` in its parent namespace. The rules are
the kernel's (`user_namespaces(7)`). Two kinds of maps that it would silently misread
are refused too: it truncates numbers to 32 bits, so that `0:4294967296:1` would map
root of the parent namespace, and it ignores everything after a NUL.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from operator import index

from .._errors import IdMapError
from .._typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, NoReturn, overload

    from typing_extensions import Self, TypeAlias, TypeIs

__all__ = ["IdMap", "IdMapLike", "IdRange"]

NO_ID = 2**32 - 1
"""`(uid_t)-1`: the one 32-bit number that is not an ID."""

MAX_RANGES = 340
"""Ranges in one map (Linux 4.15; 5 before)."""

MAX_TEXT = mmap.PAGESIZE - 1
"""Bytes in the text of a map: it has to be written at once, and to be shorter than a page."""

_NUMBER = re.compile(r"[0-9]+", re.ASCII)


class IdRange:
    """`count` IDs: from `inside` in the namespace, from `outside` in its parent.

    A frozen value: compared and ordered as the three numbers, hashable, and it can
    be unpacked into them.

    Raises:
        IdMapError: an ID that is not in 0 … 4294967294, a count below 1, or a
            range that runs over the end.
    """

    __slots__ = ("_numbers",)
    __match_args__ = ("inside", "outside", "count")

    _numbers: tuple[int, int, int]

    def __init__(self, inside: int, outside: int, count: int) -> None:
        object.__setattr__(self, "_numbers", (index(inside), index(outside), index(count)))
        for name, number in zip(self.__match_args__, self._numbers, strict=True):
            if number.bit_length() > 128:  # int and str have a limit, and are slow
                raise IdMapError(f"a range whose {name} has {number.bit_length()} bits: ids have 32")
        if self.count < 1:
            raise IdMapError(f"range {self}: the count must be at least 1")
        for name, first in (("inside", self.inside), ("outside", self.outside)):
            if not 0 <= first < NO_ID:
                raise IdMapError(f"range {self}: the {name} id {first} is not in 0 … {NO_ID - 1}")
            if first + self.count > NO_ID:
                raise IdMapError(
                    f"range {self}: the last {name} id would be {first + self.count - 1}; {NO_ID - 1} is the highest"
                )

    @property
    def inside(self) -> int:
        """The first ID in the namespace."""
        return self._numbers[0]

    @property
    def outside(self) -> int:
        """The first ID in the parent namespace."""
        return self._numbers[1]

    @property
    def count(self) -> int:
        """The number of IDs."""
        return self._numbers[2]

    def __setattr__(self, name: str, value: object) -> NoReturn:
        raise AttributeError(f"cannot set {name}: a range is a value")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(f"cannot delete {name}: a range is a value")

    def __iter__(self) -> Iterator[int]:
        return iter(self._numbers)

    def __eq__(self, other: object) -> bool:
        return self._numbers == other._numbers if isinstance(other, IdRange) else NotImplemented

    def __lt__(self, other: object) -> bool:
        return self._numbers < other._numbers if isinstance(other, IdRange) else NotImplemented

    def __le__(self, other: object) -> bool:
        return self._numbers <= other._numbers if isinstance(other, IdRange) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._numbers)

    def __str__(self) -> str:
        return f"{self.inside}:{self.outside}:{self.count}"

    def __repr__(self) -> str:
        return f"IdRange(inside={self.inside}, outside={self.outside}, count={self.count})"

    def __reduce__(self) -> tuple[type[Self], tuple[int, int, int]]:
        return type(self), self._numbers


class IdMap:
    """An immutable sequence of ranges, in the order given.

    Compared by value, hashable, picklable. `id in map` is true for an *inside* ID
    of the map; `range in map` is true for an `IdRange` of it.

    Raises:
        IdMapError: two ranges overlap inside or outside, there are more than 340,
            or their text is longer than the kernel accepts (one page less a byte).
    """

    __slots__ = ("_hash", "_ranges", "_text")

    def __init__(self, ranges: Iterable[IdRange | tuple[int, int, int]] = ()) -> None:
        if isinstance(ranges, str):
            raise TypeError(f"an IdMap is made of ranges: for text there is IdMap.parse({ranges!r})")
        self._ranges = tuple(_as_ranges(ranges))
        self._hash = hash(self._ranges)
        if len(self._ranges) > MAX_RANGES:
            raise IdMapError(
                f"{len(self._ranges)} ranges: the kernel accepts at most {MAX_RANGES}; "
                f"the first too many is {self._ranges[MAX_RANGES]}"
            )
        _refuse_overlap(self._ranges, "inside")
        _refuse_overlap(self._ranges, "outside")
        text = "".join(f"{r.inside} {r.outside} {r.count}\n" for r in self._ranges)
        # The kernel does not need the last newline, and one byte can decide.
        self._text = text if len(text) <= MAX_TEXT else text.removesuffix("\n")
        if len(self._text) > MAX_TEXT:
            raise IdMapError(
                f"the map's text has {len(self._text)} bytes, the kernel accepts at most {MAX_TEXT}; "
                f"it is exceeded at range {_range_at(self._ranges, MAX_TEXT)}"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `inside:outside:count,…`, decimal numbers only.

        Raises:
            IdMapError: anything else: signs, hexadecimal, blanks, NUL bytes, a
                missing or a fourth field.
        """
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"a map's text is a string, not {type(text).__name__}")
        return cls(_parse_range(part) for part in text.split(",")) if text else cls()

    @classmethod
    def from_kernel(cls, text: str | bytes) -> Self:
        """From the text of `/proc/PID/uid_map` or `gid_map`; an unwritten map is empty."""
        if isinstance(text, bytes):
            text = text.decode("ascii", errors="backslashreplace")
        return cls(_parse_kernel_line(line) for line in text.splitlines())

    def to_kernel(self) -> str:
        """The text for `/proc/PID/uid_map` or `gid_map`: one line for each range.

        The last line lacks its newline if only that makes the text fit.
        """
        return self._text

    def to_outside(self, id: int) -> int | None:
        """The ID in the parent namespace that `id` stands for; `None`: it is not mapped."""
        for r in self._ranges:
            if r.inside <= id < r.inside + r.count:
                return r.outside + id - r.inside
        return None

    def to_inside(self, id: int) -> int | None:
        """The ID in the namespace that stands for `id` of its parent; `None`: it is not mapped."""
        for r in self._ranges:
            if r.outside <= id < r.outside + r.count:
                return r.inside + id - r.outside
        return None

    def inverse(self) -> Self:
        """The reverse map: inside and outside are swapped."""
        return type(self)(IdRange(r.outside, r.inside, r.count) for r in self._ranges)

    def compose(self, parent: IdMap) -> Self:
        """This map and that of its parent namespace in one: from inside IDs of this map to outside IDs of *parent*.

        IDs that *parent* does not map are left out. Ranges are split where those of
        *parent* end.
        """
        return type(self)(piece for r in self._ranges for piece in _through(r, parent))

    # `in` looks for an ID, but the sequence consists of ranges: type checkers would
    # report that as a mistake in a subclass of Sequence[IdRange].

    if TYPE_CHECKING:

        @overload
        def __getitem__(self, index: int) -> IdRange: ...
        @overload
        def __getitem__(self, index: slice) -> IdMap: ...

    def __getitem__(self, index: int | slice) -> IdRange | IdMap:
        if isinstance(index, slice):
            return type(self)(self._ranges[index])
        return self._ranges[index]

    def __len__(self) -> int:
        return len(self._ranges)

    def __iter__(self) -> Iterator[IdRange]:
        return iter(self._ranges)

    def __reversed__(self) -> Iterator[IdRange]:
        return reversed(self._ranges)

    def index(self, item: IdRange, *limits: int) -> int:
        """The position of a range, as of `tuple.index`."""
        return self._ranges.index(item, *limits)

    def count(self, item: IdRange) -> int:
        """1 if the range is in the map, else 0."""
        return self._ranges.count(item)

    def __contains__(self, item: object) -> bool:
        if isinstance(item, int):
            return self.to_outside(item) is not None
        return item in self._ranges

    def __eq__(self, other: object) -> bool:
        return self._ranges == other._ranges if isinstance(other, IdMap) else NotImplemented

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        return ",".join(map(str, self._ranges))

    def __repr__(self) -> str:
        return f"IdMap.parse({str(self)!r})"

    def __reduce__(self) -> tuple[type[Self], tuple[tuple[IdRange, ...]]]:
        return type(self), (self._ranges,)


Sequence.register(IdMap)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]

if TYPE_CHECKING:
    IdMapLike: TypeAlias = IdMap | str | Iterable[IdRange | tuple[int, int, int]]
else:
    IdMapLike = IdMap | str | Iterable
"""A map: an `IdMap`, its text, ranges or 3-tuples, or the
name of a preset (`"root"`, `"current"`, `"subids"`, `"rootless"`, `"all"`)."""

PRESETS = ("root", "current", "subids", "rootless", "all")


def as_id_map(value: IdMapLike) -> IdMap:
    """The map that `value` stands for, if it is not the name of a preset.

    Raises:
        IdMapError: it is not a map, or has no ranges.
        TypeError: its type is not one of a map.
    """
    if isinstance(value, IdMap):
        id_map = value
    elif isinstance(value, str):
        id_map = _parsed(value)
    else:
        id_map = IdMap(_as_ranges(value))
    if not id_map:
        raise IdMapError("the map has no ranges; the kernel refuses an empty one")
    return id_map


def _is_iterable(value: object) -> TypeIs[Iterable[Any]]:
    return isinstance(value, Iterable)


def _as_ranges(value: object) -> Iterable[IdRange]:
    if not _is_iterable(value) or isinstance(value, (bytes, bytearray)):
        raise TypeError(f"an id map is an IdMap, a string, or ranges, not {type(value).__name__}")
    items = tuple(value)
    if len(items) == 3 and all(isinstance(item, int) for item in items):
        raise TypeError(f"an id map is several ranges, not one: [{items!r}]")
    return map(_as_range, items)


@lru_cache(maxsize=64)
def _parsed(text: str) -> IdMap:
    if re.fullmatch(r"[A-Za-z_-]+", text):
        raise IdMapError(f"{text!r} is neither a preset ({', '.join(PRESETS)}) nor a map (inside:outside:count)")
    return IdMap.parse(text)


def _as_range(item: object) -> IdRange:
    if isinstance(item, IdRange):
        return item
    if isinstance(item, (str, bytes, bytearray, set, frozenset)) or not _is_iterable(item):
        raise TypeError(f"a range is an IdRange or three numbers, not {item!r}")
    fields = tuple(item)
    if len(fields) != 3:
        raise IdMapError(f"range {item!r}: three numbers are needed (inside, outside, count)")
    return IdRange(*fields)


def _parse_range(text: str) -> IdRange:
    fields = text.split(":")
    if len(fields) != 3:
        raise IdMapError(f"range {_shown(text)}: three numbers are needed, inside:outside:count")
    return IdRange(*(_parse_number(field, text) for field in fields))


def _parse_number(field: str, where: str) -> int:
    if not _NUMBER.fullmatch(field):
        raise IdMapError(f"range {_shown(where)}: {_shown(field)} is not a decimal number")
    if len(field.lstrip("0")) > 10:  # before int(), which has a limit and is slow
        raise IdMapError(f"range {_shown(where)}: {_shown(field)} is far beyond the highest id, {NO_ID - 1}")
    return int(field.lstrip("0") or "0")


def _shown(text: str) -> str:
    return repr(text) if len(text) <= 60 else f"{text[:60]!r}…"


def _parse_kernel_line(line: str) -> IdRange:
    fields = line.split()
    if len(fields) != 3:
        raise IdMapError(f"line {line!r}: three numbers are needed")
    return IdRange(*(_parse_number(field, line) for field in fields))


def _refuse_overlap(ranges: tuple[IdRange, ...], side: str) -> None:
    ordered = sorted(ranges, key=lambda r: int(getattr(r, side)))
    for before, after in pairwise(ordered):
        first = getattr(after, side)
        if first < getattr(before, side) + before.count:
            raise IdMapError(f"ranges {before} and {after} overlap {side} at id {first}")


def _range_at(ranges: tuple[IdRange, ...], offset: int) -> IdRange:
    length = 0
    for r in ranges:
        length += len(f"{r.inside} {r.outside} {r.count}\n")
        if length > offset:
            return r
    raise AssertionError("the text is shorter than that")


def _through(r: IdRange, parent: IdMap) -> Iterator[IdRange]:
    pieces: list[IdRange] = []
    for p in parent:
        first = max(r.outside, p.inside)
        end = min(r.outside + r.count, p.inside + p.count)
        if first < end:
            pieces.append(IdRange(r.inside + first - r.outside, p.outside + first - p.inside, end - first))
    return iter(sorted(pieces))


IDENTITY = IdMap([IdRange(0, 0, NO_ID)])
"""The map of the initial user namespace."""
