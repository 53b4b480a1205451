"""The cache layer of one endpoint and one version: answers equal requests from memory, where a policy asks for it.

Equal means the same rows, bit for bit, in whatever format they were sent, from the same caller. Equal requests that wait at the
same moment run once. Failures are never kept. The fallback "cached" takes its last good answer from here.

Where a gateway shares answers with other workers and machines, a request that misses here is looked up there before it runs, and
a new answer is offered there once its callers have it. This layer does not know the form of the shared store (`Shared`).
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache, partial
from hashlib import blake2b
from typing import NamedTuple, Protocol

import msgspec
import numpy as np

from roadworthy.contract.policy import CachePolicy
from roadworthy.foundation.errors import DeadlineExceeded, RoadworthyError
from roadworthy.runtime.pending import Answer, ForwardedRequest, Notes, Outcome, PendingRequest, Submitter
from roadworthy.runtime.queue.request_queue import too_late
from roadworthy.schema.batch import Array, Batch, Block

HIT, SHARED, MISS, COLLAPSED, BYPASS = "hit", "hit-shared", "miss", "collapsed", "bypass"
"""The results of a request: answered from this cache; from another worker's answer; run; answered by an equal request already
under way; not cacheable."""
MAX_KEYED_BYTES = 4 << 20
"""Requests with more bytes of rows are not looked up: hashing them would block the event loop."""
ENTRY_BYTES = 600
"""Bytes of an entry in addition to the values of its answer."""
_SWEEP_AT = 1_024
_STATUS = b"cache-status"

_encode = msgspec.msgpack.Encoder().encode


class Found(NamedTuple):
    """An answer that another worker has stored.

    Attributes:
        given: when it was answered, seconds on this process's monotonic clock. until: when it expires, on the same clock.
    """

    batch: Batch
    given: float
    until: float


class Shared(Protocol):
    """Answers shared by workers and machines. Its methods never wait or raise: when it fails, requests continue as after a
    miss."""

    def ask(self, key: bytes, rows: int, deadline: float, tell: Callable[[Found | None], None]) -> bool:
        """Look for the answer to a request of `rows` rows.

        Returns:
            True when `tell` will be called, later and once, well before the deadline; False when nothing is asked, because the
            store is away or the deadline is near.
        """
        ...

    def put(self, key: bytes, answer: Batch, size: int, ttl_s: float) -> None:
        """Offer an answer of about `size` bytes that stays valid for `ttl_s` seconds; it may be ignored."""
        ...


class Kept:
    """A good answer, and when it was given (monotonic clock, seconds)."""

    __slots__ = ("at", "batch", "size")

    def __init__(self, batch: Batch, size: int, at: float) -> None:
        self.batch = batch
        self.size = size
        self.at = at

    def answer(self, source: str) -> Answer:
        """The kept answer again."""
        return Answer(self.batch, 0, self.batch.rows, source)


class AnswerStore:
    """Answers by key, bounded in number and bytes; the least recently used goes first.

    Attributes:
        size: estimated bytes of all entries.
    """

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._entries: OrderedDict[bytes, Kept] = OrderedDict()
        self.size = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes) -> Kept | None:
        """The answer, however old."""
        kept = self._entries.get(key)
        if kept is not None:
            self._entries.move_to_end(key)
        return kept

    def put(self, key: bytes, answer: Batch, now: float) -> Kept | None:
        """Keep a copy of `answer`; None when it is larger than the whole store may be."""
        size = _size(answer)
        self.remove(key)
        if size > self._max_bytes or self._max_entries < 1:
            return None
        blocks = tuple(Block(block.values.copy(), None if block.mask is None else block.mask.copy()) for block in answer.blocks)
        kept = self._entries[key] = Kept(Batch(answer.layout, answer.rows, blocks), size, now)
        self.size += size
        while self.size > self._max_bytes or len(self._entries) > self._max_entries:
            _, oldest = self._entries.popitem(last=False)
            self.size -= oldest.size
        return kept

    def remove(self, key: bytes) -> None:
        """Forget the answer."""
        kept = self._entries.pop(key, None)
        if kept is not None:
            self.size -= kept.size


class Cache:
    """The cache layer. Event loop only.

    Args:
        below: answers the misses.
        source: the version's digest, and what names the layers of plug-ins below, if any; a part of every key.
        policy: with `ttl_s` 0 no answer is served from the cache; answers are only kept for `last_good`.
        loop: for the deadlines of requests that wait for another request's run.
        count: called with the result of each request: HIT, SHARED, MISS, COLLAPSED or BYPASS.
    """

    def __init__(
        self,
        below: Submitter,
        source: str,
        policy: CachePolicy,
        loop: asyncio.AbstractEventLoop,
        count: Callable[[str], None],
    ) -> None:
        self._below = below
        self._source = source
        self._policy = policy
        self._loop = loop
        self._count = count
        self._store = AnswerStore(policy.max_entries, policy.max_bytes)
        self._flights: dict[bytes, _Flight] = {}
        self._sweep_at = _SWEEP_AT
        self._shared: Shared | None = None

    def __repr__(self) -> str:
        shared = "" if self._shared is None else ", shared"
        kind = f"Cache(ttl {self._policy.ttl_s:g} s{shared})" if self._policy.ttl_s > 0 else "LastGood()"
        return f"{kind} -> {self._below!r}"

    def share(self, shared: Shared) -> None:
        """Share answers with other workers; call before the first request."""
        self._shared = shared

    def submit(self, batch: Batch, request: PendingRequest) -> None:
        """As in Submitter."""
        key = self._key(batch, request.caller)
        if self._policy.ttl_s <= 0:
            self._below.submit(batch, request if key is None else _Keeping(request, self, key))
            return
        if key is None:
            self._count(BYPASS)
            self._below.submit(batch, request)
            return
        now = time.monotonic()
        kept = self._store.get(key)
        if kept is not None and now - kept.at < self._policy.ttl_s:
            self._count(HIT)
            status = b"roadworthy; hit; ttl=%d" % (self._policy.ttl_s - (now - kept.at))
            request.settle(kept.answer("cache").noted(((_STATUS, status),)))
            return
        flight = self._flights.get(key)
        if flight is not None and not flight.done:
            self._count(COLLAPSED)
            flight.join(request)
            return
        why = b"stale" if kept is not None else b"miss"
        if self._shared is None:
            self._count(MISS)
            self._fly(key, batch, [request], why)
        else:
            self._look_there(self._shared, self._flight(key, batch, [request], why))

    def last_good(self, batch: Batch, caller: str, max_age_s: float) -> Kept | None:
        """The last good answer to an equal request of that caller."""
        key = self._key(batch, caller)
        kept = None if key is None else self._store.get(key)
        return kept if kept is not None and time.monotonic() - kept.at <= max_age_s else None

    def keep(self, key: bytes, answer: Answer) -> Kept | None:
        """Keep the answer's own rows; None when they are too large."""
        return self._store.put(key, answer.batch(), time.monotonic())

    def landed(self, flight: _Flight, outcome: Outcome) -> None:
        """Pass the outcome of one run to all requests that wait for it. Called by the flight."""
        self._forget(flight)
        members = flight.members
        if isinstance(outcome, Answer):
            kept = self.keep(flight.key, outcome)
            stored = b"" if kept is None else b"; stored"
            led: Notes = ((_STATUS, b"roadworthy; fwd=%b%b" % (flight.why, stored)),)
            followed: Notes = ((_STATUS, b"roadworthy; fwd=%b; collapsed" % flight.why),)
            for number, member in enumerate(members):
                member.settle(outcome.noted(followed if number else led))
            if self._shared is not None and kept is not None:
                self._shared.put(flight.key, kept.batch, kept.size, self._policy.ttl_s)
            return
        rest: list[PendingRequest] = []
        if isinstance(outcome, DeadlineExceeded):
            # These joined after the run had begun, and have later deadlines than the version was given.
            now = time.monotonic()
            rest = [m for m in members if not m.done and m.deadline > flight.run_deadline and m.deadline > now]
        for member in members:
            if member not in rest:
                member.settle(outcome)
        if rest:  # later: the layer below is settling other requests now
            self._loop.call_soon(self._fly_again, flight, rest, outcome)

    def _fly_again(self, flight: _Flight, members: list[PendingRequest], outcome: Outcome) -> None:
        waiting = [member for member in members if not member.done]
        if not waiting:
            return
        try:
            self._fly(flight.key, flight.batch, waiting, flight.why)
        except Exception:  # noqa: BLE001 - no caller above takes it: the requests get the earlier outcome
            for member in waiting:
                member.settle(outcome)

    def _look_there(self, shared: Shared, flight: _Flight) -> None:
        """Look the answer up in the shared store; run the request only if it is not there."""
        if not shared.ask(flight.key, flight.batch.rows, flight.deadline, partial(self._looked, flight)):
            self._count(MISS)
            self._submit(flight)

    def _looked(self, flight: _Flight, found: Found | None) -> None:
        """Continue after the look-up of `_look_there`. No caller above takes an error."""
        now, ttl_s = time.monotonic(), self._policy.ttl_s
        left = 0.0 if found is None else min(found.until, found.given + ttl_s) - now
        if found is not None and left > 0:
            self._found(flight, found.batch, left)
        elif flight.done:
            self._forget(flight)
        else:
            self._count(MISS)
            flight.run_deadline = flight.deadline
            try:
                self._submit(flight)
            except RoadworthyError as error:
                flight.settle(error)
            except Exception as error:  # noqa: BLE001 - as in `gateway/http/predict.py`: logged, and only this request fails
                self._loop.call_exception_handler({"message": "submitting to a version failed", "exception": error})
                flight.settle(RoadworthyError("internal error"))

    def _found(self, flight: _Flight, answer: Batch, left: float) -> None:
        """Keep another worker's answer for its remaining time, and settle all waiting requests with it."""
        kept = self._store.put(flight.key, answer, time.monotonic() + left - self._policy.ttl_s)
        again = Answer(answer, 0, answer.rows, "cache") if kept is None else kept.answer("cache")
        self._count(SHARED)
        self._forget(flight)
        noted = again.noted(((_STATUS, b"roadworthy; hit; ttl=%d; detail=shared" % left),))
        for member in flight.land():
            member.settle(noted)

    def _fly(self, key: bytes, batch: Batch, members: list[PendingRequest], why: bytes) -> None:
        self._submit(self._flight(key, batch, members, why))

    def _flight(self, key: bytes, batch: Batch, members: list[PendingRequest], why: bytes) -> _Flight:
        if len(self._flights) >= self._sweep_at:
            self._sweep()
        flight = self._flights[key] = _Flight(self, (key, batch, why), members)
        if len(members) > 1:
            flight.watch(self._loop)
        return flight

    def _submit(self, flight: _Flight) -> None:
        try:
            self._below.submit(flight.batch, flight)
        except BaseException:
            self._forget(flight)
            raise

    def _forget(self, flight: _Flight) -> None:
        if self._flights.get(flight.key) is flight:
            del self._flights[flight.key]

    def _sweep(self) -> None:
        """Forget flights that were dropped below because no request waited for them any longer."""
        self._flights = {key: flight for key, flight in self._flights.items() if not flight.done}
        self._sweep_at = max(_SWEEP_AT, 2 * len(self._flights))

    def _key(self, batch: Batch, caller: str) -> bytes | None:
        return key_of(self._source, None if self._policy.shared_between_callers else caller, batch)

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop."""
        return self._loop


class _Keeping(ForwardedRequest):
    """A request whose answer is kept if it is good."""

    __slots__ = ("_cache", "_key")

    def __init__(self, outer: PendingRequest, cache: Cache, key: bytes) -> None:
        super().__init__(outer)
        self._cache = cache
        self._key = key

    def settled(self, outcome: Outcome) -> None:
        """Keep an answer, and pass the outcome on."""
        if isinstance(outcome, Answer):
            self._cache.keep(self._key, outcome)
        self.outer.settle(outcome)


class _Flight(PendingRequest):
    """One run for equal requests: the first one leads, later ones follow.

    It stays needed as long as any of them waits, and its deadline is the latest of theirs.

    Attributes:
        key, batch: of the request. why: as in Cache-Status, "miss" or "stale".
        members: the requests that get the outcome, the leader first.
        run_deadline: the deadline that the version was given.
    """

    __slots__ = ("_alarm", "_cache", "_running", "_settled", "batch", "key", "members", "run_deadline", "why")

    def __init__(self, cache: Cache, asked: tuple[bytes, Batch, bytes], members: list[PendingRequest]) -> None:
        self._cache = cache
        self.key, self.batch, self.why = asked
        self.members = members
        self.caller = members[0].caller
        self.deadline = self.run_deadline = max(member.deadline for member in members)
        self._alarm: asyncio.TimerHandle | None = None
        self._settled = self._running = False

    @property
    def done(self) -> bool:
        """Whether it is settled, or no member waits any longer."""
        if self._settled:
            return True
        for member in self.members:  # noqa: SIM110 - twice as fast, for each request
            if not member.done:
                return False
        return True

    @done.setter
    def done(self, value: bool) -> None:
        self._settled = value

    @property
    def running(self) -> bool:
        """As in PendingRequest."""
        return self._running

    @running.setter
    def running(self, value: bool) -> None:
        self._running = value
        for member in self.members:
            member.running = value

    def join(self, request: PendingRequest) -> None:
        """Add a request that waits for the same outcome."""
        request.running = self._running
        self.members.append(request)
        self.deadline = max(self.deadline, request.deadline)
        self.watch(self._cache.loop)

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Enforce the members' deadlines that are earlier than the run's own, which the layers below enforce."""
        early = [member.deadline for member in self.members if not member.done and member.deadline < self.deadline]
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if early:
            self._alarm = loop.call_at(loop.time() + min(early) - time.monotonic(), self._expire, loop)

    def settled(self, outcome: Outcome) -> None:
        """Pass the outcome to the members."""
        self.land()
        self._cache.landed(self, outcome)

    def land(self) -> list[PendingRequest]:
        """End the flight, because the run is over or not needed; return the members."""
        self.done = True
        if self._alarm is not None:
            self._alarm.cancel()
        return self.members

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._alarm = None
        now = time.monotonic()
        for member in self.members:
            if member.deadline <= now:
                member.settle(too_late())
        if not self.done:
            self.watch(loop)


