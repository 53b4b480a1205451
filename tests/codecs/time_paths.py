"""Every path by which a column reaches an endpoint or `rw.load`: one column "t", its values in, the batch's column out.

`test_times.py` holds the tables of docs/formats.md against all of them.
"""

from __future__ import annotations

import csv
import io
import json
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa

from roadworthy.client.instances import encode_body
from roadworthy.codecs.formats import Formats
from roadworthy.codecs.open_inference import OpenInference
from roadworthy.contract.policy import Policy, Timestamps
from roadworthy.schema.batch import Batch, Layout
from roadworthy.schema.signature import Field, Signature
from roadworthy.schema.tables import to_batch

STREAM, FILE = "application/vnd.apache.arrow.stream", "application/vnd.apache.arrow.file"
Path = Callable[[Any, Field, str | None], Batch]


def column(batch: Batch) -> list[Any]:
    """The column's values, None where null."""
    values, mask = batch.column("t")
    if mask is None:
        return list(values.tolist())
    return [None if null else value for value, null in zip(values.tolist(), mask.tolist(), strict=True)]


def body(kind: str, data: bytes, field: Field, unit: str | None) -> Batch:
    """The rows that the protocol for a content type reads from a body."""
    policy = Policy(timestamps=Timestamps(unit))
    headers = {b"content-type": kind.encode()}
    return Formats(Signature((field,), (field,)), policy).choose(headers).decode(headers, data).batch


def _instances(rows: Any, field: Field, unit: str | None) -> Batch:
    return body("application/json", json.dumps({"instances": rows}).encode(), field, unit)


def json_rows(values: Any, field: Field, unit: str | None) -> Batch:
    """Lists."""
    return _instances([[value] for value in values], field, unit)


def json_bare(values: Any, field: Field, unit: str | None) -> Batch:
    """Bare values."""
    return _instances(list(values), field, unit)


def json_records(values: Any, field: Field, unit: str | None) -> Batch:
    """Objects."""
    return _instances([{"t": value} for value in values], field, unit)


def csv_cells(values: Any, field: Field, unit: str | None) -> Batch:
    """Cells as Python's writer and pandas write them."""
    sink = io.StringIO()
    writer = csv.writer(sink, quoting=csv.QUOTE_ALL)
    writer.writerow(["t"])
    writer.writerows([["" if value is None else value] for value in values])
    return body("text/csv", sink.getvalue().encode(), field, unit)


def infer(datatype: str, data: Any, field: Field, unit: str | None, raw: bytes | None = None) -> Batch:
    """One V2 request."""
    protocol = OpenInference("e", Signature((field,), (field,)), Policy(timestamps=Timestamps(unit)))
    tensor = {"name": "t", "shape": [len(data)], "datatype": datatype}
    if raw is None:
        return protocol.decode({}, json.dumps({"inputs": [tensor | {"data": list(data)}]}).encode()).batch
    head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": len(raw)}}]}).encode()
    headers = {b"inference-header-content-length": b"%d" % len(head)}
    protocol.decode(headers, head + raw)  # the second time its head is cached
    return protocol.decode(headers, head + raw).batch


def v2_text(values: Any, field: Field, unit: str | None) -> Batch:
    """BYTES as JSON."""
    return infer("BYTES", values, field, unit)


def v2_text_raw(values: Any, field: Field, unit: str | None) -> Batch:
    """BYTES as raw bytes, where an empty one is a null."""
    texts = [(value or "").encode() for value in values]
    return infer("BYTES", values, field, unit, b"".join(struct.pack("<I", len(text)) + text for text in texts))


def v2_integers(values: Any, field: Field, unit: str | None) -> Batch:
    """INT64 as JSON."""
    return infer("INT64", values, field, unit)


def v2_integers_raw(values: Any, field: Field, unit: str | None) -> Batch:
    """INT64 as bytes."""
    return infer("INT64", values, field, unit, np.array(values, dtype="<i8").tobytes())


def arrow_bytes(kind: str, array: Any) -> bytes:
    """A table of one column."""
    table, sink = pa.table({"t": array}), io.BytesIO()
    with (pa.ipc.new_stream if kind == STREAM else pa.ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def arrow(kind: str, type_of: Any = None) -> Path:
    """A path through Arrow; its values are a pyarrow array, or are put into one of that type."""

    def path(values: Any, field: Field, unit: str | None) -> Batch:
        array = values if isinstance(values, pa.Array) else pa.array(values, type=type_of)
        return body(kind, arrow_bytes(kind, array), field, unit)

    return path


def loaded(make: Callable[[Any], Any]) -> Path:
    """The path into the model of `rw.load`."""
    return lambda values, field, unit: to_batch(Layout((field,), unit), make(values))


def sent(make: Callable[[Any], Any]) -> Path:
    """`rw.Client`'s request, as the gateway reads it."""
    return lambda values, field, unit: body("application/json", encode_body(make(values)), field, unit)


def both(name: str, make: Callable[[Any], Any]) -> dict[str, Path]:
    """Through `rw.load` and through `rw.Client`."""
    return {f"load {name}": loaded(make), f"client {name}": sent(make)}


def records(values: Any) -> Any:
    """Rows as dicts."""
    return [{"t": value} for value in values]


def objects(values: Any) -> Any:
    """A numpy array of Python's values."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


JSON: Mapping[str, Path] = {"json rows": json_rows, "json bare": json_bare, "json records": json_records}
ANY: Mapping[str, Path] = {
    **both("records", records),
    **both("numpy objects", objects),
    **both("pandas objects", lambda values: pd.DataFrame({"t": pd.Series(values, dtype=object)})),
}
"""Paths that accept any Python value."""
TEXT: Mapping[str, Path] = {
    **JSON,
    **ANY,
    "csv": csv_cells,
    "v2 json": v2_text,
    "v2 raw": v2_text_raw,
    **{f"{kind} {name.__name__}": arrow(kind, name()) for kind in (STREAM, FILE) for name in (pa.string, pa.large_string)},
    **both("pandas str", lambda values: pd.DataFrame({"t": pd.Series(values, dtype="str")})),
    **both("pandas string", lambda values: pd.DataFrame({"t": pd.Series(values, dtype="string")})),
    **both("pandas category", lambda values: pd.DataFrame({"t": pd.Categorical(values)})),
    **both("polars", lambda values: pl.DataFrame({"t": pl.Series(values, dtype=pl.String)})),
}
"""Paths that carry text."""
INTEGERS: Mapping[str, Path] = {
    **JSON,
    **ANY,
    "csv": csv_cells,
    "v2 json": v2_integers,
    "v2 raw": v2_integers_raw,
    **{kind: arrow(kind, pa.int64()) for kind in (STREAM, FILE)},
    **both("numpy", lambda values: np.array(values, dtype=np.int64)),
    **both("numpy, big-endian", lambda values: np.array(values, dtype=">i8")),
    **both("pandas", lambda values: pd.DataFrame({"t": np.array(values, dtype=np.int64)})),
    **both("pandas nullable", lambda values: pd.DataFrame({"t": pd.array(values, dtype="Int64")})),
    **both("polars", lambda values: pl.DataFrame({"t": pl.Series(values, dtype=pl.Int64)})),
}
"""Paths that carry plain integers."""
