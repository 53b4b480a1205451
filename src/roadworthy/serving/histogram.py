"""The buckets of every histogram of seconds in the slab."""

from __future__ import annotations

BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds, seconds; one further bucket takes the rest."""
BUCKETS_US = tuple(round(bound * 1e6) for bound in BUCKETS_S)
SUM = len(BUCKETS_US) + 1
"""The cells are one per bucket, not cumulative, then at this place the sum in microseconds."""
WIDTH = SUM + 1


def summed(cells: list[int] | None, more: tuple[int, ...]) -> list[int]:
    """Both histograms as one."""
    return list(more) if cells is None else [a + b for a, b in zip(cells, more, strict=True)]
