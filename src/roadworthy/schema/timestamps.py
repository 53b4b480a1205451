"""Reads one value of a timestamp column. In a Batch, times are microseconds since 1970-01-01 UTC.

All readers follow the same rules: a time without a zone is UTC, a date is its midnight in UTC, a time with a zone is converted,
and nothing is rounded. An integer does not state its unit, so it is refused unless the endpoint's policy names one.
"""

from __future__ import annotations

import datetime as dt
import re
from functools import lru_cache

import numpy as np

from roadworthy.schema.problem import ProblemError
from roadworthy.schema.signature import Field, Privacy
from roadworthy.schema.time_units import BEYOND, FINER, MAXIMUM, MINIMUM, counts_of, to_micros

UNITS = ("s", "ms", "us", "ns")
"""The units for integers, named as in the policy `timestamps.integers`."""
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_MICROSECOND = dt.timedelta(microseconds=1)
_TEN_YEARS = 315_576_000_000_000
_INT64 = (-(2**63), 2**63 - 1)
_PER_MICROSECOND = {"us": 1, "ns": 1_000}
_MICROSECONDS = {"s": 1_000_000, "ms": 1_000}
_TEXT = re.compile(
    r"\d{4}-\d\d-\d\d(?:[Tt ](?:[01]\d|2[0-3]):[0-5]\d(?::[0-5]\d(?:\.(\d+))?)?([Zz]|[+-]\d\d(?::?\d\d|:\d\d:\d\d)?)?)?",
    re.ASCII,
)
EXPECTED = "expected a timestamp such as '2024-03-31T00:00:00Z'"
_LONGEST_SHOWN = 10**20
_MOST_DIGITS = 6


def read_timestamp(field: Field, value: object, unit: str | None) -> int:
    """Convert text, an integer in `unit`, or a Python, pandas or numpy date or time (not NaT) to microseconds since 1970 UTC.

    Raises:
        ProblemError: "wrong-type", "out-of-range", "integer-for-timestamp", "timestamp-far-from-training".
    """
    if isinstance(value, str):
        return _checked(_from_text(value))
    if isinstance(value, int) and not isinstance(value, bool):
        return from_integer(field, value, unit)
    if isinstance(value, dt.datetime):
        return _checked(_from_datetime(value))
    if isinstance(value, dt.date):
        return _checked((dt.datetime(value.year, value.month, value.day, tzinfo=dt.UTC) - _EPOCH) // _MICROSECOND)
    if isinstance(value, np.datetime64):
        return _from_datetime64(value)
    raise wrong_type(field, value)


def from_integer(field: Field, value: int, unit: str | None) -> int:
    """Convert an integer to microseconds since 1970 UTC.

    Args:
        field: its training range limits the plausible times.
        unit: one of UNITS; None refuses every integer.

    Raises:
        ProblemError: "integer-for-timestamp", "out-of-range", "timestamp-far-from-training".
    """
    if unit is None:
        raise ProblemError("integer-for-timestamp", f"{EXPECTED}, got an integer{_shown(field, value)}")
    if unit in _MICROSECONDS:
        moment, rest = value * _MICROSECONDS[unit], 0
    else:
        moment, rest = divmod(value, _PER_MICROSECOND[unit])
    words = f"the integer{_shown(field, value)} in {unit} is"
    if not _INT64[0] <= value <= _INT64[1] or not MINIMUM <= moment <= MAXIMUM:
        raise ProblemError("out-of-range", f"{words} {BEYOND}")
    if rest:
        raise ProblemError("out-of-range", f"{words} {FINER}")
    window = plausible(field)
    if window is not None and not window[0] <= moment <= window[1]:
        low, high = window[0] + _TEN_YEARS, window[1] - _TEN_YEARS
        raise ProblemError(
            "timestamp-far-from-training",
            f"{words} {to_text(moment)}, more than ten years outside the training range ({to_text(low)} to {to_text(high)})",
        )
    return moment


def plausible(field: Field) -> tuple[int, int] | None:
    """The first and last plausible instant for an integer: ten years around the training range. None if the field has no range
    because it is private or had only nulls in training."""
    return _window(field.minimum, field.maximum)


def to_text(moment: int) -> str:
    """Microseconds as ISO 8601 text; instants outside the calendar are shown as its first or last instant."""
    inside = min(max(moment, MINIMUM), MAXIMUM)
    return f"{(_EPOCH + inside * _MICROSECOND).replace(tzinfo=None).isoformat()}Z"


def wrong_type(field: Field, value: object) -> ProblemError:
    """The problem of a value that is not a timestamp."""
    return ProblemError("wrong-type", f"{EXPECTED}, got {_kind(field, value)}")


@lru_cache(maxsize=4_096)
def _window(minimum: str | None, maximum: str | None) -> tuple[int, int] | None:
    if minimum is None or maximum is None:
        return None
    try:
        return int(minimum) - _TEN_YEARS, int(maximum) + _TEN_YEARS
    except ValueError:
        return None


def _checked(moment: int) -> int:
    if not MINIMUM <= moment <= MAXIMUM:
        raise ProblemError("out-of-range", f"is {BEYOND}")
    return moment


def _from_text(text: str) -> int:
    """ISO 8601: a date, or a date and a time of day with or without a zone."""
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ProblemError("wrong-type", f"{EXPECTED}, got text in another format")
    fraction, zone = match.groups()
    if fraction is not None and len(fraction) > _MOST_DIGITS:  # `fromisoformat` would truncate it silently
        if fraction[_MOST_DIGITS:].strip("0"):
            raise ProblemError("out-of-range", f"is {FINER}")
        text = text.replace(fraction, fraction[:_MOST_DIGITS])
    try:
        moment = dt.datetime.fromisoformat(text.upper())
    except ValueError:
        raise ProblemError("wrong-type", f"{EXPECTED}, got a date that does not exist") from None
    return ((moment if zone is not None else moment.replace(tzinfo=dt.UTC)) - _EPOCH) // _MICROSECOND


def _from_datetime(moment: dt.datetime) -> int:
    if getattr(moment, "nanosecond", 0):  # pandas' Timestamp
        raise ProblemError("out-of-range", f"is {FINER}")
    plain = getattr(moment, "to_pydatetime", None)
    try:
        moment = moment if plain is None else plain()
        return ((moment if moment.tzinfo is not None else moment.replace(tzinfo=dt.UTC)) - _EPOCH) // _MICROSECOND
    except (ValueError, OverflowError):
        raise ProblemError("out-of-range", f"is {BEYOND}") from None


def _from_datetime64(moment: np.datetime64) -> int:
    if np.isnat(moment):
        raise ProblemError("null-not-allowed", f"{EXPECTED}, got NaT")
    counts, unit, step = counts_of(np.array([moment]))
    (micros,), (finer,), (beyond,) = to_micros(counts, unit, step)
    if finer or beyond:
        raise ProblemError("out-of-range", f"is {BEYOND if beyond else FINER}")
    return int(micros)


def _shown(field: Field, value: float) -> str:
    """A number in parentheses; empty for a private column, and for a number too long to read."""
    if field.privacy is not Privacy.KEEP or (isinstance(value, int) and abs(value) >= _LONGEST_SHOWN):
        return ""
    return f" ({value})"


def _kind(field: Field, value: object) -> str:
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, float):
        return f"a float{_shown(field, value)}"
    if isinstance(value, dt.time):
        return "a time of day"
    if isinstance(value, dt.timedelta):
        return "a duration"
    return {"dict": "an object", "list": "a list", "tuple": "a list"}.get(
        type(value).__name__, f"a value of type {type(value).__name__[:40]}"
    )
