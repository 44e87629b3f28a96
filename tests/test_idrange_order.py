"""Ranges are ordered as their three numbers."""

from __future__ import annotations

import operator
from itertools import product

import pytest

from usernsproc import IdRange

NUMBERS = [(0, 5, 3), (0, 5, 4), (0, 6, 1), (1, 0, 1)]
COMPARISONS = [operator.lt, operator.le, operator.eq, operator.ne, operator.ge, operator.gt]


@pytest.mark.parametrize("compare", COMPARISONS)
def test_they_compare_as_tuples_do(compare: object) -> None:
    assert callable(compare)
    for first, second in product(NUMBERS, repeat=2):
        assert compare(IdRange(*first), IdRange(*second)) is compare(first, second)


@pytest.mark.parametrize("compare", [operator.lt, operator.le, operator.ge, operator.gt])
def test_a_range_and_a_tuple_have_no_order(compare: object) -> None:
    assert callable(compare)
    with pytest.raises(TypeError):
        compare(IdRange(*NUMBERS[0]), NUMBERS[0])
    with pytest.raises(TypeError):
        compare(NUMBERS[0], IdRange(*NUMBERS[0]))
