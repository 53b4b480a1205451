"""Infers a signature from a sample: its columns, their types, whether values are missing, and the values' range.

`pack.py` calls this with the training rows and with the model's answers. Nothing is guessed: a column without a single type is
refused by name.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from roadworthy.foundation.errors import PackError
from roadworthy.schema.batch import Array
from roadworthy.schema.dtypes import DType
from roadworthy.schema.forms import (
    element_of,
    implied_name,
    library_of,
    marks_of,
    most_frequent,
    numpy_name,
    pandas_name,
    pandas_type,
    polars_name,
    polars_type,
)
from roadworthy.schema.signature import Container, Field, Missing, Privacy, Scalar
from roadworthy.schema.tables import loses_time
from roadworthy.schema.time_units import series_times

MAX_CATEGORIES = 256
ARRAY_FIELD = "x"
_EXACT_JSON = 2**53
_CONVERT = "convert the column to text, numbers, booleans or times"


def infer_inputs(sample: Any, *, privacy: Mapping[str, Privacy] | None = None) -> tuple[tuple[Field, ...], Container]:
    """Infer the input fields of `sample`, and its container.

    A pandas or polars DataFrame gives one field per column; a numpy array one tensor field "x" (a plain field for a 1-D array); a
    list of dicts one field per key; a list of rows of numbers the same as an array. Besides its dtype, each field records the
    exact type of its column and the mark of a missing value.

    Raises:
        PackError: "empty-sample", "unsupported-column", "duplicate-column", "unknown-private-column".
    """
    fields, container = _fields_of(sample)
    chosen = dict(privacy or {})
    unknown = sorted(set(chosen) - {field.name for field in fields})
    if unknown:
        raise PackError(
            f"privacy= names columns that inputs= does not have: {', '.join(unknown)}",
            code="unknown-private-column",
            hint=f"the columns are: {', '.join(field.name for field in fields)}",
        )
    return tuple(_with_privacy(field, chosen.get(field.name, Privacy.KEEP)) for field in fields), container


def _with_privacy(field: Field, privacy: Privacy) -> Field:
    """The field with its privacy. A private field reveals no values, except categories that the model's container needs."""
    if privacy is Privacy.KEEP:
        return field
    categories = field.categories if field.categorical else None
    return dataclasses.replace(field, privacy=privacy, minimum=None, maximum=None, categories=categories)


def _fields_of(sample: Any) -> tuple[list[Field], Container]:
    library = library_of(sample)
    if library in ("pandas", "polars") and not hasattr(sample, "columns"):
        raise _unsupported(sample, "convert it to what the model takes: a list with to_list(), or a DataFrame with to_frame()")
    if library in ("pandas", "polars"):
        _check_names(list(sample.columns))
        _check_rows(len(sample))
        if library == "polars":
            return [_polars_field(name, sample[name]) for name in sample.columns], Container.POLARS
        return [_pandas_field(name, sample[name]) for name in sample.columns], Container.DATAFRAME
    if isinstance(sample, np.ndarray):
        _check_plain(sample)
        _check_rows(sample.shape[0] if sample.ndim and sample.size else 0)
        return [_array_field(sample)], Container.ARRAY
    if isinstance(sample, Sequence) and not isinstance(sample, (str, bytes)):
        _check_rows(len(sample))
        if all(isinstance(row, dict) for row in sample):
            return _record_fields(sample), Container.RECORDS
        return [_list_field(sample)], Container.LISTS
    raise _unsupported(sample, "pass a pandas or polars DataFrame, a numpy array, or a list of records")


def _unsupported(sample: object, hint: str) -> PackError:
    return PackError(
        f"inputs=: expected a DataFrame, a plain array or a list of rows, got {type(sample).__name__}",
        code="unsupported-sample",
        hint=hint,
    )


def _refused(name: str, problem: str, hint: str = _CONVERT) -> PackError:
    return PackError(f"column {name!r}: {problem}", code="unsupported-column", hint=hint, facts={"column": name})


def _check_plain(array: Array) -> None:
    """Refuse kinds of arrays that cannot be restored from a request: masked arrays and matrices."""
    if isinstance(array, (np.ma.MaskedArray, np.matrix)):
        raise _unsupported(array, "train on a plain array with NaN for missing values: array.filled(np.nan), np.asarray(matrix)")


