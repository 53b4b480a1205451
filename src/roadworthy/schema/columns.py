"""Assigns the named columns of a CSV or Arrow table to fields, and assembles the Batch.

A tensor of one fixed dimension is either one column of lists, `x`, or one column per number: `x[0]`, `x[1]`, …
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from roadworthy.schema.batch import Array, Batch, Layout
from roadworthy.schema.rows import match_columns
from roadworthy.schema.signature import Field

Column = tuple[Array, Array | None]


@dataclass(frozen=True, slots=True)
class ColumnPlan:
    """The columns to read from a table.

    Attributes:
        fields: one for each column to read, with the name and type that the column must have.
        ignored: number of columns that are not read.
    """

    layout: Layout
    fields: tuple[Field, ...]
    ignored: int

    def assemble(self, columns: Sequence[Column], rows: int) -> Batch:
        """Assemble the batch from the values and mask of each of `fields`, in order."""
        waiting = iter(columns)
        names = {field.name for field in self.fields}
        pairs = []
        for field in self.layout.fields:
            if field.name in names:
                pairs.append(next(waiting))
            else:
                pairs.append(_stacked([next(waiting) for _ in range(field.shape[0])]))
        return Batch.from_columns(self.layout, pairs, rows)


class Plans:
    """Plans for tables of one layout; `extra` as in `decode_rows`. The latest plan is cached, since columns rarely change."""

    def __init__(self, layout: Layout, extra: str) -> None:
        self._layout = layout
        self._extra = extra
        self._newest: tuple[list[str], ColumnPlan] | None = None

    def plan(self, names: Sequence[str]) -> ColumnPlan:
        """Plan the reading of a table with these columns; names must be unique.

        Raises:
            InvalidInput: "missing-columns", "unknown-columns".
        """
        newest = self._newest
        if newest is None or newest[0] != names:
            newest = self._newest = (list(names), self._make(names))
        return newest[1]

    def _make(self, names: Sequence[str]) -> ColumnPlan:
        sent = set(names)
        fields: list[Field] = []
        for field in self._layout.fields:
            flat = [] if field.name in sent else spread(field)
            fields += flat if flat and flat[0].name in sent else [field]
        ignored = match_columns([field.name for field in fields], names, self._extra)
        return ColumnPlan(self._layout, tuple(fields), ignored)


def spread(field: Field) -> list[Field]:
    """The single-value columns that can carry a tensor of one fixed dimension; empty for other fields."""
    if len(field.shape) != 1 or field.shape[0] < 1:
        return []
    return [replace(field, name=f"{field.name}[{place}]", shape=()) for place in range(field.shape[0])]


def _stacked(columns: Sequence[Column]) -> Column:
    values = np.stack([values for values, _ in columns], axis=1)
    if all(mask is None for _, mask in columns):
        return values, None
    masks = [np.zeros(len(part), dtype=bool) if mask is None else mask for part, mask in columns]
    return values, np.stack(masks, axis=1)
