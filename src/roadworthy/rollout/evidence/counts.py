"""The evidence of a rollout: what gateways counted, and how their reports add up in any order and however often they arrive.

The controller merges telemetry into `Evidence` and stores it in the transaction that accepts the frame; `verdict.py` reads it.

Exactly once by construction: a source (one life of one gateway) always reports all its counts, which only grow, and the larger
numbers of two reports are kept. Users with bad events are reported once; their union is kept. So a report that arrives twice,
late or after a newer one changes nothing. Every count has the endpoint's generation that assigned the variant, so late counts
join their own segment. `contract/evidence.py` says what may be counted.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from roadworthy.contract.evidence import CANARY, EXCLUDED, FAILED, OUTPUT_BINS, STABLE, VARIANTS, BadUnit, RolloutCounts
from roadworthy.rollout.stored import read_stored

FORMAT = 1
_DRIFT, _BINS = "drift.", "bins."
MOST_UNITS = 100_000
"""Most units (users, sessions) with bad events that one signal keeps; beyond them the evidence is incomplete, which holds."""


class Tally(NamedTuple):
    """Counts of one signal in some generations, from all sources. `units` are distinct ones with bad events."""

    stable_samples: int = 0
    stable_bad: int = 0
    canary_samples: int = 0
    canary_bad: int = 0
    pairs: int = 0
    pairs_canary_bad: int = 0
    pairs_stable_bad: int = 0
    stable_units: int = 0
    canary_units: int = 0

    def plus(self, other: Tally) -> Tally:
        """The sum of both."""
        return Tally(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


_FIELDS = {
    STABLE: ("stable_samples", "stable_bad"),
    CANARY: ("canary_samples", "canary_bad"),
    "pairs": ("pairs", "pairs_canary_bad", "pairs_stable_bad"),
}
"""The meaning of the numbers, by the key's last part."""


