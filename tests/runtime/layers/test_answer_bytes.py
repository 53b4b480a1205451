"""Answers come back from their bytes exactly as they were; nothing else is taken for an answer."""

from __future__ import annotations

import math
import pickle
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roadworthy.runtime.layers.answer_bytes import FORMAT, KEY_PREFIX, MAX_ENTRY_BYTES, AnswerBytes, Unfit, _sum
from roadworthy.schema.batch import Batch, Block, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field

KEY = b"roadworthy:1:" + b"a" * 64
PINNED = (
    "525741312a205986602e86dfc1fe7e634e5d2759d213b4e5954c5567a23d705da61195c660ea000000000000010000000101"
    "0000040000000000000000000000010000000000c03f00000000000000000000000000000000030100000200000000000000"
    "000000000100000091c001010000010000000000000000000000010000000104010000100000000000000000000000010000"
    "005b7b2261223a5b312c6e756c6c5d7d5d00000000000000000000000000000000"
)
TOTAL = Layout((Field("total", DType.FLOAT64),))
NESTED = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False) | st.text(
        st.characters(exclude_categories=["Cs"]), max_size=5
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc", max_size=3), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    """Rows of any layout: plain columns and tensors of every type, nulls anywhere."""
    shapes = st.sampled_from([(), (), (2,), (2, 3), (0,), (-1,)])
    fields = draw(st.lists(st.tuples(st.sampled_from(list(DType)), shapes), min_size=1, max_size=5))
    layout = Layout(tuple(Field(f"f{n}", dtype, shape, nullable=True) for n, (dtype, shape) in enumerate(fields)))
    rows = draw(st.integers(0, 3))
    blocks = []
    for form in layout.blocks:
        trailing = layout.fields[form.fields[0]].shape if form.tensor else (len(form.fields),)
        shape = (rows, *(draw(st.integers(0, 3)) if length == -1 else length for length in trailing))
        values = array(draw, form.dtype, shape)
        mask = draw(st.none() | st.lists(st.booleans(), min_size=values.size, max_size=values.size))
        blocks.append(Block(values, None if mask is None else np.array(mask, bool).reshape(shape)))
    return Batch(layout, rows, tuple(blocks))


def array(draw: st.DrawFn, dtype: DType, shape: tuple[int, ...]) -> Any:
    """Values of that type, of every bit pattern that it may have."""
    count = math.prod(shape)
    if dtype.numpy.kind == "O":
        flat = draw(st.lists(NESTED if dtype is DType.JSON else st.none() | TEXTS, min_size=count, max_size=count))
        values = np.empty(count, object)
        values[:] = flat
        return values.reshape(shape)
    if dtype is DType.BOOL:
        return np.array(draw(st.lists(st.booleans(), min_size=count, max_size=count)), bool).reshape(shape)
    size = count * dtype.numpy.itemsize
    return np.frombuffer(draw(st.binary(min_size=size, max_size=size)), dtype.numpy).reshape(shape)


def same(one: Batch, other: Batch) -> bool:
    """Equal in every bit; texts and nested values in type and value."""
    return one.rows == other.rows and all(
        told(a.values) == told(b.values) and (a.mask is None) == (b.mask is None) and told(a.mask) == told(b.mask)
        for a, b in zip(one.blocks, other.blocks, strict=True)
    )


def told(values: Any) -> tuple[Any, ...]:
    """All that an array is."""
    if values is None:
        return ()
    held = repr(values.tolist()) if values.dtype.hasobject else values.tobytes()
    return values.dtype, values.shape, held


def total(*values: float) -> Batch:
    """An answer of one number a row."""
    return Batch(TOTAL, len(values), (Block(np.array([[value] for value in values], np.float64)),))


@settings(deadline=None, max_examples=100)
@given(batches(), st.integers(0, 2**64 - 1))
def test_answers_come_back_as_they_were(batch: Batch, ttl_ms: int) -> None:
    """Answers of every type and shape, with nulls, in any memory layout."""
    form = AnswerBytes(batch.layout)
    entry = form.encode(KEY, batch, ttl_ms)
    found = form.decode(KEY, entry, batch.rows)
    assert found.ttl_ms == ttl_ms
    assert found.batch.layout == batch.layout
    assert same(found.batch, batch)
    turned = tuple(
        Block(np.asfortranarray(each.values), None if each.mask is None else np.asfortranarray(each.mask))
        for each in batch.blocks
    )
    assert form.encode(KEY, Batch(batch.layout, batch.rows, turned), ttl_ms) == entry


@settings(deadline=None, max_examples=100)
@given(batches(), st.data())
def test_one_changed_byte_is_found(batch: Batch, data: st.DataObject) -> None:
    """At any position; missing and extra bytes at the end are found too."""
    form = AnswerBytes(batch.layout)
    entry = form.encode(KEY, batch, 1_000)
    at, change = data.draw(st.integers(0, len(entry) - 1)), data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(entry) - 1))
    for wrong in (entry[:at] + bytes([entry[at] ^ change]) + entry[at + 1 :], entry[:cut], entry + b"\0"):
        with pytest.raises(Unfit):
            form.decode(KEY, wrong, batch.rows)


@settings(deadline=None, max_examples=150)
@given(st.binary(max_size=300), st.integers(0, 3), batches())
def test_whoever_knows_the_checksum_still_writes_an_answer_of_this_form_or_none(body: bytes, rows: int, batch: Batch) -> None:
    """Any body with a valid checksum is refused, or has the types and the shape of the version's outputs."""
    form = AnswerBytes(batch.layout)
    good = form.encode(KEY, batch, 1_000)
    for forged in (body, form._print + body, good[20:48] + body, good[20:48][:-4] + rows.to_bytes(4, "little") + body):
        entry = good[:4] + _sum(KEY, forged) + forged
        try:
            found = form.decode(KEY, entry, rows).batch
        except Unfit:
            continue
        assert found.rows == rows
        for kind, block in zip(batch.layout.blocks, found.blocks, strict=True):
            assert block.values.dtype == kind.dtype.numpy
            assert len(block.values) == rows
            assert block.mask is None or (block.mask.dtype == bool and block.mask.shape == block.values.shape)


def test_an_answer_to_another_question_is_refused() -> None:
    """Another key, number of rows, names, types or shapes; a pickle is not even examined."""
    form = AnswerBytes(TOTAL)
    entry = form.encode(KEY, total(1.0), 1_000)
    assert form.decode(KEY, entry, 1).batch.blocks[0].values.tolist() == [[1.0]]
    others = [
        Field("other", DType.FLOAT64),
        Field("total", DType.INT64),
        Field("total", DType.TIMESTAMP),
        Field("total", DType.FLOAT64, (1,)),
    ]
    wrong = [(form, KEY[:-1] + b"b", entry, 1), (form, KEY, entry, 2), (form, KEY, pickle.dumps([1.0]), 1)]
    wrong += [(AnswerBytes(Layout((field,))), KEY, entry, 1) for field in others]
    for reader, key, data, rows in wrong:
        with pytest.raises(Unfit):
            reader.decode(key, data, rows)


def test_what_cannot_be_read_again_is_not_written() -> None:
    """Values of other types than the layout's, non-texts as texts, objects without a JSON form, and too large answers."""
    text, nested = Layout((Field("x", DType.STRING),)), Layout((Field("x", DType.JSON),))

    def objects(value: object) -> tuple[Block]:
        values = np.empty((1, 1), object)
        values[0, 0] = value
        return (Block(values),)

    unfit = [
        Batch(TOTAL, 1, (Block(np.array([[1]], np.int64)),)),
        Batch(text, 1, objects("\ud800")),
        Batch(text, 1, objects(object())),
        Batch(nested, 1, objects(object())),
        total(*[0.0] * (MAX_ENTRY_BYTES // 8)),
    ]
    for batch in unfit:
        with pytest.raises(Unfit):
            AnswerBytes(batch.layout).encode(KEY, batch, 1_000)


def test_the_format_is_the_one_that_its_number_says() -> None:
    """Other releases read these bytes: a change of them must raise FORMAT and pin the new bytes here."""
    mixed = Layout((Field("n", DType.FLOAT32), Field("s", DType.STRING, nullable=True), Field("j", DType.JSON)))
    texts, nested = np.empty((1, 1), object), np.empty((1, 1), object)
    nested[0, 0] = {"a": [1, None]}
    blocks = (
        Block(np.array([[1.5]], np.float32)), Block(texts, np.array([[True]])), Block(nested)
    )  # fmt: skip
    assert (FORMAT, KEY_PREFIX) == (1, b"roadworthy:1:")
    assert AnswerBytes(mixed).encode(KEY, Batch(mixed, 1, blocks), 60_000).hex() == PINNED
