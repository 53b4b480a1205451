"""Converts whole arrays of times to microseconds: numpy's datetime64 of any unit, and integers in the policy's unit.

The results equal those of `timestamps.py`, which reads single values; an error names the first invalid row.
"""

from __future__ import annotations

import numpy as np

from roadworthy.foundation.errors import InvalidInput
from roadworthy.schema.batch import Array
from roadworthy.schema.problem import ProblemError
from roadworthy.schema.rows import misfit
from roadworthy.schema.signature import Field
from roadworthy.schema.time_units import BEYOND, FINER, counts_of, to_micros
from roadworthy.schema.timestamps import from_integer, plausible, wrong_type


def from_times(field: Field, times: Array, mask: Array | None = None) -> tuple[Array, Array | None]:
    """Convert datetime64 values of any unit to values and mask of a timestamp field; NaT is null.

    Raises:
        InvalidInput: "out-of-range".
    """
    counts, unit, step = counts_of(times)
    missing = np.isnat(times) if mask is None else mask | np.isnat(times)
    return from_counts(field, counts, (unit, step), missing)


def from_counts(field: Field, counts: Array, unit: tuple[str, int], mask: Array | None) -> tuple[Array, Array | None]:
    """As `from_times`, from the integers behind typed times; `unit` is a unit and the number of them that an integer counts.

    Raises:
        InvalidInput: "out-of-range".
    """
    present = counts if mask is None else np.where(mask, np.int64(0), counts)
    micros, finer, beyond = to_micros(present, *unit)
    for wrong, words in ((beyond, BEYOND), (finer, FINER)):
        if wrong.any():
            raise misfit(field, "out-of-range", f"is {words}", _row(wrong))
    return micros, mask if mask is not None and mask.any() else None


def from_integers(field: Field, values: Array, mask: Array | None, unit: str | None) -> Array:
    """Convert integers in `unit` to microseconds; 0 for nulls in `mask`.

    Raises:
        InvalidInput: codes of `from_integer`.
    """
    present = np.ones(values.shape, dtype=bool) if mask is None else ~mask
    micros, wrong = values, present
    if unit is not None:
        micros, finer, beyond = to_micros(np.where(present, values, values.dtype.type(0)), unit)
        window = plausible(field)
        far = (micros < window[0]) | (micros > window[1]) if window is not None else np.zeros(values.shape, dtype=bool)
        wrong = present & (finer | beyond | far)
    if wrong.any():
        raise _misfit_of(field, values, wrong, unit)
    return np.where(present, micros, 0).astype(np.int64, copy=False)


def refused(field: Field, values: Array, mask: Array | None) -> InvalidInput:
    """The error for a column that is not of times and holds more than nulls."""
    present = np.ones(values.shape, dtype=bool) if mask is None else ~mask
    problem = wrong_type(field, values.reshape(-1)[int(np.argmax(present.reshape(-1)))].item())
    return misfit(field, problem.code, problem.problem, _row(present))


def _misfit_of(field: Field, values: Array, wrong: Array, unit: str | None) -> InvalidInput:
    value = int(values.reshape(-1)[int(np.argmax(wrong.reshape(-1)))])
    try:
        from_integer(field, value, unit)
    except ProblemError as problem:
        return misfit(field, problem.code, problem.problem, _row(wrong))
    raise AssertionError("an array and a single value were read differently")


def _row(wrong: Array) -> int:
    """The row of the first invalid value."""
    return int(np.argmax(wrong.reshape(wrong.shape[0], -1).any(axis=1)))
