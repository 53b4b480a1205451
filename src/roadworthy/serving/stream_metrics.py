"""The counts of answers in parts, for each version behind each generation of an endpoint. Other versions have none."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass, field

from roadworthy.foundation.slab import GAUGE, SlotWriter
from roadworthy.serving.histogram import BUCKETS_US, SUM, WIDTH, summed

FINISHED, FAILED, CALLER_GONE, DEADLINE = "finished", "failed", "caller-gone", "deadline"
"""How a stream ended."""
_OPEN, _PARTS, _FIRST, _BETWEEN, _ENDED = "streams", "stream-parts", "stream-first", "stream-between", "stream-ended"
OF_STREAMS = frozenset({_OPEN, _PARTS, _FIRST, _BETWEEN, _ENDED})
"""The kinds of their cells."""


class StreamMetrics:
    """The cells of the streams of one version. Single-threaded.

    Args:
        key: the labels of the version, as in the slab.
    """

    __slots__ = ("_between", "_first", "_key", "_open", "_parts", "_values", "_writer")

    def __init__(self, writer: SlotWriter, key: str) -> None:
        self._writer = writer
        self._values = writer.values
        self.move(key)

    def move(self, key: str) -> None:
        """Count under another key from now on; the existing counts have been moved there."""
        place = self._writer.place
        self._key = key
        self._open = place(_OPEN + key, kind=GAUGE)
        self._parts = place(_PARTS + key)
        self._first = place(_FIRST + key, width=WIDTH)
        self._between = place(_BETWEEN + key, width=WIDTH)

    def begun(self, seconds: float) -> None:
        """Count a stream whose first part came after so many seconds."""
        self._values[self._open] += 1
        self._values[self._parts] += 1
        self._observe(self._first, seconds)

    def more(self, parts: int, seconds: float) -> None:
        """Count further parts that came together, and for the first of which the caller had waited so many seconds."""
        self._values[self._parts] += parts
        self._values[self._between] += parts - 1
        self._observe(self._between, seconds)

    def ended(self, reason: str) -> None:
        """Count the end of a stream: FINISHED, FAILED, CALLER_GONE or DEADLINE."""
        self._values[self._open] -= 1
        self._values[self._writer.place(f"{_ENDED}{self._key}\x1f{reason}")] += 1

    def _observe(self, first: int, seconds: float) -> None:
        microseconds = int(seconds * 1e6)
        self._values[first + bisect_left(BUCKETS_US, microseconds)] += 1
        self._values[first + SUM] += microseconds


Version = tuple[str, str]
"""Endpoint and version."""


@dataclass(slots=True)
class StreamTotals:
    """Sums over all slots and generations, by endpoint and version.

    Attributes:
        open: streams whose first part came and which have not ended, in live workers.
        parts: parts that were passed on. first, between: histogram cells of the waits for the first and for further parts.
        ended: streams by endpoint, version and reason.
    """

    open: dict[Version, int] = field(default_factory=lambda: defaultdict(int))
    parts: dict[Version, int] = field(default_factory=lambda: defaultdict(int))
    first: dict[Version, list[int]] = field(default_factory=dict)
    between: dict[Version, list[int]] = field(default_factory=dict)
    ended: dict[tuple[str, str, str], int] = field(default_factory=lambda: defaultdict(int))

    def add(self, kinds: tuple[str, ...], version: Version, values: tuple[int, ...], *, alive: bool) -> None:
        """Add the cells of one slot. `kinds`: one of OF_STREAMS, and the reason of an end."""
        kind = kinds[0]
        if kind == _OPEN:
            self.open[version] += values[0] if alive else 0
        elif kind == _PARTS:
            self.parts[version] += values[0]
        elif kind == _FIRST:
            self.first[version] = summed(self.first.get(version), values)
        elif kind == _BETWEEN:
            self.between[version] = summed(self.between.get(version), values)
        else:
            self.ended[*version, kinds[1]] += values[0]
