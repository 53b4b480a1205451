"""How a worker that cannot answer everything yet takes connections from the socket that all workers of its machine share.

What was answered once is answered from then on: no client is refused by a worker that is still loading when another one has
answered already. So one loading worker at a time takes connections (`Alone`), and none that came after another worker was
ready (`Guarded`).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
from collections.abc import Callable
from pathlib import Path


class Alone:
    """What one process of this machine has at a time, until it leaves it or ends: a lock on a file that they share."""

    def __init__(self, shared: Path) -> None:
        self._descriptor = os.open(shared, os.O_RDONLY | os.O_CLOEXEC)

    def take(self) -> bool:
        """Whether this process has it now."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # another one has it
            return False
        return True

    def leave(self) -> None:
        """Let another process have it."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)


class Guarded:
    """Takes connections one by one and asks before each whether it may; stops for good at the first no, and without descriptors.

    uvloop's own server is faster, and takes whatever waits. It stands in for one here: `is_serving` and `close` are of that.

    Args:
        listener: a descriptor of its own, which this object closes.
        make: makes the protocol of a connection.
        may: asked before each.
    """

    def __init__(self, listener: socket.socket, make: Callable[[], asyncio.Protocol], may: Callable[[], bool]) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._make = make
        self._may = may
        self._tasks: set[asyncio.Task[object]] = set()
        listener.setblocking(False)
        self._loop.add_reader(listener, self._take)

    def is_serving(self) -> bool:
        """Whether it still takes any."""
        return self._listener.fileno() >= 0

    def close(self) -> None:
        """Take no more; connections stay open."""
        if self.is_serving():
            self._loop.remove_reader(self._listener)
            self._listener.close()

    def _take(self) -> None:
        if not self._may():
            self.close()
            return
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):  # another process took it, or its client is gone
            return
        except OSError:  # no free descriptor
            self.close()
            return
        task = self._loop.create_task(self._connect(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):  # its client is gone
            await self._loop.connect_accepted_socket(self._make, connection)
