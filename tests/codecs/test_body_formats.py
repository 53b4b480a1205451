"""Requests in CSV and Arrow, and answers in what the caller accepts: the same rows in every form, as strict as JSON."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pyarrow import feather

from roadworthy.codecs.answers import write_csv
from roadworthy.codecs.formats import Formats
from roadworthy.contract.policy import Policy
from roadworthy.foundation.errors import BodyTooLarge, InvalidInput, InvalidRequest, MalformedBody, UnsupportedMediaType
from roadworthy.runtime.pending import Answer
from roadworthy.schema.arrow_rows import write_stream
from roadworthy.schema.batch import Batch
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field, Signature
from tests.schema.conftest import _batches

STREAM, FILE = "application/vnd.apache.arrow.stream", "application/vnd.apache.arrow.file"
FIELDS = (
    Field("n", DType.INT64),
    Field("x", DType.FLOAT32),
    Field("s", DType.STRING, nullable=True),
    Field("t", DType.TIMESTAMP),
    Field("b", DType.BOOL),
    Field("v", DType.FLOAT64, (2,)),
)
GOOD = {
    "n": pa.array([1, 2], pa.int32()),
    "x": pa.array([0.5, 1.5]),
    "s": pa.array(["a", None]),
    "t": pa.array([0, 1], pa.timestamp("us", tz="Europe/Prague")),
    "b": pa.array([True, False]),
    "v": pa.array([[1, 2], [3, 4]], pa.list_(pa.float64())),
}


def formats_of(*fields: Field, **policy: Any) -> Formats:
    """The protocols of an endpoint that echoes its rows."""
    return Formats(Signature(fields, fields), Policy(**policy))


def decode(formats: Formats, kind: str, body: bytes, accept: str | None = None) -> Any:
    """The rows that the protocol for a content type reads from a body."""
    headers = {b"content-type": kind.encode()} | ({} if accept is None else {b"accept": accept.encode()})
    return formats.choose(headers).decode(headers, body)


def refused(formats: Formats, kind: str, body: bytes, error: type[InvalidRequest], code: str) -> Any:
    """The error that such a body is refused with."""
    with pytest.raises(error) as caught:
        decode(formats, kind, body)
    assert caught.value.code == code, caught.value.message
    return caught.value


def stream(table: Any, **options: Any) -> bytes:
    """A table as an Arrow stream."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return sink.getvalue()


def file(table: Any, compression: str = "lz4") -> bytes:
    """A table as pandas and polars write Feather files."""
    sink = io.BytesIO()
    feather.write_feather(table, sink, compression=compression)
    return sink.getvalue()


WRITERS = {STREAM: stream, FILE: file}


def same(one: Batch, other: Batch) -> bool:
    """Whether two batches have equal types, values where not null, and nulls."""
    for mine, theirs in zip(one.blocks, other.blocks, strict=True):
        masks = [np.zeros(part.values.shape, bool) if part.mask is None else part.mask for part in (mine, theirs)]
        if mine.values.dtype != theirs.values.dtype or not np.array_equal(*masks):
            return False
        if mine.values[~masks[0]].tolist() != theirs.values[~masks[0]].tolist():
            return False
    return one.rows == other.rows


@settings(max_examples=100, deadline=None)
@given(_batches())
def test_every_batch_comes_back_from_every_form(batch: Batch) -> None:
    """An answer in CSV or Arrow, sent as a request, is the same batch."""
    fields = batch.layout.fields
    texts = [repr(block.values.tolist()) for block in batch.blocks if block.values.dtype == object]
    assume(not any("\\x00" in text for text in texts))
    formats = formats_of(*fields)
    table = pa.ipc.open_stream(write_stream(batch)).read_all()
    for kind, write in WRITERS.items():
        assert same(decode(formats, kind, write(table)).batch, batch), kind
    empty_is_null = any(
        field.nullable and not field.shape and field.dtype is DType.STRING and "" in batch.column(field.name)[0].tolist()
        for field in fields
    )
    spread_nulls = any(field.shape and field.dtype is DType.STRING and len(field.shape) == 1 for field in fields)
    if not empty_is_null and not spread_nulls:
        assert same(decode(formats, "text/csv", write_csv(batch)).batch, batch)


CSV = formats_of(
    Field("n", DType.INT8), Field("x", DType.FLOAT64, nullable=True), Field("b", DType.BOOL), Field("s", DType.STRING)
)


