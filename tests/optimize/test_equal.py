"""The definition of equal answers."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from roadworthy.optimize.equal import Tolerance, compare
from roadworthy.schema.batch import Batch, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field


def _batch(dtype: DType, values: list[object], mask: list[bool] | None = None, name: str = "y") -> Batch:
    layout = Layout((Field(name, dtype),))
    array = np.empty(len(values), dtype=dtype.numpy)
    array[:] = values
    return Batch.from_columns(layout, [(array, None if mask is None else np.array(mask))], len(values))


@given(st.lists(st.floats(width=64), min_size=1, max_size=20))
def test_every_answer_equals_itself(values: list[float]) -> None:
    """NaN, infinities, zeros of both signs: a batch never differs from itself."""
    batch = _batch(DType.FLOAT64, values)
    assert compare(batch, batch, Tolerance()) is None


@given(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e9, max_value=1e9), st.floats(0, 3))
def test_floats_differ_only_beyond_the_tolerance(value: float, factor: float) -> None:
    """The limit is atol + rtol * |expected|; values on both sides of it are distinguished."""
    limit = 1e-6 + 1e-5 * abs(value)
    found = value + factor * limit
    difference = compare(_batch(DType.FLOAT64, [value]), _batch(DType.FLOAT64, [found]), Tolerance())
    if abs(found - value) < 0.999 * limit:
        assert difference is None
    elif abs(found - value) > 1.001 * limit:
        assert difference is not None


def test_an_infinity_is_equal_only_to_itself() -> None:
    """A tolerance that scales with the value would otherwise let everything equal an infinity."""
    for found in (1.0, -math.inf, math.nan):
        assert compare(_batch(DType.FLOAT64, [math.inf]), _batch(DType.FLOAT64, [found]), Tolerance()) is not None
        assert compare(_batch(DType.FLOAT64, [found]), _batch(DType.FLOAT64, [math.inf]), Tolerance()) is not None


def test_labels_are_compared_exactly_and_the_first_row_is_named() -> None:
    """One wrong label is a difference, with its row, its values and the number of differing rows."""
    difference = compare(
        _batch(DType.STRING, ["late", "in time", "late"], name="label"),
        _batch(DType.STRING, ["late", "late", "in time"], name="label"),
        Tolerance(),
    )
    assert difference is not None
    assert (difference.row, difference.field, difference.rows) == (1, "label", 2)
    assert str(difference) == "output 'label', row 1: expected 'in time', got 'late' (2 rows differ)"


def test_integers_have_no_tolerance() -> None:
    """Large integers that are close to each other are different answers."""
    assert compare(_batch(DType.INT64, [10**12]), _batch(DType.INT64, [10**12 + 1]), Tolerance()) is not None


def test_nulls_must_be_in_the_same_places_and_hide_their_filler() -> None:
    """The filler of a null is ignored; a null instead of a value is a difference."""
    null = _batch(DType.FLOAT64, [0.0], [True])
    assert compare(null, _batch(DType.FLOAT64, [5.0], [True]), Tolerance()) is None
    difference = compare(null, _batch(DType.FLOAT64, [0.0]), Tolerance())
    assert difference is not None
    assert difference.expected == "null"


def test_a_tensor_names_the_element_that_differs() -> None:
    """For probabilities, only the first wrong element is shown, with its position."""
    layout = Layout((Field("probabilities", DType.FLOAT64, (3,)),))
    expected = Batch.from_columns(layout, [(np.full((2, 3), 0.25), None)], 2)
    wrong = np.full((2, 3), 0.25)
    wrong[1, 2] = 0.5
    difference = compare(expected, Batch.from_columns(layout, [(wrong, None)], 2), Tolerance())
    assert difference is not None
    assert (difference.row, difference.expected, difference.found) == (1, "0.25 at [2]", "0.5 at [2]")


def test_a_different_form_is_a_difference_without_a_row() -> None:
    """A different number of rows, other names or other types are reported as such."""
    one = _batch(DType.FLOAT64, [1.0])
    others = (_batch(DType.FLOAT64, [1.0, 2.0]), _batch(DType.FLOAT32, [1.0]), _batch(DType.FLOAT64, [1.0], name="z"))
    for other in others:
        difference = compare(one, other, Tolerance())
        assert difference is not None
        assert difference.row is None


def test_nested_answers_are_compared() -> None:
    """Floats inside JSON values have the tolerance; types and keys do not."""
    same = compare(_batch(DType.JSON, [{"a": [1.0]}]), _batch(DType.JSON, [{"a": [1.0 + 1e-9]}]), Tolerance())
    assert same is None
    for other in ({"a": [1]}, {"b": [1.0]}, {"a": [1.0, 2.0]}, {"a": [2.0]}):
        assert compare(_batch(DType.JSON, [{"a": [1.0]}]), _batch(DType.JSON, [other]), Tolerance()) is not None


def test_no_rows_are_equal() -> None:
    """Two empty batches of one layout do not differ."""
    assert compare(_batch(DType.FLOAT64, []), _batch(DType.FLOAT64, []), Tolerance()) is None
