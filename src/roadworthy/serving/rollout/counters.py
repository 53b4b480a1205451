"""A worker's rollout counts in its slot of the slab, and how the agent reads them back.

A request is counted before its caller is answered. Counts outlive `kill -9`, and the worker's replacement continues them. So it
is with the hashes of users with bad events, which a sticky rollout needs: each hash takes one cell.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from roadworthy.contract.evidence import (
    MOST,
    OUTPUT_BINS,
    BadUnit,
    BinCount,
    Excluded,
    MetricCount,
    PairCount,
    RolloutCounts,
    VariantCount,
)
from roadworthy.foundation.slab import SlotWriter

_SEPARATOR = "\x1f"
_SAMPLES, _PAIRS, _EXCLUDED, _UNITS, _OVERFLOW = "evidence", "pairs", "excluded", "units", "units-overflow"
_CRASHES, _VALUES, _BINS = "canary-crashes", "values", "bins"
EVIDENCE = frozenset({_SAMPLES, _PAIRS, _EXCLUDED, _UNITS, _OVERFLOW, _CRASHES, _VALUES, _BINS})
_PARTS = 1_000_000
"""Cells hold integers: values from 0 to 1 are added up in millionths."""
_OVER = "-"
_UNITS_A_RUN = 60  # not MAX_WIDTH: runs of that width are never folded
MOST_UNIT_RUNS = 128
"""At most a quarter of a slot's cells: 7,680 users with a bad event per worker."""


class EvidenceCells:
    """One worker's counts of all rollouts. Single-threaded.

    A key is (rollout, assigning generation as text, signal or reason, "canary" or "stable").
    """

    def __init__(self, writer: SlotWriter) -> None:
        self._writer = writer
        self._values = writer.values
        self._cells: dict[tuple[str, ...], int] = {}
        self._units: dict[tuple[str, str], _Units] = {}
        self._live: frozenset[str] = frozenset()

    def keep(self, rollouts: Iterable[str]) -> None:
        """Name the rollouts in service; counts of others may be folded when the slot runs full."""
        self._live = frozenset(rollouts)

    def sample(self, key: tuple[str, str, str, str], *, bad: bool) -> None:
        """Count an eligible outcome."""
        cell = self._cells.get(key)
        if cell is None:
            cell = self._cells[key] = self._place(_SAMPLES, key, 2)
        self._values[cell] += 1
        if bad:
            self._values[cell + 1] += 1

    def event(self, key: tuple[str, str, str, str]) -> None:
        """Count a bad event of a request whose outcome is counted as a sample elsewhere."""
        cell = self._cells.get(key)
        if cell is None:
            cell = self._cells[key] = self._place(_SAMPLES, key, 2)
        self._values[cell + 1] += 1

    def pair(self, key: tuple[str, str, str], *, canary_bad: bool, stable_bad: bool) -> None:
        """Count a mirrored request with both outcomes; its `key` names no variant. Where both are bad, neither counts as bad."""
        cell = self._cells.get(key)
        if cell is None:
            cell = self._cells[key] = self._place(_PAIRS, key, 3)
        self._values[cell] += 1
        if canary_bad != stable_bad:
            self._values[cell + (1 if canary_bad else 2)] += 1

    def value(self, key: tuple[str, str, str, str], value: float) -> None:
        """Add a value from 0 to 1 of a metric: (rollout, generation, metric, variant)."""
        cell = self._cells.get(key)
        if cell is None:
            cell = self._cells[key] = self._place(_VALUES, key, 2)
        self._values[cell] += 1
        self._values[cell + 1] += round(value * _PARTS)

    def bin(self, key: tuple[str, str, str, str], number: int) -> None:
        """Count an answer in a bin of an output's number or of a signal: (rollout, generation, number or name, variant)."""
        cell = self._cells.get(key)
        if cell is None:
            cell = self._cells[key] = self._place(_BINS, key, OUTPUT_BINS)
        self._values[cell + number] += 1

    def exclude(self, key: tuple[str, str, str, str]) -> None:
        """Count an outcome that gives no evidence."""
        cell = self._cells.get((_EXCLUDED, *key))
        if cell is None:
            cell = self._cells[_EXCLUDED, *key] = self._place(_EXCLUDED, key, 1)
        self._values[cell] += 1

    def crash(self, rollout: str) -> None:
        """Count a crash of a process that the rollout's canary caused."""
        self._values[self._place(_CRASHES, (rollout,), 1)] += 1

    def unit(self, key: tuple[str, str, str, str], unit: int) -> None:
        """Store a user with a bad event, once per signal; `unit` is a hash from 1 to 2^63 - 1."""
        rollout, _, signal, _ = key
        units = self._units.get((rollout, signal))
        if units is None:
            units = self._units[rollout, signal] = _Units(self._writer, rollout, signal)
        if unit in units.seen:
            return
        if not units.add(key, unit, self._unit_runs() < MOST_UNIT_RUNS):
            self._values[self._place(_OVERFLOW, (rollout,), 1)] += 1

    def folds(self) -> dict[str, str]:
        """The runs to fold when the slot runs full, by name: everything of rollouts that are over, joined by kind."""
        into = {}
        for name in self._writer.names():
            kind, *parts = name.split(_SEPARATOR)
            if kind in EVIDENCE and parts[0] not in self._live and parts[0] != _OVER:
                into[name] = _SEPARATOR.join((kind, _OVER))
                if kind == _UNITS:  # hashes must not be added up
                    first = self._writer.place(name, width=_UNITS_A_RUN)
                    for cell in range(first, first + _UNITS_A_RUN):
                        self._values[cell] = 0
        self._cells.clear()
        self._units = {key: units for key, units in self._units.items() if key[0] in self._live}
        return into

    def _place(self, kind: str, key: tuple[str, ...], width: int) -> int:
        return self._writer.place(_SEPARATOR.join((kind, *key)), width=width)

    def _unit_runs(self) -> int:
        return sum(units.runs for units in self._units.values())


