"""The worker's side of runner processes: sends the requests of one moment as one message to one of the version's runners.

The manager makes a `ProcessBatcher` for an isolated version; it has the same `submit` as the batcher of an inline version.
Everything runs on the event loop, without a task or a future for each request. A connection carries few messages at a time, so
that requests which arrive meanwhile wait here, are joined, and can still be dropped when their deadlines pass or their callers
leave.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import msgspec

from roadworthy.contract.policy import Batching
from roadworthy.foundation.backoff import Backoff
from roadworthy.foundation.errors import PackageInvalid, RoadworthyError, Unavailable, model_fault
from roadworthy.runtime.pending import Answer, PendingRequest
from roadworthy.runtime.queue.request_queue import Member, RequestQueue, too_late
from roadworthy.runtime.queue.run_times import RunTimes
from roadworthy.runtime.queue.sizing import BatchSizer
from roadworthy.runtime.runners.isolated import frames
from roadworthy.runtime.runners.isolated.connect import connect, open_with_memory
from roadworthy.runtime.runners.isolated.in_flight import Sent, Streams
from roadworthy.runtime.runners.isolated.memory import SharedMemory
from roadworthy.schema.batch import Batch, Layout
from roadworthy.schema.signature import Signature

MAX_JOINED_ROWS = 1_024
"""Most rows of one message, unless a single request has more."""
IN_FLIGHT = 2
"""Messages under way to one runner: one that it runs, and one that it finds when it is done."""
_TICK_S = 0.001
"""Parts that come faster than one read in `_FAST_S` are read in ticks of this length, many at once."""
_FAST_S = 0.0003
_LOOK_S = 0.1
"""Pause between two looks for streams that were given up before their first part."""
_RECONNECTS = Backoff(0.005, 0.1)
_greeting = msgspec.json.Decoder(frames.Greeting)


class ProcessBatcher:
    """A `Submitter` over the runner processes of one version.

    Args:
        digest: of the version; a runner that greets with another digest is disconnected.
        addresses: of the version's runners, one for each copy.
        changed: called when `ready` or `refusal` may have changed.
    """

    def __init__(
        self,
        digest: str,
        addresses: Sequence[Path],
        loop: asyncio.AbstractEventLoop,
        changed: Callable[[], None],
        batching: Batching | None = None,
    ) -> None:
        self.digest = digest
        self._loop = loop
        self._changed = changed
        self._batching = batching or Batching()
        self._queue = RequestQueue(loop, BatchSizer(self._batching.max_rows, MAX_JOINED_ROWS), self._running)
        self._queue.lanes = len(addresses)
        self._links = [_Link(address, self, loop) for address in addresses]
        self._scheduled: asyncio.Handle | None = None
        self._greeted: frames.Greeting | None = None
        self._in_parts = False
        self._look: asyncio.TimerHandle | None = None
        self._barred: Callable[[], RoadworthyError] | None = None
        self.times = RunTimes()

    def __repr__(self) -> str:
        return f"ProcessBatcher({self.digest[:15]}, {len(self._links)} runners, {self._batching})"

    @property
    def waiting(self) -> int:
        """Requests that have not begun to run."""
        return len(self._queue)

    @property
    def ready(self) -> frames.Greeting | None:
        """The greeting of a ready runner, once there was one."""
        return self._greeted

    @property
    def refusal(self) -> frames.Greeting | None:
        """The greeting of a runner that could not load the version; None while another runner is ready."""
        said = [link.refusal for link in self._links]
        if any(link.is_open for link in self._links):
            return None
        return next((greeting for greeting in said if greeting is not None), None)

    @property
    def busy_since(self) -> float | None:
        """When the oldest unanswered message was sent, seconds on the monotonic clock; None when all are answered."""
        return min((sent.at for link in self._links for sent in link.sent()), default=None)

    def configure(self, batching: Batching) -> None:
        """Use other settings from the next message on."""
        if batching != self._batching:
            self._batching = batching
            self._queue.sizer = self._sizer()

    def _sizer(self) -> BatchSizer:
        return BatchSizer(1 if self._in_parts else self._batching.max_rows, MAX_JOINED_ROWS)

    def submit(self, batch: Batch, request: PendingRequest) -> None:
        """Answer `batch`, together with the other waiting requests.

        The request is settled with ModelFault when the model fails, with Unavailable when its runner exits during the run or the
        version can no longer be loaded, and with DeadlineExceeded when its deadline passes first.
        """
        self._queue.join(batch, request)
        if self._in_parts:  # nothing is joined with it
            self.send_waiting()
        elif self._scheduled is None:
            wait_ms = self._batching.max_wait_ms
            if wait_ms <= 0:
                self._scheduled = self._loop.call_soon(self._send_scheduled)
            else:
                self._scheduled = self._loop.call_later(wait_ms / 1_000, self._send_scheduled)
        elif self._batching.max_wait_ms > 0 and self._queue.rows >= self._queue.sizer.limit():
            self._scheduled.cancel()
            self._scheduled = self._loop.call_soon(self._send_scheduled)

    def bar(self, make: Callable[[], RoadworthyError] | None) -> None:
        """Settle every request that waits for a runner, now or later, with an error of `make`. None lets requests wait again."""
        self._barred = make
        if make is not None:
            self._queue.refuse(make)

    def connect(self) -> None:
        """Begin to connect to runners; continues until `close`."""
        for link in self._links:
            link.connect()

    def try_again(self) -> None:
        """Ask runners that could not load the version to try again."""
        for link in self._links:
            link.ask_to_retry()

    def close(self) -> None:
        """Stop; the caller has made sure that no request waits."""
        self._queue.close()
        if self._look is not None:
            self._look.cancel()
        for link in self._links:
            link.close()

    # Called by the links.

    def send_waiting(self) -> None:
        """Send waiting requests, as far as the connections have room."""
        while len(self._queue):
            link = self._link_with_room()
            if link is None:
                if self._barred is not None or self.refusal is not None:
                    self._queue.refuse(self._barred or self._refused)
                elif self._in_parts and any(link.is_open for link in self._links):
                    self._queue.refuse(_full)
                return
            group = self._queue.next_group()
            if group:
                link.send(group)

    def _link_with_room(self) -> _Link | None:
        """The least busy one. Streams that were given up before their first part make room."""
        link = min((link for link in self._links if link.has_room), key=lambda link: link.rows, default=None)
        if link is None and self._in_parts:
            for each in self._links:
                each.give_up()
            link = next((link for link in self._links if link.has_room), None)
        return link

    def look_soon(self) -> None:
        """Look for streams that were given up before their first part, again and again until each one under way has a part."""
        if self._look is None:
            self._look = self._loop.call_later(_LOOK_S, self._give_up)

    def _give_up(self) -> None:
        self._look = None
        for link in self._links:
            link.give_up()
        if self.busy_since is not None:
            self.look_soon()

    def learn(self, outcomes: frames.Outcomes, rows: int, requests: int, seconds: float) -> None:
        """Learn from an answer: how long the run took in the runner, and how many seconds `rows` rows of it took as seen from
        here, with the rows of other workers, the way there and back, and the wait for a processor.

        First parts teach the queue nothing: many streams wait for theirs at the same time, and hold their places after it."""
        if outcomes.rows:
            self.times.ran(outcomes.seconds, requests)
        if not self._in_parts:
            if outcomes.rows:
                self._queue.sizer.ran(outcomes.rows, outcomes.seconds)
            self._queue.moved(rows, seconds)

    def greeted(self, greeting: frames.Greeting) -> None:
        """Take the greeting of a runner."""
        if greeting.code is None:
            self._greeted = greeting
            if bool(greeting.signature.get("parts")) and not self._in_parts:
                self._in_parts = True
                self._queue.sizer = self._sizer()
        self._changed()
        self.send_waiting()

    def lost(self, begun: list[Member], not_begun: list[Member], error: Callable[[], RoadworthyError]) -> None:
        """Handle the loss of a runner: requests that it had begun with fail, the others wait for another runner."""
        self._queue.return_to_front(not_begun)
        for _, request in begun:
            request.settle(error())
        self._changed()
        self.send_waiting()

    def send_soon(self) -> None:
        """Send waiting requests in the next iteration of the loop."""
        if self._scheduled is None:
            self._scheduled = self._loop.call_soon(self._send_scheduled)

    def _send_scheduled(self) -> None:
        self._scheduled = None
        self.send_waiting()

    def _running(self) -> Iterator[PendingRequest]:
        for link in self._links:
            for sent in link.sent():
                for _, request in sent.members:
                    yield request

    def _refused(self) -> RoadworthyError:
        refusal = self.refusal
        code = refusal.code if refusal is not None else None
        return Unavailable("the version can no longer be loaded", code=code, hint="roll back to another version", retry_after_s=5)


class _Link:
    """One runner's address: the connection to the runner that holds it, and to predecessors that still owe answers."""

    def __init__(self, address: Path, owner: ProcessBatcher, loop: asyncio.AbstractEventLoop) -> None:
        self._address = address
        self._owner = owner
        self._loop = loop
        self._present: _Connection | None = None
        self._leaving: set[_Connection] = set()
        self._pauses = _RECONNECTS.delays()
        self._timer: asyncio.TimerHandle | None = None
        self._opening: asyncio.Task[None] | None = None
        self._closed = False
        self.refusal: frames.Greeting | None = None

    @property
    def is_open(self) -> bool:
        """Whether a ready runner holds the address."""
        return self._present is not None and self._present.ready

    @property
    def has_room(self) -> bool:
        """Whether another message may be sent now."""
        present = self._present
        return present is not None and present.ready and present.has_room

    @property
    def rows(self) -> int:
        """Rows in flight."""
        return self._present.rows if self._present is not None else 0

    def sent(self) -> Iterator[Sent]:
        """All messages in flight."""
        for connection in self._connections():
            yield from connection.sent.values()

    def send(self, group: list[Member]) -> None:
        """Send one message; only when there is room."""
        if self._present is not None:
            self._present.send(group)

    def give_up(self) -> None:
        """As the streams of the connections."""
        for connection in list(self._connections()):
            if connection.streams is not None:
                connection.streams.give_up()

    def connect(self) -> None:
        """Connect to the runner that holds the address, now or as soon as there is one."""
        self._timer = None
        if self._closed or self._present is not None or self._opening is not None:
            return
        end = connect(self._address)
        if end is None:
            self._later()
            return
        try:
            memory = open_with_memory(end)
        except OSError:
            end.close()
            self._later()
            return

        def make() -> _Connection:
            return _Connection(self, self._owner, memory)

        async def open_connection() -> None:
            await self._loop.create_unix_connection(make, sock=end)

        def opened(task: asyncio.Task[None]) -> None:
            self._opening = None
            if task.cancelled() or task.exception() is not None:
                end.close()
            if self._present is None:
                self._later()

        self._opening = self._loop.create_task(open_connection())
        self._opening.add_done_callback(opened)

    def ask_to_retry(self) -> None:
        """Ask a runner that could not load to try again."""
        if self._present is not None and self.refusal is not None:
            self._present.write(frames.encode_message(frames.RETRY))

    def close(self) -> None:
        """Close all connections, and do not connect again."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._opening is not None:
            self._opening.cancel()
        for connection in list(self._connections()):
            connection.close()

    # Called by the connections.

    def made(self, connection: _Connection) -> None:
        """Take an open connection."""
        if self._closed:
            connection.close()
        else:
            self._present = connection

    def greeted(self, greeting: frames.Greeting) -> None:
        """Take the runner's greeting."""
        self._pauses = _RECONNECTS.delays()
        self.refusal = greeting if greeting.code is not None else None
        self._owner.greeted(greeting)

    def leaves(self, connection: _Connection) -> None:
        """Handle a goodbye: the runner will answer what it has, then stop."""
        if self._present is connection:
            self._present = None
            self._leaving.add(connection)
            self._pauses = _RECONNECTS.delays()
            self.connect()

    def lost(self, connection: _Connection) -> None:
        """Handle the loss of a connection."""
        self._leaving.discard(connection)
        if self._present is connection:
            self._present = None
            self.refusal = None
            if not self._closed and self._timer is None:
                self._later()

    def _later(self) -> None:
        if self._closed or self._timer is not None:
            return
        self._timer = self._loop.call_later(next(self._pauses), self.connect)

    def _connections(self) -> Iterator[_Connection]:
        if self._present is not None:
            yield self._present
        yield from self._leaving


