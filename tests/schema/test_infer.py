"""A signature states what the sample shows, and nothing more; columns that cannot be served are refused by name."""

from __future__ import annotations

import datetime as dt
import json
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from roadworthy.foundation.canonical import canonical_json
from roadworthy.foundation.errors import PackError
from roadworthy.schema.dtypes import DType
from roadworthy.schema.infer import infer_inputs, infer_outputs
from roadworthy.schema.signature import Container, Field, Privacy, Signature


def only(sample: Any) -> Field:
    """The single field of a sample."""
    fields, _ = infer_inputs(sample)
    assert len(fields) == 1
    return fields[0]


@pytest.mark.parametrize(
    ("sample", "container", "described"),
    [
        (pd.DataFrame({"a": [1], "b": ["x"]}), Container.DATAFRAME, [("a", "int64", ()), ("b", "string", ())]),
        (pl.DataFrame({"a": [1.0]}), Container.POLARS, [("a", "float64", ())]),
        (np.zeros((2, 3)), Container.ARRAY, [("x", "float64", (3,))]),
        (np.zeros((2, 3, 4), np.float32), Container.ARRAY, [("x", "float32", (3, 4))]),
        (np.array([1, 2]), Container.ARRAY, [("x", "int64", ())]),
        (np.array(["a", "b"]), Container.ARRAY, [("x", "string", ())]),
        ([[1, 2], [3, 4]], Container.LISTS, [("x", "int64", (2,))]),
        ([[1, 2.5]], Container.LISTS, [("x", "float64", (2,))]),
        ([1, 2], Container.LISTS, [("x", "int64", ())]),
        ([{"b": 1, "a": [1]}], Container.RECORDS, [("b", "int64", ()), ("a", "json", ())]),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, list) else "list",
)
def test_each_kind_of_sample_has_its_container(sample: Any, container: Container, described: list[Any]) -> None:
    """Columns, arrays and records give fields in their order."""
    fields, found = infer_inputs(sample)
    assert found is container
    assert [(field.name, field.dtype.value, field.shape) for field in fields] == described


def test_ranges_and_categories_are_what_was_seen() -> None:
    """Smallest and largest value as exact text; few distinct texts are categories, free text is not."""
    frame = pd.DataFrame({"n": [3, -1, 2, 3], "f": [0.1, np.nan, 0.3, 0.2], "c": ["b", "a", "b", "a"], "t": ["w", "x", "y", "z"]})
    number, fraction, few, free = infer_inputs(frame)[0]
    assert (number.minimum, number.maximum, number.nullable) == ("-1", "3", False)
    assert (fraction.minimum, fraction.maximum, fraction.nullable) == ("0.1", "0.3", True)
    assert (few.categories, few.categorical) == (("a", "b"), False)
    assert free.categories is None


def test_a_category_column_binds_to_its_categories() -> None:
    """In the order of the type, also those that occur in no row."""
    frame = pd.DataFrame({"c": pd.Categorical(["b", None], categories=["z", "b"])})
    field = only(frame)
    assert (field.categories, field.categorical, field.nullable, field.dtype) == (("z", "b"), True, True, DType.STRING)
    assert only(pd.DataFrame({"c": pd.Categorical([2, 1])})).dtype is DType.INT64


def test_private_columns_reveal_nothing() -> None:
    """No range and no categories of a private column, unless its container needs them."""
    frame = pd.DataFrame({"age": [30, 40], "city": ["x", "x"], "kind": pd.Categorical(["a", "b"])})
    fields, _ = infer_inputs(frame, privacy={"age": Privacy.DROP, "city": Privacy.HASH, "kind": Privacy.HASH})
    assert [field.privacy for field in fields] == [Privacy.DROP, Privacy.HASH, Privacy.HASH]
    assert (fields[0].minimum, fields[0].maximum, fields[1].categories, fields[2].categories) == (
        None,
        None,
        None,
        ("a", "b"),
    )
    with pytest.raises(PackError, match="height") as caught:
        infer_inputs(frame, privacy={"height": Privacy.DROP})
    assert caught.value.code == "unknown-private-column"


@pytest.mark.parametrize(
    ("column", "why"),
    [
        ([1, "a"], "one type"), ([None, None], "all values are missing"), ([dt.date(2020, 1, 1)], "date"), ([1 + 1j], "complex"),
        ([1.0, np.inf], "infinity"), ([b"a"], "bytes"), (pd.to_timedelta([1], unit="s"), "timedelta"),
        (pd.Categorical([1.5, 2.5]), "categories"), (pd.Categorical([{1}.pop(), "a"]), "one type"),
        (pd.Series([1]).astype("datetime64[ns]"), "microseconds"), ([object()], "object"), ([True, 1], "one type"),
        ([2**70, 1], "64 bits"), ([2**1100, 0.5], "64 bits"),
    ],
)  # fmt: skip
def test_columns_that_cannot_be_served_are_refused_by_name(column: Any, why: str) -> None:
    """The message names the column and the problem."""
    with pytest.raises(PackError, match="'odd'") as caught:
        infer_inputs(pd.DataFrame({"good": [1] * len(column), "odd": pd.Series(column, dtype=getattr(column, "dtype", object))}))
    assert caught.value.code == "unsupported-column"
    assert why in caught.value.message


