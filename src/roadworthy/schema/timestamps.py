"""Reads RFC 3339 times. In a Batch times are microseconds since 1970-01-01 UTC; `rows.py` turns text into them with this."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

MINIMUM = -62_135_596_800_000_000  # 0001-01-01T00:00:00Z, the first instant that RFC 3339 can write
MAXIMUM = 253_402_300_799_999_999  # 9999-12-31T23:59:59.999999Z, the last
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


def parse_timestamp(text: str) -> int | None:
    """Microseconds since 1970 UTC of an RFC 3339 time with an offset or Z and at most six decimals, or None when `text` is not
    one. A little outside MINIMUM and MAXIMUM when the offset takes it there."""
    if not _RFC3339.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(text.upper())
    except ValueError:
        return None
    return (moment - _EPOCH) // _MICROSECOND
