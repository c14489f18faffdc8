"""Counts and look-ups against one line of numpy each."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from datus.compute.compiled import looked_up, pair_counts, triple_counts, unit_rows, value_counts

SHAPE = (5, 7)
MASKS = arrays.arrays(np.uint8, SHAPE)
FEW = arrays.arrays(np.uint8, SHAPE, elements=st.sampled_from([0, 1, 2, 3, 255]))


@settings(max_examples=40, deadline=None)
@given(MASKS, FEW)
def test_counts_of_values_and_pairs(first, second):
    assert np.array_equal(value_counts(first), np.bincount(first.ravel(), minlength=256))
    expected = np.zeros((256, 256), np.int64)
    np.add.at(expected, (first, second), 1)
    assert np.array_equal(pair_counts(first, second), expected)
    assert np.array_equal(
        pair_counts(first[::2].T, second[::2].T), pair_counts(first[::2], second[::2])
    )


@settings(max_examples=40, deadline=None)
@given(FEW, FEW, FEW)
def test_triples_leave_out_what_is_not_below_the_sizes(first, second, third):
    expected = np.zeros((4, 3, 2), np.int64)
    inside = (first < 4) & (second < 3) & (third < 2)
    np.add.at(expected, (first[inside], second[inside], third[inside]), 1)
    assert np.array_equal(triple_counts(first, second, third, (4, 3, 2)), expected)


@settings(max_examples=20, deadline=None)
@given(MASKS, arrays.arrays(np.uint8, 256))
def test_a_table_is_looked_up(values, table):
    assert np.array_equal(looked_up(values, table), table[values])


def test_rows_get_length_one_and_zeros_stay():
    rows = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    rows[2] = 0
    found = unit_rows(rows)
    lengths = np.sqrt((rows.astype(np.float64) ** 2).sum(axis=1))
    lengths[2] = 1
    np.testing.assert_array_equal(found, rows / lengths[:, None].astype(np.float32))
    assert found.dtype == np.float32
