"""Converts counts of any time unit since 1970 UTC to microseconds; marks those that cannot be converted exactly."""

from __future__ import annotations

from typing import Any

import numpy as np

MINIMUM = -62_135_596_800_000_000  # 0001-01-01T00:00:00Z, the first instant with a four-digit year in ISO 8601
MAXIMUM = 253_402_300_799_999_999  # 9999-12-31T23:59:59.999999Z, the last
BEYOND = "outside the years 1 to 9999"
FINER = "finer than a microsecond"

_Array = np.ndarray[Any, np.dtype[Any]]
_DAY = 86_400_000_000
_MICROSECONDS = {"W": 7 * _DAY, "D": _DAY, "h": _DAY // 24, "m": 60_000_000, "s": 1_000_000, "ms": 1_000, "us": 1}
_PER_MICROSECOND = {"ns": 10**3, "ps": 10**6, "fs": 10**9, "as": 10**12}
_MONTHS = {"Y": 12, "M": 1}
_FIRST_MONTH, _LAST_MONTH = (1 - 1970) * 12, (9999 - 1970) * 12 + 11
_MOST = 2**63 - 1


def series_times(series: Any) -> _Array | None:
    """A pandas series of times as datetime64 in UTC, with NaT for nulls; None for other types, dates among them."""
    arrow = getattr(series.dtype, "pyarrow_dtype", None)
    if series.dtype.kind != "M" or (arrow is not None and not str(arrow).startswith("timestamp")):
        return None
    if getattr(series.dtype if arrow is None else arrow, "tz", None) is not None:
        series = series.dt.tz_convert("UTC").dt.tz_localize(None)
    times: _Array = series.to_numpy()
    return times


def counts_of(times: _Array) -> tuple[_Array, str, int]:
    """The integers behind datetime64 values, with 0 for NaT; numpy's name of their unit; how many of it one integer counts."""
    native = times.astype(times.dtype.newbyteorder("="), copy=False)
    unit, step = np.datetime_data(native.dtype)
    counts = np.where(np.isnat(native), np.int64(0), native.view(np.int64))
    return (counts, "s", 1) if unit == "generic" else (counts, unit, step)  # without a unit, all values are NaT


def texts_of(micros: _Array) -> _Array:
    """Microseconds as ISO 8601 text in UTC, always with six decimals."""
    return np.char.add(np.datetime_as_string(micros.astype("datetime64[us]"), unit="us"), "Z")


def to_micros(counts: _Array, unit: str, step: int = 1) -> tuple[_Array, _Array, _Array]:
    """Convert integers that count `step` of `unit` (numpy's name) to microseconds; also returns which of them are finer than a
    microsecond, and which are outside the years 1 to 9999 or int64."""
    over = counts > _MOST if counts.dtype == np.uint64 else np.zeros(counts.shape, dtype=bool)
    whole: Any = np.where(over, counts.dtype.type(0), counts).astype(np.int64)
    if unit in _PER_MICROSECOND:
        # Steps of a small unit are rare, and their products may exceed int64.
        exact = whole if step == 1 else whole.astype(object) * step
        micros, rest = exact // _PER_MICROSECOND[unit], exact % _PER_MICROSECOND[unit]
        beyond = ((micros < MINIMUM) | (micros > MAXIMUM)).astype(bool)
        return np.where(beyond, 0, micros).astype(np.int64), (rest != 0).astype(bool), beyond | over
    if unit in _MONTHS:
        factor, low, high = _MONTHS[unit] * step, _FIRST_MONTH, _LAST_MONTH
    else:
        factor, low, high = _MICROSECONDS[unit] * step, MINIMUM, MAXIMUM
    beyond = (whole < -(-low // factor)) | (whole > high // factor)
    micros = np.where(beyond, 0, whole) * factor
    if unit in _MONTHS:
        micros = micros.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64) * _DAY
    return micros, np.zeros(counts.shape, dtype=bool), beyond | over
