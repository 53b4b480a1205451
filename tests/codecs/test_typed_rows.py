"""The fast reader and the exact one never disagree: what the fast one accepts, the exact one accepts with the same values."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from roadworthy.codecs.predict_json import PredictJson
from roadworthy.codecs.reading.bounds import Bounds
from roadworthy.codecs.reading.matrix import Matrix
from roadworthy.codecs.reading.strict_json import read_document
from roadworthy.codecs.reading.typed_rows import TypedRows
from roadworthy.contract.policy import Policy
from roadworthy.foundation.errors import InvalidRequest
from roadworthy.runtime.pending import Answer
from roadworthy.schema.batch import Batch, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.rows import decode_rows
from roadworthy.schema.signature import Field, Signature

LAYOUTS = {
    "floats": Layout((Field("a", DType.FLOAT64), Field("b", DType.FLOAT64))),
    "one": Layout((Field("a", DType.FLOAT32),)),
    "tensor": Layout((Field("a", DType.FLOAT32, (2, 2)),)),
    "varying": Layout((Field("a", DType.INT64, (-1,)),)),
    "wide": Layout(tuple(Field(f"f{number}", DType.FLOAT32) for number in range(30))),
    "bytes": Layout((Field("a", DType.INT8, (2,)),)),
    "positive": Layout((Field("a", DType.UINT64), Field("b", DType.UINT64))),
    "mixed": Layout(
        (
            Field("a", DType.INT8),
            Field("b", DType.STRING, nullable=True),
            Field("c:d", DType.FLOAT32, nullable=True),
            Field("e", DType.BOOL),
            Field("f", DType.STRING, categories=("x", "y:z"), categorical=True),
            Field("g", DType.UINT64),
            Field("h", DType.FLOAT64, (2,)),
        )
    ),
}


def exactly(layout: Layout, body: bytes) -> Batch | None:
    """The rows that the exact reader reads from a body."""
    try:
        document, not_finite = read_document(body)
        if not isinstance(document, dict) or list(document) != ["instances"] or not_finite:
            return None
        if not isinstance(document["instances"], list):
            return None
        return decode_rows(layout, document["instances"])[0]
    except InvalidRequest:
        return None


def same(one: Batch, other: Batch) -> bool:
    """Whether two batches are equal in rows, types, values where not null, and nulls."""
    for mine, theirs in zip(one.blocks, other.blocks, strict=True):
        if mine.values.dtype != theirs.values.dtype or mine.values.shape != theirs.values.shape:
            return False
        nulls = [np.zeros(block.values.shape, bool) if block.mask is None else block.mask for block in (mine, theirs)]
        if not np.array_equal(*nulls) or not np.array_equal(mine.values[~nulls[0]], theirs.values[~nulls[1]]):
            return False
    return one.rows == other.rows


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-130, 130),
    st.sampled_from([2**53, 2**53 + 1, -(2**53) - 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63) - 1, 10**30]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0.1, 1e308, 3.5e38, 1e-320, -0.0]),
    st.text(max_size=3),
    st.sampled_from(["x", "y:z", ":", '":', "\0", "\ud800", "é", "🚦", "\\"]),
)
KEYS = st.sampled_from(["a", "b", "c:d", "e", "f", "g", "h", "z"])
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=3), max_leaves=6)
ROWS = st.one_of(VALUES, st.dictionaries(KEYS, VALUES, max_size=7))


def good_rows(layout: Layout, rng: random.Random) -> Any:
    """A row that mostly fits, as a dict."""
    make = {
        DType.INT8: lambda: rng.choice([1, -128, 127, 128, 1.0]),
        DType.INT64: lambda: rng.choice([1, 2**63 - 1, 2**63]),
        DType.UINT64: lambda: rng.choice([0, 2**63, 2**64 - 1, -1]),
        DType.FLOAT32: lambda: rng.choice([0.5, 1, 2**53, 2**53 - 1, 1e39]),
        DType.FLOAT64: lambda: rng.choice([0.1, -3, 1e300, 2**53 + 1]),
        DType.STRING: lambda: rng.choice(["x", "y:z", "é", "🚦", 'q"', "q\\", "\0", "\ud800"]),
        DType.BOOL: lambda: rng.choice([True, False]),
    }

    def value(field: Field) -> Any:
        if field.nullable and rng.random() < 0.3:
            return None
        if not field.shape:
            return make[field.dtype]()
        if len(field.shape) == 1:
            return [make[field.dtype]() for _ in range(2)]
        return [[make[field.dtype]() for _ in range(2)] for _ in range(2)]

    return {field.name: value(field) for field in layout.fields}


def written(value: Any, rng: random.Random) -> str:
    """JSON text of a value in one of many spellings, sometimes with a key twice."""
    space = rng.choice(["", "", " "])
    if isinstance(value, dict):
        members = list(value.items())
        if members and rng.random() < 0.2:
            members.append(rng.choice(members))
        texts = [f"{json.dumps(key, ensure_ascii=rng.random() < 0.5)}{space}:{written(each, rng)}" for key, each in members]
        return "{" + f",{space}".join(texts) + "}"
    if isinstance(value, list):
        return "[" + f",{space}".join(written(item, rng) for item in value) + "]"
    return json.dumps(value, ensure_ascii=rng.random() < 0.5)


def check(layout: Layout, body: bytes) -> bool:
    """Compare both readers, for small bodies and for large ones; returns whether the fast ones accepted."""
    bounds = Bounds(layout.fields, Policy(max_rows=100))
    small, large = TypedRows(layout, bounds), TypedRows(layout, bounds)
    large._small, large._direct = large._large, None
    readers = [small.read, large.read]
    if Matrix.reads(layout) and b"{" not in body[1:]:
        readers.append(Matrix(layout, 100).read)
    accepted = [compare(layout, body, read) for read in readers]
    return all(accepted)


def compare(layout: Layout, body: bytes, read: Callable[[bytes], Batch | None]) -> bool:
    """Compare one fast reader with the exact one; returns whether it accepted."""
    fast = read(body)
    if fast is None:
        return False
    slow = exactly(layout, body)
    assert slow is not None, body
    assert same(fast, slow), body
    return True


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("dtype", [dtype for dtype in DType if dtype.is_numeric])
def test_rows_of_one_type_are_arrays_of_it(dtype: DType, count: int) -> None:
    """A single row is written into its array by other code than several rows; both equal the exact reader's, and a model may
    write into them. A row of another length is left to the exact reader."""
    layout = Layout(tuple(Field(name, dtype) for name in "abc"))
    read = TypedRows(layout, Bounds(layout.fields, Policy())).read
    values = [1, -0.1, 2.0**51]
    if dtype.is_integer:
        limits = np.iinfo(dtype.value)
        values = [1, int(limits.min), min(int(limits.max), 2**63 - 1)]
    body = json.dumps({"instances": [values] * count}).encode()
    exact, fast = exactly(layout, body), read(body)
    assert exact is not None
    assert fast is not None
    assert same(exact, fast)
    assert fast.blocks[0].values.flags.writeable
    assert read(body.replace(b"[1, ", b"[1, 1, ")) is None
    assert read(body.replace(b"[1, ", b"[")) is None


@pytest.mark.parametrize("name", LAYOUTS)
@given(rows=st.lists(ROWS, max_size=3), seed=st.integers(0, 2**16))
@settings(max_examples=50, deadline=None)
def test_any_body(name: str, rows: list[Any], seed: int) -> None:
    """On arbitrary rows."""
    text = written({"instances": rows}, random.Random(seed))
    check(LAYOUTS[name], text.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("name", LAYOUTS)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 3), listed=st.booleans())
@settings(max_examples=50, deadline=None)
def test_nearly_right_bodies(name: str, seed: int, count: int, listed: bool) -> None:
    """On rows that mostly fit, where the two could differ most easily."""
    rng = random.Random(seed)
    rows = [good_rows(LAYOUTS[name], rng) for _ in range(count)]
    body = {"instances": [list(row.values()) for row in rows] if listed and len(rows[0]) > 1 else rows}
    check(LAYOUTS[name], written(body, rng).encode("utf-8", "surrogatepass"))


MATRICES = [name for name, layout in LAYOUTS.items() if Matrix.reads(layout)]
DOUBTFUL = [
    '"12"', '""', "true", "null", "NaN", "Infinity", "-Infinity", "1e400", "-1e309", "1e-400", "01", "+1", ".5", "1.", "1_0",
    "0x1", "1e", "--1", "-", "1.0", "1E0", "1e3", "-0", "-0.0", "127", "128", "-128", "-129", "-1", "[1]", "[]", "[[]]", "{}",
    '{"a":1}', "1,2", "", "1 2", "1]", "[1", "9007199254740991", "9007199254740992", "9007199254740993", "-9007199254740993",
    "9007199254740992.0", "9223372036854775807", "9223372036854775808", "18446744073709551615", "18446744073709551616",
    "-9223372036854775809", "1" * 30, "0.1000000000000000055511151231257827021181583404541015625", "3.5e38", "1e38", "16777217",
    "1.7976931348623157e308", "1.7976931348623159e308", "5e-324", "2e-324", "\x00", "\ufeff", "\u00e9",
]  # fmt: skip
FRAMES = [
    '{"instances":%s}', ' {\t"instances" :\r\n%s } ', '{"\\u0069nstances":%s}', '\ufeff{"instances":%s}', '{"instances":%s}x',
    '{"instances":%s}}', '{"instances":%s', '{"instances":%s,"instances":%s}', '{"instances":[],"instances":%s}', "%s",
    '{"instances":%s,"more":1}', '{"Instances":%s}', '{"instances":[%s]}', '{"instances":{"instances":%s}}', '[{"instances":%s}]',
    '{"instances":%s}\x00', '{"instances":%s,}', '{"instances\x00":%s}', "{'instances':%s}", '{"instances":%s}{"instances":[]}',
]  # fmt: skip


def matrix_text(layout: Layout, rng: random.Random, count: int) -> list[Any]:
    """Rows of number literals that fit, nested as the layout's shape says."""
    field, width = layout.fields[0], len(layout.fields)
    shape = [3 if size < 0 else size for size in field.shape] or ([width] if width > 1 else [])
    low = 0 if field.dtype is DType.UINT64 else -99

    def value(sizes: list[int]) -> Any:
        if sizes:
            return [value(sizes[1:]) for _ in range(sizes[0])]
        return repr(rng.uniform(low, 99)) if field.dtype.is_float and rng.random() < 0.7 else str(rng.randint(low, 99))

    return [value(shape) for _ in range(count)]


