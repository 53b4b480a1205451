"""Builds pandas and polars DataFrames from a batch, every column in its training type. Called by `restore.py`.

A frame whose columns are all numbers of one type is made from one matrix; other frames column by column.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from roadworthy.schema.batch import Array, Batch
from roadworthy.schema.cells import object_maker, times, unit_of
from roadworthy.schema.dtypes import DType
from roadworthy.schema.forms import pandas_type, plain_type, polars_type
from roadworthy.schema.signature import Field, Form, Missing
from roadworthy.schema.tables import column_of

Maker = Callable[[Array, Array | None], Any]


class DataFrames:
    """pandas DataFrames of one signature."""

    def __init__(self, fields: tuple[Field, ...], form: Form) -> None:
        """Determine types and labels; imports pandas."""
        import pandas as pd

        names = [field.name for field in fields]
        self._pandas = pd
        self._labels = pd.Index(names, dtype=form.labels and plain_type(form.labels), name=form.labels_name)
        self._by_row = form.order == "C"
        types = [pandas_type(field) for field in fields]
        if all(_is_numbers(field, kind, fields[0].dtype) for field, kind in zip(fields, types, strict=True)):
            self.restore = self._one_type
            return
        self._columns = [
            (number, position, _pandas_maker(pd, field, types[position]))
            for number, position, field in ((str(position), position, field) for position, field in enumerate(fields))
        ]
        self.restore = self._many_types

    def _one_type(self, batch: Batch) -> Any:
        """A frame from the batch's one block, copied."""
        block = batch.blocks[0]
        matrix = np.array(block.values, order="C" if self._by_row else "F")
        if block.mask is not None and block.mask.any():
            matrix[block.mask] = np.nan
        return self._pandas.DataFrame(matrix, columns=self._labels.view(), copy=False)

    def _many_types(self, batch: Batch) -> Any:
        frame = self._pandas.DataFrame(
            {number: make(*column_of(batch, position)) for number, position, make in self._columns}, copy=False
        )
        frame.columns = self._labels.view()  # the frame's own, which a model may rename
        return frame


def _is_numbers(field: Field, kind: Any, dtype: DType) -> bool:
    """Whether a column holds plain numbers of `dtype`, which are stored alike in a batch and in pandas."""
    return field.dtype is dtype and not field.shape and isinstance(kind, np.dtype) and kind == dtype.numpy and kind.kind in "iufb"


def _pandas_maker(pd: Any, field: Field, kind: Any) -> Maker:
    """A function from values and mask to a new array that pandas takes as a column of that type without inspecting values."""
    if field.shape:
        return lambda values, _mask: list(values)
    if isinstance(kind, np.dtype):
        return _numpy_maker(pd, field, kind)
    if isinstance(kind, pd.CategoricalDtype):
        return _category_maker(pd, kind)
    if isinstance(kind, pd.ArrowDtype):
        return _arrow_maker(pd, field, kind)
    return _extension_maker(pd, kind)


def _extension_maker(pd: Any, kind: Any) -> Maker:
    """For text, times with a zone, nullable numbers, and other types that pandas makes from numbers with NaN."""
    array = kind.construct_array_type()
    if isinstance(kind, pd.StringDtype):
        # pandas documents _from_sequence as the constructor of extension arrays
        return lambda values, mask: array._from_sequence(_with_none(values, mask), dtype=kind)  # noqa: SLF001
    if isinstance(kind, pd.DatetimeTZDtype):
        return lambda values, mask: pd.DatetimeIndex(times(values, mask, kind.unit)).tz_localize("UTC").tz_convert(kind.tz).array
    if array in (pd.arrays.IntegerArray, pd.arrays.FloatingArray, pd.arrays.BooleanArray):
        return lambda values, mask: array(values.copy(), np.zeros(len(values), bool) if mask is None else mask.copy())
    return lambda values, mask: pd.array(_with_nan(values, mask), dtype=kind)


def _numpy_maker(pd: Any, field: Field, kind: np.dtype[Any]) -> Maker:
    if kind.kind == "O":
        make = object_maker(field)
        return lambda values, mask: pd.Series(make(values, mask), dtype=object, copy=False)
    if kind.kind == "M":
        unit = unit_of(kind)
        return lambda values, mask: times(values, mask, unit)
    return lambda values, mask: _with_nan(values, mask).astype(kind, copy=False)


def _category_maker(pd: Any, kind: Any) -> Maker:
    codes = {label: code for code, label in enumerate(kind.categories.tolist())}

    def make(values: Array, mask: Array | None) -> Any:
        plain = values.tolist()
        if mask is None:
            found = [codes[value] for value in plain]
        else:
            found = [-1 if null else codes[value] for value, null in zip(plain, mask.tolist(), strict=True)]
        return pd.Categorical.from_codes(np.array(found, dtype=np.intp), dtype=kind)

    return make


def _arrow_maker(pd: Any, field: Field, kind: Any) -> Maker:
    import pyarrow as pa

    exact = kind.pyarrow_dtype

    def make(values: Array, mask: Array | None) -> Any:
        plain: Any = values.tolist() if field.dtype is DType.STRING else np.ascontiguousarray(values)
        if field.dtype is DType.TIMESTAMP:
            plain = times(plain, None, getattr(exact, "unit", "D"))  # a date has no unit
        return pd.arrays.ArrowExtensionArray(pa.array(plain, mask=mask, from_pandas=False).cast(exact))

    return make


def _with_none(values: Array, mask: Array | None) -> Array:
    plain = values.copy()
    if mask is not None:
        plain[mask] = None
    return plain


def _with_nan(values: Array, mask: Array | None) -> Array:
    """The column with NaN for missing values; it has a float type, the only numpy type of numbers that can hold NaN."""
    filled = values.copy()
    if mask is not None:
        filled[mask] = np.nan
    return filled


class PolarsFrames:
    """polars DataFrames of one signature."""

    def __init__(self, fields: tuple[Field, ...]) -> None:
        """Determine the types; imports polars."""
        import polars as pl

        self._frame = pl.DataFrame
        self._makers = [_polars_maker(pl, field, polars_type(field)) for field in fields]

    def restore(self, batch: Batch) -> Any:
        """Build a frame of new columns."""
        return self._frame([make(*column_of(batch, position)) for position, make in enumerate(self._makers)])


def _polars_maker(pl: Any, field: Field, kind: Any) -> Maker:
    name = field.name
    if field.dtype is DType.TIMESTAMP:
        return lambda values, mask: _polars_times(pl, name, kind, times(values, mask, "us"))
    if field.dtype.is_float and field.missing is Missing.NAN:
        return lambda values, mask: pl.Series(name, _with_nan(values, mask), dtype=kind)

    def make(values: Array, mask: Array | None) -> Any:
        if mask is None and field.dtype.numpy.kind != "O":
            return pl.Series(name, values)
        plain = values.tolist()
        if mask is not None:
            plain = [None if null else value for value, null in zip(plain, mask.tolist(), strict=True)]
        return pl.Series(name, plain, dtype=kind)

    return make


def _polars_times(pl: Any, name: str, kind: Any, moments: Array) -> Any:
    unit = getattr(kind, "time_unit", None)
    if unit == "ns":
        moments = times(moments.astype(np.int64), np.isnat(moments), "ns")
    series = pl.Series(name, moments)
    if unit is None:
        return series.cast(kind)
    series = series.cast(pl.Datetime(unit))
    return series if kind.time_zone is None else series.dt.replace_time_zone("UTC").dt.convert_time_zone(kind.time_zone)
