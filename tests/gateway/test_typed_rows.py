"""The fast reader and the exact one never disagree: what the fast one accepts, the exact one accepts with the same values."""

from __future__ import annotations

import json
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from roadworthy.contract.policy import Policy
from roadworthy.foundation.errors import InvalidRequest
from roadworthy.gateway.protocols.predict_json import PredictJson
from roadworthy.gateway.protocols.strict_json import read_document
from roadworthy.gateway.protocols.typed_rows import TypedRows
from roadworthy.runtime.batching import Answer
from roadworthy.schema.batch import Batch, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.rows import decode_rows
from roadworthy.schema.signature import Field, Signature

LAYOUTS = {
    "floats": Layout((Field("a", DType.FLOAT64), Field("b", DType.FLOAT64))),
    "one": Layout((Field("a", DType.FLOAT32),)),
    "tensor": Layout((Field("a", DType.FLOAT32, (2, 2)),)),
    "varying": Layout((Field("a", DType.INT64, (-1,)),)),
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
    """What the exact way makes of a body."""
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
        texts = [
            f"{json.dumps(key, ensure_ascii=rng.random() < 0.5)}{space}:{written(each, rng)}" for key, each in members
        ]
        return "{" + f",{space}".join(texts) + "}"
    if isinstance(value, list):
        return "[" + f",{space}".join(written(item, rng) for item in value) + "]"
    return json.dumps(value, ensure_ascii=rng.random() < 0.5)


def check(layout: Layout, body: bytes) -> bool:
    """Compare both ways, for the readers of small bodies and for those of large ones; whether the fast ones accepted."""
    small, large = TypedRows(layout, 100), TypedRows(layout, 100)
    large._small = large._large
    accepted = [compare(layout, body, reader) for reader in (small, large)]
    return all(accepted)


def compare(layout: Layout, body: bytes, reader: TypedRows) -> bool:
    """Compare one fast reader with the exact way; whether it accepted."""
    fast = reader.read(body)
    if fast is None:
        return False
    slow = exactly(layout, body)
    assert slow is not None, body
    assert same(fast, slow), body
    return True


@pytest.mark.parametrize("name", LAYOUTS)
@given(rows=st.lists(ROWS, max_size=3), seed=st.integers(0, 2**16))
@settings(max_examples=300, deadline=None)
def test_any_body(name: str, rows: list[Any], seed: int) -> None:
    """On arbitrary rows."""
    text = written({"instances": rows}, random.Random(seed))
    check(LAYOUTS[name], text.encode("utf-8", "surrogatepass"))


@pytest.mark.parametrize("name", LAYOUTS)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 3), listed=st.booleans())
@settings(max_examples=300, deadline=None)
def test_nearly_right_bodies(name: str, seed: int, count: int, listed: bool) -> None:
    """On rows that mostly fit, where the two could differ most easily."""
    rng = random.Random(seed)
    rows = [good_rows(LAYOUTS[name], rng) for _ in range(count)]
    body = {"instances": [list(row.values()) for row in rows] if listed and len(rows[0]) > 1 else rows}
    check(LAYOUTS[name], written(body, rng).encode("utf-8", "surrogatepass"))


@given(st.binary(max_size=40))
@example(b'{"instances":[[1,2]]}\xff')
@example(b'{"instances":[[1,2]],"instances":[[3,4]]}')
@example(b'\xef\xbb\xbf{"instances":[[1,2]]}')
@settings(deadline=None)
def test_any_bytes(tail: bytes) -> None:
    """On bytes that are mostly no JSON at all."""
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
    """What is plainly right does not fall back, be it one row or many."""
    assert check(LAYOUTS[name], json.dumps(body).encode())
    assert check(LAYOUTS[name], json.dumps({"instances": body["instances"] * 20}).encode())


@pytest.mark.parametrize("name", ['quo"te', "back\\slash", "new\nline", "tab\t", "sepal length (cm)", "žluť", ""])
def test_any_column_name(name: str) -> None:
    """Columns may have any name: what structs cannot be made for is read exactly, and answers are the same."""
    fields = (Field(name, DType.FLOAT64), Field("other", DType.INT64))
    protocol = PredictJson(Signature(fields, fields), Policy())
    body = json.dumps({"instances": [{name: 1.5, "other": 2}, {name: 2.5, "other": 3}]}).encode()
    decoded = protocol.decode({}, body)
    assert decoded.batch.column(name)[0].tolist() == [1.5, 2.5]
    encoded = protocol.encode(Answer(decoded.batch, 1, 2), decoded, 1)
    assert json.loads(encoded.body) == {"predictions": [{name: 2.5, "other": 3}]}
