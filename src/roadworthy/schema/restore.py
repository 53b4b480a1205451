"""Restores a Batch to exactly the container that a model was trained on. Each native runtime has one Restorer.

The form of every column is determined once, from the names in `forms.py`. Nothing is inferred from a request's values, so one
row, a single missing value and a million rows have the same form.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from roadworthy.schema.batch import Array, Batch
from roadworthy.schema.cells import list_maker, object_maker, times, unit_of
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import USUAL, Container, Field, Form, Missing, Signature
from roadworthy.schema.tables import column_of

Restore = Callable[[Batch], Any]


class Restorer:
    """Restores the training container.

    Attributes:
        restore: converts a batch of the given fields to a new container, which the model may modify.
    """

    def __init__(self, fields: Sequence[Field], container: Container, form: Form = USUAL) -> None:
        """Determine the form of every column.

        Raises:
            ImportError: the container's library is not installed.
            TypeError, ValueError, AttributeError: the library does not know a type of the training container.
        """
        self.restore: Restore = _MAKERS[container](tuple(fields), form)

    @classmethod
    def of(cls, signature: Signature) -> Restorer:
        """The Restorer for a signature's inputs."""
        return cls(signature.inputs, signature.container, signature.form)


def _data_frames(fields: tuple[Field, ...], form: Form) -> Restore:
    from roadworthy.schema.restore_frames import DataFrames

    return DataFrames(fields, form).restore


def _polars_frames(fields: tuple[Field, ...], _form: Form) -> Restore:
    from roadworthy.schema.restore_frames import PolarsFrames

    return PolarsFrames(fields).restore


def _arrays(fields: tuple[Field, ...], form: Form) -> Restore:
    make = _array_maker(fields[0])

    def restore(batch: Batch) -> Array:
        array = make(*column_of(batch, 0))
        return np.asfortranarray(array) if form.order == "F" else array

    return restore


def _array_maker(field: Field) -> Callable[[Array, Array | None], Array]:
    native = field.native or ""
    if native == "object":
        return object_maker(field)
    if native.startswith("U"):
        return lambda values, _mask: _fixed_text(values, int(native[1:]))
    if field.dtype is DType.TIMESTAMP:
        unit = unit_of(np.dtype(native or "datetime64[us]"))
        return lambda values, mask: times(values, mask, unit)

    def make(values: Array, mask: Array | None) -> Array:
        whole = values.copy() if mask is None or values.dtype.kind == "f" else values.astype(object)
        if mask is not None:
            whole[mask] = np.nan if values.dtype.kind == "f" else None
        return whole.astype(native) if native else whole

    return make


def _fixed_text(values: Array, width: int) -> Array:
    """numpy text of fixed width: at least the width in training, and wide enough for every value."""
    text = values.astype(str)
    return text if text.dtype.itemsize >= 4 * width else text.astype(f"U{width}")


def _lists(fields: tuple[Field, ...], form: Form) -> Restore:
    null = None if fields[0].missing is Missing.NULL else np.nan

    def restore(batch: Batch) -> list[Any]:
        values, mask = column_of(batch, 0)
        if mask is not None:
            values = values.astype(object)
            values[mask] = null
        if form.rows == "array" and fields[0].shape:
            return list(values.copy() if mask is None else values.astype(fields[0].dtype.numpy))
        rows: list[Any] = values.tolist()
        return [tuple(row) for row in rows] if form.rows == "tuple" and fields[0].shape else rows

    return restore


def _records(fields: tuple[Field, ...], _form: Form) -> Restore:
    names = [field.name for field in fields]
    makers = [list_maker(field) for field in fields]
    absent = [position for position, field in enumerate(fields) if field.missing is Missing.ABSENT]

    def restore(batch: Batch) -> list[dict[str, Any]]:
        columns = [make(*column_of(batch, position)) for position, make in enumerate(makers)]
        rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
        for position in absent:
            _, mask = column_of(batch, position)
            for row in () if mask is None else np.flatnonzero(mask).tolist():
                del rows[row][names[position]]
        return rows

    return restore


_MAKERS: dict[Container, Callable[[tuple[Field, ...], Form], Restore]] = {
    Container.DATAFRAME: _data_frames,
    Container.POLARS: _polars_frames,
    Container.ARRAY: _arrays,
    Container.LISTS: _lists,
    Container.RECORDS: _records,
}
