"""The maps that presets stand for: arithmetic alone, no system calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from .idmap import NO_ID, IdMap, IdRange

OF_SUBIDS = ("subids", "rootless")
"""The presets for which the subordinate IDs of the caller are looked up."""


def own_id_as(name: str, own_id: int) -> IdMap:
    """`root` and `current`."""
    return IdMap([IdRange(0 if name == "root" else own_id, own_id, 1)])


def unchanged(own_map: IdMap) -> IdMap:
    """`all`: each ID that the namespace of the caller maps, to itself."""
    return IdMap(IdRange(r.inside, r.inside, r.count) for r in own_map)


def stacked(ranges: Iterable[tuple[int, int]]) -> IdMap:
    """`subids`: ranges, given as first ID and count, one after the other from inside 0.

    An ID that an earlier range contains is left out, and so is a number above the highest ID.
    """
    seen: list[tuple[int, int]] = []
    for first, count in ranges:
        seen.extend(_new(first, min(first + count, NO_ID), seen))
    return IdMap(_from_inside(0, seen))


def rootless(own_id: int, subids: IdMap) -> IdMap:
    """The caller's ID as inside 0, subordinate IDs from inside 1."""
    pieces = [piece for r in subids for piece in _new(r.outside, r.outside + r.count, [(own_id, own_id + 1)])]
    return IdMap([IdRange(0, own_id, 1), *_from_inside(1, pieces)])


def _from_inside(inside: int, pieces: Iterable[tuple[int, int]]) -> Iterator[IdRange]:
    for first, end in pieces:
        if inside >= NO_ID:  # there are no more IDs inside
            return
        yield IdRange(inside, first, min(end - first, NO_ID - inside))
        inside += end - first


def _new(first: int, end: int, known: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The parts of first … end-1 that no known range has."""
    for known_first, known_end in sorted(known):
        if first < end and known_first < end and first < known_end:
            if first < known_first:
                yield first, known_first
            first = known_end
    if first < end:
        yield first, end
