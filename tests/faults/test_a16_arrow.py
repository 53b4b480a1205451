"""A16 for Arrow: a few bytes that expand to gigabytes, endless pieces, damage of every kind."""

from __future__ import annotations

import contextlib
import random
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest

from roadworthy.foundation.errors import BodyTooLarge, InvalidRequest, MalformedBody
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field
from tests.codecs.test_body_formats import (
    FILE,
    STREAM,
    WRITERS,
    decode,
    file,
    formats_of,
    refused,
    stream,
)

X = formats_of(Field("x", DType.FLOAT64))
LISTS = formats_of(Field("x", DType.FLOAT64, (-1,)))
TEXT = formats_of(Field("s", DType.STRING))


@pytest.fixture
def bounded() -> Any:
    """Checks that the test's resident memory stays small."""
    process = psutil.Process()
    decode(X, STREAM, stream(pa.table({"x": [1.0]})))  # imports are not counted
    before = process.memory_info().rss
    yield
    assert process.memory_info().rss - before < 64 << 20


@pytest.mark.parametrize("kind", WRITERS)
def test_a16_more_rows_than_allowed(kind: str, bounded: None) -> None:
    """Equal values compress to almost nothing; the rows are counted before they are built."""
    table = pa.table({"x": np.zeros(10_001)})
    refused(X, kind, WRITERS[kind](table), BodyTooLarge, "too-many-rows")
    assert decode(X, kind, WRITERS[kind](table.slice(1))).batch.rows == 10_000


def test_a16_compressed_buffers(bounded: None) -> None:
    """The real size counts, whatever size the buffer states."""
    table = pa.table({"x": pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(3 << 20)), 3 << 20)})
    for body, kind in ((stream(table, compression="zstd"), STREAM), (file(table, "lz4"), FILE)):
        assert len(body) < 1 << 20
        refused(LISTS, kind, body, BodyTooLarge, "body-too-large")
    small = stream(pa.table({"x": np.zeros(1_000)}), compression="zstd")
    for said in (2**62, -(2**62), 10**6, 7_999, 0):
        lying = small.replace(struct.pack("<q", 8_000), struct.pack("<q", said))
        assert lying != small
        with pytest.raises(InvalidRequest) as caught:
            decode(X, STREAM, lying)
        assert caught.value.code in ("body-too-large", "malformed-arrow")


@pytest.mark.parametrize("kind", WRITERS)
def test_a16_one_long_word_ten_thousand_times(kind: str, bounded: None) -> None:
    """A dictionary stores it once; the rows would take ten gigabytes."""
    words = pa.DictionaryArray.from_arrays(pa.array(np.zeros(10_000, np.int32)), pa.array(["x" * (1 << 20)]))
    body = WRITERS[kind](pa.table({"s": words}))
    assert len(body) < 3 << 20
    refused(TEXT, kind, body, BodyTooLarge, "body-too-large")


def test_a16_views_of_one_long_text(bounded: None) -> None:
    """A view refers to a part of a buffer; many views may refer to the same part."""
    data = pa.py_buffer(b"x" * (1 << 20))
    views = pa.py_buffer(struct.pack("<i4sii", 1 << 20, b"xxxx", 0, 0) * 10_000)
    array = pa.Array.from_buffers(pa.string_view(), 10_000, [None, views, data])
    refused(TEXT, STREAM, stream(pa.table({"s": array})), BodyTooLarge, "body-too-large")


def test_a16_pieces_without_end(bounded: None) -> None:
    """Empty record batches and columns."""
    batches = pa.table({"x": np.zeros(5_000)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batches.schema) as writer:
        writer.write_table(batches, max_chunksize=1)
    refused(X, STREAM, sink.getvalue().to_pybytes(), BodyTooLarge, "too-many-parts")
    columns = pa.table({f"c{number}": [1.0] for number in range(10_001)})
    for kind, write in WRITERS.items():
        refused(X, kind, write(columns), BodyTooLarge, "too-many-parts")


@pytest.mark.parametrize("kind", WRITERS)
def test_a16_cut_short_and_going_on(kind: str) -> None:
    """Every truncated body is refused, and so is one with trailing bytes."""
    table = pa.table({"x": np.arange(50.0)})
    body = WRITERS[kind](table)
    for length in range(len(body)):
        with pytest.raises(MalformedBody):
            decode(X, kind, body[:length])
    with pytest.raises(MalformedBody):
        decode(X, kind, body + b"\0")
    for other, write in WRITERS.items():
        if write is not WRITERS[kind]:
            with pytest.raises(MalformedBody):
                decode(X, other, body)


TABLE = pa.table(
    {
        "x": pa.array([1.0, None] * 20),
        "s": pa.array(["a", "bb", None, ""] * 10),
        "d": pa.array(["u", "v"] * 20).dictionary_encode(),
        "v": pa.array([[1, 2]] * 40),
        "t": pa.array(range(40), pa.timestamp("ms", tz="UTC")),
        "b": pa.array([True, False] * 20),
    }
)
MIXED = formats_of(
    Field("x", DType.FLOAT64, nullable=True),
    Field("s", DType.STRING, nullable=True),
    Field("d", DType.STRING),
    Field("v", DType.INT16, (2,)),
    Field("t", DType.TIMESTAMP),
    Field("b", DType.BOOL),
)
FUZZED: list[tuple[str, Callable[[], bytes]]] = [
    (STREAM, lambda: stream(TABLE)),
    (STREAM, lambda: stream(TABLE, compression="lz4")),
    (FILE, lambda: file(TABLE, "zstd")),
]


def fuzz(kind: str, body: bytes, seed: int, count: int) -> int:
    """Damage a body in many ways; each is read or refused with one of the project's errors. Returns the number read."""
    rng = random.Random(seed)
    read = 0
    for _ in range(count):
        damaged = bytearray(body)
        for _ in range(rng.choice([1, 1, 2, 5])):
            place = rng.randrange(len(damaged))
            action = rng.random()
            if action < 0.5:
                damaged[place] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
            elif action < 0.8:
                number = rng.choice([0, 1, -1, 2**31 - 1, -(2**31), len(body), 10**6])
                damaged[place : place + 4] = struct.pack("<i", number)
            else:
                del damaged[place : place + rng.randrange(1, 9)]
        with contextlib.suppress(InvalidRequest):
            decode(MIXED, kind, bytes(damaged))
            read += 1
    return read


@pytest.mark.parametrize("number", range(len(FUZZED)))
def test_a16_any_damage(number: int, bounded: None) -> None:
    """Any bytes give rows or one of the project's errors; the process survives and stays small."""
    kind, write = FUZZED[number]
    assert decode(MIXED, kind, write()).batch.rows == 40
    fuzz(kind, write(), number, 300)
