"""Slicing and joining batches changes no value, null or type."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from roadworthy.schema.batch import Batch, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field


@settings(max_examples=60)
@given(st.data())
def test_cut_and_joined_again_is_the_same(batches: Any, same: Any, data: st.DataObject) -> None:
    """At any position."""
    batch: Batch = data.draw(batches)
    cut = data.draw(st.integers(0, batch.rows))
    parts = [part for part in (batch.slice(0, cut), batch.slice(cut, batch.rows)) if part.rows]
    assert same(Batch.concatenate(parts), batch)


@settings(max_examples=60)
@given(st.data())
def test_taken_backwards_twice_is_the_same(batches: Any, same: Any, data: st.DataObject) -> None:
    """`take` keeps each row intact."""
    batch: Batch = data.draw(batches)
    backwards = list(range(batch.rows))[::-1]
    assert same(batch.take(backwards).take(backwards), batch)


def test_joining_adds_a_mask_where_one_part_has_nulls() -> None:
    """Parts without nulls get none."""
    layout = Layout((Field("x", DType.FLOAT64, nullable=True),))
    whole = Batch.from_columns(layout, [(np.array([1.0]), None)], 1)
    gap = Batch.from_columns(layout, [(np.array([0.0]), np.array([True]))], 1)
    joined = Batch.concatenate([whole, gap, whole])
    assert joined.column("x")[1].tolist() == [False, True, False]  # type: ignore[union-attr]


def test_slices_are_views() -> None:
    """Slicing makes no copy."""
    layout = Layout((Field("x", DType.FLOAT64),))
    batch = Batch.from_columns(layout, [(np.arange(4.0), None)], 4)
    assert np.shares_memory(batch.slice(1, 3).blocks[0].values, batch.blocks[0].values)
