"""Fixed bins and the counts in them.

Bins are made once, from training data (`package/profile.py`). Counts of live traffic in the same bins can be added in any order
and from any number of processes. Floats are written as exact text, so that documents have a canonical form.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = np.ndarray[Any, np.dtype[Any]]
Category = str | int | bool

NUMBER_BINS = 20
TOP_CATEGORIES = 64
FEW_DISTINCT = 30
"""Maximum number of different whole numbers that count as categories…"""
_LEAST_REPEATED = 5
"""…and the minimum average frequency of each; fewer values tell little about which other values exist."""
_WHOLE = 2.0**53


@dataclass(frozen=True, slots=True)
class Counts:
    """Number of values in each cell of one column's bins. Adding counts of the same bins is exact.

    Attributes:
        cells: one count per cell; the bins define the meaning of a cell.
        missing: number of nulls and NaN.
    """

    cells: tuple[int, ...]
    missing: int = 0

    @property
    def total(self) -> int:
        """Number of all counted values, missing ones included."""
        return sum(self.cells) + self.missing

    def __add__(self, other: Counts) -> Counts:
        """Raises ValueError: `other` has a different number of cells, so it comes from other bins."""
        if len(self.cells) != len(other.cells):
            raise ValueError("counts of different bins cannot be added")
        return Counts(
            tuple(mine + theirs for mine, theirs in zip(self.cells, other.cells, strict=True)),
            self.missing + other.missing,
        )


@dataclass(frozen=True, slots=True)
class NumberBins:
    """Bins of a numeric column, about equally full in training. A value that fills a bin alone has its own bin.

    Attributes:
        edges: ascending; the first and last are the smallest and largest finite training value. Empty when training had
            no value.

    Cells, in order: below the first edge (unseen in training), one for each pair of neighbouring edges (left edge
    included, right edge excluded, but the last bin includes both), above the last edge (unseen). k edges make k + 1
    cells; one edge makes three cells (below, equal, above); no edge makes one cell.
    """

    edges: tuple[float, ...]

    @classmethod
    def of(cls, values: Array, mask: Array | None = None, *, bins: int = NUMBER_BINS) -> NumberBins:
        """Equal-mass bins of training values (any numeric dtype, shape (n,)); nulls and non-finite values are ignored.

        Up to `bins` different values have one bin each, except two neighbouring floats at the top. If there are more, a value
        that is a quantile more than once has its own bin: a mostly-zero column would otherwise have one bin for zero and
        everything above it.
        """
        present = _present(values, mask)
        finite = present[np.isfinite(present)]
        if not len(finite):
            return cls(())
        known = np.unique(finite)
        if len(known) <= bins:
            quantiles, often = known, known
        else:
            steps = np.linspace(0.0, 1.0, bins + 1)
            quantiles, times = np.unique(np.quantile(finite, steps, method="inverted_cdf"), return_counts=True)
            often = quantiles[times > 1]
        inner = quantiles[~np.isin(quantiles, often)]
        return cls(tuple(np.unique(np.concatenate([known[[0, -1]], inner, _around(often, known)])).tolist()))

    @property
    def cells(self) -> int:
        """How many cells `count` fills."""
        if not self.edges:
            return 1
        return max(len(self.edges) + 1, 3)

    def count(self, values: Array, mask: Array | None = None) -> Counts:
        """Count values of shape (n,) into the cells; `mask` is True for nulls. NaN counts as missing."""
        present = _present(values, mask)
        numbers = present[~np.isnan(present)]
        missing = len(values) - len(numbers)
        if not self.edges:
            return Counts((len(numbers),), missing)
        edges = np.asarray(self.edges)
        places = np.searchsorted(edges, numbers, side="right")
        places[numbers == edges[-1]] = max(len(edges) - 1, 1)
        places[numbers > edges[-1]] = self.cells - 1
        return Counts(_tally(places, self.cells), missing)

    def to_document(self) -> dict[str, Any]:
        """Plain JSON values without floats: edges as exact text."""
        return {"kind": "number", "edges": [repr(edge) for edge in self.edges]}


@dataclass(frozen=True, slots=True)
class CategoryBins:
    """Bins of a column with distinct values: the most frequent training values.

    Attributes:
        categories: most frequent first; equally frequent ones sorted by their text.

    Cells: one per category, then one for all other values. If training left that last cell empty, a value that later falls into
    it is unseen.
    """

    categories: tuple[Category, ...]

    @classmethod
    def of(cls, values: Array, mask: Array | None = None, *, top: int = TOP_CATEGORIES) -> CategoryBins:
        """The `top` most frequent values (strings, whole numbers or bools, shape (n,)); nulls are ignored."""
        tally: dict[Category, int] = {}
        for value in _present_objects(values, mask):
            tally[value] = tally.get(value, 0) + 1
        ordered = sorted(tally, key=lambda value: (-tally[value], str(value)))
        return cls(tuple(ordered[:top]))

    @property
    def cells(self) -> int:
        """How many cells `count` fills."""
        return len(self.categories) + 1

    def count(self, values: Array, mask: Array | None = None) -> Counts:
        """Count values of shape (n,) into the cells; `mask` is True for nulls. None and NaN count as missing."""
        place = {category: number for number, category in enumerate(self.categories)}
        rest = len(self.categories)
        present = _present_objects(values, mask)
        places = np.fromiter((place.get(value, rest) for value in present), dtype=np.intp, count=len(present))
        return Counts(_tally(places, self.cells), len(values) - len(present))

    def to_document(self) -> dict[str, Any]:
        """Plain JSON values without floats."""
        return {"kind": "category", "categories": list(self.categories)}


@dataclass(frozen=True, slots=True)
class NoBins:
    """Bins of a column whose presence alone is counted: nested values, tensors, and values that must not be stored."""

    @property
    def cells(self) -> int:
        """How many cells `count` fills: one."""
        return 1

    def count(self, values: Array, mask: Array | None = None) -> Counts:
        """Count rows of `values`, shape (n, …); a row is missing when all of it is null."""
        missing = 0 if mask is None else int(mask.reshape(len(values), -1).all(axis=1).sum())
        return Counts((len(values) - missing,), missing)

    def to_document(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"kind": "presence"}


Bins = NumberBins | CategoryBins | NoBins


def bins_of_numbers(values: Array, mask: Array | None = None) -> NumberBins | CategoryBins:
    """Bins of a numeric column of shape (n,): few, frequent whole numbers are categories, whatever their dtype."""
    present = _present(values, mask)
    present = present[~np.isnan(present)]
    known = np.unique(present)
    few = 0 < len(known) <= FEW_DISTINCT and len(present) >= _LEAST_REPEATED * len(known)
    if few and bool(np.all((known == np.floor(known)) & (np.abs(known) < _WHOLE))):
        return CategoryBins.of(present.astype(np.int64))
    return NumberBins.of(values, mask)


def bins_from_document(document: dict[str, Any]) -> Bins:
    """Parse the result of `to_document`.

    Raises:
        ValueError: the document does not describe known bins.
    """
    kind = document.get("kind")
    if kind == "number":
        return NumberBins(tuple(float(edge) for edge in _texts(document["edges"])))
    if kind == "category":
        return CategoryBins(tuple(document["categories"]))
    if kind == "presence":
        return NoBins()
    raise ValueError(f"expected bins of kind number, category or presence, got {kind!r}")


def _texts(edges: Sequence[object]) -> list[str]:
    if not all(isinstance(edge, str) for edge in edges):
        raise ValueError("expected the edges of bins as text")
    return [str(edge) for edge in edges]


def _present(values: Array, mask: Array | None) -> npt.NDArray[np.float64]:
    return (values if mask is None else values[~mask]).astype(np.float64)


def _present_objects(values: Array, mask: Array | None) -> list[Any]:
    present = (values if mask is None else values[~mask]).tolist()
    return [value for value in present if value is not None and not (isinstance(value, float) and math.isnan(value))]


def _around(often: Array, known: Array) -> Array:
    """Edges halfway between each value of `often` and its neighbours among all `known` values, which are sorted."""
    places = np.searchsorted(known, often)
    above, below = places[places < len(known) - 1], places[places > 0] - 1
    lower = np.concatenate([known[above], known[below]])
    upper = np.concatenate([known[above + 1], known[below + 1]])
    middle = 0.5 * lower + 0.5 * upper
    return np.where(middle > lower, middle, upper)


def _tally(places: Array, cells: int) -> tuple[int, ...]:
    return tuple(int(count) for count in np.bincount(places, minlength=cells))
