"""How a worker that is still loading accepts connections from the socket that all workers of its machine share.

Once a request has been answered, requests like it must not be refused by a worker that is still loading. So one loading worker at
a time accepts connections (`AcceptLock`), and it accepts none that came after another worker was ready (`GuardedServer`).
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import socket
from collections.abc import Callable
from pathlib import Path


class AcceptLock:
    """A lock that one process of this machine holds at a time, until it releases it or ends. It locks a file that they share."""

    def __init__(self, shared: Path) -> None:
        self._descriptor = os.open(shared, os.O_RDONLY | os.O_CLOEXEC)

    def acquire(self) -> bool:
        """Try to take the lock; returns whether this process holds it now."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # another process holds it
            return False
        return True

    def release(self) -> None:
        """Release the lock."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)


class GuardedServer:
    """Accepts connections one by one, as long as `may` allows the next. It stops for good at the first refusal, or without a free
    descriptor.

    uvloop's own server is faster, but accepts every waiting connection. This one replaces it, with its `is_serving` and `close`.

    Args:
        listener: the socket; this object closes it.
        make: makes the protocol of a connection.
        may: called before each connection.
    """

    def __init__(self, listener: socket.socket, make: Callable[[], asyncio.Protocol], may: Callable[[], bool]) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._make = make
        self._may = may
        self._tasks: set[asyncio.Task[object]] = set()
        listener.setblocking(False)
        self._loop.add_reader(listener, self._accept_one)

    def is_serving(self) -> bool:
        """Whether it still accepts connections."""
        return self._listener.fileno() >= 0

    def close(self) -> None:
        """Stop accepting; open connections stay open."""
        if self.is_serving():
            self._loop.remove_reader(self._listener)
            self._listener.close()

    def _accept_one(self) -> None:
        if not self._may():
            self.close()
            return
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, ConnectionAbortedError):  # another process accepted it, or its client is gone
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
