"""The registry of connected workers: the agent's end of the Unix socket to which the workers of this machine connect.

Workers send their identity, the states of their versions, and records; the agent sends the newest snapshot. Each connection has
its own tasks for reading and sending, and only the newest frame of each kind waits for it, so that a slow or broken worker blocks
no other.

Processes with embedded endpoints connect too: the members. The kernel says which process and which user has connected, and the
slab which process has the slot that it names; what it says itself counts for nothing. It may record only for endpoints of a
snapshot, and only records that fit into a file with those of others. A member that breaks these rules is disconnected, and
connects again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable, Container, Iterable
from pathlib import Path

import msgspec
import structlog

from roadworthy.contract.local import HELLO, KEPT_OUT, RECORDS, REPORT, SNAPSHOT
from roadworthy.contract.record import RecordColumns, count_records, decode_records
from roadworthy.contract.telemetry import WorkerReport
from roadworthy.foundation.files import private_folder
from roadworthy.foundation.frames import MAX_FRAME_BYTES, encode_frame, read_frame
from roadworthy.foundation.slab import SlabReader
from roadworthy.foundation.sockets import peer_of, unix_address

SEND_TIMEOUT_S = 30.0
"""A worker that takes no bytes for this long is disconnected; it will connect again."""
LAST_WORDS_S = 1.5
"""How long connections stay open after the agent begins to stop."""
HELLO_S = 10.0
"""How long a connection may stay without an identity."""
MOST_STRANGERS = 32
"""Connections without an identity at a time. One more is closed, and its worker tries again."""
_HELLO_BYTES = 1 << 20
_READ_BYTES = 1 << 20
"""Read ahead of each worker, twice at most: more than a frame of records, so that reading need not pause within one."""

_MEMBER_BYTES = 24 << 20
"""The longest frame of a member: a record with bodies of 16 MiB, which is all that its process holds, and its texts."""
_MEMBER_RECORDS = 512
"""Most records of a member's frame: as many as its process sends together, each of another kind at worst."""
_KIND_BYTES = 1 << 10
"""Longest texts of one kind of a member's records together. They are repeated for each record while a file is made."""
_MOST_NUMBER = 2**63 - 1
_LATEST_US = 253_402_300_799_999_999
"""The end of the year 9999."""

_report_decoder = msgspec.json.Decoder(WorkerReport)
_log = structlog.get_logger(__name__)


class _Connection:
    """A connected process.

    Attributes:
        pid: of that process; None where the kernel does not say.
        slot: the one that it has in the slab; None before its first report.
    """

    def __init__(self, writer: asyncio.StreamWriter, pid: int | None) -> None:
        self.writer = writer
        self.pid = pid
        self.slot: int | None = None
        self.report: WorkerReport | None = None
        self.owed: dict[int, bytes] = {}
        self.some = asyncio.Event()


