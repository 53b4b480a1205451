"""How far a stream is ahead of its caller. The runner stops at the bound; the worker cuts off a runner that ignores it."""

from __future__ import annotations

from collections import deque

from roadworthy.schema.signature import MAX_PART_BYTES

AHEAD_PARTS, AHEAD_BYTES = 8, 1 << 20
"""A stream gives no further part while as many parts, or as many bytes of parts, were not taken. One part is always allowed."""
AHEAD_S, AHEAD_QUICK_PARTS = 0.002, 256
"""A stream of which parts were taken may give more of them: so many, while those not taken took the model less than this time."""
_MOST_PARTS = AHEAD_QUICK_PARTS + AHEAD_PARTS
_MOST_BYTES = AHEAD_BYTES + (AHEAD_PARTS + 1) * MAX_PART_BYTES
"""A runner with more parts, or bytes of parts, that were not taken ignores its credit: an honest one has a little fewer."""


class Ahead:
    """The parts of a stream that were sent and not taken: bytes and seconds of each, and of all."""

    __slots__ = ("_bytes", "_most", "_parts", "_seconds", "_size")

    def __init__(self) -> None:
        self._parts: deque[tuple[int, float]] = deque()
        self._bytes = self._size = 0
        self._seconds = 0.0
        self._most = AHEAD_PARTS

    @property
    def has_room(self) -> bool:
        """Whether another part may be sent."""
        count = len(self._parts)
        if not count:
            return True
        return self._bytes < AHEAD_BYTES and (count < AHEAD_PARTS or (count < self._most and self._seconds < AHEAD_S))

    @property
    def room(self) -> int:
        """How many parts may be asked for at once, at least one: fewer if they would be too long, judged by the last one; one
        before the first."""
        if not self._size:
            return 1
        return max(1, min(AHEAD_PARTS - len(self._parts), (AHEAD_BYTES - self._bytes) // self._size))

    @property
    def is_credited(self) -> bool:
        """Whether an honest runner may have sent as much."""
        return len(self._parts) <= _MOST_PARTS and self._bytes <= _MOST_BYTES

    def sent(self, size: int, seconds: float = 0.0) -> None:
        """Count a part of so many bytes, which took the model so many seconds."""
        self._size = size
        self._parts.append((size, seconds))
        self._bytes += size
        self._seconds += seconds

    def taken(self, parts: int) -> None:
        """Forget the first parts: the caller reads, so that quick parts may be further ahead."""
        self._most = AHEAD_QUICK_PARTS
        for _ in range(min(parts, len(self._parts))):
            size, seconds = self._parts.popleft()
            self._bytes -= size
            self._seconds = self._seconds - seconds if self._parts else 0.0
