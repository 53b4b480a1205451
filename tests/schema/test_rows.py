"""Rows from JSON: values that fit are exact, others are named in the error, and nothing is converted."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadworthy.foundation.errors import InvalidInput
from roadworthy.schema.batch import Batch, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.rows import decode_rows, encode_rows
from roadworthy.schema.signature import Field

PEOPLE = Layout(
    (
        Field("age", DType.INT8),
        Field("weight", DType.FLOAT64, nullable=True),
        Field("name", DType.STRING),
        Field("member", DType.BOOL),
    )
)
GOOD = {"age": 7, "weight": 1.5, "name": "Ada", "member": True}


def refused(layout: Layout, rows: list[Any], **options: str) -> InvalidInput:
    """The error that `rows` cause."""
    with pytest.raises(InvalidInput) as caught:
        decode_rows(layout, rows, **options)
    return caught.value


def one(dtype: DType, **more: Any) -> Layout:
    """A layout of one plain field "x"."""
    return Layout((Field("x", dtype, **more),))


def test_lists_and_records_give_the_same_batch() -> None:
    """A row is a list in the layout's order or an object by name, in any order of keys."""
    by_name, _ = decode_rows(PEOPLE, [dict(reversed(GOOD.items()))])
    by_place, ignored = decode_rows(PEOPLE, [list(GOOD.values())])
    assert encode_rows(by_name) == encode_rows(by_place) == [GOOD]
    assert ignored == 0
    assert [block.values.dtype.name for block in by_name.blocks] == ["int8", "float64", "object", "bool"]


def test_one_field_takes_bare_values_and_lists_of_one() -> None:
    """With one plain field `v`, `[v]` and `{"x": v}` are the same row."""
    for row in (3, [3], {"x": 3}):
        assert encode_rows(decode_rows(one(DType.INT64), [row, row])[0]) == [3, 3]


@settings(max_examples=100)
@given(st.data())
def test_what_is_encoded_decodes_to_the_same(batches: Any, same: Any, data: st.DataObject) -> None:
    """Batch → JSON text → Batch is exact for every dtype, nulls, tensors and nested values."""
    batch: Batch = data.draw(batches)
    names = [field.name for field in batch.layout.fields]
    rows = json.loads(json.dumps(encode_rows(batch)))
    records = [{names[0]: row} for row in rows] if len(names) == 1 else rows
    assert same(decode_rows(batch.layout, records)[0], batch)


def test_a3_g6_missing_columns_are_named_up_to_twenty() -> None:
    """And the number of further ones, possibly thousands."""
    layout = Layout(tuple(Field(f"c{i}", DType.FLOAT64) for i in range(40)))
    error = refused(layout, [{"c0": 1.0, "c7": 1.0}])
    assert error.code == "missing-columns"
    assert error.facts["missing"] == [f"c{i}" for i in range(40) if i not in (0, 7)][:20]
    assert error.message.endswith("'c21' and 18 more are missing")
    assert (len(error.facts["fields"]), error.facts["more"]) == (20, 18)


def test_g6_problems_are_counted_up_to_a_thousand() -> None:
    """Each problem costs more than its value."""
    layout = Layout((Field("c", DType.FLOAT64),))
    assert refused(layout, [["x"]] * 999).message.endswith("(and 998 more)")
    assert refused(layout, [["x"]] * 5_000).message.endswith("(and at least 999 more)")


