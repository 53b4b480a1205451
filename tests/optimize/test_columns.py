"""Walking along the floats: keys and values."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadworthy.optimize.exact.columns import highest_key, keys_of, lowest_key, values_of
from roadworthy.schema.dtypes import DType


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_keys_order_doubles_and_come_back(a: float, b: float) -> None:
    """A key represents one value, and greater values have greater keys."""
    values = np.array([a, b])
    keys = keys_of(values, DType.FLOAT64)
    assert np.array_equal(values_of(keys, DType.FLOAT64), values)
    assert (a < b) == (keys[0] < keys[1])


@given(st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_the_next_key_is_the_next_float(value: float) -> None:
    """One step of a key is one step between neighbouring floats, also across zero."""
    key = keys_of(np.array([value], dtype=np.float32), DType.FLOAT32)
    if key[0] < highest_key(DType.FLOAT32):
        beside = values_of(key + 1, DType.FLOAT32)[0]
        assert beside == np.nextafter(np.float32(value), np.float32(np.inf))


@pytest.mark.parametrize("dtype", [DType.FLOAT64, DType.FLOAT32, DType.INT64, DType.INT8, DType.BOOL])
def test_the_outermost_keys_are_the_outermost_values(dtype: DType) -> None:
    """The search can start at either end of every dtype."""
    ends = values_of(np.array([lowest_key(dtype), highest_key(dtype)]), dtype)
    assert ends.dtype == dtype.numpy
    if dtype.is_float:
        assert ends.tolist() == [np.finfo(dtype.value).min, np.finfo(dtype.value).max]
    elif dtype is not DType.BOOL:
        assert ends.tolist() == [np.iinfo(dtype.value).min, np.iinfo(dtype.value).max]
