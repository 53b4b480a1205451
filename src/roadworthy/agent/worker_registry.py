"""The registry of connected workers: the agent's end of the Unix socket to which the workers of this machine connect.

Workers send their identity, the states of their versions, and records; the agent sends the newest snapshot. Each connection has
its own tasks for reading and sending, and only the newest frame of each kind waits for it, so that a slow or broken worker blocks
no other.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from pathlib import Path

import msgspec
import structlog

from roadworthy.contract.local import HELLO, KEPT_OUT, RECORDS, REPORT, SNAPSHOT
from roadworthy.contract.telemetry import WorkerReport
from roadworthy.foundation.files import private_folder
from roadworthy.foundation.frames import encode_frame, read_frame
from roadworthy.foundation.sockets import unix_address

SEND_TIMEOUT_S = 30.0
"""A worker that takes no bytes for this long is disconnected; it will connect again."""
LAST_WORDS_S = 1.5
"""How long connections stay open after the agent begins to stop."""
_READ_BYTES = 1 << 20
"""Read ahead of each worker, twice at most: more than a frame of records, so that reading need not pause within one."""

_report_decoder = msgspec.json.Decoder(WorkerReport)
_log = structlog.get_logger(__name__)


class _Connection:
    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.writer = writer
        self.report: WorkerReport | None = None
        self.owed: dict[int, bytes] = {}
        self.some = asyncio.Event()


class WorkerRegistry:
    """The connected workers. Event loop only.

    Args:
        on_records: called with the payload of each RECORDS frame; must not block.
        on_change: called whenever the reports change: a new state, a worker that connects or leaves.
    """

    def __init__(self, on_records: Callable[[bytes], None], on_change: Callable[[], None]) -> None:
        self._on_records = on_records
        self._on_change = on_change
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._frames: dict[int, bytes] = {}
        self._server: asyncio.Server | None = None
        self._path = Path()
        self._bound: int | None = None

    async def start(self, path: Path) -> None:
        """Listen on `path`; its folder is created with mode 0700, the socket with 0600.

        Raises:
            OSError: the socket cannot be bound.
            SettingsError: code "path-too-long".
        """
        self._path = path
        listener = _bind(path)
        self._bound = _inode(path)
        self._server = await asyncio.start_unix_server(self._accept, sock=listener, limit=_READ_BYTES)

    async def stay(self) -> None:
        """Bind again if the socket or its folder was deleted, for workers that start later; connections stay."""
        if self._server is not None and _inode(self._path) != self._bound:
            with contextlib.suppress(OSError):  # tried again in a second
                self._server.close()
                await self.start(self._path)
                _log.warning("the socket for workers was deleted; bound it again")

    async def close(self) -> None:
        """Stop accepting connections, receive the last messages of stopping workers, then close all connections."""
        if self._server is not None:
            self._server.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=LAST_WORDS_S)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def publish(self, snapshot: bytes) -> None:
        """Send bytes from `encode_snapshot` to all workers, now and when they connect; an equal snapshot is sent again."""
        self._owe(SNAPSHOT, snapshot)

    def keep_out(self, reasons: dict[str, str]) -> None:
        """Send all workers, now and when they connect, the quarantined parts with the reasons."""
        self._owe(KEPT_OUT, msgspec.json.encode(reasons))

    def _owe(self, kind: int, payload: bytes) -> None:
        self._frames[kind] = encode_frame(kind, payload)
        for connection in self._connections:
            connection.owed[kind] = self._frames[kind]
            connection.some.set()

    def reports(self) -> list[WorkerReport]:
        """The last reports of the connected workers, sorted by slot."""
        reports = [connection.report for connection in self._connections if connection.report is not None]
        return sorted(reports, key=lambda report: (report.slot, report.pid))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        connection = _Connection(writer)
        self._connections.add(connection)
        connection.owed.update(self._frames)
        connection.some.set()
        sending = asyncio.create_task(self._send(connection))
        try:
            await self._receive(connection, reader)
        except (asyncio.IncompleteReadError, OSError):
            pass  # the worker is gone
        except ValueError as error:
            _log.error("a worker sent an unreadable frame; disconnected it", reason=str(error))
        except asyncio.CancelledError:
            pass  # the registry closes
        finally:
            sending.cancel()
            self._connections.discard(connection)
            self._on_change()
            writer.transport.abort()

    async def _receive(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        while True:
            kind, payload = await read_frame(reader)
            if kind == RECORDS:
                self._on_records(payload)
            elif kind in (HELLO, REPORT):
                report = _report_decoder.decode(payload)
                if report != connection.report:
                    connection.report = report
                    self._on_change()

    async def _send(self, connection: _Connection) -> None:
        with contextlib.suppress(OSError):
            while True:
                await connection.some.wait()
                connection.some.clear()
                owed, connection.owed = connection.owed, {}
                for _, frame in sorted(owed.items(), reverse=True):  # quarantined parts before the snapshot
                    connection.writer.write(frame)
                try:
                    async with asyncio.timeout(SEND_TIMEOUT_S):
                        await connection.writer.drain()
                except TimeoutError:
                    _log.error("a worker reads no snapshot; disconnected it")
                    connection.writer.transport.abort()
                    return


def _inode(path: Path) -> int | None:
    with contextlib.suppress(OSError):
        return path.stat().st_ino
    return None


def _bind(path: Path) -> socket.socket:
    private_folder(path.parent)
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with unix_address(path) as address:
        listener.bind(address)
    path.chmod(0o600)
    return listener


def serves_earlier(report: WorkerReport, revision: int) -> bool:
    """Whether a worker may serve an endpoint by a snapshot before this revision. One that it refuses stays as it was."""
    return bool(report.refused) or report.revision not in (0, revision)