def test_a4_extra_columns_are_refused_or_counted() -> None:
    """An unknown column is refused by default; on request it is ignored, and counted."""
    error = refused(PEOPLE, [GOOD, {**GOOD, "zip": 1}])
    assert (error.code, error.facts["fields"][0]["name"], error.facts["fields"][0]["row"]) == (
        "unknown-columns", "zip", 1
    )  # fmt: skip
    batch, ignored = decode_rows(PEOPLE, [{**GOOD, "zip": 1, "more": 2}, GOOD], extra="ignore")
    assert (encode_rows(batch), ignored) == ([GOOD, GOOD], 2)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (DType.INT64, "12"), (DType.INT64, 1.5), (DType.INT64, 1.0), (DType.INT64, True), (DType.INT64, [1, 2]),
        (DType.FLOAT64, "1.5"), (DType.FLOAT64, True), (DType.FLOAT64, {"a": 1}),
        (DType.BOOL, 1), (DType.BOOL, "true"), (DType.STRING, 5), (DType.STRING, None), (DType.STRING, ["a", "b"]),
        (DType.TIMESTAMP, "yesterday"), (DType.TIMESTAMP, "12:00:00"), (DType.TIMESTAMP, 1.5), (DType.TIMESTAMP, True),
        (DType.TIMESTAMP, "20130101T000000Z"), (DType.TIMESTAMP, "2013-W01-1T00:00:00Z"),
        (DType.TIMESTAMP, "2013-02-30T00:00:00Z"),
        (DType.STRING, "\ud800"), (DType.JSON, {"a": ["\udfff"]}),
    ],
)  # fmt: skip
def test_a5_wrong_types_are_refused_and_nothing_is_converted(dtype: DType, value: Any) -> None:
    """No coercion between text, numbers, booleans and times; the error names the field and the row, not the value."""
    error = refused(one(dtype), [{"x": value}])
    assert error.code == ("null-not-allowed" if value is None else "wrong-type")
    assert (error.facts["fields"][0]["name"], error.facts["fields"][0]["row"]) == ("x", 0)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (DType.INT64, 2**63), (DType.INT64, -(2**63) - 1), (DType.INT64, 2**64), (DType.UINT64, -1), (DType.UINT64, 2**64),
        (DType.INT8, 128), (DType.UINT8, 256), (DType.INT32, 10**400), (DType.FLOAT64, 2**53 + 1), (DType.FLOAT64, 10**400),
        (DType.FLOAT32, 3.5e38), (DType.FLOAT32, -1e300),
    ],
)  # fmt: skip
def test_a6_numbers_beyond_the_type_are_refused(dtype: DType, value: Any) -> None:
    """A number is kept exactly or refused, alone and among good ones."""
    assert refused(one(dtype), [value]).code == "out-of-range"
    assert refused(one(dtype), [0, value, 0]).code == "out-of-range"


@pytest.mark.parametrize(
    ("dtype", "value"),
    [(DType.INT64, 2**63 - 1), (DType.INT64, -(2**63)), (DType.UINT64, 2**64 - 1), (DType.FLOAT64, 2**53)],
)
def test_a6_numbers_at_the_edge_are_exact(dtype: DType, value: int) -> None:
    """The largest and smallest values come back unchanged."""
    batch, _ = decode_rows(one(dtype), [value, 0])
    assert int(batch.column("x")[0][0]) == value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a1_non_finite_numbers_are_refused(value: float) -> None:
    """NaN and infinities are refused by name, even where nulls are allowed, and inside nested values."""
    for layout, row in (
        (one(DType.FLOAT64, nullable=True), value),
        (one(DType.INT64), value),
        (one(DType.FLOAT32, shape=(2,)), [1.0, value]),
        (one(DType.JSON), {"x": {"deep": [1, value]}}),
    ):
        error = refused(layout, [row])
        assert (error.code, error.facts["fields"][0]["name"]) == ("not-finite", "x")


@pytest.mark.parametrize("row", [[1, 2], [1, 2, 3, 4], [[1, 2, 3]], [1, [2], 3], 5, None, "abc", [], [[], [], []]])
def test_a8_tensors_of_another_shape_are_refused(row: Any) -> None:
    """Too few, too many, too deep, ragged, or not a list."""
    assert refused(one(DType.INT64, shape=(3,)), [[1, 2, 3], row]).code in ("wrong-shape", "wrong-type")


def test_a8_ragged_and_varying_tensors() -> None:
    """Inner lists of different lengths are ragged; a varying length is the same for all rows of a request."""
    matrix = one(DType.FLOAT64, shape=(2, 2))
    assert refused(matrix, [[[1, 2], [3]]]).code == "wrong-shape"
    assert refused(matrix, [[[1, 2], 3]]).code == "wrong-shape"
    varying = one(DType.FLOAT64, shape=(-1,))
    assert decode_rows(varying, [[1, 2, 3], [4, 5, 6]])[0].column("x")[0].shape == (2, 3)
    assert refused(varying, [[1, 2, 3], [4, 5]]).code == "wrong-shape"


@pytest.mark.parametrize("row", [[7, 1.5, "Ada"], [7, 1.5, "Ada", True, 1], []])
def test_a8_rows_of_another_length_are_refused(row: list[Any]) -> None:
    """A list must have exactly one value per field."""
    assert refused(PEOPLE, [row]).code == "wrong-shape"