def test_csv_is_read() -> None:
    """Columns in any order, quotes, line breaks inside of text, empty text and nulls."""
    decoded = decode(CSV, "text/csv; charset=utf-8", b's,x,n,b\r\n"a ""b"",\nc",,-1,true\r\n,1e3, 7 ,false\r\n')
    batch = decoded.batch
    assert batch.column("n")[0].tolist() == [-1, 7]
    assert batch.column("b")[0].tolist() == [True, False]
    assert batch.column("s")[0].tolist() == ['a "b",\nc', ""]
    values, mask = batch.column("x")
    assert mask is not None
    assert (mask.tolist(), values[1]) == ([True, False], 1000.0)


@pytest.mark.parametrize(
    ("column", "cell", "code"),
    [
        ("n", "1.0", "wrong-type"), ("n", '"1,2"', "wrong-type"), ("n", "128", "out-of-range"), ("n", "true", "wrong-type"),
        ("n", "", "null-not-allowed"), ("n", "01", "wrong-type"), ("n", "+1", "wrong-type"), ("n", "1_0", "wrong-type"),
        ("n", "\u0661", "wrong-type"), ("n", "1" * 5_000, "wrong-type"), ("n", "NaN", "wrong-type"), ("n", "null", "wrong-type"),
        ("x", "nan", "wrong-type"), ("x", "inf", "wrong-type"), ("x", "1e999", "not-finite"),
        ("x", "9007199254740993", "out-of-range"),
        ("x", "null", "wrong-type"), ("x", "true", "wrong-type"), ("x", "0x1", "wrong-type"), ("x", "[1]", "wrong-type"),
        ("b", "t", "wrong-type"), ("b", "1", "wrong-type"), ("b", "", "null-not-allowed"), ("b", "yes", "wrong-type"),
    ],
)  # fmt: skip
def test_a5_csv_converts_nothing(column: str, cell: str, code: str) -> None:
    """A cell has its column's type, or the error names column and row; a null next to it does not change that."""
    good = {"n": "1", "x": "", "b": "true", "s": "t"}
    lines = [",".join(good), ",".join(good.values()), ",".join((good | {column: cell}).values())]
    error = refused(CSV, "text/csv", "\n".join(lines).encode(), InvalidInput, code)
    assert [(fault["name"], fault["row"]) for fault in error.facts["fields"]] == [(column, 1)]
    assert cell not in error.message or len(cell) < 4


@pytest.mark.parametrize(
    ("body", "error", "code"),
    [
        (b"", MalformedBody, "empty-body"), (b"\n", MalformedBody, "malformed-csv"), (b"n,x,b,s\n", InvalidInput, "empty-batch"),
        (b"n,x,b\n1,,true\n", InvalidInput, "missing-columns"), (b"n,x,b,s,z\n1,,true,t,1\n", InvalidInput, "unknown-columns"),
        (b"n,x,b,s,s\n1,,true,t,t\n", MalformedBody, "duplicate-column"), (b"n,x,b,s\n1,,true\n", MalformedBody, "malformed-csv"),
        (b"n,x,b,s\n1,,true,t,\n", MalformedBody, "malformed-csv"), (b'n,x,b,s\n1,,true,"t', MalformedBody, "malformed-csv"),
        (b'n,x,b,s\n1,,true,"t"t\n', MalformedBody, "malformed-csv"), (b"n,x,b,s\n1,,true,t\n\n", MalformedBody, "malformed-csv"),
        (b"n,x,b,s\n1,,true,\xff\n", MalformedBody, "invalid-utf-8"),
        (b"\xef\xbb\xbfn,x,b,s\n1,,true,t\n", MalformedBody, "invalid-utf-8"),
        (b"n,x,b,s\n1,,true,\0\n", MalformedBody, "invalid-text"),
        (b"n,x,b,s\n" + b"1,,true,t\n" * 10_001, BodyTooLarge, "too-many-rows"),
        (b"n,x,b,s\n1,,true," + b"t" * 200_000, MalformedBody, "malformed-csv"),
    ],
)  # fmt: skip
def test_csv_that_is_refused(body: bytes, error: type[InvalidRequest], code: str) -> None:
    """Each with its code."""
    refused(CSV, "text/csv", body, error, code)


