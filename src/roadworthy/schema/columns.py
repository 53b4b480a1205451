"""Tables by column name, as CSV and Arrow have them: which column is which field, and back to a Batch.

A tensor of one fixed dimension may stand in one column of lists, `x`, or in a column for each number: `x[0]`, `x[1]`, …
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
    """What to read of a table.

    Attributes:
        fields: one a column that is read, named and typed as that column has to be.
        ignored: columns that are not read.
    """

    layout: Layout
    fields: tuple[Field, ...]
    ignored: int

    def assemble(self, columns: Sequence[Column], rows: int) -> Batch:
        """The batch out of values and mask of each of `fields`, in order."""
        waiting = iter(columns)
        names = {field.name for field in self.fields}
        pairs = []
        for field in self.layout.fields:
            if field.name in names:
                pairs.append(next(waiting))
            else:
                pairs.append(_stacked([next(waiting) for _ in range(field.shape[0])]))
        return Batch.from_columns(self.layout, pairs, rows)


def plan_columns(layout: Layout, names: Sequence[str], extra: str) -> ColumnPlan:
    """What to read of a table with these columns; no name may occur twice.

    Raises:
        InvalidInput: "missing-columns", "unknown-columns".
    """
    sent = set(names)
    fields: list[Field] = []
    for field in layout.fields:
        flat = spread(field)
        fields += flat if field.name not in sent and flat and flat[0].name in sent else [field]
    return ColumnPlan(layout, tuple(fields), match_columns([field.name for field in fields], names, extra))


def spread(field: Field) -> list[Field]:
    """The columns of single values that a tensor of one fixed dimension can stand in; none for other fields."""
    if len(field.shape) != 1 or field.shape[0] < 1:
        return []
    return [replace(field, name=f"{field.name}[{place}]", shape=()) for place in range(field.shape[0])]


def _stacked(columns: Sequence[Column]) -> Column:
    values = np.stack([values for values, _ in columns], axis=1)
    if all(mask is None for _, mask in columns):
        return values, None
    masks = [np.zeros(len(part), dtype=bool) if mask is None else mask for part, mask in columns]
    return values, np.stack(masks, axis=1)
