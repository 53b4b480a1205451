"""Encoding of a caller's table as JSON rows."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roadworthy.client.instances import encode_body
from roadworthy.foundation.errors import InvalidInput


def rows(data: Any) -> Any:
    """What would be sent."""
    return json.loads(encode_body(data))["instances"]


RECORDS = [{"a": 1, "b": 0.5, "c": "x"}, {"a": 2, "b": None, "c": None}]


@pytest.mark.parametrize(
    "data",
    [
        RECORDS,
        pd.DataFrame({"a": [1, 2], "b": [0.5, None], "c": ["x", None]}, index=[7, 8]),
        pd.DataFrame({"a": pd.array([1, 2], dtype="Int64"), "b": pd.array([0.5, None], dtype="Float64"), "c": ["x", None]}),
        pl.DataFrame({"a": [1, 2], "b": [0.5, None], "c": ["x", None]}),
    ],
    ids=["records", "pandas", "pandas nullable", "polars"],
)
def test_tables_of_all_kinds_are_the_same_rows(data: Any) -> None:
    """Records, pandas and polars give the same JSON; every missing value becomes null, and integers stay integers."""
    assert json.dumps(rows(data)) == json.dumps(RECORDS)


def test_arrays_and_rows() -> None:
    """Arrays become lists, one dict is one row, and each value of a list is one row."""
    assert rows(np.array([[1.5, np.nan]])) == [[1.5, None]]
    assert rows(np.arange(4, dtype=np.int8).reshape(1, 2, 2)) == [[[0, 1], [2, 3]]]
    assert rows({"a": np.float32(0.5), "b": np.int64(3), "c": np.bool_(True)}) == [{"a": 0.5, "b": 3, "c": True}]
    named = np.array([(1, "2013-01-02", 0.5)], dtype=[("a", "i8"), ("t", "M8[ns]"), ("x", "f8")])
    assert rows(named) == [[1, "2013-01-02T00:00:00.000000000Z", 0.5]]
    assert rows([1, 2.5]) == [1, 2.5]
    assert rows(pd.Series([1, 2])) == [1, 2]
    assert rows(pl.Series([1, None])) == [1, None]


def test_times_are_sent_in_utc() -> None:
    """A time without an offset is taken as UTC; one with an offset is converted; NaT is null."""
    naive, aware = pd.Timestamp("2013-01-02T03:04:05"), pd.Timestamp("2013-01-02T03:04:05+01:00")
    assert rows([naive, aware, pd.NaT]) == ["2013-01-02T03:04:05Z", "2013-01-02T02:04:05Z", None]
    frame = pd.DataFrame({"t": [naive, pd.NaT]}, dtype="datetime64[us]")
    assert rows(frame) == [{"t": "2013-01-02T03:04:05.000000Z"}, {"t": None}]
    assert rows([np.datetime64("2013-01-02")]) == ["2013-01-02T00:00:00Z"]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ([float("inf")], "not-finite"),
        (np.array([-np.inf]), "not-finite"),
        ([object()], "not-json"),
        (["\ud800"], "not-json"),
        ("text", "not-json"),
        (3, "not-json"),
        ([dt.timedelta(1)], "not-json"),
        ([dt.time(12)], "not-json"),
        (np.array([5], "m8[ns]"), "not-json"),
        ([np.timedelta64(5, "ns")], "not-json"),
        (pd.DataFrame({"d": pd.to_timedelta([1])}), "not-json"),
    ],
)
def test_what_json_cannot_hold_is_refused(data: Any, code: str) -> None:
    """Infinite numbers, foreign objects and broken texts are errors before any request."""
    with pytest.raises(InvalidInput) as caught:
        encode_body(data)
    assert caught.value.code == code


@given(
    st.lists(
        st.dictionaries(st.text(max_size=5), st.integers() | st.floats(allow_infinity=False, allow_nan=False)),
        max_size=5,
    )
)
def test_numbers_arrive_exactly(data: list[dict[str, Any]]) -> None:
    """Integers of any size and floats come out of JSON as they went in."""
    assert rows(data) == data
