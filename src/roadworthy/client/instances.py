"""A caller's table as the rows of a request: pandas, polars, numpy, records or rows become JSON values. Called by `client.py`.

Nothing is judged here, and nothing is rounded: the gateway checks the rows against the endpoint's signature.
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
        raise InvalidInput("a text holds half of a character", code="not-json", hint="send valid Unicode") from error
    except ValueError as error:
        raise InvalidInput(
            "a value is infinite", code="not-finite", hint="send finite numbers, or None for a missing value"
        ) from error


def _rows(data: Any) -> list[Any]:
    kind = type(data).__module__.partition(".")[0]
    if kind == "pandas":
        return _pandas_rows(data)
    if kind in ("polars", "numpy"):
        name = next(name for name in ("to_dicts", "tolist", "to_list") if hasattr(data, name))
        return _values(getattr(data, name)())
    if isinstance(data, dict):
        return [_value(data)]
    if isinstance(data, (str, bytes)) or not isinstance(data, Iterable):
        raise InvalidInput(
            "the data is no table",
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


def _column(series: Any) -> list[Any]:
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
        return (value if value.tzinfo is not None else value.replace(tzinfo=dt.UTC)).isoformat()
    if kind == "datetime64":
        return None if str(value) == "NaT" else f"{value.astype('datetime64[us]')}Z"
    if hasattr(value, "tolist"):  # numpy's scalars and arrays
        return _value(value.tolist())
    raise InvalidInput(
        f"a value of type {kind} cannot be sent",
        code="not-json",
        hint="send numbers, texts, booleans, times, lists, dicts or None",
    )
