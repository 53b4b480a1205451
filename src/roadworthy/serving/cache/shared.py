"""A cache of answers that all workers of all machines share, in a server next to them. Each worker has one, behind the caches of
its endpoints (`Shared` in `runtime/layers/cache.py`).

It fails open. Lookups of the same moment go out as one round trip, on one connection, one at a time. A request waits for the
server for at most `wait_s`. After that, or after any failure, no request uses the server: waiting requests continue as after a
miss, and a background task checks with increasing delays whether the server answers in time again. No request ever pays for that
check.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple, Protocol, TypeVar

import structlog

from roadworthy.runtime.layers.answer_bytes import KEY_PREFIX, MAX_ENTRY_BYTES, AnswerBytes, Unfit
from roadworthy.runtime.layers.cache import Found
from roadworthy.schema.batch import Batch, Layout
from roadworthy.serving.cache.backoff import DeadlineTimer, ServerBackoff

CONNECT_S = 1.0
"""How long connecting may take; no request waits for it. Also how long the server may take to store answers."""
LOOK_S = 5.0
"""How often an idle connection is checked."""
ASKED_AT_ONCE = 64
KEPT_AT_ONCE_BYTES = 64 << 10
"""Bound of the entries that one round trip stores, so that the next lookups need not wait long."""
WAITING_ENTRIES, WAITING_BYTES = 1_024, 4 << 20
"""Bounds of the entries that wait to be stored."""
STORED, DROPPED, NOT_SHARED, REFUSED, UNFIT, LOST = "stored", "dropped", "not-shared", "refused", "unfit", "lost"
"""The counted events. Of an answer: the server stored it, it was dropped here, it cannot be shared (too large, or with values
that cannot be written), the server refused it. Of a lookup: the entry found is no answer to the request. LOST: the server
failed."""

_CODES = frozenset(
    {"BUSY", "ERR", "LOADING", "MISCONF", "MOVED", "NOAUTH", "NOPERM", "OOM", "READONLY", "WRONGPASS", "WRONGTYPE"}
)
_Reply = TypeVar("_Reply")


class Server(Protocol):
    """The server that stores the entries (`redis.py`). Any call may raise any exception."""

    address: str

    async def open(self) -> None: ...
    async def ping(self) -> None: ...
    async def exchange(self, asked: Sequence[bytes], stored: Sequence[tuple[bytes, bytes, int]]) -> list[object]: ...
    async def close(self) -> None: ...


class _Lookup(NamedTuple):
    key: bytes
    rows: int
    form: AnswerBytes
    deliver: Callable[[Found | None], None]
    until: float


class _Store(NamedTuple):
    key: bytes
    batch: Batch
    size: int
    form: AnswerBytes
    ttl_ms: int
    until: float


class SharedCache:
    """The worker's side of the shared cache. Event loop only.

    Args:
        server: stores the entries.
        wait_s: how long a request may wait for it.
        count: called with STORED, DROPPED, … for each event.
        changed: called when `connected` has changed.

    Attributes:
        connected: whether requests use the server now.
    """

    def __init__(self, server: Server, wait_s: float, count: Callable[[str], None], changed: Callable[[], None]) -> None:
        self._server = server
        self._wait_s = wait_s
        self._count = count
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._log = structlog.get_logger("shared-cache").bind(address=server.address)
        self._lookups: deque[_Lookup] = deque()
        self._asked: deque[_Lookup] = deque()
        self._stores: deque[_Store] = deque()
        self._waiting_bytes = 0
        self._wake = asyncio.Event()
        self._timer = DeadlineTimer(self._loop, self._due, self._give_up)
        self._limit: asyncio.Timeout | None = None
        self._round_until: float | None = None
        self._backoff = ServerBackoff()
        self._refusal_backoff = ServerBackoff()
        self._logged_reasons: set[str] = set()
        self.connected = False

    @property
    def address(self) -> str:
        """The server's address, without user and password."""
        return self._server.address

    def bound(self, outputs: Layout) -> BoundShare:
        """The shared answers of a version with these outputs, for its caches."""
        return BoundShare(self, AnswerBytes(outputs))

    async def run(self) -> None:
        """Connect and serve lookups, again after each failure, until cancelled."""
        try:
            while True:
                try:
                    await self._open()
                    await self._exchange()
                except Exception as error:  # noqa: BLE001 - the program at that address may make the library raise anything
                    self._lost(error)
                await self._shut()
                await asyncio.sleep(self._backoff.next_s())
        finally:
            self._release()
            await self._shut()

    # Called by BoundShare.

    def ask(self, lookup: _Lookup) -> bool:
        """Look an answer up; False when the server is not connected."""
        if not self.connected:
            return False
        self._lookups.append(lookup)
        self._timer.watch(lookup.until)
        self._wake.set()
        return True

    def put(self, store: _Store) -> None:
        """Store an answer, or drop it when the server is not connected or too much waits."""
        if store.size > 2 * MAX_ENTRY_BYTES:
            self._count(NOT_SHARED)
        elif (
            not self.connected
            or len(self._stores) >= WAITING_ENTRIES
            or self._waiting_bytes + store.size > WAITING_BYTES
            or self._refusal_backoff.holds()
        ):
            self._count(DROPPED)
        else:
            self._stores.append(store)
            self._waiting_bytes += store.size
            self._wake.set()

    @property
    def wait_s(self) -> float:
        """How long a request may wait."""
        return self._wait_s

    # The background task.

    async def _open(self) -> None:
        async with asyncio.timeout(CONNECT_S):
            await self._server.open()
        begun = time.monotonic()
        async with asyncio.timeout(CONNECT_S):
            replies = await self._server.exchange([_UNUSED_KEY], [])
        for reply in replies:
            _judge(reply)
        if not isinstance(replies[0], int) or not isinstance(replies[1], bytes):
            raise TypeError("the server does not know these commands")
        if time.monotonic() - begun > self._wait_s:
            raise TimeoutError("the server answers too slowly")
        self._backoff.began()
        self.connected = True
        self._log.info("shared-cache-connected", again=bool(self._logged_reasons))
        self._logged_reasons.clear()
        self._changed()

    async def _exchange(self) -> None:
        while True:
            if not self._lookups and not self._stores:
                self._wake.clear()
                try:
                    async with asyncio.timeout(LOOK_S):
                        await self._wake.wait()
                except TimeoutError:
                    await self._in_time(self._server.ping())
            else:
                await self._round()

    async def _round(self) -> None:
        lookups = self._lookups
        self._asked = asked = deque(lookups.popleft() for _ in range(min(len(lookups), ASKED_AT_ONCE)))
        stored = self._next_stores()
        if not asked and not stored:
            return
        sent = time.monotonic()
        replies = await self._in_time(self._server.exchange([lookup.key for lookup in asked], stored))
        found = 2 * len(asked)
        for reply in replies[:found]:
            _judge(reply)
        for number in range(0, found, 2):  # a delivered lookup is no longer in `_asked`, which a failure answers
            lookup = asked.popleft()
            lookup.deliver(self._read(lookup, replies[number], replies[number + 1], sent))
        for reply in replies[found:]:
            self._note(reply)

    async def _in_time(self, call: Awaitable[_Reply]) -> _Reply:
        """The server's reply.

        Raises:
            TimeoutError: it took longer than CONNECT_S, or than a waiting request may wait.
        """
        self._round_until = time.monotonic() + CONNECT_S
        self._timer.watch(self._round_until)
        try:
            async with asyncio.timeout(None) as self._limit:
                reply = await call
        finally:
            self._limit = self._round_until = None
        if not self.connected:  # the reply came at the moment of the timeout, and no request waits for it
            raise TimeoutError
        return reply

    def _next_stores(self) -> list[tuple[bytes, bytes, int]]:
        stored: list[tuple[bytes, bytes, int]] = []
        room = KEPT_AT_ONCE_BYTES
        now = time.monotonic()
        while self._stores and (room > 0 or not stored):
            store = self._stores.popleft()
            self._waiting_bytes -= store.size
            left_ms = int((store.until - now) * 1_000)
            if left_ms < 1:
                self._count(DROPPED)
                continue
            try:
                entry = store.form.encode(store.key, store.batch, store.ttl_ms)
            except Unfit:
                self._count(NOT_SHARED)
                continue
            stored.append((store.key, entry, left_ms))
            room -= len(entry)
        return stored

    def _read(self, lookup: _Lookup, left_ms: object, entry: object, sent: float) -> Found | None:
        """The answer in the replies. `left_ms` is -2 where there is no entry, -1 for an entry without expiry, which no
        worker stores."""
        if left_ms == -2 or entry == b"":
            return None
        try:
            if not isinstance(left_ms, int) or not isinstance(entry, bytes) or left_ms < 0:
                raise Unfit("the entry has another form than ours")
            batch, ttl_ms = lookup.form.decode(lookup.key, entry, lookup.rows)
            if ttl_ms < left_ms:
                raise Unfit("the entry outlives its time to live")
        except Unfit:
            self._count(UNFIT)
            return None
        return Found(batch, sent - (ttl_ms - left_ms) / 1_000, sent + left_ms / 1_000)

    def _note(self, reply: object) -> None:
        """Count the reply to a stored entry. After a refusal, such as by a full server, nothing is stored for a while."""
        if not isinstance(reply, Exception):
            self._count(STORED)
            if self._refusal_backoff.over():
                self._log.info("shared-cache-keeps-again")
            return
        self._count(REFUSED)
        if self._refusal_backoff.begin():
            self._log.warning("shared-cache-refuses", reason=_reason_of(reply))

    # Failures.

    def _due(self) -> float | None:
        """When the oldest lookup, or the round trip itself, will have waited too long."""
        first = self._asked or self._lookups
        until = first[0].until if first else None
        return min((each for each in (until, self._round_until) if each is not None), default=None)

    def _give_up(self) -> None:
        """End the round trip: the server is too slow."""
        limit = self._limit
        if limit is not None:
            self._release()
            limit.reschedule(self._loop.time())

    def _lost(self, error: Exception) -> None:
        self._count(LOST)
        reason = _reason_of(error)
        if reason not in self._logged_reasons:  # a timeout may come first, and the refused password only then
            self._logged_reasons.add(reason)
            self._log.warning("shared-cache-lost", reason=reason)
        self._release()

    def _release(self) -> None:
        """Disconnect: all waiting lookups continue as after a miss."""
        was, self.connected = self.connected, False
        self._limit = None
        self._timer.cancel()
        waiting = [*self._asked, *self._lookups]
        self._asked.clear()
        self._lookups.clear()
        for _ in range(len(self._stores)):
            self._count(DROPPED)
        self._stores.clear()
        self._waiting_bytes = 0
        for lookup in waiting:
            lookup.deliver(None)
        if was:
            self._changed()

    async def _shut(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_S):
                await self._server.close()
        except Exception as error:  # noqa: BLE001 - a connection that cannot be closed is gone too
            self._log.debug("shared-cache-not-closed", reason=_reason_of(error))


