"""A signature from a sample: the columns that were there, their types, whether anything was missing, what was seen.

`package/pack.py` calls this with the training rows and with the model's own answers. Nothing is guessed: a column that has no
one type is refused with its name.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from roadworthy.foundation.errors import PackError
from roadworthy.schema.batch import Array
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Container, Field, Privacy, Scalar
from roadworthy.schema.tables import ORDERED, library_of, loses_time, numpy_name, pandas_name

MAX_CATEGORIES = 256
ARRAY_FIELD = "x"


def infer_inputs(sample: Any, *, privacy: Mapping[str, Privacy] | None = None) -> tuple[tuple[Field, ...], Container]:
    """The input fields that `sample` shows, and the container that it came in.

    A pandas or polars DataFrame gives a field a column; a numpy array one tensor field "x" (a plain one for a 1-D array); a list
    of dicts a field a key; a list of rows of numbers the same as the array.

    Raises:
        PackError: "empty-sample", "unsupported-column", "duplicate-column", "unknown-private-column".
    """
    fields, container = _fields_of(sample)
    chosen = dict(privacy or {})
    unknown = sorted(set(chosen) - {field.name for field in fields})
    if unknown:
        raise PackError(
            f"privacy names columns that are not there: {', '.join(unknown)}",
            code="unknown-private-column",
            hint=f"the columns are: {', '.join(field.name for field in fields)}",
        )
    return tuple(_with_privacy(field, chosen.get(field.name, Privacy.KEEP)) for field in fields), container


def _with_privacy(field: Field, privacy: Privacy) -> Field:
    """A private field tells nothing of its values either, unless the model's container needs its categories."""
    if privacy is Privacy.KEEP:
        return field
    categories = field.categories if field.categorical else None
    return dataclasses.replace(field, privacy=privacy, minimum=None, maximum=None, categories=categories)


def _fields_of(sample: Any) -> tuple[list[Field], Container]:
    library = library_of(sample)
    if library in ("pandas", "polars") and not hasattr(sample, "columns"):
        raise PackError("the sample is one column", code="unsupported-sample", hint="give a DataFrame, with to_frame()")
    if library in ("pandas", "polars"):
        _check_names(list(sample.columns))
        _check_rows(len(sample))
        if library == "polars":
            return [_polars_field(name, sample[name]) for name in sample.columns], Container.POLARS
        fields = [_pandas_field(name, sample[name]) for name in sample.columns]
        return [_with_native(field, sample[field.name].dtype) for field in fields], Container.DATAFRAME
    if isinstance(sample, np.ndarray):
        _check_rows(sample.shape[0] if sample.ndim and sample.size else 0)
        return [_array_field(sample)], Container.ARRAY
    if isinstance(sample, Sequence) and not isinstance(sample, (str, bytes)):
        _check_rows(len(sample))
        if all(isinstance(row, dict) for row in sample):
            return _record_fields(sample), Container.RECORDS
        return [_array_field(_matrix(sample))], Container.ARRAY
    raise PackError(
        "the sample is of no known kind",
        code="unsupported-sample",
        hint="give a pandas or polars DataFrame, a numpy array, or a list of records",
    )


def _with_native(field: Field, dtype: Any) -> Field:
    """Keep pandas' own name of a column's type when the field's dtype alone would bring another one back."""
    name = ORDERED if getattr(dtype, "ordered", None) else str(dtype)
    return field if name == pandas_name(field) else dataclasses.replace(field, native=name)


def _check_rows(rows: int) -> None:
    if rows == 0:
        raise PackError(
            "the sample has no rows", code="empty-sample", hint="give the rows that the model was trained on"
        )


def _check_names(names: list[Any]) -> None:
    for name in names:
        if not isinstance(name, str):
            raise PackError(
                f"a column is named {name!r}, which is no text",
                code="unsupported-column",
                hint="name the columns: frame.columns = frame.columns.astype(str)",
            )
        if not name or any(ord(character) < 32 or ord(character) == 127 for character in name):
            raise PackError("a column has an empty name or one with control characters", code="unsupported-column")
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise PackError(f"columns appear twice: {', '.join(twice)}", code="duplicate-column", hint="rename one of them")


