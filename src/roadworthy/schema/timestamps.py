"""Timestamps between text and integers. In a Batch they are microseconds since 1970-01-01 UTC; outside they are RFC 3339."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MINIMUM = -62_135_596_800_000_000  # 0001-01-01T00:00:00Z, the first instant that RFC 3339 can write
MAXIMUM = 253_402_300_799_999_999  # 9999-12-31T23:59:59.999999Z, the last
_MICROSECOND = timedelta(microseconds=1)
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def parse_timestamp(text: str) -> int | None:
    """Microseconds since 1970 UTC of an RFC 3339 timestamp with an offset or Z and at most six decimals, or None when it is
    not one."""
    if not _RFC3339.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(text.upper())
    except ValueError:
        return None
    return (moment - EPOCH) // _MICROSECOND


def format_timestamp(microseconds: int) -> str | int:
    """RFC 3339 in UTC, with six decimals when there are any; the number itself outside the years 1 to 9999."""
    if not MINIMUM <= microseconds <= MAXIMUM:
        return microseconds
    moment = EPOCH + timedelta(microseconds=microseconds)
    return moment.isoformat(timespec="microseconds" if moment.microsecond else "seconds").replace("+00:00", "Z")


def from_datetime(moment: datetime) -> int:
    """Microseconds since 1970 UTC; a naive datetime is taken as UTC."""
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    return (aware - EPOCH) // _MICROSECOND


def to_datetime(microseconds: int, *, aware: bool) -> datetime:
    """The datetime of an instant, in UTC or naive.

    Raises:
        OverflowError: outside the years 1 to 9999.
    """
    moment = EPOCH + timedelta(microseconds=microseconds)
    return moment if aware else moment.replace(tzinfo=None)