def lists_in(rows: list[Any]) -> list[list[Any]]:
    """The outer list and all lists inside it."""
    found = [rows]
    for item in found:
        found.extend(inner for inner in item if isinstance(inner, list))
    return found


def disturb(rows: list[Any], rng: random.Random) -> None:
    """Change one thing: a value, the length of a list, or of two lists so that the total stays."""
    one, other = rng.choice(lists_in(rows)), rng.choice(lists_in(rows))
    place = rng.randrange(len(one)) if one else 0
    action = rng.choice(["replace", "drop", "double", "move", "wrap", "unwrap"])
    if not one:
        one.append("1")
    elif action == "replace":
        one[place] = rng.choice(DOUBTFUL)
    elif action == "drop":
        one.pop(place)
    elif action == "double":
        one.insert(place, json.loads(json.dumps(one[place])))
    elif action == "move":
        if (moved := one[place]) is not other and not (isinstance(moved, list) and other in lists_in(moved)):
            other.insert(rng.randint(0, len(other)), one.pop(place))
    elif action == "wrap":
        one[place] = [one[place]]
    elif isinstance(one[place], list):
        one[place : place + 1] = one[place]


def joined(rows: Any) -> str:
    """The text of nested lists of literals."""
    return "[" + ",".join(map(joined, rows)) + "]" if isinstance(rows, list) else rows


