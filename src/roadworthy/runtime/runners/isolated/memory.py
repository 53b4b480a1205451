"""Memory that a worker and a runner share for the large arrays of one connection.

The worker creates one anonymous file, sealed so that neither side can shrink it under the other, and passes it along with its
first message. It holds a ring for each direction. The sender puts an array in and writes its position in the message. The
receiver copies it out, in the order of the messages, and then notes that in a cell that the sender reads: no locks, one writer
for each number.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import sys
from math import prod

import numpy as np

from roadworthy.schema.batch import Array

RING_BYTES = 32 << 20
"""Size of one direction; only touched pages take memory. An array that does not fit travels in the message."""
SHARE_FROM_BYTES = 32 << 10
"""Smaller arrays travel in the message: docs/decisions/0004-runner-processes.md has the measurement."""

_CELLS_BYTES = 4096
_ALIGN = 64
_BEGUN = 2


class Ring:
    """One direction. One side only calls `put`, the other only `take`."""

    def __init__(self, data: memoryview, cells: memoryview, cell: int) -> None:
        self._data = data
        self._size = len(data)
        self._cells = cells
        self._cell = cell
        self._head = 0
        self._taken = 0

    def put(self, values: Array) -> int | None:
        """Copy an array in; return its position, or None when there is no room now."""
        taken = self._cells[self._cell]
        if taken > self._head:  # the other side writes nonsense: do not trust it
            return None
        self._taken = max(self._taken, taken)
        room = -values.nbytes % _ALIGN + values.nbytes
        start = self._head
        if self._taken == start:  # nothing is in use: start over, where pages have been touched
            start += -start % self._size
            self._taken = start
        elif start % self._size + room > self._size:  # the rest of the ring is too short
            start += -start % self._size
        if start + room - self._taken > self._size:
            return None
        self._head = start + room
        np.copyto(self._array(start, values.dtype, values.shape), values)
        return start

    def take(self, position: int, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> Array:
        """Copy the array at `position` out, and free its room.

        Raises:
            ValueError: no array can be at that position.
        """
        length = prod(shape) * dtype.itemsize
        if position < self._taken or position % self._size + length > self._size:
            raise ValueError("an array outside the shared memory")
        values = self._array(position, dtype, shape).copy()
        self._taken = position + length + -length % _ALIGN
        self._cells[self._cell] = self._taken
        return values

    def _array(self, position: int, dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> Array:
        return np.frombuffer(self._data, dtype, prod(shape), position % self._size).reshape(shape)


class SharedMemory:
    """Both rings of a connection.

    Attributes:
        requests: from worker to runner. answers: from runner to worker.
    """

    def __init__(self, descriptor: int, ring_bytes: int) -> None:
        self._mapped = mmap.mmap(descriptor, _CELLS_BYTES + 2 * ring_bytes)
        whole = memoryview(self._mapped)
        self._cells = whole[:_CELLS_BYTES].cast("q")
        self.requests = Ring(whole[_CELLS_BYTES : _CELLS_BYTES + ring_bytes], self._cells, 0)
        self.answers = Ring(whole[_CELLS_BYTES + ring_bytes :], self._cells, 1)

    def begin(self, number: int) -> None:
        """Note that the runner begins with message `number`; the worker sees it even if the message kills the runner."""
        self._cells[_BEGUN] = number

    @property
    def begun(self) -> int:
        """The last message that the runner began with."""
        return int(self._cells[_BEGUN])


def shared_file(ring_bytes: int = RING_BYTES) -> int | None:
    """Create an anonymous file for `SharedMemory`; return its descriptor, which the caller closes. None on systems other than
    Linux."""
    if not sys.platform.startswith("linux"):
        return None
    with contextlib.suppress(OSError):
        descriptor = os.memfd_create("roadworthy", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, _CELLS_BYTES + 2 * ring_bytes)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        return descriptor
    return None
