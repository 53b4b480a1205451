"""Exact names for the column types and missing-value marks of a training container, from which the same container can be made.

`infer.py` writes these names into fields, `restore.py` reads them. A name never depends on what a library would infer from
values. pandas, polars and pyarrow are imported only when a caller passes one of their objects.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field, Form, Missing

ORDERED = "category, ordered"
"""Field.native of an ordered pandas category in packages of format 1 and 2, which do not state the categories' type."""
_CATEGORY = re.compile(r"category\[(.+)\](, ordered)?")
_TEXT = re.compile(r"(str|string)\[(\w+)\]")
_ARROW = re.compile(r"arrow\[(.+)\]")
_CELLS = re.compile(r"array\[(\w+)\]")
_ARROW_TIME = re.compile(r"timestamp\[(\w+)(?:, tz=(.+))?\]")
_POLARS_TIME = re.compile(r"Datetime\[(ms|us|ns)(?:, (.+))?\]")


def library_of(data: object) -> str:
    """The top-level package of the type of `data`: "pandas", "polars", "numpy", "builtins" …; imports nothing."""
    return type(data).__module__.partition(".")[0]


def mark_of(value: object) -> Missing | None:
    """The mark by which a value is missing, or None when it is present."""
    if value is None:
        return Missing.NULL
    if isinstance(value, (float, np.floating)):
        return Missing.NAN if math.isnan(value) else None
    if isinstance(value, np.datetime64):
        return Missing.NAT if np.isnat(value) else None
    name = type(value).__name__
    if name in ("NAType", "NaTType") and library_of(value) == "pandas":
        return Missing.NA if name == "NAType" else Missing.NAT
    return None


def marks_of(values: Iterable[object]) -> tuple[list[Any], Missing | None]:
    """The present values, and the most frequent mark of the missing ones; None when no value is missing."""
    present: list[Any] = []
    marks: Counter[Missing] = Counter()
    for value in values:
        mark = mark_of(value)
        if mark is None:
            present.append(value)
        else:
            marks[mark] += 1
    return present, most_frequent(marks)


def most_frequent(marks: Counter[Missing]) -> Missing | None:
    """The most frequent mark; among equally frequent ones, the first in the order of `Missing`."""
    return max(Missing, key=lambda mark: marks[mark]) if any(marks.values()) else None


def mark_value(mark: Missing | None) -> Any:
    """The value that marks a missing one in a container of Python objects."""
    if mark in (Missing.NA, Missing.NAT):
        import pandas as pd

        return pd.NA if mark is Missing.NA else pd.NaT
    return np.nan if mark is Missing.NAN else None


def element_of(present: Sequence[object]) -> str | None:
    """The numpy type of all of these values, "tuple", or "array[float64]"; None for Python's own types and for mixed ones."""
    kinds = {type(value) for value in present}
    if len(kinds) != 1:
        return None
    kind = kinds.pop()
    if kind is np.ndarray:
        names = {value.dtype.name for value in present if isinstance(value, np.ndarray)}
        return f"array[{names.pop()}]" if len(names) == 1 else None
    if issubclass(kind, np.generic):
        return f"numpy.{kind.__name__}"
    return "tuple" if kind is tuple else None


def as_elements(element: str) -> Callable[[list[Any]], list[Any]]:
    """A function that converts Python values to the type that `element_of` named.

    Raises:
        TypeError: unknown type.
    """
    if element == "tuple":
        return lambda values: [tuple(value) if isinstance(value, list) else value for value in values]
    array = _CELLS.fullmatch(element)
    if array is not None:
        cells = np.dtype(array[1])
        return lambda values: [np.array(value, dtype=cells) if isinstance(value, list) else value for value in values]
    kind = getattr(np, element.removeprefix("numpy."), None)
    if not isinstance(kind, type) or not issubclass(kind, np.generic):
        raise TypeError(f"unknown type {element!r}")
    return lambda values: [kind(value) for value in values]


def pandas_name(dtype: Any) -> str:
    """The name of a pandas type, from which `pandas_type` makes the same type."""
    import pandas as pd

    if isinstance(dtype, pd.CategoricalDtype):
        return f"category[{pandas_name(dtype.categories.dtype)}]{', ordered' if dtype.ordered else ''}"
    if isinstance(dtype, pd.StringDtype):
        return f"{'string' if dtype.na_value is pd.NA else 'str'}[{dtype.storage}]"
    if isinstance(dtype, pd.ArrowDtype):
        return f"arrow[{dtype.pyarrow_dtype}]"
    return str(dtype)


def implied_name(field: Field) -> str | None:
    """pandas' type name for a field without `native`, if its dtype implies one: numbers, booleans, times, nested values."""
    if field.categorical or field.dtype is DType.STRING:
        return None
    if field.nullable and (field.dtype.is_integer or field.dtype is DType.BOOL):
        return _masked_name(field.dtype)
    return numpy_name(field)


def numpy_name(field: Field) -> str:
    """numpy's type name for a field without `native`."""
    return "datetime64[us]" if field.dtype is DType.TIMESTAMP else field.dtype.numpy.name


def _masked_name(dtype: DType) -> str:
    """The name of pandas' nullable type for a dtype: int64 → Int64, uint8 → UInt8, bool → boolean."""
    if dtype is DType.BOOL:
        return "boolean"
    return f"UI{dtype.value[2:]}" if dtype.value.startswith("u") else f"I{dtype.value[1:]}"


def pandas_type(field: Field) -> Any:
    """The pandas type of a field.

    Raises:
        TypeError, ValueError: the installed pandas does not know it.
    """
    import pandas as pd

    native = field.native
    if native is None and field.dtype is DType.STRING and not field.categorical:
        text = pd.api.types.pandas_dtype("str")
        return np.dtype(object) if isinstance(text, np.dtype) else text
    if field.categorical and native in (None, ORDERED):
        return pd.CategoricalDtype(list(field.categories or ()), ordered=native == ORDERED)
    return _named_type(native or implied_name(field) or "object", field)