class BoundShare:
    """The shared answers of one version. Implements `Shared` in `runtime/layers/cache.py`."""

    __slots__ = ("_cache", "_form")

    def __init__(self, cache: SharedCache, form: AnswerBytes) -> None:
        self._cache = cache
        self._form = form

    def ask(self, key: bytes, rows: int, deadline: float, deliver: Callable[[Found | None], None]) -> bool:
        """See `Shared`."""
        until = time.monotonic() + self._cache.wait_s
        return until < deadline and self._cache.ask(_Lookup(_name(key), rows, self._form, deliver, until))

    def put(self, key: bytes, answer: Batch, size: int, ttl_s: float) -> None:
        """See `Shared`."""
        until = time.monotonic() + ttl_s
        self._cache.put(_Store(_name(key), answer, size, self._form, int(ttl_s * 1_000), until))


def _name(key: bytes) -> bytes:
    return KEY_PREFIX + key.hex().encode()


_UNUSED_KEY = _name(bytes(32))


def _judge(reply: object) -> None:
    """Raise a reply that is an error of the server; an error of the one entry does not end the connection."""
    if isinstance(reply, Exception) and _code_of(reply) != "WRONGTYPE":
        raise reply


def _code_of(error: Exception) -> str:
    """The first word of a server's error, such as OOM, if it is a known code; never more of the text, since servers repeat what
    they were sent, including passwords."""
    word = str(error).partition(" ")[0]
    return word if word in _CODES else ""


def _reason_of(error: Exception) -> str:
    """The parts of an error that may be logged: its classes, the system's error number, the server's code."""
    cause = error.__cause__ or error.__context__
    number = getattr(error, "errno", None) or getattr(cause, "errno", None)
    words = [type(error).__name__, _code_of(error), "" if cause is None else type(cause).__name__]
    return " ".join([*filter(None, words), *([f"errno {number}"] if isinstance(number, int) else [])])