def key_of(source: str, caller: str | None, batch: Batch) -> bytes | None:
    """The cache key: 32 bytes that are equal exactly for equal rows of one caller (None: of any caller) for one source.

    Returns:
        None for rows that cannot be compared reliably, or of more than MAX_KEYED_BYTES.
    """
    parts = [b"any " if caller is None else b"of %d %b " % (len(caller), caller.encode()), source.encode()]
    size = 0
    try:
        for block in batch.blocks:
            values, mask = block.values, block.mask
            size += values.nbytes
            if size > MAX_KEYED_BYTES:
                return None
            nulls = mask is not None and bool(mask.any())
            parts.append(_form(values.dtype.str, values.shape, nulls))
            if mask is not None and nulls:
                parts.append(mask.tobytes())
                values = _without_fillers(values, mask)
            parts.append(_encode(values.ravel().tolist()) if values.dtype.hasobject else values.tobytes())
    except (TypeError, ValueError, OverflowError, RecursionError):  # MessagePack cannot hold a value of a JSON column
        return None
    return blake2b(b"".join(parts), digest_size=32).digest()


@lru_cache(maxsize=1_024)
def _form(kind: str, shape: tuple[int, ...], nulls: bool) -> bytes:
    """A header that says how many bytes of which type follow, so that different batches never give the same bytes."""
    return f"\n{kind} {shape} {nulls} ".encode()


def _without_fillers(values: Array, mask: Array) -> Array:
    """The values with every null replaced by one filler, since the filler of a null has no meaning."""
    values = values.copy()
    values[mask] = None if values.dtype.hasobject else np.zeros((), values.dtype)
    return values


def _size(batch: Batch) -> int:
    size = ENTRY_BYTES
    for block in batch.blocks:
        size += block.values.nbytes + (0 if block.mask is None else block.mask.nbytes)
        if block.values.dtype.hasobject:
            size += sum(_object_size(value) for value in block.values.ravel().tolist())
    return size


def _object_size(value: object) -> int:
    if isinstance(value, dict):
        return sys.getsizeof(value) + sum(_object_size(key) + _object_size(item) for key, item in value.items())
    if isinstance(value, list | tuple):
        return sys.getsizeof(value) + sum(map(_object_size, value))
    return sys.getsizeof(value)
