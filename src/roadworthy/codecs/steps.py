"""Writes long answers in steps, so that the event loop serves others in between."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from typing import TypeVar

from roadworthy.codecs.codec import Encoded, Writing
from roadworthy.schema.batch import Array, Batch
from roadworthy.schema.signature import Field

T = TypeVar("T")
STEP_VALUES = 4_096
"""Values that one step writes, in about a millisecond."""


def is_long(batch: Batch) -> bool:
    """Whether writing these rows takes more than one step."""
    return _values(batch) > STEP_VALUES


def step_rows(batch: Batch) -> int:
    """The most rows of this batch that are not long; 0 if a single row is."""
    return _rows_in_step(batch.rows, _values(batch))


def few_rows(fields: Sequence[Field]) -> int:
    """So many rows of these fields are not long, whatever they hold. It spares short answers the look at `is_long`."""
    return 0 if any(field.shape for field in fields) else STEP_VALUES // max(1, len(fields))


def row_parts(batch: Batch) -> Iterator[Batch]:
    """The rows in parts of one step each. A single row is not divided."""
    return (batch.slice(cut.start, cut.stop) for cut in _cuts(batch.rows, _values(batch)))


def column_steps(columns: Iterable[Array]) -> Iterator[list[tuple[int, slice]]]:
    """The steps that write columns one after the other: for each step, the numbers of its columns with their rows. Short columns
    share a step; a single row of a column is not divided."""
    step: list[tuple[int, slice]] = []
    values = 0
    for number, column in enumerate(columns):
        for cut in _cuts(len(column), column.size):
            size = column[cut].size
            if step and values + size > STEP_VALUES:
                yield step
                step, values = [], 0
            step.append((number, cut))
            values += size
    yield step


def _cuts(rows: int, values: int) -> Iterator[slice]:
    """So many rows, which have so many values together, in parts of one step each."""
    most = max(1, _rows_in_step(rows, values))
    return (slice(start, min(start + most, rows)) for start in range(0, rows, most))


def _rows_in_step(rows: int, values: int) -> int:
    return STEP_VALUES * rows // max(1, values)


def _values(batch: Batch) -> int:
    return sum([block.values.size for block in batch.blocks])


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
