"""Free ports that stay free: below those that the kernel gives to outgoing connections and to listeners that ask for any."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack

_FIRST, _LAST = 15_000, 32_000


def free_ports(count: int) -> list[int]:
    """So many different ports of the loopback interface on which nothing listens."""
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