def _named_type(name: str, field: Field) -> Any:
    import pandas as pd

    category = _CATEGORY.fullmatch(name)
    if category is None:
        return plain_type(name)
    labels = pd.Index(list(field.categories or ()), dtype=plain_type(category[1]))
    return pd.CategoricalDtype(labels, ordered=category[2] is not None)


def plain_type(name: str) -> Any:
    """The pandas type with that name; not for categories.

    Raises:
        TypeError, ValueError: the installed pandas does not know it.
    """
    import pandas as pd

    text = _TEXT.fullmatch(name)
    if text is not None:
        kind, storage = text.groups()
        if kind == "string" or storage == "pyarrow_numpy":  # in pandas 2, only this storage uses NaN
            return pd.StringDtype(storage)
        return pd.StringDtype(storage, na_value=np.nan)
    arrow = _ARROW.fullmatch(name)
    return pd.api.types.pandas_dtype(name) if arrow is None else pd.ArrowDtype(_arrow_type(arrow[1]))


def _arrow_type(name: str) -> Any:
    import pyarrow as pa

    time = _ARROW_TIME.fullmatch(name)
    return pa.type_for_alias(name) if time is None else pa.timestamp(time[1], tz=time[2])


def polars_name(dtype: Any) -> str | None:
    """The name of a polars type, from which `polars_type` makes the same type; None if the field's dtype implies it."""
    import polars as pl

    if isinstance(dtype, pl.Datetime):
        return f"Datetime[{dtype.time_unit}{f', {dtype.time_zone}' if dtype.time_zone else ''}]"
    if dtype == pl.Date:
        return "Date"
    if dtype == pl.Categorical:
        return "Categorical"
    if dtype in (pl.List, pl.Array, pl.Struct):
        return json.dumps(_nested_name(pl, dtype))
    return None


def _nested_name(pl: Any, dtype: Any) -> Any:
    """A possibly nested type as JSON: its name, or a list of the outer type's name and its contents."""
    if dtype == pl.List:
        return ["List", _nested_name(pl, dtype.inner)]
    if dtype == pl.Array:
        inner: Any = dtype.inner
        for _ in dtype.shape[1:]:
            inner = inner.inner
        return ["Array", _nested_name(pl, inner), list(dtype.shape)]
    if dtype == pl.Struct:
        return ["Struct", [[field.name, _nested_name(pl, field.dtype)] for field in dtype.fields]]
    return str(dtype)


def polars_type(field: Field) -> Any:
    """The polars type of a field.

    Raises:
        AttributeError, TypeError, ValueError: the installed polars does not know it.
    """
    import polars as pl

    native = field.native
    if field.categorical:
        return pl.Categorical() if native == "Categorical" else pl.Enum([str(label) for label in field.categories or ()])
    if field.dtype is DType.TIMESTAMP:
        return _polars_time(pl, native)
    if native is not None:
        return _nested_type(pl, json.loads(native))
    if field.dtype is DType.JSON:
        return None  # formats 1 and 2 did not record it
    if field.dtype in (DType.STRING, DType.BOOL):
        return pl.String if field.dtype is DType.STRING else pl.Boolean
    name = field.dtype.value
    return getattr(pl, f"UI{name[2:]}" if name.startswith("u") else name.capitalize())


def _polars_time(pl: Any, native: str | None) -> Any:
    if native == "Date":
        return pl.Date()
    named = _POLARS_TIME.fullmatch(native or "Datetime[us]")
    return pl.Datetime("us", native) if named is None else pl.Datetime(named[1], named[2])


def _nested_type(pl: Any, name: Any) -> Any:
    if isinstance(name, str):
        kind = getattr(pl, name, None)
        if not isinstance(kind, type) or not issubclass(kind, pl.DataType):
            raise TypeError(f"unknown type {name!r}")
        return kind()
    if name[0] == "List":
        return pl.List(_nested_type(pl, name[1]))
    if name[0] == "Array":
        return pl.Array(_nested_type(pl, name[1]), shape=tuple(name[2]))
    return pl.Struct([pl.Field(key, _nested_type(pl, inner)) for key, inner in name[1]])


def form_of(sample: Any) -> Form:
    """The properties of a sample besides its columns; for samples that `infer_inputs` accepts."""
    if library_of(sample) == "pandas":
        name = pandas_name(sample.columns.dtype)
        known = name == "object" or _TEXT.fullmatch(name) is not None
        title = sample.columns.name
        return Form(
            labels=name if known and name != pandas_name(type(sample)({"a": []}).columns.dtype) else None,
            labels_name=title if isinstance(title, str) else None,
            order="C" if _by_row(sample) else None,
        )
    if isinstance(sample, np.ndarray):
        flags = sample.flags
        return Form(order="F" if flags.f_contiguous and not flags.c_contiguous else None)
    if isinstance(sample, Sequence) and sample:
        if all(isinstance(row, tuple) for row in sample):
            return Form(rows="tuple")
        if all(isinstance(row, np.ndarray) for row in sample):
            return Form(rows="array")
    return Form()


def _by_row(frame: Any) -> bool:
    """Whether a frame of one numpy type is stored row by row in memory, like one made from an array."""
    kinds = set(frame.dtypes)
    if len(kinds) != 1 or not isinstance(next(iter(kinds)), np.dtype) or frame.dtypes.iloc[0].kind not in "iufb":
        return False
    flags = frame.to_numpy().flags
    return bool(flags.c_contiguous and not flags.f_contiguous)
