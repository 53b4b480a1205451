"""Copies of the user's rows in the user's own container, made by the container itself and never converted.

`training.py` gives these to the model, so that golden answers are the user's own model's answers to the user's own rows.
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from roadworthy.schema.batch import Array
from roadworthy.schema.forms import library_of, mark_value
from roadworthy.schema.signature import Field, Form, Missing


def own_rows(inputs: Any, rows: Array | None = None) -> Any:
    """Copy the given rows (all when None), in order, in the container of `inputs`."""
    library = library_of(inputs)
    if library == "pandas":
        return inputs.copy() if rows is None else inputs.iloc[rows].copy()
    if library == "polars":
        return inputs.clone() if rows is None else inputs[rows.tolist()]
    if isinstance(inputs, np.ndarray):
        return inputs.copy(order="K") if rows is None else _in_order(inputs, inputs[rows])
    chosen = list(inputs) if rows is None else [inputs[row] for row in rows.tolist()]
    return copy.deepcopy(chosen)


def _in_order(inputs: Any, some: Any) -> Any:
    """`some` in the memory order of `inputs`: column by column if `inputs` is."""
    flags = inputs.flags
    return np.asfortranarray(some) if flags.f_contiguous and not flags.c_contiguous else some


def with_column(own: Any, restored: Any, name: str) -> Any:
    """Rows of a frame or records with one column replaced by the same column of the restored rows."""
    mixed = own_rows(own)
    if library_of(own) == "polars":
        return mixed.with_columns(restored[name])
    if library_of(own) == "pandas":
        mixed[name] = restored[name].set_axis(mixed.index)
        return mixed
    for row, new in zip(mixed, restored, strict=True):
        row.pop(name, None)
        if name in new:
            row[name] = new[name]
    return mixed


def with_index(own: Any) -> Any:
    """The pandas frame with the index that a request has; None if it already has that index or is not a pandas frame."""
    if library_of(own) != "pandas" or own.index.equals(own.reset_index(drop=True).index):
        return None
    return own.reset_index(drop=True)


def with_missing(inputs: Any, row: int, elements: Array, field: Field, form: Form) -> Any:
    """One row of an array or of a list of lists, with the given elements missing in the container's own form."""
    one = own_rows(inputs, np.array([row]))
    nan = field.missing is not Missing.NULL
    if isinstance(one, np.ndarray):
        mark = "NaT" if one.dtype.kind == "M" else mark_value(field.missing)
        np.atleast_1d(one[0]).flat[elements] = mark  # a view if the row has several values
        return one
    cells = list(one[0])
    for element in elements.tolist():
        cells[element] = np.nan if nan else None
    return [tuple(cells) if form.rows == "tuple" else cells]
