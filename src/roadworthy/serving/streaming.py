"""An answer in parts on its way to an edge: its deadlines, and what its end says of the version. The same for every edge."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from roadworthy.foundation.errors import DeadlineExceeded, RoadworthyError
from roadworthy.runtime.parts import PartSink
from roadworthy.runtime.pending import Answer
from roadworthy.schema.batch import Batch
from roadworthy.serving.stream_metrics import CALLER_GONE, DEADLINE, FAILED, FINISHED, StreamMetrics


class Sink(PartSink, Protocol):
    """Takes an answer in parts; the edge's."""

    def start(self, answer: Answer) -> None:
        """The answer begins. `answer` has what layers say of it, and its first part, which `emit` gets next."""
        ...


@dataclass(frozen=True, slots=True)
class StreamDeadlines:
    """Until when an answer in parts may take, on the monotonic clock in seconds.

    Attributes:
        started: when the request came. whole: when the whole answer must have been given.
        own: whether the caller chose `whole`, so that its passing says nothing of the version.
        between_s: how long the version may take from one part to the next; infinite without a bound.
    """

    started: float
    whole: float
    own: bool = False
    between_s: float = math.inf


class StreamedAnswer:
    """Passes one answer in parts to a sink, and enforces its deadlines. Event loop only.

    A whole deadline counts against the version if the stream had waited for the version, not for its caller, for more than half
    of the time.

    Args:
        metrics: of the version that answers.

    Attributes:
        answer: its first part, with what layers say of the answer.
    """

    def __init__(self, answer: Answer, sink: Sink, deadlines: StreamDeadlines, metrics: StreamMetrics) -> None:
        self.answer = answer
        self._sink = sink
        self._deadlines = deadlines
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._alarm: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._since = time.monotonic()
        self._paused_s = 0.0
        self._open = True
        self._ended = False

    def begin(self) -> None:
        """Pass on the first part, then the others."""
        self._metrics.begun(self._since - self._deadlines.started)
        self._sink.start(self.answer)
        wanted = self._sink.emit([self.answer.batch()])
        rest = self.answer.rest
        if self._ended:
            return
        if rest is None:
            self.finish()
            return
        self._watch()
        self._open = wanted
        if wanted:
            rest.flow(self)
        else:
            rest.hold(self)

    # What the version gives.

    def emit(self, parts: Sequence[Batch]) -> bool:
        """See `PartSink`."""
        now = time.monotonic()
        self._metrics.more(len(parts), now - self._since)
        self._since = now
        self._open = self._sink.emit(parts)
        return self._open

    def finish(self) -> None:
        """See `PartSink`."""
        self._end(FINISHED)
        self._sink.finish()

    def fail(self, error: RoadworthyError) -> None:
        """See `PartSink`."""
        self._end(_reason(error))
        self._sink.fail(error)

    # What the edge asks for.

    def resume(self) -> None:
        """The sink wants another part."""
        if self._open or self._ended:
            return
        now = time.monotonic()
        self._paused_s += now - self._since
        self._since, self._open = now, True
        self._watch()
        if self.answer.rest is not None:
            self.answer.rest.resume()

    def give_up(self, error: RoadworthyError, *, blame: bool = False) -> None:
        """End the answer with an error; `blame`: it counts against the version."""
        if not self._ended:
            self._stop(error if blame else None, _reason(error))
            self._sink.fail(error)

    def close(self, reason: str = CALLER_GONE) -> None:
        """End the answer without a word to the sink, by default because the caller is gone."""
        if not self._ended:
            self._stop(None, reason)

    def _stop(self, error: RoadworthyError | None, reason: str) -> None:
        self._end(reason)
        if self.answer.rest is not None:
            self.answer.rest.stop(error)

    def _end(self, reason: str) -> None:
        self._ended = True
        self._metrics.ended(reason)
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _watch(self) -> None:
        """Look at the deadlines when the next one may have passed, or before: a look is repeated, an alarm not moved."""
        due = min(self._deadlines.whole, self._since + self._deadlines.between_s) if self._open else self._deadlines.whole
        if self._alarm is not None:
            if self._due <= due:
                return
            self._alarm.cancel()
        self._due = due
        self._alarm = self._loop.call_later(max(0.001, due - time.monotonic()), self._look)

    def _look(self) -> None:
        self._alarm = None
        now, deadlines, rest = time.monotonic(), self._deadlines, self.answer.rest
        if now >= deadlines.whole:
            paused_s = self._paused_s + (0.0 if self._open else now - self._since)
            blame = not deadlines.own and 2 * paused_s < now - deadlines.started
            self.give_up(_too_late(), blame=blame)
        elif self._open and rest is not None and rest.waits_for_version and now >= self._since + deadlines.between_s:
            self.give_up(_part_too_late(), blame=True)
        else:
            self._watch()


def _reason(error: RoadworthyError) -> str:
    return DEADLINE if isinstance(error, DeadlineExceeded) else FAILED


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded(
        "the request's deadline passed before the answer had ended",
        hint="ask for less, read faster, or raise the endpoint's timeout_ms",
    )


def _part_too_late() -> DeadlineExceeded:
    return DeadlineExceeded(
        "the model took too long for the next part of its answer",
        code="part-too-late",
        hint="raise the endpoint's stream.between_ms, or mend the model",
    )
