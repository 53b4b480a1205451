"""Writes long answers in steps, so that the event loop serves others in between."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import TypeVar

from roadworthy.codecs.codec import Encoded, Writing
from roadworthy.schema.batch import Batch
from roadworthy.schema.signature import Field

T = TypeVar("T")
STEP_VALUES = 4_096
"""Values that one step writes, in about a millisecond."""


def is_long(batch: Batch) -> bool:
    """Whether writing these rows takes more than one step."""
    return sum([block.values.size for block in batch.blocks]) > STEP_VALUES


def step_rows(batch: Batch) -> int:
    """The most rows of this batch that are not long; 0 if a single row is."""
    return STEP_VALUES * batch.rows // max(1, sum([block.values.size for block in batch.blocks]))


def few_rows(fields: Sequence[Field]) -> int:
    """So many rows of these fields are not long, whatever they hold. It spares short answers the look at `is_long`."""
    return 0 if any(field.shape for field in fields) else STEP_VALUES // max(1, len(fields))


def row_parts(batch: Batch) -> Iterator[Batch]:
    """The rows in parts of one step each. A single row is not divided."""
    rows = max(1, STEP_VALUES * batch.rows // max(1, sum([block.values.size for block in batch.blocks])))
    return (batch.slice(start, min(start + rows, batch.rows)) for start in range(0, batch.rows, rows))


def at_once(job: Generator[None, None, T]) -> T:
    """The result of a job, with all its steps at once."""
    try:
        while True:
            next(job)
    except StopIteration as end:
        result: T = end.value
        return result


def written(answer: Encoded | Writing) -> Encoded:
    """The whole answer, with all its steps at once."""
    return answer if isinstance(answer, Encoded) else at_once(answer)
