"""Finds ports that stay free: below the range that the kernel uses for outgoing connections and for listeners on port 0."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack

_FIRST, _LAST = 15_000, 32_000


def free_ports(count: int) -> list[int]:
    """`count` different ports of the loopback interface without a listener."""
    chosen: list[int] = []
    with ExitStack() as held:
        while len(chosen) < count:
            port = random.SystemRandom().randint(_FIRST, _LAST)
            try:
                held.enter_context(socket.create_server(("127.0.0.1", port)))
            except OSError:
                continue
            chosen.append(port)
    return chosen
