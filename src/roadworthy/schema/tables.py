"""Converts pandas and polars frames, numpy arrays, lists of records, and a model's named answers to a Batch.

`package` reads data through `to_batch`. `restore.py` converts back to the container that a model was trained on. pandas and
polars are imported only when a caller passes one of their objects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from roadworthy.foundation.errors import InvalidInput, ModelFault
from roadworthy.schema.batch import Array, Batch, Layout
from roadworthy.schema.cells import times
from roadworthy.schema.dtypes import DType
from roadworthy.schema.forms import library_of, mark_of
from roadworthy.schema.rows import decode_rows, match_columns, misfit, no_rows
from roadworthy.schema.signature import Field
from roadworthy.schema.time_arrays import from_integers, from_times, refused
from roadworthy.schema.time_units import counts_of, series_times, to_micros


def to_batch(layout: Layout, data: Any) -> Batch:
    """Convert a pandas or polars DataFrame, a numpy array, or a list of dicts or rows to a Batch of `layout`.

    It is as strict as for requests. Columns are matched by name, in any order. An array is the one tensor field, or the plain
    columns in order.

    Raises:
        InvalidInput: codes of `rows.py`.
    """
    library = library_of(data)
    if library == "pandas":
        return _from_frame(layout, list(data.columns), len(data), lambda name: _pandas_values(data[name]))
    if library == "polars":
        return _from_frame(layout, list(data.columns), data.height, lambda name: _polars_values(data[name]))
    if isinstance(data, np.ndarray):
        return _from_array(layout, data)
    if isinstance(data, Sequence) and not isinstance(data, (str, bytes)):
        return decode_rows(layout, _plain_rows(layout, data))[0]
    raise InvalidInput(
        f"expected a DataFrame, an array or a list of records, got {type(data).__name__}",
        code="wrong-type",
        hint="pass a pandas or polars DataFrame, a numpy array, or a list of records",
    )


def _plain_rows(layout: Layout, rows: Sequence[Any]) -> list[Any]:
    """Records or lists in Python's own types, with None for missing values, so that one decoder checks them all."""
    nested = {field.name for field in layout.fields if field.dtype is DType.JSON}
    tensor = len(layout.fields) == 1 and bool(layout.fields[0].shape)
    return [
        {key: _cell(value) if key in nested else _plain(value) for key, value in row.items()}
        if isinstance(row, dict)
        else (_plain(row) if tensor or not nested else _positions(layout, row))
        for row in rows
    ]


def _positions(layout: Layout, row: Any) -> Any:
    """A row of values in the layout's order; some may be nested."""
    if not isinstance(row, (list, tuple)) or len(row) != len(layout.fields):
        return _plain(row)
    return [_cell(value) if field.dtype is DType.JSON else _plain(value) for field, value in zip(layout.fields, row, strict=True)]


def _cell(value: Any) -> Any:
    """A nested value; None if all of it is missing."""
    return None if mark_of(value) is not None else _inside(value)


