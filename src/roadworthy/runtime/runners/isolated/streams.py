"""The streams of a runner whose model answers in parts: they share the model's own thread, round robin, a time slice each. A
slice is one part, or quick parts that follow each other, for half a millisecond at most."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import structlog

from roadworthy.foundation.errors import InputRefused, ModelFault
from roadworthy.runtime.runners.inline import CheckedParts, InlineRunner
from roadworthy.runtime.runners.isolated.ahead import Ahead
from roadworthy.runtime.runners.isolated.frames import ANSWERED, NOT_RUN, Outcomes, check_answer
from roadworthy.runtime.runners.isolated.joining import Asked
from roadworthy.runtime.runners.isolated.state import StateWriter

Key = tuple[object, int]
"""A connection, and the number of the message that began the stream."""
_SLICE_S = 0.0005
"""The slice of a stream ends with the first part after so many seconds; of several streams, each has its share of them."""


@dataclass(slots=True, eq=False)
class _Stream:
    """One answer under way.

    Attributes:
        asked: its request. ahead: the parts that were sent and not taken.
        parts: None before its first step. any_sent: whether a part was sent.
        waiting: a step was asked for and is under way; is_ready: it has ended, and its part can be taken.
        began: when that step began, on the performance counter. ended: it takes no further step.
    """

    key: Key
    asked: Asked
    ahead: Ahead
    parts: CheckedParts | None = None
    any_sent: bool = False
    waiting: bool = False
    is_ready: bool = False
    began: float = 0.0
    ended: bool = False

    @property
    def may_go_on(self) -> bool:
        return not (self.waiting or self.ended) and self.ahead.has_room


class Streams:
    """All streams of a runner. The model's own thread only, except where noted.

    Args:
        state: shows the begin of each step, so that one that never ends is noticed.
        after_slice: called after each slice.
        wake: ends the wait for messages; on any thread.
    """

    def __init__(self, runner: InlineRunner, state: StateWriter, after_slice: Callable[[], None]) -> None:
        self._runner = runner
        self._state = state
        self._after_slice = after_slice
        self._streams: dict[Key, _Stream] = {}
        self._next: deque[_Stream] = deque()
        self._ready: deque[_Stream] = deque()
        self._log = structlog.get_logger("runner")
        self.wake: Callable[[], None] = lambda: None

    def __bool__(self) -> bool:
        """Whether a stream can take a step now."""
        return bool(self._next or self._ready)

    def add(self, asked: Asked) -> None:
        """Begin a stream with its next step."""
        key = (asked.asker, asked.number)
        stream = self._streams[key] = _Stream(key, asked, Ahead())
        self._next.append(stream)

    def credit(self, key: Key, parts: int) -> None:
        """So many parts of a stream were taken."""
        stream = self._streams.get(key)
        if stream is None:
            return
        blocked = not stream.may_go_on and not stream.waiting
        stream.ahead.taken(parts)
        if blocked and stream.may_go_on:
            self._next.append(stream)

    def cancel(self, key: Key) -> None:
        """Close a stream: its rest is not wanted."""
        stream = self._streams.pop(key, None)
        if stream is not None:
            self._close(stream)

    def cancel_all(self, connection: object) -> None:
        """Close all streams of a connection."""
        for key in [key for key in self._streams if key[0] is connection]:
            self.cancel(key)

    def run_next(self) -> None:
        """Run the next stream for its slice."""
        while self._ready:
            stream = self._ready.popleft()
            stream.waiting, stream.is_ready = False, True
            self._next.append(stream)
        if not self._next:
            return
        stream = self._next.popleft()
        if stream.ended:
            return
        if stream.parts is None and min(stream.asked.deadlines) <= time.monotonic():
            self._end(stream, Outcomes((NOT_RUN,), (), None))
            return
        until = time.perf_counter() + _SLICE_S / (1 + len(self._next))
        try:
            while self._step(stream) < until and stream.may_go_on:
                pass
            if stream.may_go_on:
                self._next.append(stream)
        except ModelFault as fault:
            if not isinstance(fault, InputRefused):  # that is the caller's value
                self._log.error("run-failed", code=fault.code, reason=fault.message, exc_info=fault.__cause__)
            self._end(stream, Outcomes((1,), (fault,), None))
        finally:
            self._after_slice()

    def _step(self, stream: _Stream) -> float:
        """Take the next part and send it; an async generator is first asked for it, and comes back when it has it.

        Returns:
            when it was sent, on the performance counter; infinite when the slice is over with it.

        Raises:
            ModelFault: the model failed.
        """
        asked = stream.asked
        if not stream.is_ready:
            stream.began = time.perf_counter()
        self._state.begin()
        try:
            if stream.parts is None:
                asked.asker.begin(asked.number)
                stream.parts = self._runner.parts(asked.batch)
            ask = stream.parts.ask
            if ask is not None and not stream.is_ready and not ask(partial(self._has_part, stream), stream.ahead.room):
                stream.waiting = True
                return math.inf
            stream.is_ready = False
            part = stream.parts.next()
            if part is not None:
                check_answer(part)
        finally:
            self._state.end()
        if part is None:
            self._end(stream, Outcomes((ANSWERED,), (), None))
            return math.inf
        now = time.perf_counter()
        seconds = now - stream.began
        stream.ahead.sent(asked.asker.part(asked.number, part, seconds), seconds)
        if not stream.any_sent:
            stream.any_sent = True
            os.sched_yield()  # on a busy core the worker would get it only after the whole slice, or the next ones
            return math.inf
        return now

    def _has_part(self, stream: _Stream) -> None:
        """Called on another thread."""
        self._ready.append(stream)
        self.wake()

    def _end(self, stream: _Stream, outcomes: Outcomes) -> None:
        self._streams.pop(stream.key, None)
        self._close(stream)
        stream.asked.answer(outcomes)

    def _close(self, stream: _Stream) -> None:
        stream.ended = True
        if stream.parts is None:
            return
        self._state.begin()
        try:
            stream.parts.close()
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the model's own code may raise anything
            self._log.error("stream-not-closed", reason=f"{type(error).__name__}: {error}"[:200])
        finally:
            self._state.end()
