"""Conversion between batches and users' containers: a model gets exactly the form that it was trained on."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadworthy.foundation.errors import InvalidInput, ModelFault
from roadworthy.schema.batch import Batch, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.forms import form_of
from roadworthy.schema.infer import infer_inputs
from roadworthy.schema.restore import Restorer
from roadworthy.schema.rows import decode_rows, encode_rows
from roadworthy.schema.signature import Container, Field
from roadworthy.schema.tables import answers_to_batch, batch_to_answers, to_batch

NOON = dt.datetime(2013, 7, 1, 12)  # noqa: DTZ001  (naive on purpose)

PANDAS = {
    "float with a gap": pd.Series([1.5, np.nan]),
    "int": pd.Series([1, 2]),
    "int8": pd.Series([1, 2], dtype="int8"),
    "uint64": pd.Series([2**63 + 5, 2], dtype="uint64"),
    "float32": pd.Series([1.5, 2], dtype="float32"),
    "float16": pd.Series([1.5, 2], dtype="float16"),
    "Int64 with a gap": pd.Series([2**53 + 1, None], dtype="Int64"),
    "Int64 without": pd.Series([1, 2], dtype="Int64"),
    "UInt8": pd.Series([1, None], dtype="UInt8"),
    "Float64": pd.Series([1.5, None], dtype="Float64"),
    "bool": pd.Series([True, False]),
    "boolean": pd.Series([True, None], dtype="boolean"),
    "objects of bool": pd.Series([True, None], dtype=object),
    "objects of int": pd.Series([1, 2], dtype=object),
    "text": pd.Series(["a", "b"]),
    "text with a gap": pd.Series(["a", None]),
    "objects of text": pd.Series(["a", "b"], dtype=object),
    "objects of text with a gap": pd.Series(["a", None], dtype=object),
    "string": pd.Series(["a", None], dtype="string"),
    "category": pd.Series(["a", "b", None], dtype="category"),
    "category of int": pd.Series([3, 1], dtype="category"),
    "ordered category": pd.Series(pd.Categorical(["a", None], categories=["b", "a"], ordered=True)),
    "time": pd.Series([NOON, None]).astype("datetime64[us]"),
    "time in ns": pd.Series([NOON, None]).astype("datetime64[ns]"),
    "time in UTC": pd.Series([NOON, None]).dt.tz_localize("UTC"),
    "time in Berlin": pd.Series([NOON, None]).dt.tz_localize("Europe/Berlin"),
    "dicts": pd.Series([{"a": 1}, None]),
    "lists": pd.Series([[1, 2], [3]]),
    "arrow integers": pd.Series([1, None], dtype="int64[pyarrow]"),
}
POLARS = {
    "int": pl.Series([1, None]),
    "int8": pl.Series([1, 2], dtype=pl.Int8),
    "float": pl.Series([1.5, None]),
    "text": pl.Series(["a", None]),
    "bool": pl.Series([True, None]),
    "categorical": pl.Series(["a", "b", None], dtype=pl.Categorical),
    "enum": pl.Series(["a", "b"], dtype=pl.Enum(["b", "a", "c"])),
    "time": pl.Series([NOON, None]),
    "time in Berlin": pl.Series([NOON]).dt.replace_time_zone("Europe/Berlin"),
    "date": pl.Series([NOON.date(), None]),
    "lists": pl.Series([[1, 2], [3]]),
    "structs": pl.Series([{"a": 1}]),
}


def there_and_back(data: Any) -> Any:
    """Infer, convert to a batch and back to the container, through JSON as in a request."""
    fields, container = infer_inputs(data)
    layout = Layout(fields)
    batch = to_batch(layout, data)
    records = [{fields[0].name: row} for row in encode_rows(batch)] if len(fields) == 1 else encode_rows(batch)
    return Restorer(fields, container, form_of(data)).restore(decode_rows(layout, records)[0])


@pytest.mark.parametrize("kind", PANDAS)
def test_pandas_columns_come_back_in_their_type(kind: str) -> None:
    """Values, nulls and dtype of every supported kind of column survive."""
    frame = pd.DataFrame({"c": PANDAS[kind], "other": ["x"] * len(PANDAS[kind])})
    pd.testing.assert_frame_equal(there_and_back(frame), frame)


@pytest.mark.parametrize("kind", POLARS)
def test_polars_columns_come_back_in_their_type(kind: str) -> None:
    """As for pandas."""
    frame = pl.DataFrame({"c": POLARS[kind], "other": ["x"] * len(POLARS[kind])})
    back = there_and_back(frame)
    assert back.schema == frame.schema
    assert back.equals(frame, null_equal=True)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(4.0), np.eye(3), np.zeros((2, 3, 4), np.float32), np.array([[1.0, np.nan]]), np.array([True, False]),
        np.array(["a", "b"], dtype=object), np.array([["a", None]], dtype=object), np.array([[1, 2]], np.int8),
        np.ones((2, 2), np.float16), np.array(["2020-01-01", "NaT"], "datetime64[D]"), np.array(["2020-01-01"], "datetime64[us]"),
    ],
    ids=lambda array: f"{array.dtype}{list(array.shape)}",
)  # fmt: skip
def test_arrays_come_back_in_their_type_and_shape(array: Any) -> None:
    """Also through JSON, in which NaN becomes null."""
    back = there_and_back(array)
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_records_come_back_as_they_were() -> None:
    """A list of dicts is restored as one, nested values included."""
    records = [{"a": 1, "b": "x", "c": {"d": [1.5]}}, {"a": 2, "b": None, "c": {}}]
    assert there_and_back(records) == records


@settings(max_examples=60)
@given(st.data())
def test_every_batch_survives_records_and_answers(batches: Any, same: Any, data: st.DataObject) -> None:
    """Batch → answers → batch is exact for what a model may answer: nulls only in floats, text and nested values."""
    batch: Batch = data.draw(batches)
    back = answers_to_batch(batch.layout, batch_to_answers(batch), batch.rows)
    assert same(back, batch)


def test_a_model_may_write_into_its_rows() -> None:
    """In-place preprocessing does not change the batch, which is recorded later."""
    for sample in (np.zeros((2, 2)), pd.DataFrame({"a": [0.0, 0.0], "b": [0.0, 0.0]})):
        fields, container = infer_inputs(sample)
        batch = to_batch(Layout(fields), sample)
        rows = Restorer(fields, container).restore(batch)
        if isinstance(rows, pd.DataFrame):
            rows.iloc[0, 0] = 7.0
        else:
            rows += 7.0
        assert not batch.blocks[0].values.any()


def test_columns_are_found_by_name() -> None:
    """A different order of columns is the same data; missing and unknown columns are named."""
    layout = Layout((Field("a", DType.INT64), Field("b", DType.FLOAT64)))
    batch = to_batch(layout, pd.DataFrame({"b": [1.5], "a": [1]}))
    assert encode_rows(batch) == [{"a": 1, "b": 1.5}]
    for frame, code in (
        ({"a": [1]}, "missing-columns"),
        ({"a": [1], "c": [1.0]}, "missing-columns"),  # a column that was renamed
        ({"a": [1], "b": [1.0], "z": [1]}, "unknown-columns"),
    ):
        for library in (pd, pl):
            with pytest.raises(InvalidInput) as caught:
                to_batch(layout, library.DataFrame(frame))
            assert caught.value.code == code


def test_a_column_label_that_is_no_text_is_no_name() -> None:
    """A frame made of an array has the labels 0 and 1, which are not the columns "0" and "1"."""
    layout = Layout((Field("0", DType.INT64), Field("1", DType.INT64)))
    with pytest.raises(InvalidInput) as caught:
        to_batch(layout, pd.DataFrame(np.array([[1, 2]])))
    assert caught.value.code == "missing-columns"


@pytest.mark.parametrize(
    ("dtype", "values", "code"),
    [
        (DType.INT64, [1.5], "wrong-type"), (DType.INT64, ["1"], "wrong-type"), (DType.INT64, [True], "wrong-type"),
        (DType.INT8, [200], "out-of-range"), (DType.FLOAT64, [2**53 + 1], "out-of-range"),
        (DType.FLOAT64, [np.inf], "not-finite"),
        (DType.FLOAT32, [1e300], "not-finite"), (DType.FLOAT64, [np.nan], "null-not-allowed"), (DType.STRING, [1], "wrong-type"),
        (DType.BOOL, [1], "wrong-type"), (DType.TIMESTAMP, [1.5], "wrong-type"), (DType.STRING, [None], "null-not-allowed"),
    ],
)  # fmt: skip
def test_frames_and_arrays_are_held_to_the_signature(dtype: DType, values: list[Any], code: str) -> None:
    """As strict as for requests; integers are widened or become floats exactly, nothing else is converted."""
    for data in (pd.DataFrame({"c": values}), np.array(values)):
        with pytest.raises(InvalidInput) as caught:
            to_batch(Layout((Field("c", dtype),)), data)
        assert caught.value.code == code


def test_wider_types_are_accepted_if_nothing_is_lost() -> None:
    """int8 into int64, integers into floats, float64 into float32 as numpy rounds."""
    layout = Layout((Field("i", DType.INT64), Field("f", DType.FLOAT64), Field("g", DType.FLOAT32)))
    frame = pd.DataFrame({"i": np.array([1], "int8"), "f": [2], "g": [0.1]})
    assert encode_rows(to_batch(layout, frame)) == [{"i": 1, "f": 2.0, "g": float(np.float32(0.1))}]


def test_arrays_of_another_shape_are_refused() -> None:
    """Shapes matter for tensors and for columns; an empty array is refused."""
    tensor, columns = (
        Layout((Field("x", DType.FLOAT64, (3,)),)),
        Layout((Field("a", DType.FLOAT64), Field("b", DType.FLOAT64))),
    )
    for layout, data, code in (
        (tensor, np.zeros((2, 4)), "wrong-shape"), (tensor, np.zeros(3), "wrong-shape"),
        (columns, np.zeros((2, 3)), "wrong-shape"),
        (tensor, np.zeros((0, 3)), "empty-batch"), (columns, pd.DataFrame({"a": [], "b": []}), "empty-batch"),
    ):  # fmt: skip
        with pytest.raises(InvalidInput) as caught:
            to_batch(layout, data)
        assert caught.value.code == code


def test_data_that_is_not_a_table_is_refused() -> None:
    """Text and None are not rows."""
    for data in ("abc", None, 5, b"abc"):
        with pytest.raises(InvalidInput, match="expected a DataFrame, an array or a list of records"):
            to_batch(Layout((Field("a", DType.STRING),)), data)


def test_c7_answers_of_another_length_are_the_models_fault() -> None:
    """Rows are never shifted between callers: a wrong number of answers is refused completely."""
    layout = Layout((Field("label", DType.INT64),))
    for answer in (np.array([1, 2]), np.array([1, 2, 3, 4]), np.array(1), np.array([])):
        with pytest.raises(ModelFault) as caught:
            answers_to_batch(layout, {"label": answer}, 3)
        assert caught.value.code == "wrong-output-count"


@pytest.mark.parametrize(
    "answers",
    [
        {},
        {"y": [1, 2]},
        {"x": ["a", "b"]},
        {"x": [[1.0], [2.0]]},
        {"x": [True, False]},
        {"x": [1 + 1j, 2]},
        {"x": [{}, {}]},
    ],
)
def test_c8_answers_of_another_type_are_the_models_fault(answers: dict[str, Any]) -> None:
    """Missing names, other types and other shapes are refused."""
    with pytest.raises(ModelFault) as caught:
        answers_to_batch(Layout((Field("x", DType.FLOAT64),)), {k: np.array(v) for k, v in answers.items()}, 2)
    assert caught.value.code == "wrong-output-type"


def test_answers_with_gaps_have_a_mask() -> None:
    """If the signature is nullable, NaN and None become nulls, not values."""
    layout = Layout((Field("x", DType.FLOAT64, nullable=True), Field("s", DType.STRING, nullable=True)))
    batch = answers_to_batch(layout, {"x": np.array([np.nan, 1.0]), "s": np.array([None, "a"], dtype=object)}, 2)
    assert encode_rows(batch) == [{"x": None, "s": None}, {"x": 1.0, "s": "a"}]
    assert np.isfinite(batch.column("x")[0]).all()


def test_the_container_decides_the_form() -> None:
    """The same batch as each container."""
    layout = Layout((Field("x", DType.FLOAT64),))
    batch, _ = decode_rows(layout, [1.0, 2.0])
    made = {container: Restorer(layout.fields, container).restore(batch) for container in Container}
    assert isinstance(made[Container.DATAFRAME], pd.DataFrame)
    assert isinstance(made[Container.POLARS], pl.DataFrame)
    assert made[Container.ARRAY].tolist() == [1.0, 2.0]
    assert made[Container.RECORDS] == [{"x": 1.0}, {"x": 2.0}]
    assert made[Container.LISTS] == [1.0, 2.0]