def _inside(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _inside(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_inside(item) for item in value]
    return value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value


def _plain(value: Any) -> Any:
    """A value, or lists of values, in Python's own types, with None for missing ones; numpy times are not converted."""
    if isinstance(value, np.ndarray):
        # `tolist` would convert times to nanoseconds, as bare integers.
        value = list(value) if value.dtype.kind in "mM" and value.ndim else value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return _inside(value)
    if mark_of(value) is not None:
        return None
    return value.item() if isinstance(value, np.generic) and value.dtype.kind not in "mM" else value


def _from_frame(layout: Layout, names: list[Any], rows: int, values_of: Callable[[str], tuple[Any, Any]]) -> Batch:
    wanted = [field.name for field in layout.fields]
    match_columns(wanted, [name for name in names if isinstance(name, str)], "ignore")  # missing columns, before unknown ones
    match_columns(wanted, [str(name) for name in names], "refuse")
    if rows == 0:
        raise no_rows()
    pairs = [_fit(field, *values_of(field.name), integers=layout.integers) for field in layout.fields]
    return Batch.from_columns(layout, pairs, rows)


def _pandas_values(series: Any) -> tuple[Any, Any]:
    """Values as a numpy array and the mask of nulls, for a series of any extension type."""
    import pandas as pd

    nulls = series.isna().to_numpy()
    times = series_times(series)
    if times is not None:
        return times, nulls
    if isinstance(series.dtype, (pd.CategoricalDtype, pd.StringDtype)):
        series = series.astype(object)
    elif pd.api.types.is_extension_array_dtype(series.dtype):
        kind = np.dtype(getattr(series.dtype, "numpy_dtype", object))
        if kind.kind in "mMO":
            return series.to_numpy(dtype=object, na_value=None), nulls
        return series.to_numpy(dtype=kind, na_value=np.zeros(1, dtype=kind)[0]), nulls
    return series.to_numpy(), nulls


def _polars_values(series: Any) -> tuple[Any, Any]:
    import polars as pl

    nulls = series.is_null().to_numpy()
    if series.dtype in (pl.Categorical, pl.Enum, pl.String):
        return np.array(series.cast(pl.String).to_list(), dtype=object), nulls
    if series.dtype in (pl.List, pl.Array, pl.Struct):
        values = np.empty(len(series), dtype=object)
        values[:] = series.to_list()
        return values, nulls
    if isinstance(series.dtype, pl.Datetime) and series.dtype.time_zone is not None:
        series = series.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    if nulls.any() and (series.dtype.is_integer() or series.dtype == pl.Boolean):
        series = series.fill_null(value=series.dtype == pl.Boolean and False)
    values = series.to_numpy()
    if series.dtype.is_float():
        nulls = nulls | np.isnan(values)
    return values, nulls


def _fit(field: Field, values: Any, nulls: Any, integers: str | None = None) -> tuple[Array, Array | None]:
    """Convert one column to the field's own dtype, exactly, with its mask; raises InvalidInput if that is impossible."""
    found = DType.from_numpy(values.dtype)
    mask = nulls if nulls is not None and nulls.any() else None
    if field.dtype is DType.TIMESTAMP and values.dtype.kind in "Miufb":
        return _fit_times(field, values, mask, integers)
    if values.dtype.kind == "m":  # numpy would convert durations to nanoseconds
        raise misfit(field, "wrong-type", f"expected {field.dtype.value}, got durations")
    if found is None or values.dtype.kind == "U" or field.dtype.numpy == np.dtype(object) or field.shape or field.categorical:
        clean = _inside if field.dtype is DType.JSON else _plain
        plain = [None if mask is not None and mask[i] else clean(v) for i, v in enumerate(values.tolist())]
        batch, _ = decode_rows(Layout((field,), integers), [{field.name: value} for value in plain])
        return batch.column_at(0)
    if mask is not None:
        mask_for(field, mask)
        values = np.where(mask, np.zeros(1, dtype=values.dtype), values)
    if values.dtype != field.dtype.numpy:
        values = _cast(field, values)
    if field.dtype.is_float and not np.isfinite(values).all():
        raise misfit(field, "not-finite", "expected finite numbers, got NaN or infinity")
    return values, mask


def _fit_times(field: Field, values: Array, mask: Array | None, integers: str | None) -> tuple[Array, Array | None]:
    """Convert a column of datetime64 or integers to times; columns of floats and booleans may only hold nulls."""
    if values.dtype.kind == "M":
        micros, mask = from_times(field, values, mask)
    elif values.dtype.kind in "iu":
        micros = from_integers(field, values, mask, integers)
    elif mask is not None and mask.all():
        micros = np.zeros(values.shape, dtype=np.int64)
    else:
        raise refused(field, values, mask)
    return micros, mask_for(field, mask)


def mask_for(field: Field, mask: Array | None) -> Array | None:
    """Return `mask` if the field may be null.

    Raises:
        InvalidInput: "null-not-allowed".
    """
    if mask is not None and not field.nullable:
        raise misfit(field, "null-not-allowed", f"expected {field.dtype.value} in every row, got nulls")
    return mask


def _cast(field: Field, values: Array) -> Array:
    """Convert to the field's dtype: integers of another width, integers to floats that represent them exactly, floats."""
    kind = values.dtype.kind
    if field.dtype.is_float and kind in "iuf":
        with np.errstate(over="ignore"):
            cast = values.astype(field.dtype.numpy)
        if kind in "iu" and (np.abs(values.astype(object)) > 2**53).any():
            raise misfit(field, "out-of-range", f"expected {field.dtype.value}, got integers that it cannot represent exactly")
        return cast
    if field.dtype.is_integer and kind in "iu":
        bounds = np.iinfo(field.dtype.value)
        if len(values) and (int(values.min()) < bounds.min or int(values.max()) > bounds.max):
            raise misfit(field, "out-of-range", f"expected {field.dtype.value}, got numbers outside its range")
        return values.astype(field.dtype.numpy)
    raise misfit(field, "wrong-type", f"expected {field.dtype.value}, got {values.dtype}")


def _from_array(layout: Layout, data: Array) -> Batch:
    rows = data.shape[0] if data.ndim else 0
    if rows == 0:
        raise no_rows()
    if len(layout.fields) == 1 and layout.fields[0].shape:
        field = layout.fields[0]
        fits = len(field.shape) == data.ndim - 1 and all(
            want in (-1, got) for want, got in zip(field.shape, data.shape[1:], strict=True)
        )
        if not fits:
            raise misfit(field, "wrong-shape", f"expected shape {list(field.shape)}, got {list(data.shape[1:])}")
        if data.dtype.kind == "O" or field.dtype.numpy == np.dtype(object):
            return decode_rows(layout, _plain_rows(layout, list(data)))[0]
        if field.dtype is DType.TIMESTAMP:
            values, mask = _fit(replace(field, shape=()), data, _gaps(data), layout.integers)
        else:
            values, mask = _fit_tensor(field, data, _gaps(data))
        return Batch.from_columns(layout, [(values, mask)], rows)
    matrix = data.reshape(rows, 1) if data.ndim == 1 else data
    if matrix.ndim != 2 or matrix.shape[1] != len(layout.fields):
        raise InvalidInput(
            f"expected an array with {len(layout.fields)} columns, got shape {list(data.shape)}", code="wrong-shape"
        )
    nulls = _gaps(matrix)
    pairs = [
        _fit(field, matrix[:, i], None if nulls is None else nulls[:, i], layout.integers)
        for i, field in enumerate(layout.fields)
    ]
    return Batch.from_columns(layout, pairs, rows)


def _gaps(data: Array) -> Array | None:
    """The mask of missing values in an array, or None if its type has none."""
    if data.dtype.kind == "O":
        return np.array([mark_of(value) is not None for value in data.reshape(-1).tolist()]).reshape(data.shape)
    if data.dtype.kind not in "fM":
        return None
    return np.isnan(data) if data.dtype.kind == "f" else np.isnat(data)


def _fit_tensor(field: Field, data: Array, nulls: Array | None) -> tuple[Array, Array | None]:
    flat = Field(field.name, field.dtype, nullable=field.nullable)
    values, mask = _fit(flat, data.reshape(-1), None if nulls is None else nulls.reshape(-1))
    return values.reshape(data.shape), None if mask is None else mask.reshape(data.shape)


def loses_time(times: Array) -> bool:
    """Whether any of these datetime64 values is finer than a microsecond, or outside the years 1 to 9999."""
    _, finer, beyond = to_micros(*counts_of(times))
    return bool((finer | beyond).any())


def _with_nan(values: Array, mask: Array) -> Array:
    if values.dtype.kind == "f":
        filled = values.copy()
        filled[mask] = np.nan
        return filled
    plain = values.astype(object)
    plain[mask] = None
    return plain


def answers_to_batch(layout: Layout, answers: Mapping[str, Array], rows: int) -> Batch:
    """Convert a model's answers, by output name, to the form of the signature's outputs.

    Raises:
        ModelFault: "wrong-output-count" when an answer has the wrong number of rows, "wrong-output-type" when an output is
            missing, or its values or shape do not fit the signature.
    """
    pairs: list[tuple[Array, Array | None]] = []
    for field in layout.fields:
        if field.name not in answers:
            raise ModelFault(f"the model did not return output {field.name!r}", code="wrong-output-type")
        values = np.asarray(answers[field.name])
        if values.ndim == 0 or values.shape[0] != rows:
            raise ModelFault(
                f"output {field.name!r}: expected {rows} rows, got {values.shape[0] if values.ndim else 'a single value'}",
                code="wrong-output-count",
                facts={"rows": rows},
            )
        pairs.append(_fit_answer(field, values))
    return Batch.from_columns(layout, pairs, rows)


def _fit_answer(field: Field, values: Array) -> tuple[Array, Array | None]:
    if len(values.shape) - 1 != len(field.shape) or any(
        want not in (-1, got) for want, got in zip(field.shape, values.shape[1:], strict=True)
    ):
        raise ModelFault(
            f"output {field.name!r}: expected shape {list(field.shape)}, got {list(values.shape[1:])}",
            code="wrong-output-type",
        )
    nulls = _null_answers(values) if field.nullable else None
    own = values.dtype == field.dtype.numpy and field.dtype is not DType.TIMESTAMP
    if own and values.dtype.kind != "O" and (nulls is None or not nulls.any()):
        return values, None
    plain = Field(field.name, field.dtype, nullable=field.nullable)
    try:
        fitted, mask = _fit(plain, values.reshape(-1), nulls)
    except InvalidInput as error:
        raise ModelFault(f"output {field.name!r}: {error.message}", code="wrong-output-type") from error
    return fitted.reshape(values.shape), None if mask is None else mask.reshape(values.shape)


def _null_answers(values: Array) -> Array:
    flat = values.reshape(-1)
    if flat.dtype.kind == "f":
        return np.isnan(flat)
    if flat.dtype.kind == "M":
        return np.isnat(flat)
    return np.array([mark_of(value) is not None for value in flat.tolist()], dtype=bool)


def column_of(batch: Batch, position: int) -> tuple[Array, Array | None]:
    """As Batch.column_at, but without a mask if the column has no nulls: the block may hold nulls of other columns."""
    values, mask = batch.column_at(position)
    return values, (mask if mask is not None and mask.any() else None)


def batch_to_answers(batch: Batch) -> dict[str, Array]:
    """One array per field; times are datetime64[us], nulls are NaN, NaT or None."""
    answers: dict[str, Array] = {}
    for position, field in enumerate(batch.layout.fields):
        values, mask = column_of(batch, position)
        if field.dtype is DType.TIMESTAMP:
            answers[field.name] = times(values, mask, "us")
        else:
            answers[field.name] = values if mask is None else _with_nan(values, mask)
    return answers
