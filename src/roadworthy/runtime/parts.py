"""The parts of an answer that follow its first one, on their way from a version to the edge that asked."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from roadworthy.foundation.errors import RoadworthyError
from roadworthy.schema.batch import Batch

GRANT_PARTS, GRANT_BYTES = 4, 256 << 10
"""The version learns of parts that were taken once they are so many, or so long: well below what it may be ahead."""
TOGETHER_BYTES = 64 << 10
"""A sink gets the parts that are there together, up to so many bytes, one part at least."""

Ended = Callable[[RoadworthyError | None], None]
"""Called once, when the version has ended: with its error, or with None when all parts came or the rest is not wanted."""


class PartSink(Protocol):
    """Takes parts. Its methods neither wait nor raise."""

    def emit(self, parts: Sequence[Batch]) -> bool:
        """Take one or more parts; returns whether others are wanted now. If not, `Parts.resume` asks for them later."""
        ...

    def finish(self) -> None:
        """There is no further part."""
        ...

    def fail(self, error: RoadworthyError) -> None:
        """There is no further part, because of an error."""
        ...


class PartSource(Protocol):
    """What gives the parts."""

    def grant(self, parts: int) -> None:
        """So many parts were taken: as many more may come."""
        ...

    def cancel(self) -> None:
        """The rest is not wanted."""
        ...


class Parts:
    """The further parts of one answer. Event loop only.

    Parts that the sink does not want yet wait here. The source bounds them: it is ahead by a limited number of parts and bytes.

    Attributes:
        taken: whether a sink was given. A stream that no one takes must be stopped.
        given_up: whether the rest was given up before the version had ended, and not for a fault of the version: its end tells
            nothing of the version.
    """

    __slots__ = (
        "_bytes",
        "_delivering",
        "_done",
        "_error",
        "_granted",
        "_held",
        "_over",
        "_sink",
        "_source",
        "_wanted",
        "_watchers",
        "given_up",
    )

    def __init__(self, source: PartSource) -> None:
        self._source = source
        self._held: deque[tuple[Batch, int]] = deque()
        self._sink: PartSink | None = None
        self._watchers: list[Ended] = []
        self._error: RoadworthyError | None = None
        self._wanted = self._over = self._done = self._delivering = False
        self._granted = self._bytes = 0
        self.given_up = False

    @property
    def taken(self) -> bool:
        return self._sink is not None

    @property
    def waits_for_version(self) -> bool:
        """Whether the sink wants a part, and the version has not given it yet."""
        return self._wanted and not self._held and not self._over

    def watch(self, ended: Ended) -> None:
        """Call `ended` when the version has ended, whatever the sink has taken by then."""
        self._watchers.append(ended)

    # Called by the source.

    def begin(self, size: int) -> None:
        """The first part, of so many bytes, was passed on by itself."""
        self._granted, self._bytes = 1, size

    def push(self, parts: Iterable[tuple[Batch, int]]) -> None:
        """Pass on parts that came together, each with its bytes, or keep them until they are wanted."""
        if not self._over:
            self._held.extend(parts)
            if self._wanted:
                self._deliver()

    def end(self, error: RoadworthyError | None = None) -> None:
        """There are no further parts."""
        if not self._over:
            self._close(error)
            self._error = error
            self._deliver()

    # Called by the consumer.

    def flow(self, sink: PartSink) -> None:
        """Pass all parts to `sink`, now and as they come."""
        self._sink = sink
        self.resume()

    def hold(self, sink: PartSink) -> None:
        """Pass parts to `sink` once it wants one."""
        self._sink = sink

    def resume(self) -> None:
        """The sink wants further parts."""
        self._wanted = True
        self._deliver()

    def stop(self, error: RoadworthyError | None = None) -> None:
        """Give the rest up. The sink hears nothing further. `error`: why the version has failed; None when it has not."""
        self._done = True
        self._held.clear()
        if not self._over:
            self.given_up = error is None
            self._source.cancel()
            self._close(error)

    def _deliver(self) -> None:
        sink = self._sink
        if sink is None or self._delivering:
            return
        self._delivering = True  # a sink may ask for more while it takes a part
        while self._wanted and self._held and not self._done:
            parts, size = self._take()
            self._wanted = False
            if sink.emit(parts):
                self._wanted = True
            self._grant(len(parts), size)
        self._delivering = False
        if self._over and not self._held and not self._done:
            self._done = True
            if self._error is None:
                sink.finish()
            else:
                sink.fail(self._error)

    def _take(self) -> tuple[list[Batch], int]:
        held = self._held
        part, size = held.popleft()
        parts = [part]
        while held and size + held[0][1] <= TOGETHER_BYTES:
            part, more = held.popleft()
            parts.append(part)
            size += more
        return parts, size

    def _grant(self, parts: int, size: int) -> None:
        self._granted += parts
        self._bytes += size
        if not self._over and (self._granted >= GRANT_PARTS or self._bytes >= GRANT_BYTES):
            self._source.grant(self._granted)
            self._granted = self._bytes = 0

    def _close(self, error: RoadworthyError | None) -> None:
        self._over = True
        watchers, self._watchers = self._watchers, []
        for ended in watchers:
            ended(error)
