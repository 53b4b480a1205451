"""Encodes a caller's table as the rows of a request: pandas, polars, numpy, records or rows become JSON values.

Values are neither checked nor rounded. Numbers keep all their digits (Python writes the shortest text that reads back as the same
float); times are ISO 8601 text in UTC with all their digits. The gateway checks the rows against the signature.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Iterable
from typing import Any

from roadworthy.foundation.errors import InvalidInput


def encode_body(data: Any) -> bytes:
    """The body of a `:predict` request.

    Args:
        data: a pandas or polars DataFrame or Series, a numpy array (rows first), a list of dicts, of lists or of bare values,
            or one dict, which is one row. None, NaN, NaT and pandas' NA mean missing. Times without an offset are UTC.

    Raises:
        InvalidInput: code "not-finite" for an infinite number, "not-json" for a value that JSON cannot hold.
    """
    try:
        return json.dumps({"instances": _rows(data)}, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidInput("a text contains half of a surrogate pair", code="not-json", hint="send valid Unicode") from error
    except ValueError as error:
        raise InvalidInput(
            "a value is infinite", code="not-finite", hint="send finite numbers, or None for a missing value"
        ) from error


def _rows(data: Any) -> list[Any]:
    kind = type(data).__module__.partition(".")[0]
    if kind == "pandas":
        return _pandas_rows(data)
    if kind == "numpy":
        return list(_array(data)) if data.ndim else [_value(data[()])]
    if kind == "polars":
        return _polars_rows(data)
    if isinstance(data, dict):
        return [_value(data)]
    if isinstance(data, (str, bytes)) or not isinstance(data, Iterable):
        raise InvalidInput(
            f"expected a table, got {type(data).__name__}",
            code="not-json",
            hint="give a DataFrame, an array, a list of dicts or of rows, or one dict",
        )
    return _values(data)


def _pandas_rows(data: Any) -> list[Any]:
    if not hasattr(data, "columns"):
        return _column(data)
    names = [str(name) for name in data.columns]
    columns = [_column(data.iloc[:, position]) for position in range(len(names))]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def _polars_rows(data: Any) -> list[Any]:
    if not hasattr(data, "columns"):
        return _polars_column(data)
    columns = [_polars_column(data[name]) for name in data.columns]
    return [dict(zip(data.columns, row, strict=True)) for row in zip(*columns, strict=True)]


def _polars_column(series: Any) -> list[Any]:
    """A column's values. Times go through numpy, because polars' Python values lose nanoseconds."""
    if str(series.dtype).startswith("Datetime"):
        if series.dtype.time_zone is not None:
            series = series.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
        return list(_array(series.to_numpy()))
    return _values(series.to_list())


def _array(array: Any) -> Any:
    """A numpy array's values as nested lists of JSON values."""
    if array.dtype.kind == "M":
        return _time_texts(array)
    if array.dtype.names and array.ndim == 1:
        return [list(row) for row in zip(*(_array(array[name]) for name in array.dtype.names), strict=True)]
    if array.dtype.kind in "mV":  # durations would become integers without a unit
        raise _not_json(str(array.dtype))
    return _values(array.tolist())


def _time_texts(times: Any) -> list[Any]:
    """datetime64 of any unit as text, NaT as None. Units of a day or more become midnights; seconds are always written."""
    import numpy as np

    times = times.astype(times.dtype.newbyteorder("="))  # numpy ignores another byte order when it writes text
    unit = np.datetime_data(times.dtype)[0]
    if unit in ("Y", "M", "W", "D", "h", "m", "generic"):
        seconds = times.astype("datetime64[s]")
        if (seconds.astype(times.dtype) != times)[~np.isnat(times)].any():
            raise InvalidInput("a time is outside the calendar", code="out-of-range", hint="send years from 1 to 9999")
        times = seconds
    texts = np.char.add(np.datetime_as_string(times), "Z").astype(object)
    texts[np.isnat(times)] = None
    return list(texts.tolist())


def _column(series: Any) -> list[Any]:
    from roadworthy.schema.time_units import series_times

    times = series_times(series)
    if times is not None:
        return _time_texts(times)
    if series.dtype.kind in "iub" and not series.hasnans:
        return list(series.tolist())
    return _values(series.tolist())


def _values(values: Iterable[Any]) -> list[Any]:
    return [_value(value) for value in values]


def _value(value: Any) -> Any:
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else float(value)
    if isinstance(value, dict):
        return {str(name): _value(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return _values(value)
    return _other(value)


def _other(value: Any) -> Any:
    kind = type(value).__name__
    if kind in ("NaTType", "NAType"):
        return None
    if isinstance(value, dt.datetime):
        return _time_text(value)
    if isinstance(value, dt.date):
        return value.isoformat()
    if hasattr(value, "tolist"):  # numpy's scalars and arrays
        return _array(value) if value.ndim else _scalar(value)
    raise _not_json(kind)


def _scalar(value: Any) -> Any:
    return _array(value.reshape(1))[0]


def _time_text(moment: dt.datetime) -> str:
    """A time in UTC, because historical offsets with seconds have no form in ISO 8601."""
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.UTC)
    try:
        return aware.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")
    except (OverflowError, ValueError):  # outside the calendar: the gateway reports it
        return aware.isoformat()


def _not_json(kind: str) -> InvalidInput:
    return InvalidInput(
        f"a value of type {kind} cannot be sent",
        code="not-json",
        hint="send numbers, texts, booleans, times, lists, dicts or None",
    )
