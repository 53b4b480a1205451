"""Training rows of every container, column type and missing-value mark; the paths by which rows are sent; and a comparison of two
containers to the last cell."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa

from roadworthy.codecs.answers import write_csv
from roadworthy.codecs.formats import Formats
from roadworthy.codecs.open_inference import OpenInference
from roadworthy.contract.policy import Policy
from roadworthy.schema.arrow_rows import write_stream
from roadworthy.schema.batch import Batch, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.forms import mark_of
from roadworthy.schema.rows import encode_column
from roadworthy.schema.signature import Signature
from roadworthy.schema.tables import to_batch

TEXT = ["a", "b", "", "nan", "None", "ž\n"]
NUMBERS = [0, 1, -3, 40, 5, 6]
FLOATS = [0.0, -0.0, 1.5, -2.25, 1e30, 0.1]
FLAGS = [True, False, True, True, False, False]
TIMES = [f"20{year}-03-31T12:30:15" for year in (11, 12, 13, 14, 15, 16)]


def with_gaps(values: Sequence[Any], missing: Sequence[bool], mark: Any) -> list[Any]:
    """`len(missing)` values, with the mark where `missing` is true."""
    return [mark if gap else values[number % len(values)] for number, gap in enumerate(missing)]


def _series(values: Sequence[Any], mark: Any, dtype: Any) -> Callable[[Sequence[bool]], Any]:
    return lambda missing: pd.Series(with_gaps(values, missing, mark), dtype=dtype)


def _zoned(unit: str, zone: str) -> Callable[[Sequence[bool]], Any]:
    plain = _series(TIMES, None, f"datetime64[{unit}]")
    return lambda missing: plain(missing).dt.tz_localize("UTC").dt.tz_convert(zone)


NAN_TEXT = {storage: pd.StringDtype(storage, na_value=np.nan) for storage in ("python", "pyarrow")}
PANDAS: dict[str, Callable[[Sequence[bool]], Any]] = {
    "str": _series(TEXT, None, "str"),
    **{f"str of {storage}": _series(TEXT, None, dtype) for storage, dtype in NAN_TEXT.items()},
    **{f"string of {storage}": _series(TEXT, None, pd.StringDtype(storage)) for storage in ("python", "pyarrow")},
    "arrow text": _series(TEXT, None, pd.ArrowDtype(pa.string())),
    "arrow int8": _series(NUMBERS, None, pd.ArrowDtype(pa.int8())),
    "arrow float": _series(FLOATS, None, pd.ArrowDtype(pa.float64())),
    "arrow bool": _series(FLAGS, None, pd.ArrowDtype(pa.bool_())),
    "arrow time": lambda gaps: _series(TIMES, None, "datetime64[ms]")(gaps).astype(pd.ArrowDtype(pa.timestamp("ms"))),
    "arrow date": lambda gaps: _series(TIMES, None, "datetime64[s]")(gaps).dt.floor("D").astype(pd.ArrowDtype(pa.date32())),
    "arrow zoned time": lambda gaps: _zoned("us", "Asia/Tokyo")(gaps).astype(pd.ArrowDtype(pa.timestamp("us", "Asia/Tokyo"))),
    **{
        f"objects of {what} and {name}": _series(values, mark, object)
        for what, values in {"text": TEXT, "int": NUMBERS, "float": FLOATS, "bool": FLAGS}.items()
        for name, mark in {"None": None, "NaN": np.nan, "NA": pd.NA, "NaT": pd.NaT}.items()
    },
    "objects of numpy.int16": _series([np.int16(number) for number in NUMBERS], None, object),
    "objects of numpy.str_": _series([np.str_(text) for text in TEXT], np.nan, object),
    "lists": _series([[1, "a"], [], [None]], None, object),
    "tuples": _series([(1, "a"), (), (None,)], np.nan, object),
    "arrays": _series([np.array([1.5, 2.0]), np.array([])], None, object),
    "dicts": _series([{"a": 1}, {}, {"b": [None]}], None, object),
    **{name: _series(FLOATS[:4], np.nan, name) for name in ("float16", "float32", "float64")},
    **{name: _series(FLOATS[:4], None, name) for name in ("Float32", "Float64")},
    **{name: _series(NUMBERS, None, name) for name in ("Int8", "Int64")},
    "UInt16": _series([1, 2, 65535], None, "UInt16"),
    "boolean": _series(FLAGS, None, "boolean"),
    "category of text": _series(TEXT, None, pd.CategoricalDtype([*TEXT[::-1], "never"])),
    "ordered category": _series(TEXT, None, pd.CategoricalDtype(TEXT, ordered=True)),
    "category of objects": _series(TEXT, None, pd.CategoricalDtype(pd.Index(TEXT, dtype=object))),
    "category of string": _series(TEXT, None, pd.CategoricalDtype(pd.Index(TEXT, dtype="string"))),
    "category of int": _series(NUMBERS, None, pd.CategoricalDtype([*NUMBERS, 77])),
    "category of int8": _series(NUMBERS, None, pd.CategoricalDtype(pd.Index(NUMBERS, dtype="int8"))),
    "category of bool": _series(FLAGS, None, pd.CategoricalDtype([True, False])),
    **{f"time in {unit}": _series(TIMES, None, f"datetime64[{unit}]") for unit in ("s", "ms", "us", "ns")},
    **{f"time of {zone} in {unit}": _zoned(unit, zone) for unit, zone in (("ns", "Europe/Berlin"), ("s", "UTC"))},
    "time of an offset": _zoned("us", "+05:30"),
}
NEVER_MISSING: dict[str, Callable[[Sequence[bool]], Any]] = {
    **{name: _series([0, 1, 2, 3], 0, name) for name in ("int8", "uint8", "int64", "uint64")},
    "bool": _series(FLAGS, False, "bool"),
}


def _polars(values: Sequence[Any], dtype: Any, mark: Any = None) -> Callable[[Sequence[bool]], Any]:
    return lambda missing: pl.Series(with_gaps(values, missing, mark), dtype=dtype, strict=False)


def _polars_times(dtype: Any) -> Callable[[Sequence[bool]], Any]:
    plain = _series(TIMES, None, "datetime64[us]")

    def make(missing: Sequence[bool]) -> Any:
        series = pl.Series(plain(missing).to_numpy())
        zone = getattr(dtype, "time_zone", None)
        return series.cast(dtype) if zone is None else series.dt.replace_time_zone("UTC").cast(dtype)

    return make


POLARS: dict[str, Callable[[Sequence[bool]], Any]] = {
    "text": _polars(TEXT, pl.String),
    "int": _polars(NUMBERS, pl.Int64),
    "uint16": _polars([1, 2, 65535], pl.UInt16),
    "float and null": _polars(FLOATS, pl.Float64),
    "float and NaN": _polars(FLOATS, pl.Float64, math.nan),
    "float32 and NaN": _polars(FLOATS[:4], pl.Float32, math.nan),
    "bool": _polars(FLAGS, pl.Boolean),
    "categorical": _polars(TEXT, pl.Categorical),
    "enum": _polars(TEXT, pl.Enum([*TEXT[::-1], "never"])),
    "date": _polars_times(pl.Date),
    **{f"time in {unit}": _polars_times(pl.Datetime(unit)) for unit in ("ms", "us", "ns")},
    "zoned time": _polars_times(pl.Datetime("ms", "Europe/Berlin")),
    "lists": _polars([[1, None], [], [3]], pl.List(pl.Int8)),
    "arrays": _polars([[1, 2], [3, 4]], pl.Array(pl.Float32, 2)),
    "structs": _polars([{"a": 1, "b": ["x"]}], pl.Struct({"a": pl.Int16, "b": pl.List(pl.String)})),
}


def _column_of(values: Sequence[Any], mark: Any, dtype: Any = object) -> Callable[[Sequence[bool]], Any]:
    def make(missing: Sequence[bool]) -> Any:
        array = np.empty(len(missing), dtype=dtype)
        array[:] = with_gaps(values, missing, mark)
        return array

    return make


def _matrix_of(values: Sequence[Any], mark: Any, dtype: Any = object, order: Any = "C") -> Any:
    column = _column_of(values, mark, dtype)
    return lambda missing: np.array([column(missing), column([False] * len(missing))[::-1]], order=order).T.copy(order)


ARRAYS: dict[str, Callable[[Sequence[bool]], Any]] = {
    **{
        f"{shape} of {what} and {name}": make(values, mark)
        for shape, make in {"column": _column_of, "matrix": _matrix_of}.items()
        for what, values in {"text": TEXT, "int": NUMBERS, "float": FLOATS}.items()
        for name, mark in {"None": None, "NaN": np.nan}.items()
    },
    "fixed text": _column_of([text for text in TEXT if text], "long enough", "<U11"),
    "matrix of fixed text": _matrix_of(["a", "bc"], "b", "<U5"),
    **{f"{kind}": _matrix_of(FLOATS[:4], np.nan, kind) for kind in ("float16", "float32", "float64")},
    "by column": _matrix_of(FLOATS, np.nan, "float64", "F"),
    "one float a row": _column_of(FLOATS, np.nan, "float64"),
    **{f"times in {unit}": _column_of(TIMES, "NaT", f"datetime64[{unit}]") for unit in ("D", "s", "ns", "10us")},
}


def _lists(values: Sequence[Any], mark: Any, row: Any = list) -> Callable[[Sequence[bool]], Any]:
    return lambda missing: [row((one, 2.5)) for one in with_gaps(values, missing, mark)]


LISTS: dict[str, Callable[[Sequence[bool]], Any]] = {
    "lists and None": _lists(FLOATS, None),
    "lists and NaN": _lists(FLOATS, math.nan),
    "tuples": _lists(FLOATS, None, tuple),
    "arrays in a list": lambda missing: [np.array(row) for row in _lists(FLOATS, math.nan)(missing)],
    "bare numbers": lambda missing: with_gaps(NUMBERS, missing, None),
    "integers": lambda missing: [[number, number] for number in with_gaps(NUMBERS, missing, 7)],
    "texts": lambda missing: with_gaps(TEXT, missing, "?"),
    "texts and None": lambda missing: with_gaps(TEXT, missing, None),
    "texts and NaN": lambda missing: with_gaps(TEXT, missing, math.nan),
    "rows of text": lambda missing: [[text, "x"] for text in with_gaps(TEXT, missing, None)],
}
ABSENT = object()


def _records(values: Sequence[Any], mark: Any) -> Callable[[Sequence[bool]], Any]:
    def make(missing: Sequence[bool]) -> Any:
        cells = with_gaps(values, missing, mark)
        return [{"n": number} | ({} if cell is ABSENT else {"c": cell}) for number, cell in enumerate(cells)]

    return make


RECORDS: dict[str, Callable[[Sequence[bool]], Any]] = {
    f"{what} and {name}": _records(values, mark)
    for what, values in {"text": TEXT, "int": NUMBERS, "float": FLOATS, "dicts": [{"a": [1]}, {}]}.items()
    for name, mark in {"None": None, "NaN": math.nan, "NA": pd.NA, "no key": ABSENT}.items()
}


def same_cell(one: Any, other: Any) -> bool:
    """Whether both are the same value of the same type, or missing with the same mark."""
    marks = mark_of(one), mark_of(other)
    if marks != (None, None):
        return marks[0] is marks[1]
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.tolist() == other.tolist()
    return bool(one == other) and str(one) == str(other)


def assert_same(found: Any, wanted: Any) -> None:
    """Check that a model received the container of training; for a frame, with a new index."""
    assert type(found) is type(wanted)
    if isinstance(wanted, pd.DataFrame):
        # What pd.testing.assert_frame_equal compares, and more, in a third of its time.
        assert found.flags == wanted.flags
        for mine, theirs in ((found.index, wanted.index), (found.columns, wanted.columns)):
            assert mine.equals(theirs)
            assert (mine.dtype, mine.names) == (theirs.dtype, theirs.names)
        for name in wanted.columns:
            mine, theirs = found[name], wanted[name]
            assert mine.dtype == theirs.dtype
            if isinstance(theirs.dtype, pd.CategoricalDtype):
                assert mine.cat.categories.equals(theirs.cat.categories)
                assert mine.cat.categories.dtype == theirs.cat.categories.dtype
            pairs = list(zip(mine.tolist(), theirs.tolist(), strict=True))
            assert all(same_cell(*pair) for pair in pairs), pairs
    elif isinstance(wanted, pl.DataFrame):
        assert found.schema == wanted.schema
        for name in wanted.columns:
            for one, other in zip(found[name].to_list(), wanted[name].to_list(), strict=True):
                assert same_cell(one, other)
    elif isinstance(wanted, np.ndarray):
        assert (found.shape, found.dtype.kind, found.dtype.name) == (wanted.shape, wanted.dtype.kind, wanted.dtype.name)
        assert all(map(same_cell, found.reshape(-1).tolist(), wanted.reshape(-1).tolist()))
    else:
        assert len(found) == len(wanted)
        for row, other in zip(found, wanted, strict=True):
            assert _same_row(row, other), (row, other)


def _same_row(row: Any, other: Any) -> bool:
    if isinstance(other, dict):
        return row.keys() == other.keys() and all(same_cell(row[key], other[key]) for key in other)
    if isinstance(other, np.ndarray):
        return row.dtype == other.dtype and all(map(same_cell, row.tolist(), other.tolist()))
    if isinstance(other, (list, tuple)):
        return type(row) is type(other) and all(map(same_cell, row, other))
    return same_cell(row, other)


Ask = Callable[[Signature, Any, Batch], Batch]


def _columns(batch: Batch) -> dict[str, list[Any]]:
    return {field.name: encode_column(batch, position) for position, field in enumerate(batch.layout.fields)}


def _as_records(batch: Batch) -> list[dict[str, Any]]:
    columns = _columns(batch)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _http(kind: str, write: Callable[[Batch], bytes]) -> Ask:
    def ask(signature: Signature, _own: Any, batch: Batch) -> Batch:
        headers = {b"content-type": kind.encode()}
        return Formats(signature, Policy()).choose(headers).decode(headers, write(batch)).batch

    return ask


def _json(batch: Batch) -> bytes:
    return json.dumps({"instances": _as_records(batch)}).encode()


def _infer(*, binary: bool) -> Ask:
    """V2, with floats as raw bytes (NaN for missing ones) when binary."""

    def ask(signature: Signature, _own: Any, batch: Batch) -> Batch:
        inputs, raw = [], b""
        for position, field in enumerate(batch.layout.fields):
            values, mask = batch.column_at(position)
            tensor: dict[str, Any] = {"name": field.name, "shape": list(values.shape)}
            tensor["datatype"] = field.dtype.open_inference
            if binary and field.dtype.is_float:
                filled = values.copy()
                filled[np.zeros(values.shape, bool) if mask is None else mask] = np.nan
                data = filled.astype(filled.dtype.newbyteorder("<")).tobytes()
                tensor["parameters"] = {"binary_data_size": len(data)}
                raw += data
            elif field.dtype is DType.JSON:
                cells = encode_column(batch, position)
                tensor["data"] = [None if cell is None else json.dumps(cell) for cell in cells]
            else:
                tensor["data"] = encode_column(batch, position)
            inputs.append(tensor)
        head = json.dumps({"inputs": inputs}).encode()
        headers = {b"inference-header-content-length": str(len(head)).encode()} if raw else {}
        protocol = OpenInference("e", signature, Policy()).choose(headers)
        protocol.check_headers(headers)
        return protocol.decode(headers, head + raw).batch

    return ask


def _frame(make: Callable[[Batch], Any]) -> Ask:
    """`rw.load` with a caller's own container."""
    return lambda signature, _own, batch: to_batch(Layout(signature.inputs), make(batch))


