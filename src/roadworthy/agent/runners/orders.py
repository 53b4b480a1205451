"""The agent's end of the line to the supervisor: which runner processes there should be, and what became of them.

The messages are described in `supervisor/channel.py`; the two meet in them and nowhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Callable
from typing import Any

_LONGEST_LINE = 4 << 20


class Orders:
    """Event loop only.

    Args:
        descriptor: inherited from the supervisor.
        told: called with each message that comes.
    """

    def __init__(self, descriptor: int, told: Callable[[dict[str, Any]], None]) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(False)
        self._told = told
        self._writer: asyncio.StreamWriter | None = None

    async def run(self) -> None:
        """Ask what runs, then listen until cancelled."""
        reader, self._writer = await asyncio.open_connection(sock=self._socket, limit=_LONGEST_LINE)
        try:
            self._writer.write(b'{"hello": true}\n')
            while line := await reader.readline():
                with contextlib.suppress(ValueError):
                    message = json.loads(line)
                    if isinstance(message, dict):
                        self._told(message)
                        if "number" in message:
                            self._write({"heard": message["number"]})
            await asyncio.Event().wait()  # the supervisor is gone; this process is told so in another way
        finally:
            self._writer.close()

    def order(self, children: list[dict[str, Any]]) -> None:
        """Have exactly these children run."""
        self._write({"children": children})

    def kill(self, name: str, pid: int, reason: str) -> None:
        """Have one life of a child ended at once."""
        self._write({"kill": name, "pid": pid, "reason": reason})

    def _write(self, message: dict[str, Any]) -> None:
        if self._writer is not None:
            self._writer.write(json.dumps(message).encode() + b"\n")