class Evidence(msgspec.Struct, frozen=True):
    """Everything counted for one rollout. Immutable: `merged` returns a new one.

    Attributes:
        counts: by source, then by "generation/signal/variant" (samples, bad), "generation/signal/pairs" (pairs, canary, stable),
            "generation/drift.OUTPUT/variant" or "generation/bins.SIGNAL/variant" (a count for each bin).
        metrics: by source, then by "generation/metric/variant" (values, total).
        excluded: by source, then by "generation/reason/variant".
        units: by signal, then by unit: the earliest generation with a known bad event of the unit, and its variant then.
        overflow: there were more units than could be kept.
        crashed: by source, the number of processes that the canary crashed.
    """

    counts: dict[str, dict[str, tuple[int, ...]]] = {}
    metrics: dict[str, dict[str, tuple[int, float]]] = {}
    excluded: dict[str, dict[str, int]] = {}
    units: dict[str, dict[str, tuple[int, str]]] = {}
    overflow: bool = False
    crashed: dict[str, int] = {}
    format: int = FORMAT

    def merged(self, source: str, counts: RolloutCounts) -> Evidence:
        """The evidence with the source's counts added; equal to this if they add nothing.

        Args:
            source: one life of one gateway, such as "gateway-1/boot-7": its counts begin at 0 and only grow.

        Raises:
            ValueError: impossible counts, an unknown variant or reason.
        """
        numbers = dict(self.counts.get(source, {}))
        for key, values in _count_entries(counts):
            numbers[key] = tuple(map(max, numbers.get(key, values), values))
        metrics = dict(self.metrics.get(source, {}))
        for each in counts.metrics:
            key = _key(each.generation, each.metric, _variant(each.variant))
            metrics[key] = max(metrics.get(key, (0, 0.0)), (each.values, each.total), key=lambda entry: entry[0])
        excluded = dict(self.excluded.get(source, {}))
        for left in counts.excluded:
            if left.reason not in EXCLUDED or left.count < 0:
                raise ValueError(f"{left.count} {left.reason} is not a valid exclusion; reasons are {', '.join(EXCLUDED)}")
            key = _key(left.generation, left.reason, _variant(left.variant))
            excluded[key] = max(excluded.get(key, 0), left.count)
        if counts.crashes < 0:
            raise ValueError(f"crashes must be 0 or more, got {counts.crashes}")
        crashed = max(self.crashed.get(source, 0), counts.crashes)
        units, overflow = _with_units(self.units, counts.units)
        return Evidence(
            counts={**self.counts, source: numbers} if numbers else self.counts,
            metrics={**self.metrics, source: metrics} if metrics else self.metrics,
            excluded={**self.excluded, source: excluded} if excluded else self.excluded,
            units=units,
            overflow=self.overflow or counts.overflow or overflow,
            crashed={**self.crashed, source: crashed} if crashed else self.crashed,
        )

    def renamed(self, before: str, after: str) -> Evidence:
        """The evidence with a source renamed, if it is there."""
        parts = {name: getattr(self, name) for name in ("counts", "metrics", "excluded", "crashed")}
        changed = {
            name: {after if source == before else source: value for source, value in part.items()}
            for name, part in parts.items()
            if before in part
        }
        return msgspec.structs.replace(self, **changed) if changed else self

    @property
    def crashes(self) -> int:
        """Processes that the canary crashed since the rollout began, on all machines."""
        return sum(self.crashed.values())

    @property
    def failed(self) -> frozenset[str]:
        """The signals that raised an error on some worker since the rollout began."""
        names = (key.split("/")[1] for counts in self.counts.values() for key in counts)
        return frozenset(name.removeprefix(FAILED) for name in names if name.startswith(FAILED))

    def added(self, source: str, more: RolloutCounts) -> Evidence:
        """The evidence with new facts added from a source that keeps no counts. The caller passes each fact once.

        Raises:
            ValueError: as `merged`.
        """
        numbers = dict(self.counts.get(source, {}))
        for key, values in _count_entries(more):
            numbers[key] = tuple(map(operator.add, numbers.get(key, (0,) * len(values)), values))
        metrics = dict(self.metrics.get(source, {}))
        for each in more.metrics:
            key = _key(each.generation, each.metric, _variant(each.variant))
            values_before, total = metrics.get(key, (0, 0.0))
            metrics[key] = (values_before + each.values, total + each.total)
        units, overflow = _with_units(self.units, more.units)
        return msgspec.structs.replace(
            self,
            counts={**self.counts, source: numbers} if numbers else self.counts,
            metrics={**self.metrics, source: metrics} if metrics else self.metrics,
            units=units,
            overflow=self.overflow or overflow,
        )

    def tallies(self, signal: str) -> dict[int, Tally]:
        """The signal's counts by generation, over all sources; generations without any are left out. An event may arrive before
        its request is counted; it then counts as a sample too."""
        found: dict[int, Tally] = {}
        for counts in self.counts.values():
            for key, values in counts.items():
                generation, name, part = key.split("/")
                if name == signal:
                    one = Tally()._replace(**dict(zip(_FIELDS[part], values, strict=True)))
                    found[int(generation)] = found.get(int(generation), Tally()).plus(one)
        for (born, variant), number in Counter(self.units.get(signal, {}).values()).items():
            one = Tally(canary_units=number) if variant == CANARY else Tally(stable_units=number)
            found[born] = found.get(born, Tally()).plus(one)
        return {
            generation: each._replace(
                stable_samples=max(each.stable_samples, each.stable_bad),
                canary_samples=max(each.canary_samples, each.canary_bad),
            )
            for generation, each in found.items()
        }

    def binned(self, of: int | str, variant: str) -> dict[int, tuple[int, ...]]:
        """Answers of a variant in the bins of a watched output (its number) or of a signal, by generation, over all sources."""
        sought = f"{_DRIFT}{of}" if isinstance(of, int) else f"{_BINS}{of}"
        found: dict[int, tuple[int, ...]] = {}
        for counts in self.counts.values():
            for key, cells in counts.items():
                generation, name, part = key.split("/")
                if name == sought and part == variant:
                    known = found.get(int(generation), (0,) * len(cells))
                    found[int(generation)] = tuple(map(operator.add, known, cells))
        return found

    def metric(self, name: str, variant: str, generations: Iterable[int]) -> tuple[int, float]:
        """The number of a metric's values of a variant in these generations, and their sum."""
        keys = [_key(generation, name, variant) for generation in generations]
        found = [metrics[key] for metrics in self.metrics.values() for key in keys if key in metrics]
        return sum(values for values, _ in found), sum(total for _, total in found)

    def left_out(self, generations: Iterable[int]) -> dict[str, dict[str, int]]:
        """Excluded requests, by reason and variant; every reason is present."""
        known = set(generations)
        found = {reason: dict.fromkeys(VARIANTS, 0) for reason in EXCLUDED}
        for counts in self.excluded.values():
            for key, count in counts.items():
                generation, reason, variant = key.split("/")
                if int(generation) in known:
                    found[reason][variant] += count
        return found


