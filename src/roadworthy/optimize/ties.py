"""Recognises ties of labels: rows so close to a decision boundary that rounding decides.

A linear model's score is a sum, and scikit-learn adds in a different order for one row than for many. A row whose score is 0 to
within that rounding has no single right label. It is recognised without knowledge of the model: moving one of its values by that
rounding makes the original give the other label. Called by `compile.py` for candidates whose scores round; trees compare exactly
and have no ties.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from roadworthy.optimize.exact.columns import RawColumn, with_values
from roadworthy.schema.batch import Array, Batch

_MOST_ROWS = 200_000
"""Total number of rows that are checked for a tie; further differing rows count as errors."""


def settle_ties(
    original: Callable[[Batch], Batch],
    raws: Sequence[RawColumn],
    rows: Batch,
    answers: tuple[Batch, Batch],
    rounding: float,
) -> Batch:
    """The found answers, with the expected labels in rows that differ only by a tie.

    Args:
        original: the original runtime. raws: the columns of numbers of `rows`.
        rows: the rows asked about. answers: the expected and the found answers.
        rounding: relative change by which a value is moved.
    """
    expected, found = answers
    labels = [n for n, field in enumerate(found.layout.fields) if not field.dtype.is_float]
    differing = np.zeros(rows.rows, dtype=bool)
    for position in labels:
        apart = np.asarray(expected.column_at(position)[0] != found.column_at(position)[0])
        differing |= apart.reshape(rows.rows, -1).any(axis=1)
    tied = []
    floats = [raw for raw in raws if raw.dtype.is_float]
    for row in np.flatnonzero(differing).tolist()[: _MOST_ROWS // max(1, 2 * len(floats))]:
        one = rows.slice(row, row + 1)
        moved = [_moved(one, raw, sign * rounding) for raw in floats for sign in (-1.0, 1.0)]
        if moved and _gives(original(Batch.concatenate(moved)), found.slice(row, row + 1), labels):
            tied.append(row)
    if not tied:
        return found
    columns = []
    for position in range(len(found.layout.fields)):
        values, mask = found.column_at(position)
        if position in labels:
            values = values.copy()
            values[tied] = expected.column_at(position)[0][tied]
        columns.append((values, mask))
    return Batch.from_columns(found.layout, columns, rows.rows)


def _gives(answers: Batch, found: Batch, labels: list[int]) -> bool:
    """Whether, for each of the `labels`, some row of `answers` has the value of the single row `found`."""
    for position in labels:
        same = np.asarray(answers.column_at(position)[0] == found.column_at(position)[0])
        if not same.reshape(answers.rows, -1).all(axis=1).any():
            return False
    return True


def _moved(one: Batch, raw: RawColumn, share: float) -> Batch:
    value: Array = one.blocks[raw.block].values[:, raw.column]
    return with_values(one, {raw: (value * (1.0 + share)).astype(raw.dtype.numpy)})
