"""Times as the API shows them."""

from __future__ import annotations

from datetime import UTC, datetime


def iso(at_us: int) -> str:
    """Microseconds since 1970 UTC as RFC 3339 text, to the millisecond."""
    return datetime.fromtimestamp(at_us / 1e6, tz=UTC).isoformat(timespec="milliseconds")