class _Units:
    """The users of one signal, including those that a predecessor of this worker stored."""

    def __init__(self, writer: SlotWriter, rollout: str, signal: str) -> None:
        self._writer = writer
        self.seen: set[int] = set()
        self._next: dict[tuple[str, ...], tuple[int, int]] = {}  # by key: number of its last run, cells taken in it
        self.runs = 0
        for name in writer.names():
            kind, *key = name.split(_SEPARATOR)
            if kind == _UNITS and key[0] == rollout and key[2] == signal:
                first = writer.place(name, width=_UNITS_A_RUN)
                found = [unit for unit in writer.values[first : first + _UNITS_A_RUN].tolist() if unit]
                self.seen.update(found)
                self.runs += 1
                place = tuple(key[:4])
                self._next[place] = max(self._next.get(place, (0, 0)), (int(key[4]), len(found)))

    def add(self, key: tuple[str, str, str, str], unit: int, room: bool) -> bool:
        """Store one; False when there is no room."""
        number, taken = self._next.get(key, (-1, _UNITS_A_RUN))
        if taken == _UNITS_A_RUN:
            if not room:
                return False
            number, taken = number + 1, 0
            self.runs += 1
        first = self._writer.place(_SEPARATOR.join((_UNITS, *key, str(number))), width=_UNITS_A_RUN)
        if first == 0:  # the table is full
            return False
        self._writer.values[first + taken] = unit
        self._next[key] = (number, taken + 1)
        self.seen.add(unit)
        return True


