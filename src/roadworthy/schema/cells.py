"""Converts columns of a batch to Python objects, with training's mark for missing values, and to times of a given unit.

`restore.py` and `restore_frames.py` build containers from them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from roadworthy.schema.batch import Array
from roadworthy.schema.dtypes import DType
from roadworthy.schema.forms import as_elements, mark_value
from roadworthy.schema.signature import Field

_NS_LIMIT_US = (2**63 - 1) // 1000


def list_maker(field: Field) -> Callable[[Array, Array | None], list[Any]]:
    """As `object_maker`, but returns a list."""
    mark = mark_value(field.missing)
    elements = None if field.element is None else as_elements(field.element)

    def make(values: Array, mask: Array | None) -> list[Any]:
        if field.dtype is DType.TIMESTAMP:
            values = values.astype("datetime64[us]")
        plain: list[Any] = values.tolist()
        if elements is not None:
            plain = elements(plain)
        return plain if mask is None else [mark if null else v for v, null in zip(plain, mask.tolist(), strict=True)]

    return make


def object_maker(field: Field) -> Callable[[Array, Array | None], Array]:
    """A function from values and mask to an array of Python objects, with training's mark for missing values."""
    mark = mark_value(field.missing)
    elements = None if field.element is None else as_elements(field.element)

    def make(values: Array, mask: Array | None) -> Array:
        array = values.astype(object)
        if elements is not None:
            flat = array.reshape(-1)
            flat[:] = elements(flat.tolist())
        if mask is not None:
            array[mask] = mark
        return array

    return make


def unit_of(kind: np.dtype[Any]) -> str:
    """The unit of a datetime64 type: "us", or "10us"."""
    unit, count = np.datetime_data(kind)
    return unit if count == 1 else f"{count}{unit}"


def times(values: Array, mask: Array | None, unit: str) -> Array:
    """Microseconds since 1970 UTC as datetime64 of a unit, NaT for null.

    Raises:
        OverflowError: the unit cannot represent a time.
    """
    if unit == "ns" and len(values) and (np.abs(values) > _NS_LIMIT_US).any():
        raise OverflowError("a time is outside the years 1677 to 2262, the range of the model's datetime64[ns]")
    moments: Array = values.astype("datetime64[us]").astype(f"datetime64[{unit}]")
    if mask is not None:
        moments[mask] = "NaT"
    return moments
