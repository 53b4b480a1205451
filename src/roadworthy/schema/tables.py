"""Between a Batch and what people hold: pandas and polars frames, numpy arrays, lists of records, and a model's named answers.

`package` and `Client` bring data in through `to_batch`; native runtimes give a model exactly the container that it was trained
on through `from_batch`. pandas and polars are imported only when a caller holds one of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from roadworthy.foundation.errors import InvalidInput, ModelFault
from roadworthy.schema.batch import Array, Batch, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.rows import decode_rows
from roadworthy.schema.signature import Container, Field
from roadworthy.schema.time_arrays import from_integers, from_times, refused
from roadworthy.schema.time_units import counts_of, series_times, to_micros

ORDERED = "category, ordered"
"""Field.native of a pandas category whose order counts."""


def library_of(data: object) -> str:
    """The top package that made `data`: "pandas", "polars", "numpy", "builtins" …; told without importing anything."""
    return type(data).__module__.partition(".")[0]


def to_batch(layout: Layout, data: Any) -> Batch:
    """A pandas or polars DataFrame, a numpy array, or a list of dicts or rows, in the form of `layout`; strict, as for requests.

    Columns are found by name, in any order. An array stands for the one tensor field, or for plain columns in order.

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
        return decode_rows(layout, [_plain(row) for row in data])[0]
    raise InvalidInput(
        "the rows are of no known kind",
        code="wrong-type",
        hint="give a pandas or polars DataFrame, a numpy array, or a list of records",
    )


def _plain(row: Any) -> Any:
    """numpy scalars and arrays inside records become Python's own, so that one decoder judges them all; NaT becomes None."""
    if isinstance(row, dict):
        return {key: _plain(value) for key, value in row.items()}
    if isinstance(row, (list, tuple)):
        return [_plain(value) for value in row]
    if isinstance(row, (np.generic, np.ndarray)):
        return _plain_array(row)
    return None if type(row).__name__ == "NaTType" else row


def _plain_array(values: Any) -> Any:
    if values.dtype.kind == "O":
        return _plain(values.tolist())
    if values.dtype.kind not in "mM":
        return values.tolist()
    if values.ndim:  # `tolist` would give nanoseconds as bare integers
        return [_plain_array(value) for value in values]
    return None if np.isnat(values) else values[()]


def _from_frame(layout: Layout, names: list[Any], rows: int, values_of: Callable[[str], tuple[Any, Any]]) -> Batch:
    wanted = [field.name for field in layout.fields]
    missing = [name for name in wanted if name not in names]
    unknown = [str(name) for name in names if name not in layout.positions]
    for code, faults, words in (("missing-columns", missing, "missing"), ("unknown-columns", unknown, "not known")):
        if faults:
            fields = [{"name": name, "code": code, "problem": f"is {words}"} for name in faults]
            raise InvalidInput(f"columns {words}: {', '.join(faults[:20])}", code=code, facts={"fields": fields})
    if rows == 0:
        raise InvalidInput("there are no rows", code="empty-batch", hint="send at least one row")
    pairs = [_fit(field, *values_of(field.name), integers=layout.integers) for field in layout.fields]
    return Batch.from_columns(layout, pairs, rows)


def _pandas_values(series: Any) -> tuple[Any, Any]:
    """Values as a numpy array and the mask of nulls, whatever extension type the series has."""
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
    """One column as the field's own dtype, exactly, with its mask; or InvalidInput."""
    found = DType.from_numpy(values.dtype)
    mask = nulls if nulls is not None and nulls.any() else None
    if field.dtype is DType.TIMESTAMP and values.dtype.kind in "Miufb":
        return _fit_times(field, values, mask, integers)
    if values.dtype.kind == "m":  # numpy would give its nanoseconds as bare integers
        raise _fault(field, "wrong-type", "holds durations")
    if (
        found is None
        or values.dtype.kind == "U"
        or field.dtype.numpy == np.dtype(object)
        or field.shape
        or field.categorical
    ):
        plain = [None if mask is not None and mask[i] else _plain(v) for i, v in enumerate(values.tolist())]
        batch, _ = decode_rows(Layout((field,), integers), [{field.name: value} for value in plain])
        return batch.column_at(0)
    if mask is not None:
        mask_for(field, mask)
        values = np.where(mask, np.zeros(1, dtype=values.dtype), values)
    if values.dtype != field.dtype.numpy:
        values = _cast(field, values)
    if field.dtype.is_float and not np.isfinite(values).all():
        raise _fault(field, "not-finite", "holds numbers that are not finite")
    return values, mask


