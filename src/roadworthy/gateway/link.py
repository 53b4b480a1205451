"""A worker's connection to its agent: snapshots come in, reports and records go out. It is retried forever; serving never waits
for it. `contract/local.py` has the frames.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from roadworthy.contract.local import HELLO, KEPT_OUT, RECORDS, REPORT, SNAPSHOT
from roadworthy.contract.snapshot import Snapshot, decode_snapshot
from roadworthy.contract.telemetry import WorkerReport
from roadworthy.foundation.backoff import Backoff
from roadworthy.foundation.errors import SettingsError
from roadworthy.foundation.frames import frame_head, read_frame
from roadworthy.foundation.sockets import unix_address

_RECONNECTS = Backoff(0.1, 1.0)
_FULL_BYTES = 4 << 20
_SEND_BYTES = 1 << 20
"""Of the socket, as far as the system allows; its default is less than a full frame."""
_encode = msgspec.json.Encoder().encode


class AgentLink:
    """The connection, established or not. Event loop only.

    Args:
        address: the agent's Unix socket.
        report: returns this worker's current report.
        offer: takes a snapshot.
        keep_out: takes the parts that must not execute, each with the reason.
        connected: called when the link is established, so that waiting records can be sent.
        prepare: called before anything is sent over a new connection; False closes it.
    """

    def __init__(
        self,
        address: Path,
        report: Callable[[], WorkerReport],
        offer: Callable[[Snapshot], object],
        keep_out: Callable[[dict[str, str]], None],
        connected: Callable[[], None],
        prepare: Callable[[], bool] = lambda: True,
    ) -> None:
        self._address = address
        self._report = report
        self._offer = offer
        self._keep_out = keep_out
        self._connected = connected
        self._prepare = prepare
        self._writer: asyncio.StreamWriter | None = None

    def ready(self) -> bool:
        """Whether records can be sent now."""
        writer = self._writer
        return writer is not None and writer.transport.get_write_buffer_size() < _FULL_BYTES

    def carry(self, payload: Sequence[bytes | bytearray | memoryview]) -> None:
        """Send the parts of encoded records. Call it only when `ready`."""
        self._send(RECORDS, *payload)

    def report(self) -> None:
        """Send the report, because it has changed."""
        self._send(REPORT, _encode(self._report()))

    async def run(self) -> None:
        """Connect, listen, and reconnect, until cancelled."""
        pauses = _RECONNECTS.delays()
        while True:
            if await self.attend():
                pauses = _RECONNECTS.delays()
            await asyncio.sleep(next(pauses))

    async def attend(self) -> bool:
        """Connect, and listen until the connection ends. False if none was established."""
        try:
            with unix_address(self._address) as path:
                reader, writer = await asyncio.open_unix_connection(path)
        except (OSError, SettingsError):
            return False
        # A frame that fits goes out in one call, and its worker is not woken again to send the rest.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BYTES)
        prepared = self._prepare()
        if prepared:
            with contextlib.suppress(OSError, ValueError, asyncio.IncompleteReadError):
                await self._listen(reader, writer)
        self._writer = None
        writer.close()
        return prepared

    def forget(self) -> None:
        """Close in a fork the connection that it inherited."""
        if self._writer is not None:
            nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            os.dup2(nothing, self._writer.get_extra_info("socket").fileno(), inheritable=False)  # its loop may close the number
            os.close(nothing)
            self._writer = None

    async def _listen(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._send(HELLO, _encode(self._report()))
        self._connected()
        while True:
            kind, payload = await read_frame(reader)
            if kind == SNAPSHOT:
                self._offer(decode_snapshot(payload))
            elif kind == KEPT_OUT:
                self._keep_out(msgspec.json.decode(payload, type=dict[str, str]))

    async def close(self) -> None:
        """Flush what was written, for a second at most, and close."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(1.0):
                    await writer.wait_closed()

    def _send(self, kind: int, *payload: bytes | bytearray | memoryview) -> None:
        writer = self._writer
        if writer is None or writer.is_closing():
            return
        writer.write(frame_head(kind, sum(map(len, payload))))
        for part in payload:
            writer.write(part)