@dataclass(slots=True)
class EvidenceTotals:
    """Sums over all slots.

    Attributes:
        variants, pairs, excluded: by key, the numbers as `EvidenceCells` counts them.
        values, bins: by key; for values their number, and their sum in millionths.
        units: by rollout. overflow: rollouts for which some users found no room. crashes: by rollout.
    """

    variants: dict[tuple[str, ...], list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    pairs: dict[tuple[str, ...], list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0, 0]))
    excluded: dict[tuple[str, ...], int] = field(default_factory=lambda: defaultdict(int))
    values: dict[tuple[str, ...], list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    bins: dict[tuple[str, ...], list[int]] = field(default_factory=lambda: defaultdict(lambda: [0] * OUTPUT_BINS))
    units: dict[str, set[BadUnit]] = field(default_factory=lambda: defaultdict(set))
    overflow: set[str] = field(default_factory=set)
    crashes: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, kind: str, key: tuple[str, ...], values: tuple[int, ...]) -> None:
        """Add one run of cells. Sums end at MOST, the largest that a frame may hold."""
        if key[0] == _OVER:
            return
        if kind == _EXCLUDED:
            self.excluded[key] = min(self.excluded[key] + values[0], MOST)
        elif kind == _OVERFLOW:
            self.overflow.add(key[0])
        elif kind == _CRASHES:
            self.crashes[key[0]] = min(self.crashes[key[0]] + values[0], MOST)
        elif kind == _UNITS:
            rollout, generation, signal, variant, _ = key
            self.units[rollout].update(BadUnit(int(generation), signal, variant, f"{unit:016x}") for unit in values if unit)
        else:
            sums = self._sums(kind, key)
            for place, value in enumerate(values):
                sums[place] = min(sums[place] + value, MOST)

    def _sums(self, kind: str, key: tuple[str, ...]) -> list[int]:
        if kind == _SAMPLES:
            return self.variants[key]
        if kind == _PAIRS:
            return self.pairs[key]
        return self.values[key] if kind == _VALUES else self.bins[key]

    def rollouts(self) -> set[str]:
        """The ids of all rollouts with counts."""
        keys = [*self.variants, *self.pairs, *self.excluded, *self.values, *self.bins]
        return {key[0] for key in keys} | set(self.units) | self.overflow | set(self.crashes)

    def counts(self, rollout: str) -> RolloutCounts:
        """The counts for a telemetry frame. Workers count while this is read, so the numbers are trimmed to be consistent; the
        next frame has the rest."""
        variants = [
            VariantCount(int(generation), signal, variant, samples, min(bad, samples))
            for (owner, generation, signal, variant), (samples, bad) in sorted(self.variants.items())
            if owner == rollout
        ]
        pairs = []
        for (owner, generation, signal), (number, canary_bad, stable_bad) in sorted(self.pairs.items()):
            if owner == rollout:
                canary = min(canary_bad, number)
                stable = min(stable_bad, number - canary)
                pairs.append(PairCount(int(generation), signal, number, canary, stable))
        excluded = [
            Excluded(int(generation), variant, reason, count)
            for (owner, generation, reason, variant), count in sorted(self.excluded.items())
            if owner == rollout
        ]
        metrics = [
            MetricCount(int(generation), metric, variant, values, min(parts, values * _PARTS) / _PARTS)
            for (owner, generation, metric, variant), (values, parts) in sorted(self.values.items())
            if owner == rollout
        ]
        bins = [
            BinCount(int(generation), int(output or 0), variant, tuple(cells), signal)
            for (owner, generation, of, variant), cells in sorted(self.bins.items())
            for output, signal in [(of, "") if of.isdigit() else ("", of)]
            if owner == rollout
        ]
        units = sorted(self.units.get(rollout, ()), key=lambda each: (each.generation, each.signal, each.unit))
        return RolloutCounts(
            rollout,
            tuple(variants),
            tuple(pairs),
            tuple(units),
            metrics=tuple(metrics),
            bins=tuple(bins),
            excluded=tuple(excluded),
            overflow=rollout in self.overflow,
            crashes=self.crashes.get(rollout, 0),
        )
