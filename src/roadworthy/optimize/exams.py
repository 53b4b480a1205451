"""Makes all the rows on which a conversion is compared, answered once by the original. Called by `compile.py`.

An exam is a set of rows of one kind with the original's answers, or a set of rows each of which the original refuses: a
conversion must refuse those too.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass

from roadworthy.optimize.candidates.candidate import Source
from roadworthy.optimize.exact.folding import fold
from roadworthy.optimize.rows import (
    MAX_TRAINING,
    at_thresholds,
    chunks,
    extremes,
    ordinary,
    perturbed,
    spread,
    with_missing,
    with_unseen_words,
)
from roadworthy.optimize.search import find_jumps, searchable
from roadworthy.schema.batch import Batch

_MOST_REFUSED = 40
"""Limit of refused rows per kind. They are found one by one; beyond this limit the remaining rows of the kind are dropped."""
SEARCHED, EXTREME = "searched", "extreme"


@dataclass(frozen=True)
class Exam:
    """Rows of one kind, with the original's answers; None when it refuses each of the rows."""

    kind: str
    rows: Batch
    expected: Batch | None


def exams(source: Source) -> Iterator[Exam]:
    """Make every exam for an original.

    Raises:
        Exception: any error of the original on its golden examples or training rows.
    """
    for kind, rows in (("golden", source.golden), ("training", spread(source.training, MAX_TRAINING))):
        for part in chunks(rows):
            yield Exam(kind, part, source.reference(part))
    for kind, rows in _made_rows(source):
        yield from answered(source, kind, rows)


def answered(source: Source, kind: str, rows: Batch) -> Iterator[Exam]:
    """Exams of made-up rows: those that the original answers, in chunks, and those that it refuses."""
    refused: list[Batch] = []
    for part in chunks(rows):
        yield from _halved(source, kind, part, refused)
    if refused:
        yield Exam(kind, Batch.concatenate(refused), None)


def _halved(source: Source, kind: str, rows: Batch, refused: list[Batch]) -> Iterator[Exam]:
    """Exams of the rows that the original answers; single rows that it refuses are added to `refused`."""
    if len(refused) >= _MOST_REFUSED:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = source.reference(rows)
    except Exception:  # noqa: BLE001  the original may refuse made-up rows with any exception
        if rows.rows == 1:
            refused.append(rows)
            return
        middle = rows.rows // 2
        yield from _halved(source, kind, rows.slice(0, middle), refused)
        yield from _halved(source, kind, rows.slice(middle, rows.rows), refused)
        return
    yield Exam(kind, rows, expected)


def _made_rows(source: Source) -> Iterator[tuple[str, Batch]]:
    raws = searchable(source.signature)
    yield "perturbed", perturbed(source.training)
    made = (
        ("perturbed", with_unseen_words(source.training)),
        ("missing", with_missing(source.training)),
        ("ordinary", ordinary(source.training, raws)),
        (EXTREME, extremes(source.training, raws)),
    )
    yield from ((kind, rows) for kind, rows in made if rows is not None)
    jumps = find_jumps(source.reference, source.training, raws)
    if jumps is not None:
        yield SEARCHED, jumps.rows
    try:
        edges = fold(source).edges
    except Exception:  # noqa: BLE001  only trees have thresholds to read; the search looks for the jumps of other models
        return
    rows = at_thresholds(source.training, edges)
    if rows is not None:
        yield "thresholds", rows