def _untyped(name: str) -> PackError:
    return _refused(
        name,
        "all values are missing, and its type does not define what a value would be",
        "drop the column, or give it the type of its values, such as frame[name].astype('float64')",
    )


def _not_restorable(name: str, kind: object) -> PackError:
    return _refused(
        name, f"expected a type that can be restored exactly from a request, got {kind}", f"{_CONVERT} before training"
    )


def _check_rows(rows: int) -> None:
    if rows == 0:
        raise PackError("inputs= has no rows", code="empty-sample", hint="pass the rows that the model was trained on")


def _check_names(names: list[Any]) -> None:
    for name in names:
        if not isinstance(name, str):
            raise PackError(
                f"column {name!r}: expected a text name, got {type(name).__name__}",
                code="unsupported-column",
                hint="name the columns: frame.columns = frame.columns.astype(str)",
            )
        if not name or any(ord(character) < 32 or ord(character) == 127 for character in name):
            raise _refused(name, "the name is empty or has control characters", "rename the column")
    twice = sorted({name for name in names if names.count(name) > 1}) if len(set(names)) < len(names) else []
    if twice:
        raise PackError(f"duplicate columns: {', '.join(twice)}", code="duplicate-column", hint="rename or drop one of each")


def _list_field(sample: Sequence[Any]) -> Field:
    """A list of numbers or of text, or of equally shaped lists of them; None or NaN marks a missing value."""
    try:
        array = np.array(sample)
        shape = array.shape[1:]
        values = (
            np.array(sample, dtype=object) if array.dtype.kind == "U" else array
        )  # otherwise NaN among text would become text
        present, mark = marks_of(values.reshape(-1).tolist() if values.dtype.kind in "fO" else ())
        if values.dtype.kind == "O":
            if not present:
                raise _untyped(ARRAY_FIELD)
            array = np.array(present) if mark is not None else array
    except ValueError:  # rows of different lengths
        array, present, mark, shape = np.empty(0, dtype=object), [], None, ()
    text = array.dtype.kind == "U" and all(isinstance(value, str) for value in present)
    if array.dtype.kind not in "iufb" and not text:
        raise PackError(
            "inputs=: expected rows of one shape that hold only numbers or only text",
            code="unsupported-sample",
            hint="pass a DataFrame or a list of records if the columns have different types",
        )
    field = _array_field(array)
    return dataclasses.replace(field, shape=shape, nullable=mark is not None, missing=mark, native=None)


def _pandas_field(name: str, series: Any) -> Field:
    """The column's field, with its exact type and the mark of a missing value."""
    field = _pandas_values_field(name, series)
    exact = pandas_name(series.dtype)
    if exact != implied_name(field):
        field = dataclasses.replace(field, native=exact)
    if series.dtype == object:
        present, mark = marks_of(series.tolist())
        field = dataclasses.replace(field, element=element_of(present))
    else:
        mark = _pandas_mark(series.dtype)
    try:
        same = pandas_type(field) == series.dtype
    except (TypeError, ValueError):
        same = False
    if not same:
        raise _not_restorable(name, series.dtype)
    return dataclasses.replace(field, missing=mark if field.nullable else None)


def _pandas_mark(dtype: Any) -> Missing:
    """The mark of a missing value in a column of any type except object."""
    if dtype.kind in "mM":
        return Missing.NAT
    value = getattr(dtype, "na_value", None)
    return Missing.NA if type(value).__name__ == "NAType" else Missing.NAN


def _pandas_values_field(name: str, series: Any) -> Field:
    import pandas as pd

    nulls = bool(series.isna().any())
    dtype = series.dtype
    dates = str(getattr(dtype, "pyarrow_dtype", "")).startswith("date32[")
    times = series_times(series.astype("datetime64[s]") if dates else series)
    if times is not None:
        return _times(name, times, nulls)
    if isinstance(dtype, pd.CategoricalDtype):
        return _category_field(name, dtype.categories.tolist(), nulls)
    present = series.dropna()
    if isinstance(dtype, pd.StringDtype) or str(dtype) in ("string[pyarrow]", "large_string[pyarrow]"):
        return _strings(name, present.tolist(), nulls)
    if dtype.kind == "O" and not hasattr(dtype, "numpy_dtype"):
        return _object_field(name, present.tolist(), nulls)
    kind = getattr(dtype, "numpy_dtype", dtype)
    if str(dtype) == "null[pyarrow]":
        raise _untyped(name)
    if not isinstance(kind, np.dtype):
        raise _not_restorable(name, dtype)
    return _numbers(name, present.to_numpy(dtype=kind), nulls)