def _matrix(sample: Sequence[Any]) -> Array:
    try:
        matrix = np.array(sample)
    except ValueError:
        matrix = np.empty(0, dtype=object)
    if matrix.dtype.kind not in "iufb":
        raise PackError(
            "the sample's rows are not numbers of one shape",
            code="unsupported-sample",
            hint="give a DataFrame or a list of records when columns differ",
        )
    return matrix


def _pandas_field(name: str, series: Any) -> Field:
    import pandas as pd

    nulls = bool(series.isna().any())
    dtype = series.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return _category_field(name, dtype.categories.tolist(), nulls)
    if isinstance(dtype, pd.DatetimeTZDtype):
        return _times(name, series.dt.tz_convert("UTC").dt.tz_localize(None).to_numpy(), nulls)
    present = series.dropna()
    if isinstance(dtype, pd.StringDtype):
        return _strings(name, present.tolist(), nulls)
    if dtype.kind == "O" and not hasattr(dtype, "numpy_dtype"):
        return _object_field(name, present.tolist(), nulls)
    kind = np.dtype(getattr(dtype, "numpy_dtype", dtype) if pd.api.types.is_extension_array_dtype(dtype) else dtype)
    return _numbers(name, present.to_numpy(dtype=kind), nulls)


def _polars_field(name: str, series: Any) -> Field:
    import polars as pl

    nulls = series.null_count() > 0
    native: str | None = None
    if series.dtype == pl.Enum:
        return _category_field(name, series.dtype.categories.to_list(), nulls)
    if series.dtype == pl.Categorical:
        field = _category_field(name, sorted(series.cast(pl.String).drop_nulls().unique().to_list()), nulls)
        return dataclasses.replace(field, native="Categorical")
    if series.dtype == pl.String:
        return _strings(name, series.drop_nulls().to_list(), nulls)
    if series.dtype in (pl.List, pl.Array, pl.Struct, pl.Null):
        return _object_field(name, series.drop_nulls().to_list(), nulls)
    if isinstance(series.dtype, pl.Datetime) and series.dtype.time_zone is not None:
        native = series.dtype.time_zone
        series = series.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    elif series.dtype == pl.Date:
        native = "Date"
    values = series.drop_nulls().to_numpy()
    if values.dtype.kind == "f":
        nulls = nulls or bool(np.isnan(values).any())
        values = values[~np.isnan(values)]
    if values.dtype.kind == "O":
        return _object_field(name, series.drop_nulls().to_list(), nulls)
    return dataclasses.replace(_numbers(name, values, nulls), native=native)


def _array_field(array: Array) -> Field:
    if array.dtype.kind in "OSV":
        if array.dtype.kind == "O":
            flat = [value for value in array.reshape(-1).tolist() if value is not None]
            field = _object_field(ARRAY_FIELD, flat, len(flat) < array.size)
            return dataclasses.replace(field, shape=array.shape[1:], categories=None)
        raise PackError("an array of bytes cannot be served", code="unsupported-sample", hint="give text or numbers")
    nulls = array.dtype.kind == "f" and bool(np.isnan(array).any())
    present = array[~np.isnan(array)] if nulls else array.reshape(-1)
    field = _numbers(ARRAY_FIELD, present, nulls)
    native = array.dtype.name if array.dtype.kind in "fM" and array.dtype.name != numpy_name(field) else None
    categories = None if array.ndim > 1 else field.categories
    return dataclasses.replace(field, shape=array.shape[1:], categories=categories, native=native)


def _record_fields(sample: Sequence[Mapping[str, Any]]) -> list[Field]:
    names = list(dict.fromkeys(key for row in sample for key in row))
    _check_names(names)
    fields = []
    for name in names:
        values = [row.get(name) for row in sample]
        present = [value for value in values if value is not None]
        fields.append(_object_field(name, present, len(present) < len(values)))
    return fields


def _object_field(name: str, present: list[Any], nulls: bool) -> Field:
    """A field from Python values: all of one kind, or refused."""
    kinds = {_python_kind(value) for value in present}
    if kinds == {int, float}:
        kinds = {float}
    if len(kinds) != 1:
        found = ", ".join(sorted(kind.__name__ for kind in kinds)) or "only nulls"
        raise PackError(
            f"column {name!r} has no one type ({found})",
            code="unsupported-column",
            hint="convert the column to one type, or drop it",
            facts={"column": name},
        )
    kind = kinds.pop()
    if kind is str:
        return _strings(name, present, nulls)
    if kind is bool:
        return Field(name, DType.BOOL, nullable=nulls)
    if kind in (int, float):
        array = np.array(present, dtype=np.int64 if kind is int else np.float64)
        missing = kind is float and bool(np.isnan(array).any())
        return _numbers(name, array[~np.isnan(array)] if missing else array, nulls or missing)
    if kind in (dict, list):
        return Field(name, DType.JSON, nullable=nulls)
    raise PackError(
        f"column {name!r} holds values of a type that cannot be served ({kind.__name__})",
        code="unsupported-column",
        hint="convert the column to text, numbers, booleans or times",
        facts={"column": name},
    )


