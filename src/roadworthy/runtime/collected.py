"""Collects an answer in parts into one answer, for those who want it at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from roadworthy.foundation.errors import ModelFault, RoadworthyError
from roadworthy.runtime.pending import Answer, Outcome
from roadworthy.schema.batch import Batch, least_bytes
from roadworthy.schema.signature import MAX_ANSWER_BYTES


class Collected:
    """The parts of one answer, one below the other. Event loop only.

    Args:
        then: called once, with the whole answer or with the error that ended it.
        most_rows: most rows of the whole answer.
    """

    def __init__(self, then: Callable[[Outcome], None], most_rows: int) -> None:
        self._then = then
        self._most_rows = most_rows
        self._first: Answer | None = None
        self._batches: list[Batch] = []
        self._rows = self._bytes = 0

    def start(self, answer: Answer) -> None:
        """Take what layers say of the answer. `emit` takes its first part."""
        self._first = answer

    def emit(self, parts: Sequence[Batch]) -> bool:
        """See `PartSink`."""
        self._rows += sum(part.rows for part in parts)
        self._bytes += sum(map(least_bytes, parts))
        if self._rows > self._most_rows or self._bytes > MAX_ANSWER_BYTES:
            if self._first is not None and self._first.rest is not None:
                self._first.rest.stop()
            self.fail(
                ModelFault(
                    f"the parts of the answer have more than {self._most_rows} rows or {MAX_ANSWER_BYTES >> 20} MiB together",
                    code="answer-too-large",
                    hint="take the parts one by one: send Accept: text/event-stream",
                )
            )
            return False
        self._batches += parts
        return True

    def finish(self) -> None:
        """See `PartSink`."""
        first = self._first
        if first is not None:
            self._first = None
            whole = Batch.concatenate(self._batches)
            self._then(Answer(whole, 0, whole.rows, first.source, first.notes, first.by, first.instead_of))

    def fail(self, error: RoadworthyError) -> None:
        """See `PartSink`."""
        if self._first is not None:
            self._first = None
            self._then(error)
