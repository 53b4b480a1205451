"""Opens a worker's connection to a runner."""

from __future__ import annotations

import contextlib
import os
import socket
from pathlib import Path

import msgspec

from roadworthy.foundation.errors import SettingsError
from roadworthy.foundation.sockets import unix_address
from roadworthy.runtime.runners.isolated.frames import HELLO, Opening, encode_message
from roadworthy.runtime.runners.isolated.memory import RING_BYTES, SharedMemory, shared_file


def connect(address: Path) -> socket.socket | None:
    """Connect to the runner that holds `address`; None when there is no such runner. Does not wait."""
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    end.setblocking(False)
    try:
        with unix_address(address) as path:
            end.connect(path)
    except (OSError, SettingsError):
        end.close()
        return None
    return end


def open_with_memory(end: socket.socket) -> SharedMemory | None:
    """Send the opening with the shared memory, and return that memory; None when this system has no shared memory.

    Raises:
        OSError: the other side is gone.
    """
    descriptor = shared_file()
    if descriptor is None:
        end.sendall(encode_message(HELLO, 0, msgspec.json.encode(Opening())))
        return None
    try:
        memory = SharedMemory(descriptor, RING_BYTES)
        opening = encode_message(HELLO, 0, msgspec.json.encode(Opening(ring_bytes=RING_BYTES)))
        socket.send_fds(end, [opening], [descriptor])
        return memory
    finally:
        with contextlib.suppress(OSError):
            os.close(descriptor)
