"""The golden examples of a package: chosen rows and the live model's answers to them. Called by `pack.py`.

They hold the most informative rows of the sample. In addition, each value that may be missing is missing in one of them: in a
training row if there is one, otherwise in a made-up row if the model accepts it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from roadworthy.foundation.errors import RoadworthyError
from roadworthy.package.golden import choose_rows, without_private
from roadworthy.package.packing.subject import Subject, answers_as_batch
from roadworthy.package.packing.training import Training
from roadworthy.schema.batch import Array, Batch, Block
from roadworthy.schema.restore import Restorer
from roadworthy.schema.signature import Container, Privacy

MAX_MADE_UP = 64

Example = tuple[Batch, Batch]


def make_examples(subject: Subject, training: Training, limit: int) -> Example:
    """Make inputs and answers of about `limit` rows.

    Raises:
        PackError: the model fails on the rows whose private values were replaced.
    """
    rows = choose_rows(training.sample, limit)
    examples: list[Example] = [(training.sample.take(rows), training.answers.take(rows))]
    for find in (_given, _made_up):
        examples += find(training, Batch.concatenate([inputs for inputs, _ in examples]))
    inputs, answers = (Batch.concatenate(side) for side in zip(*examples, strict=True))
    if all(field.privacy is Privacy.KEEP for field in inputs.layout.fields):
        return inputs, answers
    inputs = without_private(inputs)
    said = subject.answer(Restorer.of(training.signature).restore(inputs))
    return inputs, answers_as_batch(answers.layout, said, inputs.rows)


def _never_missing(batch: Batch, position: int) -> Array:
    """Positions, in a flat row, of a nullable field's elements that are present in every row; empty for other fields."""
    _, mask = batch.column_at(position)
    width = int(np.prod(batch.column_at(position)[0].shape[1:], dtype=np.int64))
    if not batch.layout.fields[position].nullable:
        return np.empty(0, dtype=np.intp)
    return np.arange(width) if mask is None else np.flatnonzero(~mask.reshape(batch.rows, -1).any(axis=0))


def _given(training: Training, inputs: Batch) -> Iterator[Example]:
    """Training rows with a missing value, for the columns that have no missing value in the examples."""
    for position in range(len(inputs.layout.fields)):
        lacking = _never_missing(inputs, position)
        _, mask = training.rows.column_at(position)
        if not len(lacking) or mask is None:
            continue
        places = mask.reshape(training.rows.rows, -1)[:, lacking]
        for row in np.unique(places.argmax(axis=0)[places.any(axis=0)])[:MAX_MADE_UP].tolist():
            number = np.array([row])
            yield from _asked(training, training.rows.take(number), number, None)


def _made_up(training: Training, inputs: Batch) -> Iterator[Example]:
    """A training row without the tensor elements that were never missing: without all of them if the model accepts that,
    otherwise without one at a time."""
    field = inputs.layout.fields[0]
    lists = training.signature.container is Container.LISTS
    if not field.shape or (lists and len(field.shape) > 1) or training.signature.container is Container.RECORDS:
        return
    lacking = _never_missing(inputs, 0)
    if not len(lacking):
        return
    whole = list(_without(training, lacking))
    yield from whole or [found for one in lacking[:MAX_MADE_UP] for found in _without(training, np.array([one]))]


def _without(training: Training, elements: Array) -> Iterator[Example]:
    number = np.array([0])
    block = training.rows.take(number).blocks[0]
    mask = np.zeros(block.values.shape, dtype=bool) if block.mask is None else block.mask.copy()
    mask.reshape(-1)[elements] = True
    row = Batch(training.rows.layout, 1, (Block(block.values, mask),))
    return _asked(training, row, number, elements)


def _asked(training: Training, row: Batch, number: Array, missing: Array | None) -> Iterator[Example]:
    """One example, or nothing when the model refuses the row."""
    try:
        yield row, training.ask(number, missing)
    except RoadworthyError:
        return
