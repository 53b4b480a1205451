"""Converts callers' Arrow tables to batches, as strictly as JSON, and answers to Arrow streams. Used by `predict_arrow.py`.

A number may have any width that loses nothing: int32 for an int64 column, float64 for float32, integers up to 2^53 for a float.
A boolean is not a number, NaN is not null, and nested values are JSON text. Timestamps and dates carry their unit; those without
a zone are UTC. A tensor is a list, or a list of lists.
pyarrow is imported when it is used.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from roadworthy.foundation.errors import MalformedBody
from roadworthy.schema.arrow import column_to_arrow, fixed_width
from roadworthy.schema.batch import Array, Batch
from roadworthy.schema.columns import Column, ColumnPlan
from roadworthy.schema.dtypes import DType
from roadworthy.schema.rows import decode_columns, misfit, no_rows
from roadworthy.schema.signature import Field
from roadworthy.schema.time_arrays import from_counts, from_integers
from roadworthy.schema.timestamps import EXPECTED

ParseJson = Callable[[str], Any]
_EXACT = 2**53
_NUMBERS = {
    **{name: np.dtype(name) for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")},
    "halffloat": np.dtype(np.float16),
    "float": np.dtype(np.float32),
    "double": np.dtype(np.float64),
}


def check_types(plan: ColumnPlan, schema: Any) -> None:
    """Refuse columns whose Arrow type cannot hold their field's values, before any of them is read.

    Raises:
        InvalidInput: "wrong-type".
    """
    for field in plan.fields:
        kind = schema.field(field.name).type
        leaf = _leaf(kind, len(field.shape))
        if leaf is None or not _fits(field.dtype, leaf):
            expected = EXPECTED if field.dtype is DType.TIMESTAMP else f"expected {field.dtype.value}"
            raise misfit(field, "wrong-type", f"{expected}, got {_shown(kind)}")


def table_to_batch(plan: ColumnPlan, table: Any, parse: ParseJson) -> Batch:
    """Convert the rows of a table that `check_types` accepted.

    Args:
        plan: the columns to read.
        table: a pyarrow.Table.
        parse: reads the JSON text of nested values; raises MalformedBody.

    Raises:
        InvalidInput: the values do not fit the signature.
    """
    if not table.num_rows:
        raise no_rows()
    columns = [_column(plan, field, _whole(table[field.name]), table.num_rows, parse) for field in plan.fields]
    return plan.assemble(columns, table.num_rows)


def text_bytes(table: Any) -> int:
    """Bytes of text in the rows of dictionary and view columns. It can exceed the table's size: such a column stores a long text
    once, and ten thousand rows may refer to it."""
    import pyarrow as pa
    from pyarrow import compute

    total = 0
    for column in table.columns:
        if pa.types.is_dictionary(column.type):
            for chunk in column.chunks:
                lengths = compute.binary_length(chunk.dictionary).cast(pa.int64())
                total += compute.sum(lengths.take(chunk.indices)).as_py() or 0
        elif pa.types.is_string_view(column.type):
            for chunk in column.chunks:
                # 16 bytes per value, beginning with its length; many values may refer to the same text
                views = np.frombuffer(chunk.buffers()[1], dtype=np.int32)[::4]
                total += int(views[chunk.offset : chunk.offset + len(chunk)].sum(dtype=np.int64))
    return total


def write_stream(batch: Batch) -> bytes:
    """An Arrow stream with one column per field; a tensor is a fixed-size list, nested if it has several dimensions."""
    import pyarrow as pa

    columns = {}
    for position, field in enumerate(batch.layout.fields):
        values, mask = batch.column_at(position)
        array = column_to_arrow(pa, field, values.reshape(-1), None if mask is None else mask.reshape(-1))
        for size in reversed(values.shape[1:]):
            array = pa.FixedSizeListArray.from_arrays(array, size)
        columns[field.name] = array
    table = pa.table(columns)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _shown(kind: Any) -> str:
    """An Arrow type's name, shortened: nested types contain names that the caller chose."""
    return "nested" if kind.num_fields else str(kind)[:40]


def _leaf(kind: Any, depth: int) -> Any:
    """The type of the values inside `depth` lists, or None if there are fewer lists."""
    import pyarrow as pa

    for _ in range(depth):
        if not (pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)):
            return None
        kind = kind.value_type
    return kind


def _fits(dtype: DType, kind: Any) -> bool:
    import pyarrow as pa

    if dtype.is_float:
        return str(kind) in _NUMBERS
    if dtype.is_integer:
        return bool(pa.types.is_integer(kind))
    if dtype is DType.BOOL:
        return bool(pa.types.is_boolean(kind))
    if dtype is DType.TIMESTAMP and _counts_time(kind):
        return True
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _counts_time(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind) or pa.types.is_integer(kind))


def _whole(column: Any) -> Any:
    """A chunked column as one array."""
    import pyarrow as pa

    if column.num_chunks == 1:
        return column.chunk(0)
    array = column.combine_chunks()
    return pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array


