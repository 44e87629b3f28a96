"""`IdRange` and `IdMap` as pure values: no kernel, no privileges."""

from __future__ import annotations

import copy
import mmap
import operator
import pickle
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import pytest

from usernsproc import IdMap, IdMapError, IdRange
from usernsproc._maps.idmap import as_id_map

HIGHEST_ID = 2**32 - 2
NO_ID = 2**32 - 1
MAX_RANGES = 340
LONGEST_TEXT = mmap.PAGESIZE - 1
BEYOND_INT_CONVERSION = 5_000
"""Digits that `int()` and `str()` refuse to convert (the limit is 4300)."""

TEXT = "0:100000:65536,65536:1000:1"
RANGES = [IdRange(0, 100000, 65536), IdRange(65536, 1000, 1)]
KERNEL_TEXT = "0 100000 65536\n65536 1000 1\n"
AS_THE_KERNEL_SHOWS_IT = "         0     100000      65536\n     65536       1000          1\n"


def ranges_with_text_of(length: int) -> list[tuple[int, int, int]]:
    """Return ranges whose kernel text has exactly *length* bytes."""
    line = len("1000000000 2000000000 1\n")
    ranges = [(10**9 + n, 2 * 10**9 + n, 1) for n in range(length // line - 2)]
    rest = length - line * len(ranges)
    for position in range(3):
        outside_digits = (rest + position) // 3 - len("3000000000  1\n")
        ranges.append((3 * 10**9 + position, 10 ** (outside_digits - 1) + position, 1))
    assert len("".join(f"{i} {o} {c}\n" for i, o, c in ranges)) == length
    return ranges


# ---- ranges ----


def test_a_range_has_three_named_numbers_and_unpacks_to_them() -> None:
    id_range = IdRange(inside=1, outside=2, count=3)
    assert (id_range.inside, id_range.outside, id_range.count) == (1, 2, 3)
    assert tuple(id_range) == (1, 2, 3)


def test_a_range_is_written_inside_outside_count() -> None:
    assert str(IdRange(0, 100000, 65536)) == "0:100000:65536"


def test_ranges_are_compared_and_hashed_by_value() -> None:
    assert IdRange(0, 1, 2) == IdRange(0, 1, 2)
    assert hash(IdRange(0, 1, 2)) == hash(IdRange(0, 1, 2))
    assert len({IdRange(0, 1, 2), IdRange(0, 1, 2), IdRange(1, 0, 2), IdRange(0, 1, 3)}) == 3


@pytest.mark.parametrize("name", ["inside", "outside", "count", "other"])
def test_a_range_cannot_be_changed(name: str) -> None:
    with pytest.raises((AttributeError, TypeError)):
        setattr(IdRange(0, 1, 2), name, 7)


def test_whatever_is_an_integer_is_stored_as_a_plain_int() -> None:
    class Integer:
        def __index__(self) -> int:
            return 5

    id_range = IdRange(Integer(), True, Integer())  # type: ignore[arg-type]
    assert [type(number) for number in id_range] == [int, int, int]
    assert str(id_range) == "5:1:5"


@pytest.mark.parametrize("numbers", [(0, HIGHEST_ID, 1), (HIGHEST_ID, 0, 1), (0, 0, 2**32 - 1), (1, 0, 2**32 - 2)])
def test_the_highest_id_can_be_mapped(numbers: tuple[int, int, int]) -> None:
    assert tuple(IdRange(*numbers)) == numbers


@pytest.mark.parametrize(
    "numbers",
    [
        (NO_ID, 0, 1),
        (0, NO_ID, 1),
        (2**32, 0, 1),
        (0, 2**32, 1),
        (0, 2**32 + 1, 1),
        (2**64, 0, 1),
        (-1, 0, 1),
        (0, -1, 1),
        (0, 0, 0),
        (0, 0, -1),
        (0, 0, 2**32),
        (0, 0, 2**32 + 1),
        (0, 1, 2**32 - 1),
        (1, 0, 2**32 - 1),
        (HIGHEST_ID, 0, 2),
        (0, HIGHEST_ID, 2),
        (2**31, 2**31, 2**31),
    ],
)
def test_a_range_of_numbers_that_are_not_ids_is_refused_by_its_text(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(IdMapError) as caught:
        IdRange(*numbers)
    assert ":".join(map(str, numbers)) in str(caught.value)


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_number_too_big_to_be_printed_is_refused_like_any_other(position: int, sign: int) -> None:
    numbers = [0, 0, 1]
    numbers[position] = sign * 10**BEYOND_INT_CONVERSION
    with pytest.raises(IdMapError):
        IdRange(*numbers)


@pytest.mark.parametrize("position", [0, 1, 2])
@pytest.mark.parametrize("value", [1.0, "1", None, b"1", 1j, [1]])
def test_what_is_not_an_integer_is_a_type_error_in_a_range(position: int, value: Any) -> None:
    numbers: list[Any] = [1, 1, 1]
    numbers[position] = value
    with pytest.raises(TypeError):
        IdRange(*numbers)


# ---- maps as values ----


@pytest.mark.parametrize(
    "given",
    [
        RANGES,
        tuple(RANGES),
        [tuple(r) for r in RANGES],
        [list(r) for r in RANGES],
        [RANGES[0], tuple(RANGES[1])],
        IdMap(RANGES),
    ],
    ids=["list", "tuple", "tuples", "lists", "mixed", "map"],
)
def test_a_map_is_created_from_ranges_and_triples(given: Any) -> None:
    assert list(IdMap(given)) == RANGES


def test_a_map_is_created_from_an_iterator() -> None:
    assert list(IdMap(iter(RANGES))) == RANGES
    assert list(IdMap(tuple(r) for r in RANGES)) == RANGES  # type: ignore[misc]


def test_the_order_given_is_kept() -> None:
    backwards = IdMap([(20, 200, 1), (10, 300, 1), (0, 100, 1)])
    assert [r.inside for r in backwards] == [20, 10, 0]
    assert str(backwards) == "20:200:1,10:300:1,0:100:1"
    assert backwards.to_kernel() == "20 200 1\n10 300 1\n0 100 1\n"


def test_adjacent_ranges_are_kept_apart() -> None:
    assert str(IdMap([(0, 10, 5), (5, 15, 5)])) == "0:10:5,5:15:5"


def test_maps_are_compared_and_hashed_by_value() -> None:
    assert IdMap(RANGES) == IdMap.parse(TEXT)
    assert hash(IdMap(RANGES)) == hash(IdMap.parse(TEXT))
    assert IdMap(RANGES) != IdMap(reversed(RANGES))
    assert IdMap(RANGES) != IdMap(RANGES[:1])
    assert len({IdMap(RANGES), IdMap.parse(TEXT), IdMap()}) == 2


@pytest.mark.parametrize("other", [RANGES, tuple(RANGES), TEXT, None, 0])
def test_a_map_equals_nothing_but_a_map(other: object) -> None:
    assert IdMap(RANGES) != other


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("value", [RANGES[0], IdMap(RANGES), IdMap()], ids=["range", "map", "empty map"])
def test_values_survive_pickling(value: Any, protocol: int) -> None:
    again = pickle.loads(pickle.dumps(value, protocol))
    assert (again, type(again), hash(again), str(again)) == (value, type(value), hash(value), str(value))


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_values_survive_copying(duplicate: Callable[[IdMap], IdMap]) -> None:
    again = duplicate(IdMap(RANGES))
    assert again == IdMap(RANGES)
    assert again.to_kernel() == KERNEL_TEXT


@pytest.mark.parametrize("name", ["ranges", "text", "other"])
def test_a_map_has_no_attribute_to_set(name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(IdMap(RANGES), name, ())


@pytest.mark.parametrize("change", [lambda m: operator.setitem(m, 0, RANGES[1]), lambda m: operator.delitem(m, 0)])
def test_a_map_has_no_item_to_set(change: Callable[[IdMap], None]) -> None:
    with pytest.raises(TypeError):
        change(IdMap(RANGES))


def test_a_map_does_not_follow_the_list_it_was_created_from() -> None:
    source = list(RANGES)
    id_map = IdMap(source)
    source.pop()
    assert list(id_map) == RANGES


def test_a_map_is_a_sequence_of_ranges() -> None:
    id_map = IdMap(RANGES)
    assert isinstance(id_map, Sequence)
    assert len(id_map) == 2
    assert (id_map[0], id_map[-1]) == (RANGES[0], RANGES[1])
    assert list(reversed(id_map)) == RANGES[::-1]
    assert id_map.index(RANGES[1]) == 1
    with pytest.raises(IndexError):
        id_map[2]


def test_a_slice_of_a_map_is_a_map() -> None:
    assert IdMap(RANGES)[1:] == IdMap(RANGES[1:])
    assert IdMap(RANGES)[::-1] == IdMap(RANGES[::-1])
    assert IdMap(RANGES)[:0] == IdMap()


def test_an_empty_map_is_false_and_has_no_text() -> None:
    assert not IdMap()
    assert (str(IdMap()), IdMap().to_kernel(), len(IdMap())) == ("", "", 0)
    assert IdMap.parse("") == IdMap.from_kernel("") == IdMap([])


def test_in_asks_for_an_inside_id_or_for_a_range() -> None:
    id_map = IdMap.parse("0:100:5,10:200:5")
    assert [id for id in range(-1, 300) if id in id_map] == [*range(5), *range(10, 15)]
    assert IdRange(0, 100, 5) in id_map
    assert IdRange(0, 100, 4) not in id_map
    assert "0" not in id_map


def test_repr_is_the_code_that_creates_the_map_again() -> None:
    assert eval(repr(IdMap(RANGES))) == IdMap(RANGES)
    assert eval(repr(RANGES[0])) == RANGES[0]


# ---- texts ----


def test_parse_and_str_are_each_others_inverse() -> None:
    assert list(IdMap.parse(TEXT)) == RANGES
    assert str(IdMap.parse(TEXT)) == TEXT


def test_the_kernel_text_has_one_line_for_each_range() -> None:
    assert IdMap(RANGES).to_kernel() == KERNEL_TEXT


@pytest.mark.parametrize("text", [KERNEL_TEXT, AS_THE_KERNEL_SHOWS_IT, AS_THE_KERNEL_SHOWS_IT.encode()])
def test_what_the_kernel_shows_can_be_read(text: str | bytes) -> None:
    assert IdMap.from_kernel(text) == IdMap(RANGES)


MALFORMED_RANGES = [
    "4294967296:0:1",
    "0:4294967296:1",
    "0:4294967295:1",
    "4294967295:0:1",
    "0:4294967297:1",
    "0:18446744073709551616:1",
    "0:1:4294967295",
    "0:0:4294967296",
    "0:100000:0",
    "0:100000:-1",
    "-1:100000:1",
    "0:+1:1",
    "+0:1:1",
    "0:1:+1",
    "0x0:1:1",
    "0:0x186a0:1",
    "0:a:1",
    "1_000:0:1",
    "1e3:0:1",
    "1.0:0:1",
    " 0:1:1",
    "0: 1:1",
    "0:1:1 ",
    "0:1:1\n",
    "0\t:1:1",
    "0:100000:1\0 5 5 5",
    "0:100000\0:1",
    "0",
    "0:1",
    "0:1:1:1",
    "0:1:",
    ":0:1",
    "::",
    "0 1 1",
    "0-1-1",
    "\u0660:1:1",
    "0:\u0967:1",
    "0:1:\uff11",
    "0:1:\u00b2",
    "0:1:\U0001d7cf",
    "0:0:" + "9" * BEYOND_INT_CONVERSION,
]


def shortened(text: str) -> str:
    return ascii(text if len(text) < 40 else f"{text[:10]}... ({len(text)})")


@pytest.mark.parametrize("where", ["alone", "first", "last"])
@pytest.mark.parametrize("malformed", MALFORMED_RANGES, ids=shortened)
def test_a_malformed_range_is_refused_and_named(malformed: str, where: str) -> None:
    good = "7000:700000:5"
    text = {"alone": malformed, "first": f"{malformed},{good}", "last": f"{good},{malformed}"}[where]
    with pytest.raises(IdMapError) as caught:
        IdMap.parse(text)
    assert repr(malformed[:60])[1:-1] in str(caught.value)
    assert len(str(caught.value)) < 300
    assert good not in str(caught.value)


@pytest.mark.parametrize("text", [",", "0:1:1,", ",0:1:1", "0:1:1,,1:2:1", " ", "\n"])
def test_an_empty_range_between_commas_is_refused(text: str) -> None:
    with pytest.raises(IdMapError, match="''|' '|'\\\\n'"):
        IdMap.parse(text)


def test_leading_zeros_never_surprise() -> None:
    """Each is the number that they stand for, or is refused; the limit of `int()` does not show."""
    assert IdMap.parse("00:0100000:010") == IdMap([(0, 100000, 10)])
    with pytest.raises(IdMapError):
        IdMap.parse("0:0:" + "0" * BEYOND_INT_CONVERSION + "x")
    try:
        id_map = IdMap.parse("0:0:" + "0" * BEYOND_INT_CONVERSION + "1")
    except IdMapError:
        pass
    else:
        assert str(id_map) == "0:0:1"


@pytest.mark.parametrize(
    "line", ["0 1", "0 1 1 1", "a 1 1", "0 +1 1", "0 -1 1", "0 0x1 1", "0:1:1", "0 1 0", "\u0660 1 1", "", "0 1 1\0"]
)
def test_a_malformed_kernel_line_is_refused(line: str) -> None:
    with pytest.raises(IdMapError):
        IdMap.from_kernel(f"5 5 5\n{line}\n")


def test_bytes_that_are_not_kernel_text_are_refused() -> None:
    with pytest.raises(IdMapError):
        IdMap.from_kernel(b"0 1 \xff\n")


def test_an_outside_id_that_the_reader_cannot_see_is_refused_by_its_range() -> None:
    """The kernel shows 4294967295 for it, as for a namespace that is not a descendant of the reader's."""
    with pytest.raises(IdMapError, match="7:4294967295:5"):
        IdMap.from_kernel("0 1 1\n7 4294967295 5\n")


@pytest.mark.parametrize("value", [None, 1.5, 7, b"0:1:1", b"", ("0:1:1",)])
def test_parse_takes_nothing_but_a_string(value: Any) -> None:
    with pytest.raises(TypeError):
        IdMap.parse(value)


# ---- maps that are not valid ----


@pytest.mark.parametrize(
    ("side", "first", "second"),
    [
        ("inside", (0, 100, 10), (9, 200, 10)),
        ("inside", (0, 100, 10), (0, 200, 10)),
        ("inside", (5, 100, 1), (0, 200, 10)),
        ("inside", (0, 0, 2**32 - 1), (HIGHEST_ID, 0, 1)),
        ("outside", (0, 100, 10), (20, 109, 10)),
        ("outside", (0, 100, 10), (20, 100, 1)),
        ("outside", (0, 105, 1), (20, 100, 10)),
        ("outside", (1, HIGHEST_ID, 1), (0, HIGHEST_ID, 1)),
    ],
)
@pytest.mark.parametrize("between", [[], [(1000, 1000, 10)]], ids=["neighbours", "apart"])
def test_overlapping_ranges_are_refused_and_both_named(
    side: str, first: tuple[int, int, int], second: tuple[int, int, int], between: list[tuple[int, int, int]]
) -> None:
    if first == (0, 0, 2**32 - 1):
        between = []
    with pytest.raises(IdMapError, match=f"overlap {side}") as caught:
        IdMap([first, *between, second])
    for id_range in (first, second):
        assert str(IdRange(*id_range)) in str(caught.value)


def test_the_same_range_twice_is_refused() -> None:
    with pytest.raises(IdMapError, match="5:6:7 and 5:6:7"):
        IdMap([(5, 6, 7), (5, 6, 7)])


def test_340_ranges_are_a_map_and_the_next_is_one_too_many() -> None:
    ranges = [(n, 1000 + n, 1) for n in range(MAX_RANGES + 1)]
    assert len(IdMap(ranges[:-1])) == MAX_RANGES
    with pytest.raises(IdMapError, match=r"341 ranges.*340:1340:1"):
        IdMap(ranges)


def test_a_text_shorter_than_a_page_is_a_map() -> None:
    text = IdMap(ranges_with_text_of(LONGEST_TEXT)).to_kernel()
    assert len(text) == LONGEST_TEXT
    assert text.endswith("\n")


def test_the_last_newline_is_left_out_where_that_makes_it_fit() -> None:
    id_map = IdMap(ranges_with_text_of(LONGEST_TEXT + 1))
    assert len(id_map.to_kernel()) == LONGEST_TEXT
    assert not id_map.to_kernel().endswith("\n")
    assert IdMap.from_kernel(id_map.to_kernel()) == id_map


@pytest.mark.parametrize("excess", [2, 3, 15, 16, 40])
def test_a_text_that_fills_a_page_is_refused_by_the_range_that_exceeds_it(excess: int) -> None:
    ranges = ranges_with_text_of(LONGEST_TEXT + excess)
    fitting = ranges[:]
    while len("\n".join(f"{i} {o} {c}" for i, o, c in fitting)) > LONGEST_TEXT:
        first_too_many = fitting.pop()
    with pytest.raises(IdMapError, match=f"{LONGEST_TEXT + excess - 1} bytes") as caught:
        IdMap(ranges)
    assert str(IdRange(*first_too_many)) in str(caught.value)
    assert len(IdMap(fitting)) == len(fitting)


@pytest.mark.parametrize("item", [(), (1,), (1, 2), (1, 2, 3, 4), [1, 2]])
def test_a_range_of_other_than_three_numbers_is_refused_and_named(item: Any) -> None:
    with pytest.raises(IdMapError) as caught:
        IdMap([(10, 10, 1), item])
    assert repr(item) in str(caught.value)


@pytest.mark.parametrize("item", [None, 5, 1.5, "0:1:1", "abc", b"abc", bytearray(b"abc"), (0, 1.0, 1), (0, None, 1)])
def test_what_is_not_a_range_is_a_type_error(item: Any) -> None:
    with pytest.raises(TypeError):
        IdMap([item])


@pytest.mark.parametrize("ranges", [None, 5, 1.5, "0:1:1", b"abc"])
def test_what_is_not_an_iterable_of_ranges_is_a_type_error(ranges: Any) -> None:
    with pytest.raises(TypeError):
        IdMap(ranges)


# ---- translation ----

SPLIT = IdMap.parse("0:100000:1000,5000:300000:50")


@pytest.mark.parametrize(
    ("inside", "outside"),
    [(0, 100000), (999, 100999), (5000, 300000), (5049, 300049)],
)
def test_ids_are_translated_both_ways(inside: int, outside: int) -> None:
    assert SPLIT.to_outside(inside) == outside
    assert SPLIT.to_inside(outside) == inside


@pytest.mark.parametrize("id", [-1, 1000, 4999, 5050, NO_ID, 2**32, 2**40])
def test_an_unmapped_inside_id_has_no_outside(id: int) -> None:
    assert SPLIT.to_outside(id) is None


@pytest.mark.parametrize("id", [-1, 0, 99999, 101000, 299999, 300050, NO_ID, 2**32])
def test_an_unmapped_outside_id_has_no_inside(id: int) -> None:
    assert SPLIT.to_inside(id) is None


def test_the_inverse_exchanges_inside_and_outside_and_keeps_the_order() -> None:
    assert str(SPLIT.inverse()) == "100000:0:1000,300000:5000:50"
    assert SPLIT.inverse().inverse() == SPLIT


@pytest.mark.parametrize(
    ("child", "parent", "composed"),
    [
        ("0:0:10", "0:100:10", "0:100:10"),
        ("5:3:2", "0:100:10", "5:103:2"),
        ("0:0:10", "0:100:5,5:200:5", "0:100:5,5:200:5"),
        ("0:0:10", "5:200:5,0:100:5", "0:100:5,5:200:5"),
        ("0:0:10", "2:100:3", "2:100:3"),
        ("0:0:10,20:10:10", "8:100:4", "8:100:2,20:102:2"),
        ("0:50:10", "0:100:50", ""),
        ("0:50:10,20:0:1", "0:100:50", "20:100:1"),
        ("20:5:1,0:0:1", "0:100:50", "20:105:1,0:100:1"),
        ("0:0:4294967295", "0:0:4294967295", "0:0:4294967295"),
        ("", "0:0:10", ""),
        ("0:0:10", "", ""),
    ],
)
def test_composing_splits_and_drops_what_the_parent_does_not_map(child: str, parent: str, composed: str) -> None:
    assert str(IdMap.parse(child).compose(IdMap.parse(parent))) == composed


def test_a_composition_of_more_ranges_than_the_kernel_takes_is_refused() -> None:
    parent = IdMap([*((2 * n, 10000 + 2 * n, 1) for n in range(MAX_RANGES - 1)), (1000, 20000, 2)])
    assert len(IdMap([(0, 0, 2000)]).compose(parent)) == MAX_RANGES
    cut_in_the_last_range = IdMap([(0, 0, 1001), (5000, 1001, 1)])
    with pytest.raises(IdMapError, match=r"341 ranges.*5000:20001:1"):
        cut_in_the_last_range.compose(parent)


# ---- values that are accepted as a map ----


@pytest.mark.parametrize("value", [TEXT, RANGES, [tuple(r) for r in RANGES], [list(r) for r in RANGES], IdMap(RANGES)])
def test_a_text_ranges_and_a_map_are_accepted_as_a_map(value: Any) -> None:
    assert as_id_map(value) == IdMap(RANGES)


def test_an_iterator_is_accepted_as_a_map() -> None:
    assert as_id_map(iter(RANGES)) == IdMap(RANGES)


@pytest.mark.parametrize("value", ["", [], (), IdMap(), iter(())], ids=["text", "list", "tuple", "map", "iterator"])
def test_an_empty_map_is_refused_where_one_is_needed(value: Iterable[IdRange] | str) -> None:
    with pytest.raises(IdMapError, match="no ranges"):
        as_id_map(value)


@pytest.mark.parametrize("name", ["toor", "Root", "ROOT", "no-such-preset", "root_"])
def test_an_unknown_preset_is_refused_and_the_known_ones_are_listed(name: str) -> None:
    with pytest.raises(IdMapError, match=f"(?s){name}.*root.*current"):
        as_id_map(name)


@pytest.mark.parametrize("value", [(0, 1000, 1), [0, 1000, 1], IdRange(0, 1000, 1), iter((0, 1000, 1))])
def test_one_bare_range_is_a_type_error_that_says_how_it_is_meant(value: Any) -> None:
    with pytest.raises(TypeError, match=re.escape("[(0, 1000, 1)]")):
        as_id_map(value)


@pytest.mark.parametrize("value", [(0, 1000, 1), [0, 1000, 1]])
def test_an_id_map_of_one_bare_range_says_how_it_is_meant(value: Any) -> None:
    with pytest.raises(TypeError, match=re.escape("[(0, 1000, 1)]")):
        IdMap(value)


def test_an_id_map_of_text_says_how_it_is_meant() -> None:
    with pytest.raises(TypeError, match=re.escape("IdMap.parse('0:1000:1')")):
        IdMap(cast("Any", "0:1000:1"))


@pytest.mark.parametrize("value", [None, 0, 1.5, b"0:1:1", bytearray(b"0:1:1"), object(), IdMap])
def test_what_is_not_a_map_is_a_type_error(value: Any) -> None:
    with pytest.raises(TypeError):
        as_id_map(value)
