"""Hypothesis strategies for layouts and batches of every dtype, with nulls, tensors and nested values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st

from roadworthy.schema.batch import Batch, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
JSON = st.recursive(
    st.one_of(st.booleans(), st.integers(-(2**60), 2**60), st.floats(allow_nan=False, allow_infinity=False), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=5,
)


def values_of(dtype: DType) -> st.SearchStrategy[Any]:
    """Any value that JSON can carry for `dtype`, as the Python value that is kept."""
    if dtype.is_integer:
        bounds = np.iinfo(dtype.value)
        return st.integers(int(bounds.min), int(bounds.max))
    if dtype.is_float:
        return st.floats(allow_nan=False, allow_infinity=False, width=32 if dtype is DType.FLOAT32 else 64)
    if dtype is DType.TIMESTAMP:
        return st.integers(-62_135_596_800_000_000, 253_402_300_799_999_999)
    return {DType.BOOL: st.booleans(), DType.STRING: TEXT, DType.JSON: JSON}[dtype]


@st.composite
def _layouts(draw: st.DrawFn) -> Layout:
    kinds = draw(st.lists(st.tuples(st.sampled_from(DType), st.booleans()), min_size=1, max_size=5))
    fields = []
    for number, (dtype, nullable) in enumerate(kinds):
        shape: tuple[int, ...] = ()
        if dtype not in (DType.JSON, DType.TIMESTAMP):
            shape = draw(st.sampled_from([(), (), (), (3,), (2, 2), (-1,)]))
        fields.append(Field(f"f{number}", dtype, shape, nullable=nullable))
    return Layout(tuple(fields))


@st.composite
def _batches(draw: st.DrawFn) -> Batch:
    layout = draw(_layouts())
    rows = draw(st.integers(1, 5))
    pairs = []
    for field in layout.fields:
        shape = (rows, *(draw(st.integers(1, 3)) if length < 0 else length for length in field.shape))
        size = int(np.prod(shape))
        values = np.empty(size, dtype=field.dtype.numpy)
        values[:] = draw(st.lists(values_of(field.dtype), min_size=size, max_size=size))
        mask = None
        if field.nullable:
            mask = np.array(draw(st.lists(st.booleans(), min_size=size, max_size=size)), dtype=bool)
            values[mask] = {DType.STRING: "", DType.JSON: None}.get(field.dtype, 0)
            mask = mask.reshape(shape) if mask.any() else None
        pairs.append((values.reshape(shape), mask))
    return Batch.from_columns(layout, pairs, rows)


@pytest.fixture(scope="session")
def batches() -> st.SearchStrategy[Batch]:
    """Batches of one to five rows and columns of any kind."""
    return _batches()


@pytest.fixture(scope="session")
def same() -> Any:
    """A function that says whether two batches are exactly equal: layout, rows, dtypes, nulls, and values where not null."""

    def compare(one: Batch, other: Batch) -> bool:
        if one.layout != other.layout or one.rows != other.rows:
            return False
        for mine, theirs in zip(one.blocks, other.blocks, strict=True):
            masks = [np.zeros(b.values.shape, bool) if b.mask is None else b.mask for b in (mine, theirs)]
            if mine.values.dtype != theirs.values.dtype or not np.array_equal(*masks):
                return False
            if mine.values[~masks[0]].tolist() != theirs.values[~masks[0]].tolist():
                return False
        return True

    return compare
