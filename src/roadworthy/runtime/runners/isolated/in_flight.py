"""What a runner owes over one connection: messages, and the streams of a model that answers in parts."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from roadworthy.foundation.errors import RoadworthyError
from roadworthy.runtime.parts import Parts
from roadworthy.runtime.pending import Answer
from roadworthy.runtime.queue.request_queue import Member, too_late
from roadworthy.runtime.runners.isolated import frames
from roadworthy.runtime.runners.isolated.ahead import Ahead
from roadworthy.schema.batch import Batch
from roadworthy.schema.signature import MAX_PART_BYTES


class Sent:
    """One message in flight."""

    __slots__ = ("at", "members")

    def __init__(self, members: list[Member]) -> None:
        self.members = members
        self.at = time.monotonic()


class StreamOwner(Protocol):
    """The queue behind the connection."""

    def learn(self, outcomes: frames.Outcomes, rows: int, requests: int, seconds: float) -> None:
        """See `ProcessBatcher`."""
        ...

    def send_waiting(self) -> None:
        """See `ProcessBatcher`."""
        ...

    def send_soon(self) -> None:
        """See `ProcessBatcher`."""
        ...


class StreamConnection(Protocol):
    """The connection. `sent`: messages in flight, by number. `rows`: rows in them, and in the streams."""

    sent: dict[int, Sent]
    rows: int

    def write(self, message: bytes) -> None:
        """Send a message."""
        ...

    def close_when_done(self) -> None:
        """Close if the runner leaves and owes nothing."""
        ...


@dataclass(slots=True, eq=False)
class _Open:
    """A stream that has a part.

    Attributes:
        parts: where its parts go. rows: in each of them. ahead: the parts that were not taken.
    """

    parts: Parts
    rows: int
    ahead: Ahead


class Streams:
    """The streams of a connection; `len` of it is how many have a part. One without a part yet is a message of `sent`."""

    def __init__(self, connection: StreamConnection, owner: StreamOwner) -> None:
        self._connection = connection
        self._owner = owner
        self._open: dict[int, _Open] = {}
        self._came: dict[int, list[tuple[Batch, int]]] = {}

    def __len__(self) -> int:
        return len(self._open)

    @property
    def have_room(self) -> bool:
        """Whether the runner takes another stream."""
        return len(self._connection.sent) + len(self._open) < frames.MOST_STREAMS

    def part(self, number: int, outcomes: frames.Outcomes, size: int) -> None:
        """Take one part; the first one settles its request, the others are passed on together.

        Raises:
            ValueError: it does not fit its message, is too large, or came without credit.
        """
        part = outcomes.batch
        if part is None:
            raise ValueError("a part without rows")
        if size > MAX_PART_BYTES:
            raise ValueError("a part that is too large")
        stream = self._open.get(number)
        if stream is not None:
            if part.rows != stream.rows:
                raise ValueError("a part that does not fit its message")
            stream.ahead.sent(size)
            if not stream.ahead.is_credited:
                raise ValueError("a part without credit")
            self._came.setdefault(number, []).append((part, size))
            return
        sent = self._connection.sent.pop(number, None)
        if sent is None:  # the stream was cancelled meanwhile
            return
        batch, request = sent.members[0]
        if part.rows != batch.rows:
            raise ValueError("a part that does not fit its message")
        parts = Parts(_Source(self, number))
        self._open[number] = stream = _Open(parts, batch.rows, Ahead())
        stream.ahead.sent(size)
        parts.begin(size)
        self._owner.learn(outcomes, batch.rows, 1, time.monotonic() - sent.at)
        request.settle(Answer(part, 0, part.rows, rest=parts))
        if not parts.taken:  # the caller is gone, or wants the first part only
            parts.stop()

    def pass_on(self) -> bool:
        """Pass on the parts that were taken; whether there were any."""
        came = list(self._came)
        for number in came:
            self._pass_on(number)
        return bool(came)

    def _pass_on(self, number: int) -> None:
        came, stream = self._came.pop(number, None), self._open.get(number)
        if came is not None and stream is not None:
            stream.parts.push(came)

    def ended(self, number: int, outcomes: frames.Outcomes) -> None:
        """End a stream, or settle its request if there was no part.

        Raises:
            ValueError: this is no end of a stream.
        """
        status = outcomes.statuses[0] if len(outcomes.statuses) == 1 else -1
        if status < 0 or status not in (frames.ANSWERED, frames.NOT_RUN, len(outcomes.faults)):
            raise ValueError("an answer that does not fit its message")
        fault = outcomes.faults[0] if status == 1 else None
        self._pass_on(number)
        connection = self._connection
        stream, sent = self._open.pop(number, None), connection.sent.pop(number, None)
        if stream is not None:
            connection.rows -= stream.rows
            stream.parts.end(fault)
        elif sent is not None:
            connection.rows -= sent.members[0][0].rows
            sent.members[0][1].settle(fault or too_late())
        self._owner.send_waiting()
        connection.close_when_done()

    def grant(self, number: int, parts: int) -> None:
        """Tell the runner that so many parts of a stream were taken."""
        if number in self._open:
            self._open[number].ahead.taken(parts)
        self._connection.write(frames.encode_credit(number, parts))

    def cancel(self, number: int) -> None:
        """Have the runner close a stream, whether there was a part of it or not."""
        connection = self._connection
        if number in self._open:
            connection.rows -= self._open.pop(number).rows
        elif number in connection.sent:
            connection.rows -= connection.sent.pop(number).members[0][0].rows
        else:
            return
        connection.write(frames.encode_message(frames.CANCEL, number))
        self._owner.send_soon()
        connection.close_when_done()

    def give_up(self) -> None:
        """Cancel the streams that have no part yet, and whose deadlines have passed or whose callers have left."""
        for number in [number for number, sent in self._connection.sent.items() if sent.members[0][1].done]:
            self.cancel(number)

    def fail(self, error: Callable[[], RoadworthyError]) -> None:
        """End every stream that has a part: the runner is gone."""
        streams, self._open = self._open, {}
        for stream in streams.values():
            stream.parts.end(error())


class _Source:
    """The runner of one stream, as its parts see it."""

    __slots__ = ("_number", "_streams")

    def __init__(self, streams: Streams, number: int) -> None:
        self._streams = streams
        self._number = number

    def grant(self, parts: int) -> None:
        """See `PartSource`."""
        self._streams.grant(self._number, parts)

    def cancel(self) -> None:
        """See `PartSource`."""
        self._streams.cancel(self._number)
