"""The streams of a runner whose model answers in parts: they share the model's own thread, round robin, a part at a time."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import structlog

from roadworthy.foundation.errors import InputRefused, ModelFault
from roadworthy.runtime.runners.inline import CheckedParts, InlineRunner
from roadworthy.runtime.runners.isolated.frames import (
    AHEAD_BYTES,
    AHEAD_PARTS,
    ANSWERED,
    NOT_RUN,
    Outcomes,
    check_answer,
)
from roadworthy.runtime.runners.isolated.joining import Asked
from roadworthy.runtime.runners.isolated.state import StateWriter

Key = tuple[object, int]
"""A connection, and the number of the message that began the stream."""


@dataclass(slots=True, eq=False)
class _Stream:
    """One answer under way.

    Attributes:
        asked: its request. parts: None before its first step.
        ahead: bytes of the parts that were sent and not taken.
        waiting: a step was asked for and is under way; is_ready: it has ended, and its part can be taken.
        began: when that step began, on the performance counter. ended: it takes no further step.
    """

    key: Key
    asked: Asked
    parts: CheckedParts | None
    ahead: deque[int]
    waiting: bool = False
    is_ready: bool = False
    began: float = 0.0
    ended: bool = False

    @property
    def may_go_on(self) -> bool:
        return not self.waiting and len(self.ahead) < AHEAD_PARTS and (not self.ahead or sum(self.ahead) < AHEAD_BYTES)


class Streams:
    """All streams of a runner. The model's own thread only, except where noted.

    Args:
        state: shows the begin of each step, so that one that never ends is noticed.
        after_step: called after each step, before its part is sent.
        wake: ends the wait for messages; on any thread.
    """

    def __init__(self, runner: InlineRunner, state: StateWriter, after_step: Callable[[], None]) -> None:
        self._runner = runner
        self._state = state
        self._after_step = after_step
        self._streams: dict[Key, _Stream] = {}
        self._next: deque[_Stream] = deque()
        self._ready: deque[_Stream] = deque()
        self._log = structlog.get_logger("runner")
        self.wake: Callable[[], None] = lambda: None

    def __bool__(self) -> bool:
        """Whether a stream can take a step now."""
        return bool(self._next or self._ready)

    def add(self, asked: Asked, key: Key) -> None:
        """Begin a stream with its next step."""
        stream = self._streams[key] = _Stream(key, asked, None, deque())
        self._next.append(stream)

    def credit(self, key: Key, parts: int) -> None:
        """So many parts of a stream were taken."""
        stream = self._streams.get(key)
        if stream is None:
            return
        blocked = not stream.may_go_on and not stream.waiting
        for _ in range(min(parts, len(stream.ahead))):
            stream.ahead.popleft()
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
        """Let the next stream take a step."""
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
        try:
            self._step(stream)
        except ModelFault as fault:
            if not isinstance(fault, InputRefused):  # that is the caller's value
                self._log.error("run-failed", code=fault.code, reason=fault.message, exc_info=fault.__cause__)
            self._end(stream, Outcomes((1,), (fault,), None))

    def _step(self, stream: _Stream) -> None:
        """Take the next part and send it; an async generator is first asked for it, and comes back when it has it.

        Raises:
            ModelFault: the model failed.
        """
        if not stream.is_ready:
            stream.began = time.perf_counter()
        self._state.begin()
        try:
            if stream.parts is None:
                stream.asked.begin()
                stream.parts = self._runner.parts(stream.asked.batch)
            ask = stream.parts.ask
            if ask is not None and not stream.is_ready:
                stream.waiting = True
                ask(partial(self._has_part, stream))
                return
            stream.is_ready = False
            part = stream.parts.next()
            if part is not None:
                check_answer(part)
        finally:
            self._state.end()
            self._after_step()
        if part is None:
            self._end(stream, Outcomes((ANSWERED,), (), None))
            return
        seconds = time.perf_counter() - stream.began
        stream.ahead.append(stream.asked.part(Outcomes((ANSWERED,), (), part, part.rows, seconds)))
        if stream.may_go_on:
            self._next.append(stream)

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
            self._after_step()