CELLS = [
    "1", "-2.5", "1e3", " 7 ", "", "true", "null", "NaN", "9007199254740993", "1e400", "[1]", "1,2", '"1"', "01", "]", "1]", "x",
    "{}", "\r", "1\r", "1\n2", "é", "\0", "127", "128", "1.0", "-", "0.1000000000000000055511151231257827",
]  # fmt: skip
HEADERS = ["a,b,c", "a,b,c,d", "a,b", "a,b,b", "\ufeffa,b,c", "a,b,c\0", "A,b,c", "a,b,c,", "a,b,\r", ""]


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from([(DType.FLOAT32, ()), (DType.FLOAT64, (3,)), (DType.INT8, ()), (DType.UINT64, (3,))]),
    st.lists(st.tuples(st.integers(0, 1_500), st.integers(0, 3), st.sampled_from(CELLS)), max_size=2),
    st.permutations(range(3)),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from(HEADERS) | st.just("a,b,c"),
    st.booleans(),
)
def test_large_csv_is_read_as_exactly_as_small(
    kind: tuple[DType, tuple[int, ...]], changes: list[Any], order: list[int], end: str, header: str, ignore: bool
) -> None:
    """A body that the reader of many numbers accepts gives the same values in the exact reader, which reads all others."""
    dtype, shape = kind
    fields = (Field("v", dtype, shape),) if shape else tuple(Field(name, dtype) for name in "abc")
    names = header.split(",")
    if shape:
        names = [{"a": "v[0]", "b": "v[1]", "c": "v[2]"}.get(name, name) for name in names]
    width = len(names)
    lines = [[str((row + column) % 100) for column in range(width)] for row in range(1_501)]
    for row, column, cell in changes:
        lines[row][column % width] = cell
    if width == 3:
        names, lines = [names[place] for place in order], [[line[place] for place in order] for line in lines]
    body = end.join([",".join(names), *(",".join(line) for line in lines), ""]).encode()
    found: list[Any] = []
    for fast in (True, False):
        protocol: Any = formats_of(*fields, extra="ignore" if ignore else "refuse").choose({b"content-type": b"text/csv"})
        if not changes and header == "a,b,c" and fast:
            assert protocol._matrix.read(body) is not None
        if not fast:
            protocol._matrix = None
        try:
            decoded = protocol.decode({}, body)
            found.append((decoded.ignored, [block.values.tolist() for block in decoded.batch.blocks]))
        except InvalidRequest as error:
            found.append((error.code, error.message))
    assert found[0] == found[1]


def test_extra_columns_are_ignored_where_the_policy_says_so() -> None:
    """In every form, and they are counted."""
    formats = formats_of(Field("x", DType.FLOAT64), extra="ignore")
    table = pa.table({"y": pa.array([{"z": 1}]), "x": [1.0], "w": [None]})
    for body, kind in ((b"y,x,w\n1,1,1\n", "text/csv"), *((write(table), kind) for kind, write in WRITERS.items())):
        decoded = decode(formats, kind, body)
        assert (decoded.ignored, decoded.batch.column("x")[0].tolist()) == (2, [1.0])


@pytest.mark.parametrize("kind", WRITERS)
def test_arrow_is_read(kind: str) -> None:
    """Narrower numbers, times of any zone, nulls, lists; a dictionary; a vector spread over columns; compressed with zstd."""
    formats = formats_of(*FIELDS)
    table = pa.table(GOOD)
    batch = decode(formats, kind, WRITERS[kind](table)).batch
    assert batch.column("n")[0].tolist() == [1, 2]
    assert batch.column("v")[0].tolist() == [[1, 2], [3, 4]]
    words = table.set_column(2, "s", table["s"].dictionary_encode())
    spread = words.drop_columns(["v"]).append_column("v[0]", [[1, 3]]).append_column("v[1]", [[2.0, 4.0]])
    packed = {STREAM: lambda t: stream(t, compression="zstd"), FILE: lambda t: file(t, "zstd")}.get(kind, WRITERS[kind])
    for other in (words, spread, spread.slice(1), pa.concat_tables([spread.slice(0, 1), spread.slice(1)])):
        found = decode(formats, kind, packed(other)).batch
        assert same(found, batch if found.rows == 2 else batch.slice(1, 2))


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(
    ("column", "values", "code"),
    [
        ("n", pa.array([1.0, 2.0]), "wrong-type"), ("n", pa.array([True, False]), "wrong-type"),
        ("n", pa.array(["1", "2"]), "wrong-type"),
        ("n", pa.array([1, 2**63], pa.uint64()), "out-of-range"), ("n", pa.array([1, None]), "null-not-allowed"),
        ("n", pa.array([1, 2], pa.decimal128(5)), "wrong-type"), ("n", pa.array([None, None], pa.null()), "wrong-type"),
        ("x", pa.array([1.0, float("nan")]), "not-finite"), ("x", pa.array([1.0, 1e300]), "out-of-range"),
        ("x", pa.array([1, 2**53 + 1]), "out-of-range"), ("x", pa.array([True, False]), "wrong-type"),
        ("s", pa.array([b"a", b"b"]), "wrong-type"), ("s", pa.array([1, 2]), "wrong-type"),
        ("s", pa.array(["a", "\0"]), "wrong-type"),
        ("t", pa.array([0, 1], pa.time64("us")), "wrong-type"), ("t", pa.array([0.0, 1.0]), "wrong-type"),
        ("t", pa.array([0, 1], pa.timestamp("ns", tz="UTC")), "out-of-range"), ("t", pa.array([0, 1]), "integer-for-timestamp"),
        ("b", pa.array([0, 1], pa.uint8()), "wrong-type"), ("v", pa.array([[1.0, 2.0], [3.0]]), "wrong-shape"),
        ("v", pa.array([[1.0], [3.0]]), "wrong-shape"), ("v", pa.array([[1.0, 2.0], None]), "null-not-allowed"),
        ("v", pa.array([[1.0, 2.0], [3.0, None]]), "null-not-allowed"), ("v", pa.array([1.0, 2.0]), "wrong-type"),
        ("v", pa.array([[[1.0], [2.0]]] * 2), "wrong-type"), ("v", pa.array([{"a": 1.0}] * 2), "wrong-type"),
    ],
)  # fmt: skip
def test_a5_a6_arrow_converts_nothing_that_loses(kind: str, column: str, values: Any, code: str) -> None:
    """Types and values that JSON would refuse are refused here, and the column is named."""
    table = pa.table(GOOD | {column: values})
    error = refused(formats_of(*FIELDS), kind, WRITERS[kind](table), InvalidInput, code)
    assert {fault["name"] for fault in error.facts["fields"]} == {column}


