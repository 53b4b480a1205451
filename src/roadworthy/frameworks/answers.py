"""Turns what a model's own code returns into named arrays, rows first. Framework files call this from `answer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from roadworthy.foundation.errors import PackError
from roadworthy.schema.batch import Array
from roadworthy.schema.forms import library_of


def named_answers(result: Any, name: str = "prediction") -> dict[str, Array]:
    """A dict of arrays as it is, a frame by column, an array or a list as `name`, a list of dicts by key.

    Raises:
        PackError: "unsupported-output".
    """
    library = library_of(result)
    if isinstance(result, Mapping):
        return {str(key): as_array(value) for key, value in result.items()}
    if library in ("pandas", "polars") and hasattr(result, "columns"):
        return {str(column): as_array(result[column]) for column in result.columns}
    if isinstance(result, Sequence) and result and all(isinstance(row, Mapping) for row in result):
        return {str(key): as_array([row[key] for row in result]) for key in result[0]}
    if library in ("pandas", "polars", "numpy") or isinstance(result, (list, tuple)):
        return {name: as_array(result)}
    raise PackError(
        f"the model answered a {type(result).__name__}, which cannot be sent",
        code="unsupported-output",
        hint="return an array, a DataFrame, a list, or a dict of arrays, one row for each row asked",
    )


def as_array(values: Any) -> Array:
    """One output as a numpy array; text as objects, columns of a frame without their index."""
    if library_of(values) in ("pandas", "polars"):
        values = values.to_numpy()
    try:
        array = np.asarray(values)
    except ValueError:  # rows of different lengths: kept as nested values
        array = np.empty(len(values), dtype=object)
        array[:] = [value.tolist() if isinstance(value, np.ndarray) else value for value in values]
    return array.astype(object) if array.dtype.kind == "U" else array
