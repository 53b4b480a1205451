"""Joins bodies that arrive in parts: from a connection, or from decompression."""

from __future__ import annotations

import mmap
from typing import cast

from roadworthy.codecs.reading.bounds import FAST_BYTES


class BodyBuffer:
    """Joins the parts of a body. A long body is joined as its parts arrive, in memory of its own that the system takes back at
    once: joining 16 MiB at the end would hold the interpreter for 3 to 15 ms, and a growing buffer is moved as a whole now and
    then.

    Args:
        most: the most bytes that it will hold.

    Attributes:
        size: bytes so far. count: parts so far.
    """

    __slots__ = ("_long", "_most", "_parts", "count", "size")

    def __init__(self, most: int) -> None:
        self._most = most
        self._parts: list[bytes] = []
        self._long: mmap.mmap | None = None
        self.size = self.count = 0

    def add(self, part: bytes) -> None:
        """Append the next part. The parts must not exceed `most` bytes in all."""
        self.size += len(part)
        self.count += 1
        if self._long is not None:
            self._long.write(part)
            return
        self._parts.append(part)
        if self.size > FAST_BYTES:
            self._long = mmap.mmap(-1, self._most, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            for each in self._parts:
                self._long.write(each)
            self._parts.clear()

    def take(self) -> bytes:
        """The whole body, which this object then releases. A body over FAST_BYTES is a memoryview, cast to bytes: it is read by a
        protocol that takes views, or by a reader process."""
        parts, self._parts = self._parts, []
        if self._long is not None:
            long, self._long = self._long, None
            return cast(bytes, memoryview(long)[: self.size].toreadonly())
        return parts[0] if len(parts) == 1 else b"".join(parts)
