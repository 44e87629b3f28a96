"""The maps of the presets: only arithmetic."""

from __future__ import annotations

import pytest

from usernsproc import IdMap
from usernsproc._maps.presets import own_id_as, rootless, stacked, unchanged

HIGHEST = 2**32 - 2


@pytest.mark.parametrize("own_id", [0, 1000, 2**31, HIGHEST])
def test_root_and_current_are_the_callers_id(own_id: int) -> None:
    assert own_id_as("root", own_id) == IdMap([(0, own_id, 1)])
    assert own_id_as("current", own_id) == IdMap([(own_id, own_id, 1)])


@pytest.mark.parametrize(
    ("ranges", "laid"),
    [
        ([], ""),
        ([(100000, 65536)], "0:100000:65536"),
        ([(300000, 10), (100000, 5)], "0:300000:10,10:100000:5"),
        ([(100000, 10), (100010, 10)], "0:100000:10,10:100010:10"),
        ([(100000, 10), (100000, 10)], "0:100000:10"),
        ([(100000, 10), (99990, 40)], "0:100000:10,10:99990:10,20:100010:20"),
        ([(99990, 40), (100000, 10)], "0:99990:40"),
        ([(5, 1), (7, 1), (0, 10)], "0:5:1,1:7:1,2:0:5,7:6:1,8:8:2"),
        ([(2**31, 5), (HIGHEST, 1)], f"0:2147483648:5,5:{HIGHEST}:1"),
        ([(HIGHEST, 100)], f"0:{HIGHEST}:1"),
        ([(HIGHEST + 1, 5), (2**33, 7), (1, 1)], "0:1:1"),
        ([(0, 2**33)], "0:0:4294967295"),
    ],
)
def test_subordinate_ranges_are_laid_out_in_their_order_each_id_once(ranges: list[tuple[int, int]], laid: str) -> None:
    """Numbers that are not IDs are left out."""
    assert str(stacked(ranges)) == laid


@pytest.mark.parametrize(
    ("own_id", "subids", "expected"),
    [
        (1000, "0:100000:65536", "0:1000:1,1:100000:65536"),
        (1000, "0:300000:10,10:200000:5", "0:1000:1,1:300000:10,11:200000:5"),
        (100005, "0:100000:10", "0:100005:1,1:100000:5,6:100006:4"),
        (100000, "0:100000:10", "0:100000:1,1:100001:9"),
        (100009, "0:100000:10", "0:100009:1,1:100000:9"),
        (5, "0:5:1,1:100:5", "0:5:1,1:100:5"),
        (3000000000, "0:4000000000:10", "0:3000000000:1,1:4000000000:10"),
        (7, f"0:0:{2**32 - 1}", f"0:7:1,1:0:7,8:8:{2**32 - 9}"),
    ],
)
def test_rootless_is_the_callers_id_and_then_the_others(own_id: int, subids: str, expected: str) -> None:
    """If the caller's ID is among the subordinate IDs, it is mapped once."""
    assert str(rootless(own_id, IdMap.parse(subids))) == expected


@pytest.mark.parametrize(
    ("own_map", "same"),
    [
        (f"0:0:{2**32 - 1}", f"0:0:{2**32 - 1}"),
        ("0:1000:1,1:100000:65536", "0:0:1,1:1:65536"),
        ("5000:7:1,4000000000:10:10", "5000:5000:1,4000000000:4000000000:10"),
        ("", ""),
    ],
)
def test_all_is_each_mapped_id_unchanged(own_map: str, same: str) -> None:
    assert str(unchanged(IdMap.parse(own_map))) == same