@pytest.mark.parametrize(
    ("sample", "code"),
    [
        (pd.DataFrame({"a": []}), "empty-sample"), (pd.DataFrame(), "empty-sample"), (np.zeros((0, 3)), "empty-sample"),
        (np.zeros((3, 0)), "empty-sample"), (np.array(3.0), "empty-sample"), ([], "empty-sample"),
        (pl.DataFrame(), "empty-sample"),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), "duplicate-column"), (pd.DataFrame([[1, 2]]), "unsupported-column"),
        (pd.DataFrame({"": [1]}), "unsupported-column"), (pd.DataFrame({"a\n": [1]}), "unsupported-column"),
        (pd.Series([1, 2]), "unsupported-sample"), ("abc", "unsupported-sample"), (None, "unsupported-sample"),
        ([[1], [2, 3]], "unsupported-sample"), (["a", 1], "unsupported-sample"), ([b"a"], "unsupported-sample"),
        (np.array([b"a"]), "unsupported-sample"),
    ],
)  # fmt: skip
def test_samples_that_show_no_signature_are_refused(sample: Any, code: str) -> None:
    """Each sample with its code."""
    with pytest.raises(PackError) as caught:
        infer_inputs(sample)
    assert caught.value.code == code


def test_outputs_are_typed_by_the_answers() -> None:
    """Labels keep their own order of categories; shapes are without the rows; a gap makes an answer nullable."""
    answers = {
        "label": np.array(["no", "yes"], dtype=object),
        "probabilities": np.array([[0.1, 0.9], [0.8, 0.2]]),
        "note": np.array([None, "x"], dtype=object),
        "score": np.array([np.nan, 1.0], np.float32),
    }
    label, probabilities, note, score = infer_outputs(answers, categories={"label": ["yes", "no"]})
    assert (label.dtype, label.shape, label.categories) == (DType.STRING, (), ("yes", "no"))
    assert (probabilities.dtype, probabilities.shape, probabilities.minimum) == (DType.FLOAT64, (2,), None)
    assert (note.dtype, note.nullable) == (DType.STRING, True)
    assert (score.dtype, score.nullable) == (DType.FLOAT32, True)


@pytest.mark.parametrize("answers", [{}, {"x": np.array([1.0, np.inf])}, {"x": np.array([1j])}, {"x": np.array([b"a"])}])
def test_answers_that_cannot_be_sent_are_refused(answers: Any) -> None:
    """Infinities, complex numbers and bytes have no JSON."""
    with pytest.raises(PackError) as caught:
        infer_outputs(answers)
    assert caught.value.code == "unsupported-output"


def test_a_signature_survives_its_document() -> None:
    """The manifest's canonical JSON preserves everything that is inferred, without floats."""
    frame = pd.DataFrame(
        {
            "a": [0.5, np.nan],
            "c": pd.Categorical(["x", "y"], ordered=True),
            "t": pd.to_datetime(["2020-01-01", "2021-01-01"], utc=True),
            "o": pd.Series(["x", "x"], dtype=object),
        }
    )
    fields, container = infer_inputs(frame, privacy={"a": Privacy.HASH})
    signature = Signature(fields, infer_outputs({"y": np.eye(2)}), container)
    document = json.loads(canonical_json(signature.to_document()))
    assert Signature.from_document(document) == signature


FIRST, LAST = 1_704_067_200_000_000, 1_711_843_200_000_000
SPAN = np.array(["2024-01-01", "2024-03-31"], "datetime64[us]")


@pytest.mark.parametrize(
    "sample",
    [
        *(pd.DataFrame({"t": SPAN.astype(f"datetime64[{unit}]")}) for unit in ("s", "ms", "us", "ns")),
        pd.DataFrame({"t": pd.Series(SPAN).dt.tz_localize("UTC").dt.tz_convert("Asia/Kolkata")}),
        pl.DataFrame({"t": SPAN}),
        pl.DataFrame({"t": pl.Series(SPAN).dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Kolkata")}),
        pl.DataFrame({"t": SPAN.tolist()}).with_columns(pl.col("t").cast(pl.Date)),
        SPAN,
        SPAN.astype("datetime64[D]"),
        SPAN.reshape(1, 2),
    ],
    ids=lambda sample: type(sample).__module__.partition(".")[0],
)
def test_g3_the_training_range_of_times_is_known(sample: Any) -> None:
    """In microseconds since 1970 UTC, for any container; integers are checked against it."""
    (field,), _ = infer_inputs(sample)
    assert (field.dtype, field.minimum, field.maximum) == (DType.TIMESTAMP, str(FIRST), str(LAST))


@pytest.mark.parametrize("far", [np.array([2**62], "datetime64[Y]"), np.array(["20000-01-01"], "datetime64[s]")])
def test_g3_times_beyond_the_calendar_are_refused(far: Any) -> None:
    """No request could carry them."""
    with pytest.raises(PackError) as refused:
        infer_inputs(far)
    assert refused.value.code == "unsupported-column"