def _polars_field(name: str, series: Any) -> Field:
    """The column's field, with its exact type and the mark of a missing value."""
    field = dataclasses.replace(_polars_values_field(name, series), native=polars_name(series.dtype))
    try:
        same = polars_type(field) == series.dtype
    except (AttributeError, TypeError, ValueError):
        same = False
    if not same:
        raise _not_restorable(name, series.dtype)
    if not field.nullable:
        return field
    nan = int(series.is_nan().sum()) if series.dtype.is_float() else 0
    mark = most_frequent(Counter({Missing.NULL: series.null_count(), Missing.NAN: nan}))
    return dataclasses.replace(field, missing=mark)


def _polars_values_field(name: str, series: Any) -> Field:
    import polars as pl

    nulls = series.null_count() > 0
    if series.dtype == pl.Enum:
        return _category_field(name, series.dtype.categories.to_list(), nulls)
    if series.dtype == pl.Categorical:
        return _category_field(name, sorted(series.cast(pl.String).drop_nulls().unique().to_list()), nulls)
    if series.dtype == pl.String:
        return _strings(name, series.drop_nulls().to_list(), nulls)
    if series.dtype in (pl.List, pl.Array, pl.Struct):
        return Field(name, DType.JSON, nullable=nulls)
    if series.dtype == pl.Null:
        raise _untyped(name)
    if isinstance(series.dtype, pl.Datetime) and series.dtype.time_zone is not None:
        series = series.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    values = series.drop_nulls().to_numpy()
    if values.dtype.kind == "f":
        nulls = nulls or bool(np.isnan(values).any())
        values = values[~np.isnan(values)]
    if values.dtype.kind == "O":
        return _object_field(name, series.drop_nulls().to_list(), nulls)
    return _numbers(name, values, nulls)


def _array_field(array: Array) -> Field:
    if array.dtype.kind == "O":
        present, mark = marks_of(array.reshape(-1).tolist())
        field = _object_field(ARRAY_FIELD, present, mark is not None)
        exact = dataclasses.replace(field, native="object", missing=mark, element=element_of(present))
        return dataclasses.replace(exact, shape=array.shape[1:], categories=None)
    if array.dtype.kind in "SV":
        raise PackError("expected text or numbers, got an array of bytes", code="unsupported-sample", hint="decode it to text")
    nulls = array.dtype.kind == "f" and bool(np.isnan(array).any())
    field = _numbers(ARRAY_FIELD, array[~np.isnan(array)] if nulls else array.reshape(-1), nulls)
    exact_name = array.dtype.str.lstrip("<>=|") if array.dtype.kind == "U" else array.dtype.name
    native = None if exact_name == numpy_name(field) else exact_name
    mark = (Missing.NAT if array.dtype.kind == "M" else Missing.NAN) if field.nullable else None
    categories = None if array.ndim > 1 else field.categories
    return dataclasses.replace(field, shape=array.shape[1:], categories=categories, native=native, missing=mark)


def _record_fields(sample: Sequence[Mapping[str, Any]]) -> list[Field]:
    names = list(dict.fromkeys(key for row in sample for key in row))
    _check_names(names)
    fields = []
    for name in names:
        present, mark = marks_of(row[name] for row in sample if name in row)
        absent = sum(name not in row for row in sample)
        if absent > len(sample) - absent - len(present):
            mark = Missing.ABSENT
        field = _object_field(name, present, mark is not None)
        fields.append(dataclasses.replace(field, missing=mark, element=element_of(present)))
    return fields


