"""Joins the messages of several workers that wait at the same moment into one run, and gives each its own outcomes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from roadworthy.foundation.errors import InputRefused, ModelFault
from roadworthy.runtime.pending import Answer
from roadworthy.runtime.queue.batching import MAX_JOINED_ROWS, run_joined
from roadworthy.runtime.queue.sizing import BatchSizer
from roadworthy.runtime.runners.inline import WRONG_COUNT
from roadworthy.runtime.runners.isolated.frames import ANSWERED, NOT_RUN, Outcomes, check_answer
from roadworthy.runtime.runners.isolated.state import StateWriter
from roadworthy.runtime.runners.runner import Runner
from roadworthy.schema.batch import Batch


class Asker(Protocol):
    """The connection that a message came over. `number`: of the message."""

    def begin(self, number: int) -> None:
        """The message is about to run."""
        ...

    def answer(self, number: int, outcomes: Outcomes) -> None:
        """Send its outcomes."""
        ...

    def part(self, number: int, part: Batch, seconds: float) -> int:
        """Send one part of its answer, which took the model so many seconds; return the bytes.

        Raises:
            ModelFault: it is too large, or has the wrong types.
        """
        ...


@dataclass(slots=True)
class Asked:
    """The requests of one message.

    Attributes:
        asker, number: the connection that it came over, and its number there.
        batch: their rows, joined.
        counts, deadlines: rows and deadline of each, seconds on the monotonic clock.
    """

    asker: Asker
    number: int
    batch: Batch
    counts: Sequence[int]
    deadlines: Sequence[float]

    def answer(self, outcomes: Outcomes) -> None:
        """Send the outcomes."""
        self.asker.answer(self.number, outcomes)


class Watched:
    """A runner that shows the begin of each run in the state file, and checks that answers can be sent."""

    def __init__(self, runner: Runner, state: StateWriter) -> None:
        self._runner = runner
        self._run = runner.run
        self._state = state
        self.concurrent = runner.concurrent

    def run(self, batch: Batch) -> Batch:
        """Answer all rows.

        Raises:
            ModelFault: as the runner's, and code "wrong-output-type" for an answer that cannot be sent.
        """
        self._state.begin()
        try:
            answer = self._run(batch)
        finally:
            self._state.end()
        check_answer(answer)
        return answer

    def close(self) -> None:
        """Release the model's memory and threads."""
        self._runner.close()


class Joining:
    """The messages that wait for the model. The model's own thread only.

    Args:
        runner: runs the joined rows.
        max_rows: most rows of one run; None learns how many pay off.
        after_run: called after each run, before its answers are sent.
    """

    def __init__(self, runner: Runner, max_rows: int | None, after_run: Callable[[], None]) -> None:
        self._runner = runner
        self._after_run = after_run
        self._sizer = BatchSizer(max_rows, MAX_JOINED_ROWS)
        self._waiting: deque[Asked] = deque()
        self._log = structlog.get_logger("runner")

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, asked: Asked) -> None:
        """Queue a message for the next run."""
        self._waiting.append(asked)

    def run_next(self) -> None:
        """Run the first message together with as many others as fit, and answer them."""
        now = time.monotonic()
        limit = self._sizer.limit()
        group: list[_Part] = []
        rows = 0
        while self._waiting and (not group or rows + self._waiting[0].batch.rows <= limit):
            part = _Part(self._waiting.popleft(), now)
            part.asked.asker.begin(part.asked.number)
            if part.batch is None:
                part.asked.answer(Outcomes(part.statuses, (), None))
                continue
            rows += part.batch.rows
            group.append(part)
        if not group:
            return
        begun = time.perf_counter()
        results = run_joined(self._runner, [part.batch for part in group if part.batch is not None])
        seconds = time.perf_counter() - begun
        self._sizer.ran(rows, seconds)
        self._after_run()
        for part, result in zip(group, results, strict=True):
            part.asked.answer(self._outcomes(part, result, rows, seconds))

    def _outcomes(self, part: _Part, result: Answer | ModelFault, rows: int, seconds: float) -> Outcomes:
        if isinstance(result, Answer):
            return Outcomes(part.statuses, (), result.batch(), rows, seconds)
        singles = part.singles()
        if len(singles) == 1 or result.code == WRONG_COUNT:
            self._note(result)
            statuses = [1 if status == ANSWERED else status for status in part.statuses]
            return Outcomes(statuses, (result,), None, rows, seconds)
        # Only the request that the model cannot answer fails.
        statuses, faults, answers = list(part.statuses), list[ModelFault](), list[Batch]()
        for place, batch in singles:
            alone = run_joined(self._runner, [batch])[0]
            if isinstance(alone, Answer):
                answers.append(alone.batch())
            else:
                self._note(alone)
                faults.append(alone)
                statuses[place] = len(faults)
        return Outcomes(statuses, faults, Batch.concatenate(answers) if answers else None, rows, seconds)

    def _note(self, fault: ModelFault) -> None:
        if not isinstance(fault, InputRefused):  # that is the caller's value
            self._log.error("run-failed", code=fault.code, reason=fault.message, exc_info=fault.__cause__)


class _Part:
    """The requests of one message whose deadlines have not passed."""

    __slots__ = ("asked", "batch", "statuses")

    def __init__(self, asked: Asked, now: float) -> None:
        self.asked = asked
        self.statuses: Sequence[int] = (ANSWERED,) * len(asked.counts)
        self.batch: Batch | None = asked.batch
        if min(asked.deadlines) <= now:
            self.statuses = [NOT_RUN if deadline <= now else ANSWERED for deadline in asked.deadlines]
            alive = [batch for _, batch in self.singles()]
            self.batch = Batch.concatenate(alive) if alive else None

    def singles(self) -> list[tuple[int, Batch]]:
        """Place and rows of each request that is to be run."""
        found, start = [], 0
        for place, (count, status) in enumerate(zip(self.asked.counts, self.statuses, strict=True)):
            if status == ANSWERED:
                found.append((place, self.asked.batch.slice(start, start + count)))
            start += count
        return found
