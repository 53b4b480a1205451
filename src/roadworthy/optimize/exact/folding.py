"""Folds preprocessing into thresholds: the resulting trees compare raw values, and take the same branch for every value.

A split sends a row left when f(x) <= t, where f is the column's preprocessing in floating point, rounding included. f never
decreases, so there is a largest x of the column's dtype that goes left. Bisection over the floats finds it with the pipeline's
own transformers on the pipeline's own container; 64 halvings reach a single float. Comparing x with it is then the same as
f(x) <= t, for every x. Text columns have few values: they keep their threshold and a table of f.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from roadworthy.optimize.candidates.candidate import NotConvertible, Source
from roadworthy.optimize.exact.columns import RawColumn, highest_key, keys_of, lowest_key, values_of, with_values
from roadworthy.optimize.exact.pipeline import Parts, take_apart
from roadworthy.optimize.exact.trees import Ensemble, Tree, read_ensemble, splits
from roadworthy.schema.batch import Array, Batch
from roadworthy.schema.dtypes import DType

_UNKNOWN = "\x01 no category is called this"


@dataclass(frozen=True, eq=False)
class Words:
    """The table of the preprocessing of a text column, for one of the estimator's columns.

    Attributes:
        raw: the text column.
        column: the estimator's column.
        known: word to value, as the estimator gets it.
        unknown: the value of any other word.
    """

    raw: RawColumn
    column: int
    known: dict[str, float]
    unknown: float


@dataclass(frozen=True)
class Folded:
    """An ensemble over raw values.

    Attributes:
        ensemble: its features index `raws` for numbers; `words[i]` is feature `len(raws) + i`.
        raws: the raw columns of numbers that the estimator uses.
        words: the text columns' tables.
        edges: for each raw column of numbers, the sorted distinct finite thresholds, in the column's dtype.
        parts: the folded pipeline.
    """

    ensemble: Ensemble
    raws: tuple[RawColumn, ...]
    words: tuple[Words, ...]
    edges: dict[RawColumn, Array]
    parts: Parts


def fold(source: Source) -> Folded:
    """Fold the source's trees over its raw columns.

    Raises:
        NotConvertible: the model or its preprocessing cannot be folded.
    """
    parts = take_apart(source.model, source.signature)
    ensemble = read_ensemble(parts.estimator)
    _refuse_missing(parts, ensemble)
    template = source.training.slice(0, 1)
    numbers = {c: o.raw for c, o in enumerate(parts.origins) if o.raw.dtype is not DType.STRING}
    raws = tuple(dict.fromkeys(numbers.values()))
    words = tuple(_table(parts, ensemble, template, c) for c in range(len(parts.origins)) if c not in numbers)
    wanted = _thresholds(ensemble)
    largest = _largest_left(parts, ensemble, template, {key: numbers[key[0]] for key in wanted if key[0] in numbers})
    filled = _filled(parts, ensemble, template, raws)
    places = {column: raws.index(raw) for column, raw in numbers.items()}
    places |= {table.column: len(raws) + number for number, table in enumerate(words)}
    trees = tuple(_moved(tree, places, largest, filled) for tree in ensemble.trees)
    limits: dict[RawColumn, list[float]] = {raw: [] for raw in raws}
    for (column, _), limit in largest.items():
        limits[numbers[column]].append(limit)
    edges = {raw: _edges(raw, limits[raw]) for raw in raws}
    return Folded(dataclasses.replace(ensemble, trees=trees), raws, words, edges, parts)


def _refuse_missing(parts: Parts, ensemble: Ensemble) -> None:
    """Refuse a column that may be missing when no step accepts NaN: the original fails there, but compiled trees would answer."""
    for origin in parts.origins:
        imputed = any(type(step).__name__ == "SimpleImputer" for step, _ in origin.chain)
        if origin.raw.field.nullable and not imputed and not ensemble.takes_missing:
            raise NotConvertible(f"column {origin.raw.label!r} may be missing, and the model refuses missing values")


def _thresholds(ensemble: Ensemble) -> list[tuple[int, float]]:
    """Distinct (estimator's column, threshold)."""
    pairs = {pair for features, limits in splits(ensemble.trees) for pair in zip(features.tolist(), limits.tolist(), strict=True)}
    return sorted(pairs)


def _largest_left(
    parts: Parts, ensemble: Ensemble, template: Batch, wanted: dict[tuple[int, float], RawColumn]
) -> dict[tuple[int, float], float]:
    """For each (column, threshold), the largest raw value that goes left, as float64; infinite when all values or none do.

    All raw columns are searched at once: row i of the probe holds the i-th question of every column. This works because the
    preprocessing treats each column separately.
    """
    questions: dict[RawColumn, list[tuple[int, float]]] = {}
    for key, raw in wanted.items():
        questions.setdefault(raw, []).append(key)
    if not questions:
        return {}
    probe = _Probe(parts, ensemble, template, questions)
    low = {raw: np.full(len(keys), lowest_key(raw.dtype)) for raw, keys in questions.items()}
    high = {raw: np.full(len(keys), highest_key(raw.dtype)) for raw, keys in questions.items()}
    none, every = probe.goes_left(low), probe.goes_left(high)
    for _ in range(64):
        middle = {raw: (low[raw] & high[raw]) + ((low[raw] ^ high[raw]) >> 1) for raw in questions}
        left = probe.goes_left(middle)
        low = {raw: np.where(left[raw], middle[raw], low[raw]) for raw in questions}
        high = {raw: np.where(left[raw], high[raw], middle[raw]) for raw in questions}
    found: dict[tuple[int, float], float] = {}
    for raw, keys in questions.items():
        limits = values_of(low[raw], raw.dtype).astype(np.float64)
        beside = values_of(np.minimum(low[raw] + 1, highest_key(raw.dtype)), raw.dtype).astype(np.float64)
        if not (every[raw] | ~none[raw] | (limits < beside)).all():
            raise NotConvertible(f"column {raw.label!r} has a threshold beyond 2^53, where float64 skips integers")
        limits = np.where(every[raw], np.inf, np.where(none[raw], limits, -np.inf))
        found.update(zip(keys, limits.tolist(), strict=True))
    return found


class _Probe:
    """Asks the pipeline's own preprocessing on which side of its threshold a raw value falls."""

    def __init__(
        self, parts: Parts, ensemble: Ensemble, template: Batch, questions: dict[RawColumn, list[tuple[int, float]]]
    ) -> None:
        self._parts = parts
        self._ensemble = ensemble
        self._rows = max(len(keys) for keys in questions.values())
        self._template = template.take(np.zeros(self._rows, dtype=np.intp))
        self._columns = {raw: np.array([column for column, _ in keys]) for raw, keys in questions.items()}
        self._limits = {raw: np.array([limit for _, limit in keys]) for raw, keys in questions.items()}

    def goes_left(self, keys: dict[RawColumn, Array]) -> dict[RawColumn, Array]:
        """For each raw column, bool (questions,): whether the value with that key goes left at its question's threshold."""
        values = {raw: values_of(np.resize(column, self._rows), raw.dtype) for raw, column in keys.items()}
        seen = self._parts.transform(with_values(self._template, values), self._ensemble.cast)
        return {
            raw: np.asarray(seen[np.arange(len(columns)), columns] <= self._limits[raw]) for raw, columns in self._columns.items()
        }


def _filled(parts: Parts, ensemble: Ensemble, template: Batch, raws: tuple[RawColumn, ...]) -> dict[int, float]:
    """By the estimator's column: the value that replaces a missing one, for columns that may be missing; NaN if not imputed."""
    nullable = {raw: np.array([np.nan], dtype=raw.dtype.numpy) for raw in raws if raw.field.nullable}
    if not nullable:
        return {}
    seen = parts.transform(with_values(template, nullable), ensemble.cast)
    return {c: float(seen[0, c]) for c, origin in enumerate(parts.origins) if origin.raw in nullable}


def _moved(tree: Tree, places: dict[int, int], largest: dict[tuple[int, float], float], filled: dict[int, float]) -> Tree:
    """The tree over raw values."""
    feature, threshold, missing_left = tree.feature.copy(), tree.threshold.copy(), tree.missing_left.copy()
    for node in np.flatnonzero(tree.inner).tolist():
        column, limit = int(feature[node]), float(threshold[node])
        feature[node] = places[column]
        if (column, limit) in largest:
            threshold[node] = largest[column, limit]
            value = filled.get(column)
            if value is None:
                missing_left[node] = False  # never missing
            elif not np.isnan(value):
                missing_left[node] = value <= limit
    return dataclasses.replace(tree, feature=feature, threshold=threshold, missing_left=missing_left)


def _edges(raw: RawColumn, limits: list[float]) -> Array:
    finite = np.array([limit for limit in limits if np.isfinite(limit)])
    return values_of(np.unique(keys_of(finite.astype(raw.dtype.numpy), raw.dtype)), raw.dtype)


def _table(parts: Parts, ensemble: Ensemble, template: Batch, column: int) -> Words:
    origin = parts.origins[column]
    encoder, place = origin.chain[0]
    closed = origin.raw.field.categorical
    named = (origin.raw.field.categories or ()) if closed else encoder.categories_[place]
    known = [word for word in named if isinstance(word, str)]
    asked = known if closed else [*known, _UNKNOWN]
    words = np.empty(len(asked), dtype=object)
    words[:] = asked
    batch = with_values(template.take(np.zeros(len(asked), dtype=np.intp)), {origin.raw: words})
    seen = parts.transform(batch, ensemble.cast)[:, column].astype(np.float64).tolist()
    unknown = float("nan") if closed else seen[-1]
    return Words(origin.raw, column, dict(zip(known, seen, strict=False)), unknown)