@pytest.mark.parametrize("row", [None, 5, "abc", True])
def test_a18_rows_that_are_no_rows_are_refused(row: Any) -> None:
    """Scalars and nulls instead of a row are wrong types, first or later."""
    assert refused(PEOPLE, [row]).code == "wrong-type"
    assert refused(PEOPLE, [GOOD, row]).code == "wrong-type"
    assert refused(PEOPLE, [list(GOOD.values()), row]).code == "wrong-type"


def test_a18_no_rows_are_refused() -> None:
    """An empty list has its own code."""
    assert refused(PEOPLE, []).code == "empty-batch"


def test_nulls_only_where_the_signature_allows_them() -> None:
    """Permitted nulls go into the mask with a filler; others are refused."""
    batch, _ = decode_rows(PEOPLE, [{**GOOD, "weight": None}, GOOD])
    values, mask = batch.column("weight")
    assert (mask.tolist(), values.tolist()) == ([True, False], [0.0, 1.5])  # type: ignore[union-attr]
    assert refused(PEOPLE, [{**GOOD, "age": None}]).code == "null-not-allowed"


def test_categories_bind_only_where_the_container_does() -> None:
    """An unseen category is refused for a pandas category, and passed on to the model otherwise."""
    strict = one(DType.STRING, categories=("a", "b"), categorical=True)
    assert refused(strict, ["a", "c"]).code == "unknown-category"
    assert encode_rows(decode_rows(one(DType.STRING, categories=("a", "b")), ["c"])[0]) == ["c"]


def test_timestamps_are_read_with_any_offset_and_written_in_utc() -> None:
    """Offsets are applied."""
    rows = ["2013-01-01T01:00:00+01:00", "2013-01-01t00:00:00.5z", "1970-01-01"]
    batch, _ = decode_rows(one(DType.TIMESTAMP), rows)
    assert batch.column("x")[0].tolist() == [1356998400000000, 1356998400500000, 0]
    assert encode_rows(batch)[0].startswith("2013-01-01T00:00:00")
    assert decode_rows(one(DType.TIMESTAMP), encode_rows(batch))[0].column("x")[0].tolist()[2] == 0


def test_several_problems_are_reported_at_once_up_to_twenty() -> None:
    """Each with its own code; the message names the first and counts the rest; no value of the caller appears."""
    rows = [{**GOOD, "age": "secret", "member": 77123}] * 30
    error = refused(PEOPLE, rows)
    assert error.code == "wrong-type"
    assert len(error.facts["fields"]) == 20
    assert "'age'" in error.message
    assert "59 more" in error.message
    mixed = refused(PEOPLE, [{**GOOD, "age": 1000, "name": 5}])
    assert mixed.code == "invalid-input"
    assert {entry["code"] for entry in mixed.facts["fields"]} == {"out-of-range", "wrong-type"}
    told = json.dumps([error.message, error.facts, mixed.message, mixed.facts])
    assert "secret" not in told
    assert "77123" not in told


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_floats_are_exact_in_float64_and_rounded_once_in_float32(values: list[float]) -> None:
    """A float64 column keeps every bit; a float32 column the nearest float32, or the row is refused."""
    assert decode_rows(one(DType.FLOAT64), values)[0].column("x")[0].tolist() == values
    largest = float(np.finfo(np.float32).max)
    if all(abs(value) <= largest for value in values):
        with np.errstate(over="ignore"):
            assert decode_rows(one(DType.FLOAT32), values)[0].column("x")[0].tolist() == np.float32(values).tolist()
    else:
        assert refused(one(DType.FLOAT32), values).code == "out-of-range"


JUNK = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=3)),
    lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(st.sampled_from([*GOOD, "z"]), inner, max_size=5)),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=100)
@given(st.lists(JUNK, max_size=4), st.sampled_from(["refuse", "ignore"]))
def test_any_json_is_either_taken_or_refused(rows: list[Any], extra: str) -> None:
    """Any JSON value gives a batch or an InvalidInput whose facts can be written as JSON."""
    for layout in (PEOPLE, one(DType.JSON), one(DType.FLOAT32, shape=(2, 2)), one(DType.TIMESTAMP, nullable=True)):
        try:
            decode_rows(layout, rows, extra=extra)
        except InvalidInput as error:
            json.dumps(error.facts, allow_nan=False)