class _Connection(asyncio.Protocol):
    """One connection to a runner.

    Attributes:
        ready: whether the runner has greeted and answers.
        sent: messages in flight, by number. rows: number of rows in them, and in the streams under way.
        streams: those of a model that answers in parts; None of others.
    """

    def __init__(self, link: _Link, owner: ProcessBatcher, memory: SharedMemory | None) -> None:
        self._link = link
        self._owner = owner
        self._memory = memory
        self._reader = frames.MessageReader()
        self._transport: asyncio.Transport | None = None
        self._outputs = Layout(())
        self._number = 0
        self._answered_at = 0.0
        self._leaving = False
        self._hung = False
        self.ready = False
        self.sent: dict[int, Sent] = {}
        self.rows = 0
        self.streams: Streams | None = None
        self._loop = asyncio.get_running_loop()
        self._read_at = 0.0
        self._tick: asyncio.TimerHandle | None = None

    @property
    def has_room(self) -> bool:
        """Whether another message may be sent now."""
        return len(self.sent) < IN_FLIGHT if self.streams is None else self.streams.have_room

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast(asyncio.Transport, transport)
        self._link.made(self)

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        try:
            for kind, number, payload in self._reader.feed(data):
                self._take(kind, number, payload)
        except (ValueError, PackageInvalid):  # a model's own code may have written anything
            self.abort()
        if self.streams is not None and self.streams.pass_on():
            self._pace()

    def _pace(self) -> None:
        """Read the next parts a tick later if they come fast, unless the first part of a stream is awaited."""
        now = time.monotonic()
        transport = self._transport
        if now - self._read_at < _FAST_S and not self.sent and transport is not None and not transport.is_closing():
            transport.pause_reading()
            self._tick = self._loop.call_later(_TICK_S, self._read_on)
        self._read_at = now

    def _read_on(self) -> None:
        if self._tick is not None:
            self._tick.cancel()
            self._tick = None
            if self._transport is not None and not self._transport.is_closing():
                self._read_at = time.monotonic()
                self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - as asyncio calls it
        """Called by the event loop when the runner is gone, in order or not."""
        self.ready = False
        self._transport = None
        self._read_on()
        begun = None if self._memory is None else self._memory.begun
        sent, self.sent = self.sent, {}
        failed: list[Member] = []
        waits: list[Member] = []
        for number, message in sent.items():
            (waits if begun is not None and number > begun else failed).extend(message.members)
        self._memory = None
        self._link.lost(self)
        error = _hung if self._hung else _died
        if self.streams is not None:
            self.streams.fail(error)
        self._owner.lost(failed, waits, error)

    def write(self, message: bytes) -> None:
        """Pass a message to the kernel, or to the transport's buffer."""
        if self._transport is not None:
            self._transport.write(message)

    def send(self, group: list[Member]) -> None:
        """Send these requests, as one message where they can be joined."""
        for joined in [group] if self.streams is None else [[member] for member in group]:
            self._send(joined)

    def _send(self, group: list[Member]) -> None:
        batches = [batch for batch, _ in group]
        ring = None if self._memory is None else self._memory.requests
        self._number += 1
        counts = [batch.rows for batch in batches]
        try:
            joined = batches[0] if len(batches) == 1 else Batch.concatenate(batches)
            message = frames.encode_run(self._number, joined, counts, [request.deadline for _, request in group], ring)
        except ValueError:
            for _, request in group:
                request.settle(Unavailable("the request is too large for a runner process", code="request-too-large"))
            return
        for _, request in group:
            request.running = True
        self.rows += sum(counts)
        self.sent[self._number] = Sent(group)
        self.write(message)
        self._read_on()
        if self.streams is not None:
            self._owner.look_soon()

    def abort(self) -> None:
        """Close at once; messages in flight have failed."""
        if self._transport is not None:
            self._transport.abort()

    def close(self) -> None:
        """Close when everything is written."""
        if self._transport is not None:
            self._transport.close()

    def _take(self, kind: int, number: int, payload: memoryview) -> None:
        if kind == frames.ANSWER and self.streams is None:
            self._answered(number, payload)
        elif kind in (frames.ANSWER, frames.PART):
            if self.streams is None:
                raise ValueError("a part of an answer at once")
            outcomes = frames.decode_answer(payload, self._outputs, None)
            if kind == frames.PART:
                self.streams.part(number, outcomes, len(payload))
            else:
                self.streams.ended(number, outcomes)
        elif kind == frames.HELLO:
            self._greeted(_greeting.decode(payload))
        elif kind == frames.GOODBYE:
            self.ready = False
            self._leaving = True
            self._link.leaves(self)
            self.close_when_done()
        elif kind == frames.HUNG:
            self._hung = True

    def _greeted(self, greeting: frames.Greeting) -> None:
        if greeting.digest != self._owner.digest:
            raise ValueError("the greeting of another version's runner")
        if greeting.code is None:
            signature = Signature.from_document(greeting.signature)
            self._outputs = Layout(signature.outputs)
            self.streams = Streams(self, self._owner) if signature.parts else None
            self.ready = True
        self._link.greeted(greeting)

    def _answered(self, number: int, payload: memoryview) -> None:
        ring = None if self._memory is None else self._memory.answers
        outcomes = frames.decode_answer(payload, self._outputs, ring)
        sent = self.sent.get(number)
        if sent is None or not _fits(sent, outcomes):
            raise ValueError("an answer that does not fit its message")
        del self.sent[number]
        now, rows = time.monotonic(), sum(batch.rows for batch, _ in sent.members)
        self.rows -= rows
        self._owner.learn(outcomes, rows, len(sent.members), now - max(sent.at, self._answered_at))
        self._answered_at = now
        _settle(sent.members, outcomes)
        self._owner.send_waiting()
        self.close_when_done()

    def close_when_done(self) -> None:
        """Close if the runner leaves and owes nothing."""
        if self._leaving and not self.sent and not self.streams:
            self.close()


