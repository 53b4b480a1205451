"""Bins count every value once, and counts of parts add up to the counts of the whole."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from roadworthy.statistics.bins import (
    NUMBER_BINS,
    Bins,
    CategoryBins,
    Counts,
    NoBins,
    NumberBins,
    bins_from_document,
    bins_of_numbers,
)

NUMBERS = hnp.arrays(np.float64, st.integers(0, 60), elements=st.floats(width=64))
FINITE = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=60).map(np.array)
TEXTS = st.lists(st.sampled_from(["a", "b", "c", "", "é"]) | st.none() | st.text(max_size=2), max_size=60)


def objects(values: list[Any]) -> Any:
    """A column of text in the form of a batch."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def masks(rows: int) -> Any:
    """Which rows are null."""
    return hnp.arrays(np.bool_, rows)


@given(training=NUMBERS, live=NUMBERS, data=st.data())
def test_every_number_falls_into_one_cell(training: Any, live: Any, data: Any) -> None:
    """Cells and missing values add up to the rows; NaN and masked values are the missing ones."""
    mask = data.draw(masks(len(live)))
    bins = NumberBins.of(training)
    counts = bins.count(live, mask)
    assert len(counts.cells) == bins.cells
    assert counts.total == len(live)
    assert counts.missing == int((mask | np.isnan(live)).sum())


@given(training=FINITE, live=FINITE)
def test_cells_are_what_the_edges_say(training: Any, live: Any) -> None:
    """Each number is in the cell that the docstring defines."""
    edges = NumberBins.of(training).edges
    bins = NumberBins(edges)
    for value in live.tolist():
        if value < edges[0]:
            expected = 0
        elif value > edges[-1]:
            expected = bins.cells - 1
        elif value == edges[-1]:
            expected = max(len(edges) - 1, 1)
        else:
            expected = next(n for n in range(1, len(edges)) if edges[n - 1] <= value < edges[n])
        assert bins.count(np.array([value])).cells.index(1) == expected


@given(training=FINITE)
def test_training_itself_is_never_outside(training: Any) -> None:
    """The first and last cell are for values unseen in training, so training leaves them empty."""
    counts = NumberBins.of(training).count(training)
    assert (counts.cells[0], counts.cells[-1]) == (0, 0)


@given(training=NUMBERS, one=NUMBERS, other=NUMBERS)
def test_separate_counts_of_numbers_add_up(training: Any, one: Any, other: Any) -> None:
    """Adding the counts of two parts gives the counts of both together."""
    bins = NumberBins.of(training)
    assert bins.count(one) + bins.count(other) == bins.count(np.concatenate([one, other]))


@given(training=TEXTS, one=TEXTS, other=TEXTS, top=st.integers(0, 4))
def test_separate_counts_of_categories_add_up(training: Any, one: Any, other: Any, top: int) -> None:
    """The same for categories, and every value is in a cell or missing."""
    bins = CategoryBins.of(objects(training), top=top)
    whole = bins.count(objects(one + other))
    assert bins.count(objects(one)) + bins.count(objects(other)) == whole
    assert whole.total == len(one + other)
    assert whole.missing == (one + other).count(None)
    assert whole.cells[:-1] == tuple((one + other).count(category) for category in bins.categories)


@given(values=TEXTS, data=st.data())
def test_masked_categories_are_missing(values: list[Any], data: Any) -> None:
    """A masked value is missing, whatever its filler."""
    mask = data.draw(masks(len(values)))
    counts = CategoryBins.of(objects(values), mask).count(objects(values), mask)
    assert counts.missing == sum(null or value is None for value, null in zip(values, mask.tolist(), strict=True))
    assert counts.total == len(values)


@given(values=NUMBERS | TEXTS.map(objects))
def test_bins_survive_their_document(values: Any) -> None:
    """A document, written as JSON, gives the same bins to the last bit of every edge."""
    bins: Bins = CategoryBins.of(values) if values.dtype == object else NumberBins.of(values)
    assert bins_from_document(json.loads(json.dumps(bins.to_document()))) == bins


def test_equal_mass() -> None:
    """Bins of different values are about equally full."""
    values = np.random.default_rng(0).lognormal(size=10_000)
    cells = NumberBins.of(values).count(values).cells
    assert len(cells) == 22
    assert set(cells[1:-1]) <= {499, 500, 501}