@pytest.mark.parametrize("name", MATRICES)
@given(seed=st.integers(0, 2**32), count=st.integers(16, 60), changes=st.integers(0, 3), plain=st.booleans())
@settings(max_examples=60, deadline=None)
def test_matrix_bodies(name: str, seed: int, count: int, changes: int, plain: bool) -> None:
    """On many rows of numbers with a few things wrong: values, lengths, nesting, keys, or single bytes."""
    rng = random.Random(seed)
    rows = matrix_text(LAYOUTS[name], rng, count)
    for _ in range(changes):
        disturb(rows, rng)
    frame = FRAMES[0] if plain else rng.choice(FRAMES)
    body = bytearray(frame.replace("%s", joined(rows)).encode("utf-8"))
    if not plain and rng.random() < 0.3:
        place = rng.randrange(len(body))
        body[place : place + rng.randint(0, 1)] = rng.choice([b"[", b"]", b",", b":", b"{", b"}", b'"', b"", b" ", b"-", b"\xff"])
    accepted = check(LAYOUTS[name], bytes(body))
    assert accepted or changes or not plain


@pytest.mark.parametrize("literal", DOUBTFUL)
@pytest.mark.parametrize("name", MATRICES)
def test_every_doubtful_literal(name: str, literal: str) -> None:
    """Each one in the middle of a large valid body: read as by the exact reader, or left to it."""
    rows = matrix_text(LAYOUTS[name], random.Random(1), 99)
    inner = rows
    while isinstance(inner[-1], list):
        inner = inner[-1]
    inner[-1] = literal
    check(LAYOUTS[name], f'{{"instances":{joined(rows)}}}'.encode())