def _fit_times(field: Field, values: Array, mask: Array | None, integers: str | None) -> tuple[Array, Array | None]:
    """A column of times from datetime64 or integers; of floats and booleans nothing but nulls."""
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
    """`mask`, when the field may be null.

    Raises:
        InvalidInput: "null-not-allowed".
    """
    if mask is not None and not field.nullable:
        raise _fault(field, "null-not-allowed", "holds nulls")
    return mask


def _cast(field: Field, values: Array) -> Array:
    """To the field's dtype where no value changes: wider integers, integers to floats that hold them, floats to float32."""
    kind = values.dtype.kind
    if field.dtype.is_float and kind in "iuf":
        with np.errstate(over="ignore"):
            cast = values.astype(field.dtype.numpy)
        if kind in "iu" and (np.abs(values.astype(object)) > 2**53).any():
            raise _fault(field, "out-of-range", "holds integers that a float cannot hold exactly")
        return cast
    if field.dtype.is_integer and kind in "iu":
        bounds = np.iinfo(field.dtype.value)
        if len(values) and (int(values.min()) < bounds.min or int(values.max()) > bounds.max):
            raise _fault(field, "out-of-range", f"holds numbers beyond {field.dtype.value}")
        return values.astype(field.dtype.numpy)
    raise _fault(field, "wrong-type", f"is not {field.dtype.value}")


def _fault(field: Field, code: str, problem: str) -> InvalidInput:
    entry = {"name": field.name, "code": code, "problem": problem, "expected": field.dtype.value}
    return InvalidInput(f"column {field.name!r} {problem}", code=code, facts={"fields": [entry]})


def _from_array(layout: Layout, data: Array) -> Batch:
    rows = data.shape[0] if data.ndim else 0
    if rows == 0:
        raise InvalidInput("there are no rows", code="empty-batch", hint="send at least one row")
    if len(layout.fields) == 1 and layout.fields[0].shape:
        field = layout.fields[0]
        fits = len(field.shape) == data.ndim - 1 and all(
            want in (-1, got) for want, got in zip(field.shape, data.shape[1:], strict=True)
        )
        if not fits:
            raise _fault(field, "wrong-shape", f"has shape {list(data.shape[1:])}, expected {list(field.shape)}")
        if data.dtype.kind == "O" or field.dtype.numpy == np.dtype(object):
            return decode_rows(layout, _plain(list(data)))[0]
        if field.dtype is DType.TIMESTAMP:
            values, mask = _fit(replace(field, shape=()), data, _gaps(data), layout.integers)
        else:
            values, mask = _fit_tensor(field, data, _gaps(data))
        return Batch.from_columns(layout, [(values, mask)], rows)
    matrix = data.reshape(rows, 1) if data.ndim == 1 else data
    if matrix.ndim != 2 or matrix.shape[1] != len(layout.fields):
        raise InvalidInput(
            f"the array has shape {list(data.shape)}, expected {len(layout.fields)} columns", code="wrong-shape"
        )
    nulls = _gaps(matrix)
    pairs = [
        _fit(field, matrix[:, i], None if nulls is None else nulls[:, i], layout.integers)
        for i, field in enumerate(layout.fields)
    ]
    return Batch.from_columns(layout, pairs, rows)


def _gaps(data: Array) -> Array | None:
    """Where an array says that a value is missing: NaN or NaT."""
    if data.dtype.kind not in "fM":
        return None
    return np.isnan(data) if data.dtype.kind == "f" else np.isnat(data)