def _column(plan: ColumnPlan, field: Field, array: Any, rows: int, parse: ParseJson) -> Column:
    shape: list[int] = []
    for size in field.shape:
        array, found = _opened(field, array)
        if size not in (found, -1):
            raise misfit(field, "wrong-shape", f"expected shape {list(field.shape)}, got lists of {found} values")
        shape.append(found)
    if not shape:
        return _values(plan, field, array, parse)
    values, mask = _values(plan, replace(field, shape=()), array, parse)
    return values.reshape(rows, *shape), None if mask is None else mask.reshape(rows, *shape)


def _opened(field: Field, array: Any) -> tuple[Any, int]:
    """The values inside an array of lists, and the length of each list.

    Raises:
        InvalidInput: a list is null, or the lists have different lengths.
    """
    import pyarrow as pa

    if array.null_count:
        raise misfit(field, "null-not-allowed", "expected a list in every row, got a null")
    if pa.types.is_fixed_size_list(array.type):
        return array.flatten(), array.type.list_size
    offsets = fixed_width(array.offsets, np.dtype(np.int64 if pa.types.is_large_list(array.type) else np.int32))
    lengths = np.diff(offsets)
    if not len(lengths) or (lengths != lengths[0]).any():
        raise misfit(field, "wrong-shape", "expected lists of one length, got different lengths")
    return array.flatten(), int(lengths[0])


def _values(plan: ColumnPlan, field: Field, array: Any, parse: ParseJson) -> Column:
    """Single values: converted together if all are clearly valid, otherwise one by one, so that an error names its row."""
    if field.dtype is DType.TIMESTAMP:
        quick = _times(field, array, plan.layout.integers)
    else:
        quick = None if field.categorical else _numbers(field, array)
    if quick is not None:
        return quick
    plain = _python_values(array)
    if field.dtype is DType.JSON:
        plain = [_parsed(field, text, row, parse) for row, text in enumerate(plain)]
    elif field.dtype is DType.STRING:
        for row, text in enumerate(plain):
            if text is not None and "\0" in text:
                raise misfit(field, "wrong-type", "expected text without NUL characters, got one", row)
    (pair,) = decode_columns([field], [plain])
    return pair


def _python_values(array: Any) -> list[Any]:
    """One Python value each; a value of a dictionary is made only once, however often it occurs."""
    import pyarrow as pa

    if not pa.types.is_dictionary(array.type):
        values: list[Any] = array.to_pylist()
        return values
    words = array.dictionary.to_pylist()
    return [None if index is None else words[index] for index in array.indices.to_pylist()]


def _times(field: Field, array: Any, integers: str | None) -> Column | None:
    """Timestamps, dates and integers as microseconds since 1970 UTC; None for text."""
    import pyarrow as pa

    kind = array.type
    if not _counts_time(kind):
        return None
    mask: Array | None = None
    if array.null_count:
        mask = fixed_width(array.is_null().cast(pa.uint8()), np.dtype(np.uint8)).astype(bool)
        if not field.nullable:
            raise misfit(field, "null-not-allowed", "is null", int(mask.argmax()))
    if pa.types.is_integer(kind):
        values = fixed_width(array.fill_null(0), _NUMBERS[str(kind)])
        return from_integers(field, values, mask, integers), mask
    unit = kind.unit if pa.types.is_timestamp(kind) else "D" if pa.types.is_date32(kind) else "ms"
    whole = pa.int32() if pa.types.is_date32(kind) else pa.int64()
    counts = fixed_width(array.cast(whole).fill_null(0), np.dtype(str(whole)))
    return from_counts(field, counts.astype(np.int64), (unit, 1), mask)


def _parsed(field: Field, text: str | None, row: int, parse: ParseJson) -> Any:
    if text is None:
        return None
    try:
        return parse(text)
    except MalformedBody as error:
        raise misfit(field, "wrong-type", "expected JSON text, got text that is not valid JSON", row) from error


def _numbers(field: Field, array: Any) -> Column | None:
    """Numbers, booleans and times as one array, or None when the values must be read one by one."""
    import pyarrow as pa

    source = np.dtype(np.uint8) if field.dtype is DType.BOOL else _NUMBERS.get(str(array.type))
    if source is None or field.dtype in (DType.STRING, DType.JSON, DType.TIMESTAMP):
        return None
    mask: Array | None = None
    if array.null_count:
        if not field.nullable:
            return None
        mask = fixed_width(array.is_null().cast(pa.uint8()), np.dtype(np.uint8)).astype(bool)
        array = array.fill_null(False if field.dtype is DType.BOOL else 0)
    if field.dtype is DType.BOOL:
        return fixed_width(array.cast(pa.uint8()), source).astype(bool), mask
    values = fixed_width(array, source)
    return (_cast(field.dtype, values), mask) if _holds(field.dtype, values) else None


def _cast(dtype: DType, values: Array) -> Array:
    return values.astype(dtype.numpy, copy=False)


def _holds(dtype: DType, values: Array) -> bool:
    """Whether the type holds all the values under the rules for JSON."""
    if dtype.is_float and values.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return bool(np.isfinite(_cast(dtype, values)).all())
    if not len(values):
        return True
    low, high = int(values.min()), int(values.max())
    if dtype.is_float:
        return max(-low, high) <= _EXACT
    limits = np.iinfo(dtype.value)
    return bool(limits.min <= low and high <= limits.max)