def _fits(sent: Sent, outcomes: frames.Outcomes) -> bool:
    """Whether every row belongs to a request, so that an answer never goes to another caller."""
    if len(outcomes.statuses) != len(sent.members):
        return False
    answered = sum(
        batch.rows for (batch, _), status in zip(sent.members, outcomes.statuses, strict=True) if status == frames.ANSWERED
    )
    highest = max((status for status in outcomes.statuses if status != frames.NOT_RUN), default=0)
    return answered == (0 if outcomes.batch is None else outcomes.batch.rows) and highest <= len(outcomes.faults)


def _settle(members: list[Member], outcomes: frames.Outcomes) -> None:
    joined, start = outcomes.batch, 0
    if joined is not None and not any(outcomes.statuses):  # all ANSWERED
        members[0][1].settle_run(members, joined)
        return
    for (batch, request), status in zip(members, outcomes.statuses, strict=True):
        if status == frames.ANSWERED and joined is not None:
            stop = start + batch.rows
            request.settle(Answer(joined, start, stop))
            start = stop
        elif status == frames.NOT_RUN:
            request.settle(too_late())
        else:
            fault = outcomes.faults[status - 1]
            request.settle(model_fault(fault.message, fault.code, fault.hint, fault.facts))


def _full() -> RoadworthyError:
    return Unavailable(
        f"each runner of this version has {frames.MOST_STREAMS} answers in parts under way",
        code="overloaded",
        hint="try again with backoff, or raise the endpoint's placement.copies",
        retry_after_s=1,
    )


def _died() -> RoadworthyError:
    return Unavailable(
        "the process that ran the model exited before it answered",
        code="runner-died",
        hint="try again",
        retry_after_s=1,
    )


def _hung() -> RoadworthyError:
    return Unavailable(
        "the model took too long, and its process was killed",
        code="runner-hung",
        hint="try again; if the same input fails each time, the model does not finish on it",
        retry_after_s=1,
    )