def _object_field(name: str, present: list[Any], nulls: bool) -> Field:
    """A field from Python values, which must all be of one kind."""
    kinds = {_python_kind(value) for value in present}
    if kinds == {int, float}:
        kinds = {float}
    if not kinds:
        raise _untyped(name)
    if len(kinds) != 1:
        found = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise _refused(name, f"expected values of one type, got {found}", "convert the column to one type, or drop it")
    kind = kinds.pop()
    if kind is str:
        return _strings(name, present, nulls)
    if kind is bool:
        return Field(name, DType.BOOL, nullable=nulls)
    if kind in (int, float):
        array = _number_array(name, present, np.int64 if kind is int else np.float64)
        missing = kind is float and bool(np.isnan(array).any())
        return _numbers(name, array[~np.isnan(array)] if missing else array, nulls or missing)
    if kind in (dict, list):
        return Field(name, DType.JSON, nullable=nulls)
    raise _refused(name, f"expected text, numbers, booleans or times, got {kind.__name__}")


def _number_array(name: str, present: list[Any], dtype: type) -> Array:
    try:
        return np.array(present, dtype=dtype)
    except OverflowError as error:
        raise _refused(name, "expected numbers of 64 bits, got a larger one", "convert the column to text, or drop it") from error


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
        raise _refused(
            name,
            f"expected categories of text or integers, got {field.dtype.value}",
            "before training, give the column its plain type, such as frame[name].astype('float64'), or text categories",
        )
    return Field(name, field.dtype, nullable=nulls, categories=tuple(categories), categorical=True)


def _strings(name: str, present: list[Any], nulls: bool) -> Field:
    if any(not isinstance(value, str) for value in present):
        return _object_field(name, present, nulls)
    distinct = sorted(set(present))
    categories = tuple(distinct) if 0 < len(distinct) <= MAX_CATEGORIES and len(distinct) * 2 <= len(present) else None
    return Field(name, DType.STRING, nullable=nulls, categories=categories)


def _times(name: str, values: Array, nulls: bool) -> Field:
    if loses_time(values):
        raise _refused(
            name,
            "holds times finer than microseconds, or outside the years 1 to 9999",
            "round the column to microseconds before training: requests cannot carry more",
        )
    present = values[~np.isnat(values)].astype("datetime64[us]").astype(np.int64)
    low, high = (str(present.min()), str(present.max())) if len(present) else (None, None)
    return Field(name, DType.TIMESTAMP, nullable=nulls or len(present) < len(values), minimum=low, maximum=high)


def _numbers(name: str, present: Array, nulls: bool) -> Field:
    """A field from a numpy array of any number of dimensions, without nulls."""
    dtype = DType.from_numpy(present.dtype)
    if dtype is None:
        raise _refused(name, f"expected text, numbers, booleans or times, got {present.dtype.name}")
    if dtype is DType.TIMESTAMP:
        return _times(name, present, nulls)
    if dtype is DType.STRING:
        return _strings(name, present.reshape(-1).tolist(), nulls)
    if dtype is DType.BOOL or not present.size:
        return Field(name, dtype, nullable=nulls)
    if dtype.is_float and not np.isfinite(present).all():
        raise _refused(
            name,
            "expected finite numbers, got infinity",
            "replace infinities before training: requests cannot carry them",
        )
    low, high = present.min().item(), present.max().item()
    return Field(name, dtype, nullable=nulls, minimum=repr(low), maximum=repr(high))


def infer_outputs(answers: Mapping[str, Array], *, categories: Mapping[str, Sequence[Scalar]] | None = None) -> tuple[Field, ...]:
    """Infer the output fields from a model's named answers; `categories` gives an output's labels in their own order.

    Raises:
        PackError: "unsupported-output" for an answer that cannot be sent.
    """
    known = dict(categories or {})
    fields = []
    for name, answer in answers.items():
        array = np.asarray(answer)
        try:
            field = _array_field(array)
        except PackError as error:
            raise PackError(
                f"output {name!r}: expected numbers, text or booleans, got {array.dtype}",
                code="unsupported-output",
                hint="return an array of numbers, text or booleans, or a dict of such arrays, with one value per row",
            ) from error
        labels = tuple(known[name]) if name in known else None
        if labels is not None and any(isinstance(label, int) and abs(label) >= _EXACT_JSON for label in labels):
            labels = None  # JSON cannot carry such integers exactly; the answers themselves are integers of their dtype
        fields.append(Field(name, field.dtype, tuple(array.shape[1:]), field.nullable, categories=labels))
    if not fields:
        raise PackError("the model returned no output", code="unsupported-output", hint="return at least one output")
    return tuple(fields)
