"""Properties of every ID map, tried on generated maps."""

from __future__ import annotations

import pickle
from itertools import combinations

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from usernsproc import IdMap, IdMapError, IdRange

ID_COUNT = 2**32 - 1
"""Ids are 0 … 4294967294."""

SMALL = 24
"""Small numbers can be checked id by id, and collide often."""

PROFILE = settings(deadline=None, database=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
"""On a busy machine anything may be slow."""

Triple = tuple[int, int, int]


@st.composite
def stacked(draw: st.DrawFn, highest: int, most: int) -> list[Triple]:
    """Ranges that do not overlap: both sides are cut into the same number of pieces, matched in any order."""
    counts = draw(st.lists(st.integers(1, max(1, highest // (2 * most))), max_size=most))

    def starts() -> dict[int, int]:
        free = highest - sum(counts)
        position, found = 0, {}
        for which in draw(st.permutations(range(len(counts)))):
            gap = draw(st.one_of(st.just(0), st.integers(0, free)))
            free -= gap
            found[which] = position + gap
            position += gap + counts[which]
        return found

    inside, outside = starts(), starts()
    return [(inside[n], outside[n], count) for n, count in enumerate(counts)]


def maps(highest: int = ID_COUNT, most: int = 12) -> st.SearchStrategy[IdMap]:
    return stacked(highest, most).map(IdMap)


small_maps = maps(SMALL, 5)
ids = st.one_of(st.integers(0, ID_COUNT - 1), st.sampled_from([0, 2**31 - 1, 2**31, ID_COUNT - 1]))


def some_ids(id_map: IdMap) -> set[int]:
    """Return the IDs at the edges of every range, on both sides, and their neighbours."""
    edges = {edge for r in id_map for first in (r.inside, r.outside) for edge in (first, first + r.count - 1)}
    return {edge + step for edge in edges for step in (-1, 0, 1)}


@PROFILE
@given(maps())
@example(IdMap())
@example(IdMap([(0, 0, ID_COUNT)]))
def test_a_map_survives_each_of_its_texts_and_pickling(id_map: IdMap) -> None:
    for again in (
        IdMap.parse(str(id_map)),
        IdMap.from_kernel(id_map.to_kernel()),
        IdMap.from_kernel(id_map.to_kernel().encode()),
        IdMap.from_kernel("".join(f"{r.inside:10} {r.outside:10} {r.count:10}\n" for r in id_map)),
        pickle.loads(pickle.dumps(id_map)),
        IdMap(list(id_map)),
    ):
        assert again == id_map
        assert hash(again) == hash(id_map)
        assert list(again) == list(id_map)


@PROFILE
@given(maps())
def test_the_inverse_of_the_inverse_is_the_map(id_map: IdMap) -> None:
    assert id_map.inverse().inverse() == id_map


@PROFILE
@given(maps(), ids)
def test_a_translated_id_comes_back(id_map: IdMap, any_id: int) -> None:
    for id in {any_id, *some_ids(id_map)}:
        outside = id_map.to_outside(id)
        assert (outside is not None) == (id in id_map)
        if outside is not None:
            assert id_map.to_inside(outside) == id
        inside = id_map.to_inside(id)
        if inside is not None:
            assert id_map.to_outside(inside) == id


@PROFILE
@given(maps(), ids)
def test_the_inverse_translates_the_other_way(id_map: IdMap, any_id: int) -> None:
    for id in {any_id, *some_ids(id_map)}:
        assert id_map.inverse().to_outside(id) == id_map.to_inside(id)
        assert id_map.inverse().to_inside(id) == id_map.to_outside(id)


@PROFILE
@given(small_maps)
def test_a_map_maps_as_many_ids_as_its_ranges_count(id_map: IdMap) -> None:
    mapped = [id for id in range(SMALL) if id in id_map]
    assert len(mapped) == sum(r.count for r in id_map)
    assert len({id_map.to_outside(id) for id in mapped}) == len(mapped)


@PROFILE
@given(small_maps, small_maps)
def test_a_composition_translates_as_one_map_after_the_other(child: IdMap, parent: IdMap) -> None:
    composed = child.compose(parent)
    for id in range(SMALL):
        between = child.to_outside(id)
        assert composed.to_outside(id) == (None if between is None else parent.to_outside(between))


@PROFILE
@given(maps(), maps(), ids)
def test_a_composition_of_big_maps_translates_as_one_map_after_the_other(
    child: IdMap, parent: IdMap, any_id: int
) -> None:
    composed = child.compose(parent)
    meeting_points = {child.to_inside(id) for id in some_ids(parent)} - {None}
    for id in {any_id, *some_ids(child), *some_ids(composed), *meeting_points}:
        assert id is not None
        between = child.to_outside(id)
        assert composed.to_outside(id) == (None if between is None else parent.to_outside(between))


@PROFILE
@given(small_maps, small_maps)
def test_a_composition_splits_only_where_one_of_the_maps_does(child: IdMap, parent: IdMap) -> None:
    """Nothing is split that neither of the two maps splits."""
    for r in child.compose(parent):
        assert any(c.inside <= r.inside and r.inside + r.count <= c.inside + c.count for c in child)
        assert any(p.outside <= r.outside and r.outside + r.count <= p.outside + p.count for p in parent)
    meetings = [
        (c, p) for c in child for p in parent if c.outside < p.inside + p.count and p.inside < c.outside + c.count
    ]
    assert len(child.compose(parent)) == len(meetings)


@PROFILE
@given(small_maps, small_maps, small_maps)
def test_composing_is_associative(a: IdMap, b: IdMap, c: IdMap) -> None:
    left, right = a.compose(b).compose(c), a.compose(b.compose(c))
    assert [left.to_outside(id) for id in range(SMALL)] == [right.to_outside(id) for id in range(SMALL)]


@PROFILE
@given(small_maps, small_maps)
def test_the_inverse_of_a_composition_is_the_composition_of_the_inverses(child: IdMap, parent: IdMap) -> None:
    there, back = child.compose(parent), parent.inverse().compose(child.inverse())
    assert sorted(there.inverse()) == sorted(back)


@PROFILE
@given(maps())
def test_a_map_composed_with_its_inverse_changes_nothing(id_map: IdMap) -> None:
    assert id_map.compose(id_map.inverse()) == IdMap((r.inside, r.inside, r.count) for r in id_map)


@PROFILE
@given(maps(), st.slices(12))
def test_a_slice_is_the_slice_of_the_list(id_map: IdMap, part: slice) -> None:
    assert list(id_map[part]) == list(id_map)[part]


# ---- the verdict of the constructor ----


def is_a_map(ranges: list[Triple], limit: int) -> bool:
    """Return whether no ID is used twice and every number is an ID, by counting IDs instead of arithmetic on ranges."""
    for side in (0, 1):
        used: set[int] = set()
        for r in ranges:
            wanted = [r[side] + n for n in range(r[2])]
            if not wanted or used.intersection(wanted) or min(wanted) < 0 or max(wanted) >= limit:
                return False
            used.update(wanted)
    return True


def accepted(ranges: list[Triple]) -> bool:
    try:
        IdMap(ranges)
    except IdMapError:
        return False
    return True


numbers = st.integers(-2, SMALL)
triples = st.lists(st.tuples(numbers, numbers, st.integers(-1, 6)), max_size=5)
sparse_triples = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60), st.integers(1, 3)), max_size=5)


@settings(PROFILE, max_examples=700)
@given(st.one_of(triples, sparse_triples))
def test_a_map_is_accepted_exactly_if_no_id_is_used_twice(ranges: list[Triple]) -> None:
    assert accepted(ranges) == is_a_map(ranges, ID_COUNT)


@settings(PROFILE, max_examples=300)
@given(st.lists(st.tuples(numbers, numbers, st.integers(1, 6)), max_size=3))
def test_the_verdict_at_the_highest_id_is_the_one_at_0_mirrored(ranges: list[Triple]) -> None:
    """Number the IDs downwards from the highest: the same rules hold there."""
    mirrored = [(ID_COUNT - i - c, ID_COUNT - o - c, c) for i, o, c in ranges]
    assert accepted(mirrored) == is_a_map(ranges, ID_COUNT)


@PROFILE
@given(stacked(SMALL, 5), st.data())
def test_a_map_made_bad_by_one_more_range_names_a_range_at_fault(ranges: list[Triple], data: st.DataObject) -> None:
    extra = data.draw(st.tuples(st.integers(0, SMALL), st.integers(0, SMALL), st.integers(1, 6)))
    wanted = [*ranges, extra]
    if accepted(wanted):
        return
    try:
        IdMap(wanted)
    except IdMapError as error:
        assert str(IdRange(*extra)) in str(error)


@PROFILE
@given(st.one_of(stacked(SMALL, 5), sparse_triples), st.data())
def test_the_verdict_does_not_depend_on_the_order(ranges: list[Triple], data: st.DataObject) -> None:
    assert accepted(data.draw(st.permutations(ranges))) == accepted(ranges)


@PROFILE
@given(stacked(ID_COUNT, 12))
def test_ranges_laid_out_side_by_side_are_a_map(ranges: list[Triple]) -> None:
    assert accepted(ranges)


@PROFILE
@given(st.text(alphabet="0123456789:,-+x \0\n\u0661", max_size=24))
def test_a_text_is_refused_or_it_means_the_numbers_that_it_shows(text: str) -> None:
    try:
        id_map = IdMap.parse(text)
    except IdMapError:
        return
    shown = [[int(field) for field in part.split(":")] for part in text.split(",")] if text else []
    assert shown == [list(r) for r in id_map]
    assert set(text) <= set("0123456789:,")


@PROFILE
@given(st.lists(st.sampled_from(["0:0:1", "1:1:1", "", "5", "1:2", "3:4:5:6", "1:+1:1", "2:2:2"]), max_size=4))
def test_a_text_is_accepted_exactly_if_each_of_its_ranges_is(parts: list[str]) -> None:
    good = [part for part in parts if part in ("0:0:1", "1:1:1", "2:2:2")]
    try:
        id_map = IdMap.parse(",".join(parts))
    except IdMapError:
        assert len(good) < len(parts) or any(a == b for a, b in combinations(parts, 2))
    else:
        assert str(id_map) == ",".join(parts)