JSON_KIND, CSV_TYPE = "application/json", "text/csv; charset=utf-8; header=present"


@pytest.mark.parametrize(
    ("accept", "media", "form"),
    [
        (None, JSON_KIND, "json"), ("*/*", JSON_KIND, "json"), ("text/csv", CSV_TYPE, "csv"), ("text/csv, */*", CSV_TYPE, "csv"),
        ("text/*", JSON_KIND, "json"), ("application/json, text/csv", JSON_KIND, "json"), (STREAM, STREAM, "arrow-stream"),
        ("application/json;q=0.5, text/csv;q=0.6", CSV_TYPE, "csv"), ("text/csv;q=0.1, */*;q=0.5", JSON_KIND, "json"),
        ("text/csv;q=0", JSON_KIND, "json"), ("image/png", JSON_KIND, "json"),
        (f"{STREAM};q=0.9, text/csv;q=0.8", STREAM, "arrow-stream"),
        (f"{STREAM}, text/csv", CSV_TYPE, "csv"),
        ("text/csv;q=x", CSV_TYPE, "csv"), (",;,", JSON_KIND, "json"),
    ],
)  # fmt: skip
def test_answers_come_as_the_caller_accepts(accept: str | None, media: str, form: str) -> None:
    """JSON unless the caller prefers another supported form; the same values in all of them."""
    fields = (Field("a", DType.INT64), Field("p", DType.FLOAT32, (2,)))
    formats = formats_of(*fields)
    body = json.dumps({"instances": [{"a": 1, "p": [0.1, 0.5]}, {"a": 2, "p": [1, 2]}]}).encode()
    decoded = decode(formats, JSON_KIND, body, accept)
    protocol = formats.choose({b"content-type": JSON_KIND.encode()})
    encoded = protocol.encode(Answer(decoded.batch, 0, 2), decoded, 1)
    assert (encoded.form, dict(encoded.headers)[b"content-type"].decode()) == (form, media)
    if form == "json":
        assert json.loads(encoded.body)["predictions"][0] == {"a": 1, "p": [0.10000000149011612, 0.5]}
    else:
        assert same(decode(formats, media.partition(";")[0], encoded.body).batch, decoded.batch)


@pytest.mark.parametrize(
    "kind",
    [
        "",
        "text/csv; header=absent",
        "text/csv; charset=utf-16",
        "text/tsv",
        f"{STREAM}; x=y",
        "application/vnd.apache.parquet",
        "application/x-parquet",
        "*/*",
        "text/csv,",
    ],
)
def test_a17_unknown_content_types(kind: str) -> None:
    """A request must name its type exactly, or it is refused; the type is never guessed from the body."""
    with pytest.raises(UnsupportedMediaType):
        CSV.choose({b"content-type": kind.encode()})
    with pytest.raises(UnsupportedMediaType):
        CSV.choose({})
