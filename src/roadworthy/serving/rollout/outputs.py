"""Counts what answers look like in a rollout that watches them: their confidence, bins of their values, and the bins of signals.

One row of a request counts, however many it has. In a sticky rollout only a user's first request counts, per worker, variant and
generation. Rows of one request, and requests of one user, resemble each other: counted singly they would look like more evidence
than they are.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan

from roadworthy.contract.evidence import CANARY, CONFIDENCE, COUNTERS, OUTPUT_BINS, STABLE
from roadworthy.contract.snapshot import RolloutEntry, WatchedOutput
from roadworthy.runtime.pending import Answer
from roadworthy.schema.batch import Batch
from roadworthy.schema.signature import Signature
from roadworthy.serving.rollout.counters import EvidenceCells
from roadworthy.signals.signal import BinJudge

MOST_SEEN = 50_000
"""Users that a worker remembers in one generation, some megabytes. Requests of further users are not counted."""
_MISSING = OUTPUT_BINS - 1


@dataclass(frozen=True, slots=True)
class _Binned:
    """A watched output: its position in answers, its number in evidence, and its bins."""

    position: int
    place: int | None
    number: str
    edges: tuple[float, ...]
    places: Mapping[str | int | bool, int] | None

    @classmethod
    def of(cls, position: int, number: int, output: WatchedOutput) -> _Binned:
        places = None
        if output.categories is not None:
            places = {category: place for place, category in enumerate(output.categories[: _MISSING - 1])}
        return cls(position, output.place, str(number), output.edges[: _MISSING - 1], places)

    def bin(self, joined: Batch, row: int) -> int:
        """The bin of a row's value."""
        values, mask = joined.column_at(self.position)
        if self.place is not None:
            values, mask = values[:, self.place], None if mask is None else mask[:, self.place]
        if mask is not None and mask[row]:
            return _MISSING
        value = values[row : row + 1].tolist()[0]
        if isinstance(value, float) and isnan(value):
            return _MISSING
        return bisect_right(self.edges, value) if self.places is None else self.places.get(value, len(self.places))


class OutputCounters:
    """Counts the watched outputs of one rollout in one generation. Event loop only.

    Args:
        sorts: signals that sort answers into bins: the name, the judge, and the number of bins.
        fails: called with the name of one that raised an error.
    """

    def __init__(
        self,
        cells: EvidenceCells,
        rollout: RolloutEntry,
        generation: int,
        signature: Signature,
        sorts: Sequence[tuple[str, BinJudge, int]] = (),
        fails: Callable[[str, Exception], None] = lambda _name, _error: None,
    ) -> None:
        positions = {field.name: position for position, field in enumerate(signature.outputs)}
        self._cells = cells
        self._rollout = rollout.id
        self._generation = str(generation)
        self._sure = None if rollout.probabilities is None else positions.get(rollout.probabilities)
        self._binned = [
            _Binned.of(positions[output.name], number, output)
            for number, output in enumerate(rollout.outputs)
            if output.name in positions
        ]
        self._sorts = list(sorts)
        self._fails = fails
        self._round = 0
        self._seen: set[tuple[str, int]] = set()
        if rollout.sticky_header is not None or rollout.sticky_field is not None:
            cells.value((rollout.id, self._generation, COUNTERS, STABLE), 0.0)

    def answered(self, label: str, answer: Answer, unit: int | None) -> None:
        """Count the answer of a version to a request that was assigned to it. `unit` is the hash of a sticky rollout's user."""
        if unit is not None:
            if (label, unit) in self._seen or len(self._seen) >= MOST_SEEN:
                return
            self._seen.add((label, unit))
        self._round += 1  # a different row of each request, chosen regardless of the variant
        self._count(label, answer)

    def both_answered(self, served: Answer, copied: Answer) -> None:
        """Count the same row of one request in the answers of both versions."""
        self._round += 1
        self._count(STABLE, served)
        self._count(CANARY, copied)

    def _count(self, label: str, answer: Answer) -> None:
        rows = answer.stop - answer.start
        if not rows:
            return
        if self._sure is not None:
            value = _mean_of_largest(answer, self._sure)
            self._cells.value((self._rollout, self._generation, CONFIDENCE, label), min(max(value, 0.0), 1.0))
        row = answer.start + self._round % rows
        for output in self._binned:
            key = (self._rollout, self._generation, output.number, label)
            self._cells.bin(key, output.bin(answer.joined, row))
        for name, judge, bins in self._sorts:
            self._sort(label, answer, name, judge, bins)

    def _sort(self, label: str, answer: Answer, name: str, judge: BinJudge, bins: int) -> None:
        try:
            number = judge(answer.batch())
            if number is not None and not 0 <= number < bins:
                raise ValueError(f"{number} is not the number of one of its {bins} bins")
            if number is not None:
                self._cells.bin((self._rollout, self._generation, name, label), int(number))
        except Exception as error:  # noqa: BLE001 - another distribution's code may raise anything; the caller gets the answer
            self._sorts = [each for each in self._sorts if each[0] != name]
            self._fails(name, error)


def _mean_of_largest(answer: Answer, position: int) -> float:
    values, _ = answer.joined.column_at(position)
    if answer.stop - answer.start == 1:
        return float(max(values[answer.start].tolist()))
    return float(values[answer.start : answer.stop].max(axis=1).mean())
