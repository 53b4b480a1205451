"""A queue that never grows past its bound, in bytes, and counts what it had to drop."""

from __future__ import annotations

from collections import deque


class BoundedBuffer:
    """First-in first-out byte strings, bounded by their total size; when full, new ones are dropped and counted.

    Not thread-safe: one owner, one thread.
    """

    __slots__ = ("_held_bytes", "_items", "_max_bytes", "dropped")

    def __init__(self, max_bytes: int) -> None:
        self._items: deque[bytes] = deque()
        self._held_bytes = 0
        self._max_bytes = max_bytes
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._items)

    def append(self, item: bytes) -> bool:
        """Keep `item` and return True, or drop it, count it and return False."""
        size = len(item)
        if self._held_bytes + size > self._max_bytes:
            self.dropped += 1
            return False
        self._items.append(item)
        self._held_bytes += size
        return True

    def take_all(self) -> list[bytes]:
        """Everything held, oldest first; the buffer is empty afterwards."""
        items = list(self._items)
        self._items.clear()
        self._held_bytes = 0
        return items