class WorkerRegistry:
    """The connected workers. Event loop only.

    Args:
        slab: tells which process has which slot.
        on_records: called with the payload of each RECORDS frame, and whether a member sent it; must not block.
        on_change: called whenever the reports change: a new state, a worker that connects or leaves.
        endpoints: returns the names for which members may record. lost: called with the number of records that were refused.
    """

    def __init__(
        self,
        slab: SlabReader,
        on_records: Callable[[bytes, bool], None],
        on_change: Callable[[], None],
        endpoints: Callable[[], Container[str]],
        lost: Callable[[int], None],
    ) -> None:
        self._slab = slab
        self._on_records = on_records
        self._on_change = on_change
        self._endpoints = endpoints
        self._lost = lost
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
        for connection in (each for each in self._connections if each.slot is not None):
            connection.owed[kind] = self._frames[kind]
            connection.some.set()

    def reports(self) -> list[WorkerReport]:
        """The last reports of the connected workers, sorted by slot."""
        return self._sorted(connection for connection in self._connections if connection.slot not in self._slab.members)

    def held(self) -> list[WorkerReport]:
        """Those of the workers and of the members: of all that use packages on this machine."""
        return self._sorted(self._connections)

    @staticmethod
    def _sorted(connections: Iterable[_Connection]) -> list[WorkerReport]:
        reports = [connection.report for connection in connections if connection.report is not None]
        return sorted(reports, key=lambda report: (report.slot, report.pid))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = peer_of(writer.get_extra_info("socket"))
        if self._is_unwelcome(None if peer is None else peer[1]):
            writer.transport.abort()
            return
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        connection = _Connection(writer, None if peer is None else peer[0])
        self._connections.add(connection)
        sending = asyncio.create_task(self._send(connection))
        try:
            await self._receive(connection, reader)
        except TimeoutError:
            _log.error("a process connected and did not say what it is; disconnected it", pid=connection.pid)
        except (asyncio.IncompleteReadError, OSError):
            pass  # the worker is gone
        except (ValueError, RecursionError) as error:
            _log.error("a worker sent an unreadable frame; disconnected it", reason=str(error), pid=connection.pid)
        except asyncio.CancelledError:
            pass  # the registry closes
        finally:
            sending.cancel()
            self._connections.discard(connection)
            self._note_change(connection)
            writer.transport.abort()

    def _is_unwelcome(self, uid: int | None) -> bool:
        """Whether to close a new connection at once: it is another user's, or too many have not said what they are."""
        if uid is not None and uid not in (os.geteuid(), 0):
            _log.error("a process of another user connected; disconnected it", uid=uid)
            return True
        return sum(connection.slot is None for connection in self._connections) >= MOST_STRANGERS

    async def _receive(self, connection: _Connection, reader: asyncio.StreamReader) -> None:
        async with asyncio.timeout(HELLO_S):
            while connection.slot is None:
                kind, payload = await read_frame(reader, _HELLO_BYTES)
                if kind in (HELLO, REPORT):
                    self._take_report(connection, payload)
        is_member = connection.slot in self._slab.members
        while True:
            await asyncio.sleep(0)  # reading does not pause while bytes are there, and others need their turn
            kind, payload = await read_frame(reader, _MEMBER_BYTES if is_member else MAX_FRAME_BYTES)
            if kind == RECORDS and is_member:
                self._take_records(payload)
            elif kind == RECORDS:
                self._on_records(payload, False)
            elif kind in (HELLO, REPORT):
                self._take_report(connection, payload)
            elif is_member:
                raise ValueError(f"frames of kind {kind} are unknown")

    def _take_report(self, connection: _Connection, payload: bytes) -> None:
        """Take a report.

        Raises:
            ValueError: it is no report, or the slot that it names is another process's.
        """
        report = _report_decoder.decode(payload)
        if report.slot >= self._slab.slots - 1 or connection.slot not in (None, report.slot):
            raise ValueError(f"slot {report.slot} is not its own")
        if connection.slot is None:  # later it may have released the slot, and its last messages are still on the way
            if connection.pid is not None and self._slab.status(report.slot).pid != connection.pid:
                raise ValueError(f"slot {report.slot} belongs to another process")
            for other in self._connections:
                if other.slot == report.slot:
                    other.writer.transport.abort()  # the same process has connected again
            connection.slot = report.slot
            connection.owed.update(self._frames)
            connection.some.set()
        if report != connection.report:
            connection.report = report
            self._note_change(connection)

    def _note_change(self, connection: _Connection) -> None:
        """Tell of a change of a worker's report. Those of members are of no concern to the control plane."""
        if connection.slot is not None and connection.slot not in self._slab.members:
            self._on_change()

    def _take_records(self, payload: bytes) -> None:
        """Take a member's records.

        Raises:
            ValueError: they are not records, or some that a worker would not send.
        """
        if count_records(payload) > _MEMBER_RECORDS:
            raise ValueError(f"more than {_MEMBER_RECORDS} records in a frame")
        groups = decode_records(payload)
        if sum(group.count for group in groups) != count_records(payload) or not all(map(_is_sound, groups)):
            raise ValueError("the records are damaged")
        endpoints = self._endpoints()
        if all(group.kind.endpoint in endpoints for group in groups):
            self._on_records(payload, True)
        else:
            self._lost(count_records(payload))

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


def _is_sound(group: RecordColumns) -> bool:
    """Whether a group is not empty, and a record file can hold its records and be read again.

    Raises:
        ValueError: an id is no text.
    """
    for pieces in (group.ids, group.request_ids):
        if pieces is not None and not bytes(pieces.data).isascii():
            start = 0
            for length in pieces.lengths.cast("I"):
                str(pieces.data[start : start + length], "utf-8")
                start += length
    values = msgspec.structs.astuple(group.kind)
    texts, numbers = [each for each in values if isinstance(each, str)], [each for each in values if isinstance(each, int)]
    return (
        group.count > 0
        and sum(len(text.encode()) for text in texts) <= _KIND_BYTES
        and all(0 <= number <= _MOST_NUMBER for number in numbers)
        and all(0 <= at_us <= _LATEST_US for at_us in group.at_us.cast("q"))
    )


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
