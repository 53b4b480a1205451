"""Batches converted to Arrow and back are exactly the same."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadworthy.foundation.errors import PackageInvalid
from roadworthy.schema.arrow import arrow_to_batch, batch_to_arrow
from roadworthy.schema.batch import Batch, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field


def through_a_file(table: Any) -> Any:
    """The table after writing and reading an IPC file."""
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return pa.ipc.open_file(pa.BufferReader(sink.getvalue())).read_all()


@settings(max_examples=150)
@given(st.data())
def test_every_batch_survives(batches: Any, same: Any, data: st.DataObject) -> None:
    """All dtypes, nulls, tensors of fixed and varying shape and nested values, through an Arrow file."""
    batch: Batch = data.draw(batches)
    assert same(arrow_to_batch(batch.layout, through_a_file(batch_to_arrow(batch))), batch)


def test_not_a_number_is_no_null() -> None:
    """NaN and infinities, which a model may answer, are preserved next to nulls."""
    layout = Layout((Field("x", DType.FLOAT64, nullable=True),))
    values = np.array([[np.nan], [np.inf], [0.0]])
    batch = Batch.from_columns(layout, [(values[:, 0], np.array([False, False, True]))], 3)
    back, mask = arrow_to_batch(layout, through_a_file(batch_to_arrow(batch))).column("x")
    assert np.isnan(back[0])
    assert np.isinf(back[1])
    assert mask is not None
    assert mask.tolist() == [False, False, True]


def test_types_are_those_that_other_tools_expect() -> None:
    """Times are timestamps in UTC, nested values JSON text, text strings."""
    layout = Layout((Field("t", DType.TIMESTAMP), Field("j", DType.JSON), Field("s", DType.STRING), Field("b", DType.BOOL)))
    nested = np.empty(1, dtype=object)
    nested[0] = {"a": [1]}
    pairs = [(np.array([0]), None), (nested, None), (np.array(["x"], dtype=object), None), (np.array([True]), None)]
    table = batch_to_arrow(Batch.from_columns(layout, pairs, 1))
    assert [str(kind) for kind in table.schema.types] == ["timestamp[us, tz=UTC]", "string", "string", "bool"]
    assert table["j"].to_pylist() == ['{"a": [1]}']


@pytest.mark.parametrize(
    "table", [pa.table({"y": [1.0]}), pa.table({"x": ["a"]}), pa.table({"x": pa.array([1.0], pa.float32())})]
)
def test_another_table_is_refused(table: Any) -> None:
    """Missing columns and other types are not guessed."""
    with pytest.raises(PackageInvalid) as caught:
        arrow_to_batch(Layout((Field("x", DType.FLOAT64),)), table)
    assert caught.value.code == "signature-invalid"
