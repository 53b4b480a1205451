"""Answers that all workers of all machines share, in a server beside them. One object a worker, behind the caches of its
endpoints (`runtime/layers/cache.py`, Shared).

Everything fails open. What is asked in the same moment goes out as one round, on one connection, one round at a time. A request
waits for the server `wait_s` at most. When that passes, or anything goes wrong, nobody asks the server any more: all who wait go
on as with a miss, and a task of its own looks, after growing pauses, whether the server answers again and in time. No request
ever tries that out.
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
from roadworthy.serving.cache.backoff import Alarm, Pauses

CONNECT_S = 1.0
"""How long connecting may take; no request waits for it. Also how long a server may think about answers that it is to keep."""
LOOK_S = 5.0
"""How often a connection that nobody uses is tried."""
ASKED_AT_ONCE = 64
KEPT_AT_ONCE_BYTES = 64 << 10
"""Bound of what one round carries to the server, so that the questions behind it need not wait long."""
WAITING_ENTRIES, WAITING_BYTES = 1_024, 4 << 20
"""Bounds of what waits to be kept."""
STORED, DROPPED, NOT_SHARED, REFUSED, UNFIT, LOST = "stored", "dropped", "not-shared", "refused", "unfit", "lost"
"""What is counted. An answer was kept by the server; had to be dropped here; is not for sharing, being too large or of values
that cannot be written; was refused by the server. What lay there was no answer to the request. The server did not answer."""


_CODES = frozenset(
    {"BUSY", "ERR", "LOADING", "MISCONF", "MOVED", "NOAUTH", "NOPERM", "OOM", "READONLY", "WRONGPASS", "WRONGTYPE"}
)
_Reply = TypeVar("_Reply")


class Server(Protocol):
    """What keeps the entries: `redis.py`. Any call may raise anything."""

    address: str

    async def open(self) -> None: ...
    async def ping(self) -> None: ...
    async def exchange(self, asked: Sequence[bytes], kept: Sequence[tuple[bytes, bytes, int]]) -> list[object]: ...
    async def close(self) -> None: ...


class _Question(NamedTuple):
    key: bytes
    rows: int
    form: AnswerBytes
    tell: Callable[[Found | None], None]
    until: float


class _Keep(NamedTuple):
    key: bytes
    batch: Batch
    size: int
    form: AnswerBytes
    ttl_ms: int
    until: float


class SharedCache:
    """The worker's part in it. Event loop only.

    Args:
        server: what keeps the entries.
        wait_s: how long a request may wait for it.
        count: called with STORED, DROPPED, … for each.
        changed: called when `connected` has changed.
    """

    def __init__(
        self, server: Server, wait_s: float, count: Callable[[str], None], changed: Callable[[], None]
    ) -> None:
        self._server = server
        self._wait_s = wait_s
        self._count = count
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._log = structlog.get_logger("shared-cache").bind(address=server.address)
        self._questions: deque[_Question] = deque()
        self._asked: deque[_Question] = deque()
        self._keeps: deque[_Keep] = deque()
        self._waiting_bytes = 0
        self._wake = asyncio.Event()
        self._alarm = Alarm(self._loop, self._due, self._give_up)
        self._limit: asyncio.Timeout | None = None
        self._round_until: float | None = None
        self._pauses = Pauses()
        self._refusals = Pauses()
        self._told_lost = False
        self.connected = False

    @property
    def address(self) -> str:
        """Where it is, without user and password."""
        return self._server.address

    def bound(self, outputs: Layout) -> BoundShare:
        """What the caches of a version with these outputs ask."""
        return BoundShare(self, AnswerBytes(outputs))

    async def run(self) -> None:
        """Connect, exchange, and after each failure begin anew; until it is cancelled."""
        try:
            while True:
                try:
                    await self._open()
                    await self._exchange()
                except Exception as error:  # noqa: BLE001 - whoever answers at that address may make the library raise anything
                    self._lost(error)
                await self._shut()
                await asyncio.sleep(self._pauses.next_s())
        finally:
            self._release()
            await self._shut()

    # Called by BoundShare.

    def ask(self, question: _Question) -> bool:
        """As in Shared."""
        if not self.connected:
            return False
        self._questions.append(question)
        self._alarm.watch(question.until)
        self._wake.set()
        return True

    def put(self, keep: _Keep) -> None:
        """As in Shared."""
        if keep.size > 2 * MAX_ENTRY_BYTES:
            self._count(NOT_SHARED)
        elif (
            not self.connected
            or len(self._keeps) >= WAITING_ENTRIES
            or self._waiting_bytes + keep.size > WAITING_BYTES
            or self._refusals.holds()
        ):
            self._count(DROPPED)
        else:
            self._keeps.append(keep)
            self._waiting_bytes += keep.size
            self._wake.set()

    @property
    def wait_s(self) -> float:
        """How long a request may wait."""
        return self._wait_s

    # The task.

    async def _open(self) -> None:
        async with asyncio.timeout(CONNECT_S):
            await self._server.open()
        begun = time.monotonic()
        async with asyncio.timeout(CONNECT_S):
            replies = await self._server.exchange([_NOBODYS], [])
        for reply in replies:
            _judge(reply)
        if not isinstance(replies[0], int) or not isinstance(replies[1], bytes):
            raise TypeError("it does not know these commands")
        if time.monotonic() - begun > self._wait_s:
            raise TimeoutError("it answers too slowly")
        self._pauses.began()
        self.connected = True
        self._log.info("shared-cache-connected", again=self._told_lost)
        self._told_lost = False
        self._changed()

    async def _exchange(self) -> None:
        while True:
            if not self._questions and not self._keeps:
                self._wake.clear()
                try:
                    async with asyncio.timeout(LOOK_S):
                        await self._wake.wait()
                except TimeoutError:
                    await self._in_time(self._server.ping())
            else:
                await self._round()

    async def _round(self) -> None:
        questions = self._questions
        self._asked = asked = deque(questions.popleft() for _ in range(min(len(questions), ASKED_AT_ONCE)))
        kept = self._next_kept()
        if not asked and not kept:
            return
        sent = time.monotonic()
        replies = await self._in_time(self._server.exchange([question.key for question in asked], kept))
        found = 2 * len(asked)
        for reply in replies[:found]:
            _judge(reply)
        for number in range(0, found, 2):  # who was told is not among those any more who would be told of a failure
            question = asked.popleft()
            question.tell(self._read(question, replies[number], replies[number + 1], sent))
        for reply in replies[found:]:
            self._note(reply)

    async def _in_time(self, call: Awaitable[_Reply]) -> _Reply:
        """What the server says, unless it takes too long, or longer than any request may wait that comes meanwhile."""
        self._round_until = time.monotonic() + CONNECT_S
        self._alarm.watch(self._round_until)
        try:
            async with asyncio.timeout(None) as self._limit:
                reply = await call
        finally:
            self._limit = self._round_until = None
        if not self.connected:  # it came together with the alarm, and nobody waits any more
            raise TimeoutError
        return reply

    def _next_kept(self) -> list[tuple[bytes, bytes, int]]:
        kept: list[tuple[bytes, bytes, int]] = []
        room = KEPT_AT_ONCE_BYTES
        now = time.monotonic()
        while self._keeps and (room > 0 or not kept):
            keep = self._keeps.popleft()
            self._waiting_bytes -= keep.size
            left_ms = int((keep.until - now) * 1_000)
            if left_ms < 1:
                self._count(DROPPED)
                continue
            try:
                entry = keep.form.encode(keep.key, keep.batch, keep.ttl_ms)
            except Unfit:
                self._count(NOT_SHARED)
                continue
            kept.append((keep.key, entry, left_ms))
            room -= len(entry)
        return kept

    def _read(self, question: _Question, left_ms: object, entry: object, sent: float) -> Found | None:
        """What the replies say. `left_ms` is -2 where nothing is, -1 where it is kept for ever, which we never ask for."""
        if left_ms == -2 or entry == b"":
            return None
        try:
            if not isinstance(left_ms, int) or not isinstance(entry, bytes) or left_ms < 0:
                raise Unfit("no entry of ours")
            batch, ttl_ms = question.form.decode(question.key, entry, question.rows)
            if ttl_ms < left_ms:
                raise Unfit("kept for longer than it may be given")
        except Unfit:
            self._count(UNFIT)
            return None
        return Found(batch, sent - (ttl_ms - left_ms) / 1_000, sent + left_ms / 1_000)

    def _note(self, reply: object) -> None:
        """What the server said to an answer that it was to keep. One that refuses, being full, is left alone for a while."""
        if not isinstance(reply, Exception):
            self._count(STORED)
            if self._refusals.over():
                self._log.info("shared-cache-keeps-again")
            return
        self._count(REFUSED)
        if self._refusals.begin():
            self._log.warning("shared-cache-refuses", reason=_reason_of(reply))

    # When it goes wrong.

    def _due(self) -> float | None:
        """When the first of those who wait, or the round itself, has waited long enough."""
        first = self._asked or self._questions
        until = first[0].until if first else None
        return min((each for each in (until, self._round_until) if each is not None), default=None)

    def _give_up(self) -> None:
        """The server is too slow."""
        limit = self._limit
        if limit is not None:
            self._release()
            limit.reschedule(self._loop.time())

    def _lost(self, error: Exception) -> None:
        self._count(LOST)
        if not self._told_lost:
            self._told_lost = True
            self._log.warning("shared-cache-lost", reason=_reason_of(error))
        self._release()

    def _release(self) -> None:
        """All who wait go on without it."""
        was, self.connected = self.connected, False
        self._limit = None
        self._alarm.cancel()
        waiting = [*self._asked, *self._questions]
        self._asked.clear()
        self._questions.clear()
        for _ in range(len(self._keeps)):
            self._count(DROPPED)
        self._keeps.clear()
        self._waiting_bytes = 0
        for question in waiting:
            question.tell(None)
        if was:
            self._changed()

    async def _shut(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_S):
                await self._server.close()
        except Exception as error:  # noqa: BLE001 - what cannot be closed is gone as well
            self._log.debug("shared-cache-not-closed", reason=_reason_of(error))


class BoundShare:
    """The shared answers of one version, as its cache asks for them (`runtime/layers/cache.py`, Shared)."""

    __slots__ = ("_cache", "_form")

    def __init__(self, cache: SharedCache, form: AnswerBytes) -> None:
        self._cache = cache
        self._form = form

    def ask(self, key: bytes, rows: int, deadline: float, tell: Callable[[Found | None], None]) -> bool:
        """As in Shared."""
        until = time.monotonic() + self._cache.wait_s
        return until < deadline and self._cache.ask(_Question(_name(key), rows, self._form, tell, until))

    def put(self, key: bytes, answer: Batch, size: int, ttl_s: float) -> None:
        """As in Shared."""
        until = time.monotonic() + ttl_s
        self._cache.put(_Keep(_name(key), answer, size, self._form, int(ttl_s * 1_000), until))


def _name(key: bytes) -> bytes:
    return KEY_PREFIX + key.hex().encode()


_NOBODYS = _name(bytes(32))


def _judge(reply: object) -> None:
    """An error that is the server's, and not that of the one entry, ends the connection."""
    if isinstance(reply, Exception) and _code_of(reply) != "WRONGTYPE":
        raise reply


def _code_of(error: Exception) -> str:
    """The first word of a server's error where it is one of those, such as OOM; never more of the text: servers repeat what they
    were sent, passwords too."""
    word = str(error).partition(" ")[0]
    return word if word in _CODES else ""


def _reason_of(error: Exception) -> str:
    """What may be logged of an error: its classes, the system's or the server's word for it."""
    cause = error.__cause__ or error.__context__
    number = getattr(error, "errno", None) or getattr(cause, "errno", None)
    words = [type(error).__name__, _code_of(error), "" if cause is None else type(cause).__name__]
    return " ".join([*filter(None, words), *([f"errno {number}"] if isinstance(number, int) else [])])