@given(st.binary(max_size=40))
@example(b'{"instances":[[1,2]]}\xff')
@example(b'{"instances":[[1,2]],"instances":[[3,4]]}')
@example(b'\xef\xbb\xbf{"instances":[[1,2]]}')
@settings(deadline=None)
def test_any_bytes(tail: bytes) -> None:
    """On bytes that mostly are not JSON."""
    for body in (tail, b'{"instances":[[1,2' + tail, b'{"instances":[[1,2]]}' + tail):
        check(LAYOUTS["floats"], body)


@pytest.mark.parametrize(
    ("name", "body"),
    [
        ("floats", {"instances": [[1, 2.5], [3, 4]]}),
        ("floats", {"instances": [{"b": 1, "a": 2}]}),
        ("one", {"instances": [1, 2, 3.5]}),
        ("one", {"instances": [{"a": 1}]}),
        ("tensor", {"instances": [[[1, 2], [3, 4]]] * 3}),
        ("varying", {"instances": [[1, 2, 3], [4, 5, 6]]}),
        ("mixed", {"instances": [{"a": 1, "b": None, "c:d": 0.5, "e": True, "f": "y:z", "g": 7, "h": [1, 2]}] * 2}),
        ("mixed", {"instances": [[1, "t:u", None, False, "x", 7, [1.5, 2]]]}),
    ],
)
def test_plainly_right_bodies_take_the_fast_way(name: str, body: Any) -> None:
    """A clearly valid body does not fall back to the exact reader, whether it has one row or many."""
    assert check(LAYOUTS[name], json.dumps(body).encode())
    assert check(LAYOUTS[name], json.dumps({"instances": body["instances"] * 20}).encode())


@pytest.mark.parametrize("name", ['quo"te', "back\\slash", "new\nline", "tab\t", "sepal length (cm)", "žluť", ""])
def test_any_column_name(name: str) -> None:
    """Columns may have any name: names that structs cannot have are read exactly, with the same answers."""
    fields = (Field(name, DType.FLOAT64), Field("other", DType.INT64))
    protocol = PredictJson(Signature(fields, fields), Policy())
    body = json.dumps({"instances": [{name: 1.5, "other": 2}, {name: 2.5, "other": 3}]}).encode()
    decoded = protocol.decode({}, body)
    assert decoded.batch.column(name)[0].tolist() == [1.5, 2.5]
    encoded = protocol.encode(Answer(decoded.batch, 1, 2), decoded, 1)
    assert json.loads(encoded.body) == {"predictions": [{name: 2.5, "other": 3}]}


@pytest.mark.parametrize("name", ["floats", "wide", "bytes", "positive"])
def test_rows_are_joined_as_their_arrays_would_be(name: str) -> None:
    """A row alone is kept as bytes until it is joined or looked at; a model may write to what it gets."""
    layout = LAYOUTS[name]
    width = len(layout.fields) if not layout.fields[0].shape else layout.fields[0].shape[0]
    rows = [[number + column for column in range(width)] for number in range(5)]
    bodies = [json.dumps({"instances": part}).encode() for part in (rows[:1], rows[1:2], rows[2:4], rows[4:])]
    read = [batch for batch in map(TypedRows(layout, Bounds(layout.fields, Policy())).read, bodies) if batch is not None]
    assert len(read) == len(bodies)
    for batches in (read[:2], read[1:], read[3:]):
        whole = Batch.concatenate(batches)
        expected = exactly(layout, json.dumps({"instances": [row for each in batches for row in _rows(each)]}).encode())
        assert expected is not None
        assert same(whole, expected)
        assert whole.blocks[0].values.flags.writeable
    assert len(read[0].blocks) == 1
    assert read[0].blocks[0] is read[0].blocks[0]


def _rows(batch: Batch) -> list[list[float]]:
    values: list[list[float]] = batch.blocks[0].values.tolist()
    return values


@pytest.mark.parametrize("number", ["9007199254740991", "9007199254740992", "-9007199254740993", "1e16", "4503599627370496.0"])
@pytest.mark.parametrize("others", [[], ["4503599627370495"], ["0.5", "-4503599627370495"]])
def test_large_numbers_are_left_to_the_exact_reader(number: str, others: list[str]) -> None:
    """As integers they may not fit into a float; the exact reader judges the row, wherever they stand in it."""
    layout = Layout(tuple(Field(f"f{position}", DType.FLOAT64) for position in range(1 + len(others))))
    for row in ([number, *others], [*others, number]):
        body = f'{{"instances":[[{",".join(row)}]]}}'.encode()
        read, expected = PredictJson(Signature(layout.fields, layout.fields), Policy()), exactly(layout, body)
        if expected is None:
            with pytest.raises(InvalidRequest):
                read.decode({}, body)
        else:
            assert same(read.decode({}, body).batch, expected)