def _fit_tensor(field: Field, data: Array, nulls: Array | None) -> tuple[Array, Array | None]:
    flat = Field(field.name, field.dtype, nullable=field.nullable)
    values, mask = _fit(flat, data.reshape(-1), None if nulls is None else nulls.reshape(-1))
    return values.reshape(data.shape), None if mask is None else mask.reshape(data.shape)


def from_batch(batch: Batch, container: Container) -> Any:
    """The rows in exactly the container and dtypes that the model's code was given in training.

    Nulls: NaN in float columns, pandas.NA in integer ("Int64") and bool ("boolean") columns, NaT in times, None elsewhere.
    """
    if container is Container.ARRAY:
        return _array(batch)
    if container is Container.RECORDS:
        columns = [_python_values(batch, position) for position in range(len(batch.layout.fields))]
        names = [field.name for field in batch.layout.fields]
        return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    if container is Container.POLARS:
        import polars as pl

        return pl.DataFrame([_polars_column(pl, batch, i) for i in range(len(batch.layout.fields))])
    import pandas as pd

    data = {field.name: _pandas_native(pd, batch, i) for i, field in enumerate(batch.layout.fields)}
    return pd.DataFrame(data)


def _array(batch: Batch) -> Array:
    """The one field as an array of its own, which the model may write into."""
    values, mask = _column(batch, 0)
    field = batch.layout.fields[0]
    if field.dtype is DType.TIMESTAMP:
        whole = _times(values, mask)
    else:
        whole = values.copy() if mask is None else _with_nan(values, mask)
    return whole if field.native is None else whole.astype(field.native)


def numpy_name(field: Field) -> str:
    """numpy's name of the type in which `from_batch` gives a field without `native`."""
    return "datetime64[us]" if field.dtype is DType.TIMESTAMP else field.dtype.numpy.name


def pandas_name(field: Field) -> str:
    """pandas' name of the type in which `from_batch` gives a field without `native`."""
    if field.categorical:
        return "category"
    if field.nullable and (field.dtype.is_integer or field.dtype is DType.BOOL):
        return _nullable_name(field.dtype)
    return "str" if field.dtype is DType.STRING else numpy_name(field)


def loses_time(times: Array) -> bool:
    """Whether any of these datetime64 values is finer than a microsecond, or beyond the years 1 to 9999."""
    _, finer, beyond = to_micros(*counts_of(times))
    return bool((finer | beyond).any())


def _pandas_native(pd: Any, batch: Batch, position: int) -> Any:
    """A column in the type that it had in training."""
    native = batch.layout.fields[position].native
    plain = _pandas_column(pd, batch, position)
    if native is None or native == ORDERED:
        return plain
    if native == "object":
        return pd.Series(_python_values(batch, position), dtype=object)
    dtype = pd.api.types.pandas_dtype(native)
    if isinstance(dtype, pd.DatetimeTZDtype):
        return pd.Series(plain).dt.tz_localize("UTC").astype(dtype)
    return pd.Series(plain).astype(dtype)


def _times(values: Array, mask: Array | None) -> Array:
    """Microseconds as datetime64, nulls as NaT."""
    times = values.astype("datetime64[us]")
    return times if mask is None else np.where(mask, np.datetime64("NaT"), times)


def _with_nan(values: Array, mask: Array) -> Array:
    if values.dtype.kind == "f":
        filled = values.copy()
        filled[mask] = np.nan
        return filled
    return _with_none(values, mask)


def _with_none(values: Array, mask: Array) -> Array:
    plain = values.astype(object)
    plain[mask] = None
    return plain


def _column(batch: Batch, position: int) -> tuple[Array, Array | None]:
    """As Batch.column_at, without a mask that masks nothing: its block may hold nulls of other columns."""
    values, mask = batch.column_at(position)
    return values, (mask if mask is not None and mask.any() else None)


def _python_values(batch: Batch, position: int) -> list[Any]:
    values, mask = _column(batch, position)
    if batch.layout.fields[position].dtype is DType.TIMESTAMP:
        values = values.astype("datetime64[us]")
    plain: list[Any] = values.tolist()
    return plain if mask is None else [None if null else v for v, null in zip(plain, mask.tolist(), strict=True)]