def _positions(batch: Batch) -> Any:
    """numpy objects, one column per field, or the tensor itself."""
    columns = list(_columns(batch).values())
    if len(columns) == 1 and batch.layout.fields[0].shape:
        return np.array(columns[0], dtype=object)
    array = np.empty((batch.rows, len(columns)), dtype=object)
    for number, column in enumerate(columns):
        array[:, number] = column
    return array


PATHS: dict[str, Ask] = {
    "own container": lambda signature, own, _batch: to_batch(Layout(signature.inputs), own),
    "records": _frame(_as_records),
    "numpy objects": _frame(_positions),
    "polars": _frame(
        lambda batch: pl.from_arrow(pa.ipc.open_stream(write_stream(batch)).read_all())
    ),  # whose nested values are text here
    "JSON": _http("application/json", _json),
    "CSV": _http("text/csv", write_csv),
    "Arrow": _http("application/vnd.apache.arrow.stream", write_stream),
    "V2": _infer(binary=False),
    "V2 binary": _infer(binary=True),
}


def asks(path: str, signature: Signature, batch: Batch) -> bool:
    """Whether that path can carry such rows: CSV has empty text where a null might be, CSV no lists of nulls."""
    text = any(field.dtype is DType.STRING and field.nullable for field in signature.inputs)
    plain = not any(field.shape for field in signature.inputs)
    if path == "CSV":
        empty = any("" in batch.column_at(n)[0].tolist() for n, f in enumerate(signature.inputs) if f.dtype is DType.STRING)
        return plain and not (text and empty)
    if path == "Arrow":
        return plain or signature.inputs[0].dtype is not DType.STRING
    if path == "polars":
        return plain and not any(field.dtype is DType.JSON for field in signature.inputs)
    if path == "numpy objects":
        return not any(field.dtype is DType.TIMESTAMP for field in signature.inputs) and plain
    return True