def _python_kind(value: Any) -> type:
    if isinstance(value, np.generic):
        value = value.item()
    for kind in (bool, int, float, str, dict):
        if isinstance(value, kind):
            return kind
    return list if isinstance(value, (list, tuple, np.ndarray)) else type(value)


def _category_field(name: str, categories: list[Any], nulls: bool) -> Field:
    field = _object_field(name, categories, nulls)
    if field.dtype not in (DType.STRING, DType.INT64, DType.BOOL):
        raise PackError(f"column {name!r} has categories that are not text or integers", code="unsupported-column")
    return Field(name, field.dtype, nullable=nulls, categories=tuple(categories), categorical=True)


def _strings(name: str, present: list[Any], nulls: bool) -> Field:
    if any(not isinstance(value, str) for value in present):
        return _object_field(name, present, nulls)
    distinct = sorted(set(present))
    categories = tuple(distinct) if 0 < len(distinct) <= MAX_CATEGORIES and len(distinct) * 2 <= len(present) else None
    return Field(name, DType.STRING, nullable=nulls, categories=categories)


def _times(name: str, values: Array, nulls: bool) -> Field:
    if loses_time(values):
        raise PackError(
            f"column {name!r} holds times finer than microseconds, or beyond the years 1 to 9999",
            code="unsupported-column",
            hint="round the column to microseconds before training: no request can carry more",
            facts={"column": name},
        )
    present = values[~np.isnat(values)].astype("datetime64[us]").astype(np.int64)
    low, high = (str(present.min()), str(present.max())) if len(present) else (None, None)
    return Field(name, DType.TIMESTAMP, nullable=nulls or len(present) < len(values), minimum=low, maximum=high)


def _numbers(name: str, present: Array, nulls: bool) -> Field:
    """A field from a numpy array without nulls, of any number of dimensions."""
    dtype = DType.from_numpy(present.dtype)
    if dtype is None:
        raise PackError(
            f"column {name!r} has a type that cannot be served ({present.dtype.name})",
            code="unsupported-column",
            hint="convert the column to text, numbers, booleans or times",
            facts={"column": name},
        )
    if dtype is DType.TIMESTAMP:
        return _times(name, present, nulls)
    if dtype is DType.STRING:
        return _strings(name, present.reshape(-1).tolist(), nulls)
    if dtype is DType.BOOL or not present.size:
        return Field(name, dtype, nullable=nulls)
    if dtype.is_float and not np.isfinite(present).all():
        raise PackError(
            f"column {name!r} holds infinities",
            code="unsupported-column",
            hint="replace them before training: no request may carry them",
            facts={"column": name},
        )
    low, high = present.min().item(), present.max().item()
    return Field(name, dtype, nullable=nulls, minimum=repr(low), maximum=repr(high))


def infer_outputs(
    answers: Mapping[str, Array], *, categories: Mapping[str, Sequence[Scalar]] | None = None
) -> tuple[Field, ...]:
    """The output fields that a model's named answers show; `categories` gives an output's labels in their own order.

    Raises:
        PackError: "unsupported-output" for an answer of a type that cannot be sent.
    """
    known = dict(categories or {})
    fields = []
    for name, answer in answers.items():
        array = np.asarray(answer)
        try:
            field = _array_field(array)
        except PackError as error:
            raise PackError(
                f"the model's answer {name!r} is of a type that cannot be sent",
                code="unsupported-output",
                hint="answer numbers, text, booleans, or a dict of such arrays, one row each",
            ) from error
        labels = tuple(known[name]) if name in known else None
        fields.append(Field(name, field.dtype, tuple(array.shape[1:]), field.nullable, categories=labels))
    if not fields:
        raise PackError("the model answered nothing", code="unsupported-output")
    return tuple(fields)
