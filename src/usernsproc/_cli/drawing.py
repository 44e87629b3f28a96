"""An id map as a table, and as two bars."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from string import ascii_letters

from .._maps.idmap import NO_ID, IdMap, IdRange

MAX_RANGES = 26
GAP = "··"


def draw(id_map: IdMap, width: int | None = None) -> str:
    """Several lines. Each range has a letter; its length in the bars is a matter of
    powers of two, of more of them where they would be wider than *width*. Dots stand
    for ids that are not mapped."""
    if not id_map:
        return "no id is mapped\n"
    lines = _table(id_map)
    shown = id_map if len(id_map) <= MAX_RANGES else id_map[:MAX_RANGES]
    lines += ["", *_bars(shown, width)]
    if len(id_map) > MAX_RANGES:
        lines.append(f"         (the first {MAX_RANGES} of {len(id_map)} ranges)")
    return "".join(f"{line}\n" for line in lines)


def _table(id_map: IdMap) -> list[str]:
    rows = [("", "inside", "outside", "ids")]
    rows += [
        (_letter(n), _span(r.inside, r.count), _span(r.outside, r.count), str(r.count)) for n, r in enumerate(id_map)
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:<{widths[2]}}  {d:>{widths[3]}}" for a, b, c, d in rows]


def _span(first: int, count: int) -> str:
    return str(first) if count == 1 else f"{first} … {first + count - 1}"


def _letter(position: int) -> str:
    return ascii_letters[position % len(ascii_letters)]


def _bars(ranges: IdMap, width: int | None) -> list[str]:
    bars: list[str] = []
    for doublings in range(1, NO_ID.bit_length() + 1):
        bars = [
            f"inside   {_bar(ranges, lambda r: r.inside, doublings)}",
            f"outside  {_bar(ranges, lambda r: r.outside, doublings)}",
        ]
        if width is None or max(map(len, bars)) <= width:
            break
    return bars


def _bar(ranges: IdMap, first: Callable[[IdRange], int], doublings: int) -> str:
    boxes = sorted((first(r), r.count, _letter(n)) for n, r in enumerate(ranges))
    parts = [GAP if boxes[0][0] > 0 else "", "|"]
    for (start, count, letter), following in pairwise([*boxes, (NO_ID, 0, "")]):
        parts.append(f"{letter * -(-count.bit_length() // doublings)}|")
        if start + count < following[0]:
            parts.append(GAP if not following[1] else f"{GAP}|")
    return "".join(parts)
