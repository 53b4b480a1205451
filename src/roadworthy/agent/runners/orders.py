"""The agent's end of its channel to the supervisor: orders runner processes, and receives reports of their starts and exits.

`supervisor/channel.py` describes the messages; agent and supervisor share nothing else.
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
    """The channel to the supervisor. Event loop only.

    Args:
        descriptor: inherited from the supervisor.
        on_message: called with each message that arrives.
    """

    def __init__(self, descriptor: int, on_message: Callable[[dict[str, Any]], None]) -> None:
        self._socket = socket.socket(fileno=descriptor)
        self._socket.setblocking(False)
        self._on_message = on_message
        self._writer: asyncio.StreamWriter | None = None

    async def run(self) -> None:
        """Ask for the running children, then receive messages until cancelled."""
        reader, self._writer = await asyncio.open_connection(sock=self._socket, limit=_LONGEST_LINE)
        try:
            self._writer.write(b'{"hello": true}\n')
            while line := await reader.readline():
                with contextlib.suppress(ValueError):
                    message = json.loads(line)
                    if isinstance(message, dict):
                        self._on_message(message)
                        if "number" in message:
                            self._write({"heard": message["number"]})
            await asyncio.Event().wait()  # the supervisor is gone; `watch_parent` notices
        finally:
            self._writer.close()

    def order(self, children: list[dict[str, Any]]) -> None:
        """Order the supervisor to run exactly these children."""
        self._write({"children": children})

    def kill(self, name: str, pid: int, reason: str) -> None:
        """Order the supervisor to kill process `pid` of a child at once."""
        self._write({"kill": name, "pid": pid, "reason": reason})

    def _write(self, message: dict[str, Any]) -> None:
        if self._writer is not None:
            self._writer.write(json.dumps(message).encode() + b"\n")
