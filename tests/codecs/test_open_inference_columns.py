"""Raw columns of one number type that follow each other are read together: with the same rows, the same nulls and the same errors
as one by one."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest

from roadworthy.codecs.open_inference import HEAD_LENGTH, OpenInference
from roadworthy.codecs.open_inference_tensors import ColumnBlock, FieldReader
from roadworthy.contract.policy import Policy
from roadworthy.foundation.errors import InvalidRequest
from roadworthy.schema.batch import Batch, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Container, Field, Signature

NAMES = ("a", "b", "c")
TYPES = (DType.FLOAT32, DType.FLOAT64, DType.INT8, DType.INT64, DType.UINT16)


def protocol(*fields: Field) -> OpenInference:
    """Bound to an endpoint with these inputs."""
    return OpenInference("numbers", Signature(fields, fields, Container.RECORDS), Policy(), on_loop=True)


def body_of(columns: dict[str, Any], more: tuple[str, ...] = ()) -> tuple[dict[bytes, bytes], bytes]:
    """Headers and body of a request; the columns of `more` come last and have one byte a row."""
    inputs, raws = [], []
    for name, values in columns.items():
        raw = np.asarray(values).astype(np.asarray(values).dtype.newbyteorder("<")).tobytes()
        datatype = DType(np.asarray(values).dtype.name).open_inference
        inputs.append({"name": name, "shape": [len(values)], "datatype": datatype, "parameters": {"binary_data_size": len(raw)}})
        raws.append(raw)
    for name in more:
        inputs.append({"name": name, "shape": [2], "datatype": "INT8", "parameters": {"binary_data_size": 2}})
        raws.append(b"\0\0")
    head = json.dumps({"inputs": inputs}).encode()
    return {HEAD_LENGTH: b"%d" % len(head)}, b"".join((head, *raws))


def rows(batch: Batch) -> list[Any]:
    """Each column's values, None for null."""
    found = []
    for name in NAMES:
        values, mask = batch.column(name)
        nulls = np.zeros(len(values), dtype=bool) if mask is None else mask
        found.append([None if null else value for value, null in zip(values.tolist(), nulls.tolist(), strict=True)])
    return found


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("order", list(itertools.permutations(NAMES)))
def test_any_order_gives_the_same_rows(dtype: DType, order: tuple[str, ...]) -> None:
    """In the order of the signature they are read together, else one by one; also when the head is known."""
    values = {name: np.array([1, 2 + number], dtype=dtype.numpy) for number, name in enumerate(NAMES)}
    bound = protocol(*(Field(name, dtype) for name in NAMES))
    for _ in range(3):
        batch = bound.decode(*body_of({name: values[name] for name in order})).batch
        assert rows(batch) == [values[name].tolist() for name in NAMES]
        assert batch.blocks[0].values.dtype == dtype.numpy
        assert batch.blocks[0].values.flags.c_contiguous


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("column", NAMES)
def test_a_value_that_is_not_finite_is_refused_by_its_column(bad: float, column: str) -> None:
    """With the column's name, for a known head as for a new one."""
    bound = protocol(*(Field(name, DType.FLOAT64) for name in NAMES))
    good = {name: np.array([1.0, 2.0]) for name in NAMES}
    refused = {**good, column: np.array([1.0, bad])}
    for columns in (refused, good, refused):
        if columns is good:
            assert rows(bound.decode(*body_of(good)).batch) == [[1.0, 2.0]] * 3
            continue
        with pytest.raises(InvalidRequest) as caught:
            bound.decode(*body_of(columns))
        assert caught.value.code == "not-finite"
        assert column in str(caught.value)


def test_nan_is_null_where_the_column_allows_it() -> None:
    """The next body of the same head may have none."""
    bound = protocol(*(Field(name, DType.FLOAT32, nullable=True) for name in NAMES))
    full = {name: np.array([1, 2], dtype=np.float32) for name in NAMES}
    for columns, expected in ((full, [1.0, 2.0]), ({**full, "b": np.array([np.nan, 2], np.float32)}, [None, 2.0])) * 2:
        assert rows(bound.decode(*body_of(columns)).batch) == [[1.0, 2.0], expected, [1.0, 2.0]]


def test_a_column_that_the_endpoint_does_not_have() -> None:
    """It may lie behind the others or between them."""
    bound = OpenInference(
        "numbers",
        Signature(tuple(Field(name, DType.INT64) for name in NAMES), (Field("y", DType.INT64),), Container.RECORDS),
        Policy(extra="ignore"),
    )
    values = {name: np.array([number, 7]) for number, name in enumerate(NAMES)}
    decoded = bound.decode(*body_of(values, more=("extra",)))
    assert (rows(decoded.batch), decoded.ignored) == ([[0, 7], [1, 7], [2, 7]], 1)
    between = {"a": values["a"], "extra": np.array([5, 5]), "b": values["b"], "c": values["c"]}
    assert rows(bound.decode(*body_of(between)).batch) == [[0, 7], [1, 7], [2, 7]]


def test_wrong_lengths_are_refused_as_one_by_one() -> None:
    """The sizes add up to the body, but two columns share theirs unevenly."""
    bound = protocol(*(Field(name, DType.INT64) for name in NAMES))
    headers, body = body_of({name: np.array([1, 2]) for name in NAMES})
    length = int(headers[HEAD_LENGTH])
    document = json.loads(body[:length])
    for number, size in ((0, 8), (1, 24)):
        document["inputs"][number]["parameters"]["binary_data_size"] = size
    head = json.dumps(document).encode()
    with pytest.raises(InvalidRequest) as caught:
        bound.decode({HEAD_LENGTH: b"%d" % len(head)}, head + body[length:])
    assert caught.value.code == "wrong-data-count"


def test_which_layouts_are_read_together() -> None:
    """Columns of one number type only: no text, no categories, no tensors, no times."""

    def together(*fields: Field) -> bool:
        layout = Layout(fields)
        cuts, offset = {}, 0
        for field in fields:
            size = 2 * FieldReader(field)._dtype.itemsize
            cuts[field.name] = slice(offset, offset + size)
            offset += size
        return ColumnBlock(layout).place(cuts, 2) == slice(0, offset)

    a, b = Field("a", DType.FLOAT64), Field("b", DType.FLOAT64)
    assert together(a, b)
    assert not together(a, Field("b", DType.FLOAT32))
    assert not together(a, Field("b", DType.FLOAT64, (2,)))
    assert not together(Field("a", DType.INT64, categories=(1, 2), categorical=True), Field("b", DType.INT64))
    for dtype in (DType.BOOL, DType.STRING, DType.TIMESTAMP, DType.JSON):
        assert not together(Field("a", dtype), Field("b", dtype))