@pytest.mark.parametrize(
    ("edges", "values", "cells"),
    [
        ((), [1.0, float("inf")], (2,)),
        ((5.0,), [4.0, 5.0, 5.0, 6.0], (1, 2, 1)),
        ((0.0, 1.0), [-0.1, 0.0, 0.5, 1.0, 1.1], (1, 3, 1)),
        ((0.0, 1.0), [float("-inf"), float("inf")], (1, 0, 1)),
    ],
)
def test_few_edges(edges: tuple[float, ...], values: list[float], cells: tuple[int, ...]) -> None:
    """No edge makes one cell, one edge three; infinities are outside."""
    assert NumberBins(edges).count(np.array(values)).cells == cells


def test_integers_and_booleans_are_categories_of_their_own() -> None:
    """Categories may be numbers or booleans; most frequent first, equally frequent ones by their text."""
    assert CategoryBins.of(np.array([3, 1, 3, 2])).categories == (3, 1, 2)
    assert CategoryBins.of(np.array([True, False, True])).categories == (True, False)


def test_presence_counts_rows() -> None:
    """A tensor's row is missing only when all of it is null."""
    mask = np.array([[True, True], [True, False], [False, False]])
    assert NoBins().count(np.zeros((3, 2)), mask) == Counts((2,), 1)
    assert bins_from_document(NoBins().to_document()) == NoBins()


@pytest.mark.parametrize(
    "document", [{}, {"kind": "histogram"}, {"kind": "number", "edges": [1.5]}, {"kind": "number", "edges": ["x"]}]
)
def test_unknown_documents_are_refused(document: dict[str, Any]) -> None:
    """A document of another kind, or with inexact edges, is refused."""
    with pytest.raises(ValueError, match=r"."):
        bins_from_document(document)


def test_counts_of_other_bins_do_not_add() -> None:
    """Counts with different numbers of cells cannot be added by mistake."""
    with pytest.raises(ValueError, match="different bins"):
        Counts((1, 2)) + Counts((1,))


@pytest.mark.parametrize(
    ("values", "categories"),
    [
        (np.array([0, 1, 1, 1] * 5, dtype=np.int8), (1, 0)),
        (np.array([0.0, 1.0, 1.0, np.nan] * 5), (1, 0)),
        (np.array([-1, 1] * 5, dtype=np.float32), (-1, 1)),
        (np.array([7] * 9 + [9], dtype=np.uint64), (7, 9)),
        (np.repeat(np.arange(30), 5), tuple(sorted(range(30), key=str))),
    ],
    ids=["int8", "floats with NaN", "float32", "unsigned", "thirty"],
)
def test_few_whole_numbers_are_categories(values: Any, categories: tuple[int, ...]) -> None:
    """For any dtype; other values are counted separately, and NaN is missing."""
    bins = bins_of_numbers(values)
    assert bins == CategoryBins(categories)
    assert json.loads(json.dumps(bins.to_document())) == {"kind": "category", "categories": list(categories)}
    assert bins_from_document(bins.to_document()) == bins
    counts = bins.count(values)
    assert counts.cells == (*(int((values == each).sum()) for each in categories), 0)
    assert counts.missing == int(np.isnan(values.astype(float)).sum())
    assert bins.count(np.array([99, 0.5])).cells[-1] == 2


@pytest.mark.parametrize(
    "values",
    [
        np.repeat(np.arange(31), 5),
        np.arange(10),
        np.array([0.0, 0.5] * 50),
        np.array([2.0**60, 0.0] * 50),
        np.array([]),
    ],
    ids=["many", "each once", "fractions", "huge", "none"],
)
def test_other_numbers_are_numbers(values: Any) -> None:
    """Many values, values that occur once, fractions, and integers that a float cannot represent exactly."""
    assert isinstance(bins_of_numbers(values), NumberBins)


@given(
    values=st.lists(st.integers(-5, 5) | st.floats(-1, 1, allow_subnormal=False, width=32), min_size=1, max_size=200).map(
        lambda found: np.array(found, dtype=float)  # neighbours of 32 bits have others between them, where an edge can lie
    )
)
def test_a_value_that_fills_a_bin_alone_has_its_own_bin(values: Any) -> None:
    """Up to twenty values have one cell each; of more, no cell with two of them has much over a tenth of the rows."""
    bins = NumberBins.of(values)
    cells = [bins.count(np.array([value])).cells.index(1) for value in np.unique(values)]
    if len(cells) <= NUMBER_BINS:
        assert len(set(cells)) == len(cells)
    else:
        shared = {cell for cell in cells if cells.count(cell) > 1}
        counted = bins.count(values).cells
        assert all(counted[cell] <= 0.1 * len(values) + 2 for cell in shared)