def evidence_from_document(document: Mapping[str, Any]) -> Evidence:
    """The evidence in a document of the store.

    Raises:
        ValueError: not such a document, or a format that this release does not know.
    """
    return read_stored(document, Evidence, FORMAT, "evidence", "evidence")


def _count_entries(counts: RolloutCounts) -> Iterable[tuple[str, tuple[int, ...]]]:
    for each in counts.variants:
        if not 0 <= each.bad <= each.samples:
            raise ValueError(f"bad must be 0 to samples ({each.samples}), got {each.bad}")
        yield _key(each.generation, each.signal, _variant(each.variant)), (each.samples, each.bad)
    for event in counts.events:
        if event.bad < 0:
            raise ValueError(f"events must be 0 or more, got {event.bad}")
        yield _key(event.generation, event.signal, _variant(event.variant)), (0, event.bad)
    for pair in counts.pairs:
        if min(pair.canary_bad, pair.stable_bad) < 0 or pair.canary_bad + pair.stable_bad > pair.pairs:
            raise ValueError(f"bad must be 0 to pairs ({pair.pairs}), got {pair.canary_bad} and {pair.stable_bad}")
        yield _key(pair.generation, pair.signal, "pairs"), (pair.pairs, pair.canary_bad, pair.stable_bad)
    for output in counts.bins:
        if len(output.cells) != OUTPUT_BINS or min(output.cells) < 0:
            raise ValueError(f"expected {OUTPUT_BINS} counts of 0 or more, got {output.cells}")
        name = f"{_BINS}{output.signal}" if output.signal else f"{_DRIFT}{output.output}"
        yield _key(output.generation, name, _variant(output.variant)), output.cells


def _with_units(
    known: dict[str, dict[str, tuple[int, str]]], found: Iterable[BadUnit]
) -> tuple[dict[str, dict[str, tuple[int, str]]], bool]:
    """Each unit once for each signal, in its earliest known generation; and whether some did not fit."""
    after, overflow = dict(known), False
    for each in found:
        units = after.get(each.signal, {})
        if units is known.get(each.signal, units):
            units = after[each.signal] = dict(units)
        if each.unit not in units and len(units) >= MOST_UNITS:
            overflow = True
            continue
        units[each.unit] = min(units.get(each.unit, (each.generation, each.variant)), (each.generation, _variant(each.variant)))
    return after, overflow


def _key(generation: int, name: str, part: str) -> str:
    if "/" in name:
        raise ValueError(f"{name!r:.100} is not the name of a signal")
    return f"{generation}/{name}/{part}"


def _variant(name: str) -> str:
    if name not in VARIANTS:
        raise ValueError(f"unknown variant {name}; variants are {', '.join(VARIANTS)}")
    return name
