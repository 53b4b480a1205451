"""G2: for any number of rows and on every path, the model receives exactly the form that it received in training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadworthy.frameworks.native import NativeLoaded
from roadworthy.package.packing.own_rows import own_rows
from roadworthy.schema.batch import Batch, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.forms import form_of
from roadworthy.schema.infer import infer_inputs
from roadworthy.schema.signature import Field, Signature
from roadworthy.schema.tables import to_batch
from tests.faults.training_forms import (
    ARRAYS,
    LISTS,
    NEVER_MISSING,
    PANDAS,
    PATHS,
    POLARS,
    RECORDS,
    asks,
    assert_same,
)

Make = Callable[[Sequence[bool]], Any]


def _in_frame(make: Make) -> Make:
    def frame(missing: Sequence[bool]) -> Any:
        series = make(missing)
        other = [f"row {number}" for number in range(len(missing))]
        if isinstance(series, pl.Series):
            return pl.DataFrame({"c": series, "other": other})
        return pd.DataFrame({"c": series, "other": other})

    return frame


SAMPLES: dict[str, Make] = {
    **{f"pandas {kind}": _in_frame(make) for kind, make in (PANDAS | NEVER_MISSING).items()},
    **{f"polars {kind}": _in_frame(make) for kind, make in POLARS.items()},
    **{f"array {kind}": make for kind, make in ARRAYS.items()},
    **{f"list {kind}": make for kind, make in LISTS.items()},
    **{f"records {kind}": make for kind, make in RECORDS.items()},
}
GAPS = ((True, False, True, False), (False, False, False, False), (True, False, True, True))
TABLES = {"pandas": PANDAS | NEVER_MISSING, "polars": POLARS}


class Capturing:
    """A model that stores the rows it receives."""

    def __init__(self, sample: Any) -> None:
        fields, container = infer_inputs(sample)
        self.signature = Signature(fields, (Field("y", DType.INT64),), container, form_of(sample))
        self._received: list[Any] = []
        self._native = NativeLoaded(self._answer, self.signature, 1, None)

    def _answer(self, rows: Any) -> dict[str, Any]:
        self._received.append(rows)
        return {"y": np.zeros(len(rows), dtype=np.int64)}

    def ask(self, path: str, own: Any, batch: Batch | None = None) -> Any:
        """The rows it receives when training rows come by that path; None if the path cannot carry them. `batch`: the rows."""
        batch = batch or to_batch(Layout(self.signature.inputs), own)
        if not asks(path, self.signature, batch):
            return None
        self._native.run(PATHS[path](self.signature, own, batch))
        return self._received.pop()


def asked_as_in_training(model: Capturing, sample: Any, rows: Sequence[int], paths: Iterable[str] = PATHS) -> None:
    """Check that some rows of a sample, sent by these paths, are received as in training."""
    own = own_rows(sample, np.array(rows))
    batch = to_batch(Layout(model.signature.inputs), own)
    right = own.reset_index(drop=True) if isinstance(own, pd.DataFrame) else own
    for path in paths:
        found = model.ask(path, own, batch)
        if found is not None:
            assert_same(found, right)


@pytest.mark.parametrize("kind", SAMPLES)
def test_every_kind_of_column_is_received_as_in_training(kind: str) -> None:
    """With no, the first, or all but one value missing; for all rows at once, two rows, and a single row; on every path."""
    for missing in GAPS:
        sample = SAMPLES[kind](missing)
        model = Capturing(sample)
        for rows in (range(4), [1, 0], [0], [1]):
            asked_as_in_training(model, sample, list(rows))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_mixture_of_columns_is_received_as_in_training(data: st.DataObject) -> None:
    """Several columns of a frame, in any rows and any pattern of missing values, on any path."""
    library = data.draw(st.sampled_from(sorted(TABLES)))
    table = TABLES[library]
    kinds = data.draw(st.lists(st.sampled_from(sorted(table)), min_size=1, max_size=4))
    count = data.draw(st.integers(2, 6))
    gaps = st.lists(st.booleans(), min_size=count - 1, max_size=count - 1)
    columns = {}
    for number, kind in enumerate(kinds):
        missing = data.draw(gaps)
        place = data.draw(st.integers(0, count - 1))
        columns[f"c{number}"] = table[kind]([*missing[:place], False, *missing[place:]])
    rows = data.draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=7))
    sample = (pd if library == "pandas" else pl).DataFrame(columns)
    asked_as_in_training(Capturing(sample), sample, rows, [data.draw(st.sampled_from(sorted(PATHS)))])


@pytest.mark.parametrize("kind", ["str", "string of python", "float32", "Int64", "boolean", "time in us", "category of int"])
def test_a_column_that_is_missing_throughout_has_its_type(kind: str) -> None:
    """The type defines what a value would be; a request may contain one."""
    sample = _in_frame(PANDAS[kind])([True, True, True])
    model = Capturing(sample)
    for rows in ([0], [0, 1, 2]):
        asked_as_in_training(model, sample, rows)


@pytest.mark.parametrize(
    "sample",
    [
        pd.DataFrame({"c": pd.Series([None, None], dtype=object)}), pl.DataFrame({"c": [None, None]}),
        np.array([None, np.nan], dtype=object), [{"c": None}, {"c": None}], [[None], [None]],
        pd.DataFrame({"c": pd.Categorical([None, None])}),
    ],
    ids=["pandas", "polars", "numpy", "records", "lists", "category"],
)  # fmt: skip
def test_a_column_of_missing_values_without_a_type_is_refused_truly(sample: Any) -> None:
    """The error says that the column has no type, and the hint how to give it one."""
    from roadworthy.foundation.errors import PackError

    with pytest.raises(PackError, match="all values are missing") as caught:
        infer_inputs(sample)
    assert caught.value.code == "unsupported-column"
    assert "astype" in str(caught.value.hint)


@pytest.mark.parametrize("labels", ["object", "str", "string"])
def test_column_labels_are_as_in_training(labels: str) -> None:
    """Their type and their name; a model that renames them changes only its own copy."""
    sample = pd.DataFrame({"a": [1.5, np.nan], "b": ["x", "y"]})
    sample.columns = pd.Index(["a", "b"], dtype=labels, name="feature")
    model = Capturing(sample)
    first = model.ask("JSON", sample)
    assert_same(first, sample)
    first.columns.name = "changed"
    assert_same(model.ask("JSON", sample), sample)


def test_numbers_lie_in_memory_as_in_training() -> None:
    """Row by row or column by column: the last bits of float sums depend on it."""
    matrix = np.arange(12.0).reshape(4, 3)
    for array in (matrix, np.asfortranarray(matrix)):
        found = Capturing(array).ask("JSON", array)
        assert (found.flags.c_contiguous, found.flags.f_contiguous) == (
            array.flags.c_contiguous,
            array.flags.f_contiguous,
        )
        for frame in (pd.DataFrame(array, columns=list("abc")), pd.DataFrame(dict(zip("abc", array.T, strict=True)))):
            made = Capturing(frame).ask("JSON", frame).to_numpy().flags
            assert made.f_contiguous == frame.to_numpy().flags.f_contiguous


def test_what_a_model_writes_into_its_rows_changes_no_request() -> None:
    """The model has its own containers."""
    frame = pd.DataFrame({"a": [1.5, 2.5], "b": ["x", "y"], "c": pd.Series(["x", None], dtype=object)})
    for sample in (frame, frame[["a"]], frame.to_numpy(), frame[["a"]].to_numpy()):
        if sample.dtype == object if isinstance(sample, np.ndarray) else False:
            continue
        fields, container = infer_inputs(sample)
        batch = to_batch(Layout(fields), sample)
        before = [block.values.copy() for block in batch.blocks]
        native = NativeLoaded(_overwrite, Signature(fields, (Field("y", DType.INT64),), container, form_of(sample)), 1, None)
        native.run(batch)
        assert all((block.values == kept).all() for block, kept in zip(batch.blocks, before, strict=True))


def _overwrite(rows: Any) -> dict[str, Any]:
    if isinstance(rows, pd.DataFrame):
        for name in rows.columns:
            rows.loc[:, name] = rows[name].iloc[0]
    else:
        rows[:] = 77.0
    return {"y": np.zeros(len(rows), dtype=np.int64)}


def test_a_fixed_text_is_never_cut() -> None:
    """numpy's text of five characters is widened when a request has longer text."""
    model = Capturing(np.array(["abcde", "x"]))
    batch = to_batch(Layout(model.signature.inputs), np.array(["longer than five", "x"]))
    model._native.run(batch)
    assert model._received.pop().tolist() == ["longer than five", "x"]
