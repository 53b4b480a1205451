"""Converts a batch to an Arrow table and back, exactly. Golden examples are stored in this form. pyarrow is imported on use."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from roadworthy.foundation.errors import PackageInvalid
from roadworthy.schema.batch import Array, Batch, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field

_ARROW_NAMES = {DType.FLOAT32: "float", DType.FLOAT64: "double", DType.TIMESTAMP: "int64"}


def batch_to_arrow(batch: Batch) -> Any:
    """Convert to a pyarrow.Table: plain columns in their own types, times as timestamp[us, UTC], JSON as text. A tensor becomes a
    list column with each row's flat values and a column `<name>#shape`. Nulls are Arrow nulls; NaN stays NaN."""
    import pyarrow as pa

    columns: dict[str, Any] = {}
    for position, field in enumerate(batch.layout.fields):
        values, mask = batch.column_at(position)
        if not field.shape:
            columns[field.name] = column_to_arrow(pa, field, values, mask)
            continue
        width = int(np.prod(values.shape[1:], dtype=np.int64))
        flat = column_to_arrow(pa, field, values.reshape(-1), None if mask is None else mask.reshape(-1))
        offsets = pa.array(np.arange(batch.rows + 1, dtype=np.int32) * width)
        columns[field.name] = pa.ListArray.from_arrays(offsets, flat)
        columns[f"{field.name}#shape"] = pa.array([list(values.shape[1:])] * batch.rows, type=pa.list_(pa.int64()))
    return pa.table(columns)


def column_to_arrow(pa: Any, field: Field, values: Array, mask: Array | None) -> Any:
    """A pyarrow.Array of single values, in the type that `batch_to_arrow` uses."""
    if field.dtype is DType.JSON:
        text = [json.dumps(value, ensure_ascii=False) for value in values.tolist()]
        return pa.array(text, type=pa.string(), mask=mask)
    if field.dtype is DType.TIMESTAMP:
        return pa.array(np.ascontiguousarray(values), type=pa.int64(), mask=mask).cast(pa.timestamp("us", tz="UTC"))
    if field.dtype is DType.STRING:
        return pa.array(values.tolist(), type=pa.string(), mask=mask)
    return pa.array(np.ascontiguousarray(values), mask=mask, from_pandas=False)


def arrow_to_batch(layout: Layout, table: Any) -> Batch:
    """Convert a table of `batch_to_arrow` back to its batch.

    Raises:
        PackageInvalid: "signature-invalid": the table's columns and types are not those of the layout.
    """
    import pyarrow as pa

    try:
        pairs = [_from_column(pa, field, table) for field in layout.fields]
        return Batch.from_columns(layout, pairs, table.num_rows)
    except (KeyError, ValueError, TypeError, pa.ArrowException) as error:
        raise PackageInvalid(f"the stored rows do not fit the signature: {error}", code="signature-invalid") from error


def _from_column(pa: Any, field: Field, table: Any) -> tuple[Array, Array | None]:
    column = table[field.name].combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks else pa.array([], type=column.type)
    if not field.shape:
        return _from_arrow(pa, field, column)
    values, mask = _from_arrow(pa, field, column.flatten())
    shape = (table.num_rows, *(table[f"{field.name}#shape"][0].as_py() if table.num_rows else field.shape))
    return values.reshape(shape), None if mask is None else mask.reshape(shape)


def _from_arrow(pa: Any, field: Field, column: Any) -> tuple[Array, Array | None]:
    mask: Array | None = None
    if column.null_count:
        mask = fixed_width(column.is_null().cast(pa.uint8()), np.dtype(np.uint8)).astype(bool)
    if field.dtype in (DType.STRING, DType.JSON):
        array = np.empty(len(column), dtype=object)
        plain = column.to_pylist()
        if field.dtype is DType.JSON:
            array[:] = [None if text is None else json.loads(text) for text in plain]
        else:
            array[:] = ["" if text is None else text for text in plain]
        return array, mask
    if field.dtype is DType.TIMESTAMP:
        column = column.cast(pa.int64())
    if mask is not None:
        column = column.fill_null(False if field.dtype is DType.BOOL else 0)
    if field.dtype is DType.BOOL:
        return fixed_width(column.cast(pa.uint8()), np.dtype(np.uint8)).astype(bool), mask
    if str(column.type) not in (field.dtype.value, _ARROW_NAMES.get(field.dtype)):
        raise TypeError(f"{field.name} is {column.type}")
    return fixed_width(column, field.dtype.numpy), mask


def fixed_width(column: Any, dtype: np.dtype[Any]) -> Array:
    """Copy the values of an Arrow array without nulls. Arrow's own to_numpy would import pandas into every worker."""
    data = column.buffers()[1]
    if data is None:
        return np.empty(0, dtype=dtype)
    return np.frombuffer(data, dtype=dtype, count=column.offset + len(column))[column.offset :].copy()