def _pandas_column(pd: Any, batch: Batch, position: int) -> Any:
    field = batch.layout.fields[position]
    values, mask = _column(batch, position)
    if field.shape:
        return list(values)
    if field.categorical:
        plain = values if mask is None else _with_none(values, mask)
        return pd.Categorical(plain, categories=list(field.categories or ()), ordered=field.native == ORDERED)
    if field.dtype is DType.TIMESTAMP:
        return _times(values, mask)
    if field.nullable and (field.dtype.is_integer or field.dtype is DType.BOOL):
        array = pd.array(values, dtype=_nullable_name(field.dtype))
        if mask is not None:
            array[mask] = pd.NA
        return array
    return values if mask is None else _with_nan(values, mask)


def _nullable_name(dtype: DType) -> str:
    """pandas' name of its nullable array for a dtype: int64 → Int64, uint8 → UInt8, bool → boolean."""
    if dtype is DType.BOOL:
        return "boolean"
    return (
        dtype.value.replace("uint", "UInt").replace("int", "Int") if dtype.value[0] == "i" else f"UI{dtype.value[2:]}"
    )


def _polars_column(pl: Any, batch: Batch, position: int) -> Any:
    field = batch.layout.fields[position]
    values, mask = _column(batch, position)
    if field.dtype is DType.TIMESTAMP:
        values = values.astype("datetime64[us]")
    if field.dtype.numpy == np.dtype(object) or mask is not None:
        plain = values.tolist()
        if mask is not None:
            plain = [None if null else v for v, null in zip(plain, mask.tolist(), strict=True)]
        kind = pl.String if field.dtype is DType.STRING else None
        if kind is None and field.dtype not in (DType.JSON, DType.TIMESTAMP):
            kind = pl.Series(values[:0]).dtype
        series = pl.Series(field.name, plain, dtype=kind)
        if field.categorical:
            kind = (
                pl.Categorical if field.native == "Categorical" else pl.Enum([str(c) for c in field.categories or ()])
            )
            return series.cast(kind)
    else:
        series = pl.Series(field.name, values)
    if field.dtype is not DType.TIMESTAMP or field.native is None:
        return series
    if field.native == "Date":
        return series.cast(pl.Date)
    return series.dt.replace_time_zone("UTC").dt.convert_time_zone(field.native)


def answers_to_batch(layout: Layout, answers: Mapping[str, Array], rows: int) -> Batch:
    """What a model answered, by output name, in the form of the signature's outputs.

    Raises:
        ModelFault: "wrong-output-count" when an answer has another number of rows, "wrong-output-type" when a name is missing or
            values or shapes are not the signature's.
    """
    pairs: list[tuple[Array, Array | None]] = []
    for field in layout.fields:
        if field.name not in answers:
            raise ModelFault(f"the model did not answer {field.name!r}", code="wrong-output-type")
        values = np.asarray(answers[field.name])
        if values.ndim == 0 or values.shape[0] != rows:
            raise ModelFault(
                f"the model gave {values.shape[0] if values.ndim else 'no'} rows of {field.name!r} for {rows}",
                code="wrong-output-count",
                facts={"rows": rows},
            )
        pairs.append(_fit_answer(field, values))
    return Batch.from_columns(layout, pairs, rows)


def _fit_answer(field: Field, values: Array) -> tuple[Array, Array | None]:
    if len(values.shape) - 1 != len(field.shape) or any(
        want not in (-1, got) for want, got in zip(field.shape, values.shape[1:], strict=True)
    ):
        raise ModelFault(f"output {field.name!r} has shape {list(values.shape[1:])}", code="wrong-output-type")
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
    return np.array([value is None for value in flat.tolist()], dtype=bool)


def batch_to_answers(batch: Batch) -> dict[str, Array]:
    """One array a field, times as datetime64[us], nulls as NaN, NaT or None."""
    answers: dict[str, Array] = {}
    for position, field in enumerate(batch.layout.fields):
        values, mask = _column(batch, position)
        if field.dtype is DType.TIMESTAMP:
            answers[field.name] = _times(values, mask)
        else:
            answers[field.name] = values if mask is None else _with_nan(values, mask)
    return answers
