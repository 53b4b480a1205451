"""Fixed bins and the counts in them.

Made once from training data (`package/profile.py`); whoever counts live traffic in the same bins gets counts that add up, in
any order and from any number of processes. Floats travel as exact text, so that documents have a canonical form.
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
"""So many different whole numbers are categories at most…"""
_LEAST_REPEATED = 5
"""…where each came so often on average; fewer values say little about which others there are."""
_WHOLE = 2.0**53


@dataclass(frozen=True, slots=True)
class Counts:
    """How many values fell into each cell of one column's bins. Adding two of the same bins is exact.

    Attributes:
        cells: one count a cell; what a cell means is said by the bins that counted.
        missing: values that were null, or NaN.
    """

    cells: tuple[int, ...]
    missing: int = 0

    @property
    def total(self) -> int:
        """All values that were counted, missing ones included."""
        return sum(self.cells) + self.missing

    def __add__(self, other: Counts) -> Counts:
        """Raises ValueError: the other has a different number of cells, so it came from other bins."""
        if len(self.cells) != len(other.cells):
            raise ValueError("counts of different bins cannot be added")
        return Counts(
            tuple(mine + theirs for mine, theirs in zip(self.cells, other.cells, strict=True)),
            self.missing + other.missing,
        )


@dataclass(frozen=True, slots=True)
class NumberBins:
    """Bins of a numeric column, about equally full in training. A value that alone fills a bin has that bin for itself.

    Attributes:
        edges: ascending; the first and the last are the smallest and largest finite value of training. Empty when training
            had no value at all.

    Cells, in order: below the first edge (never seen in training), one for each pair of neighbouring edges (left edge
    included, right edge excluded, but the last bin includes both), above the last edge (never seen). k edges make k + 1
    cells; one edge makes the three cells below, equal, above; no edge makes one cell.
    """

    edges: tuple[float, ...]

    @classmethod
    def of(cls, values: Array, mask: Array | None = None, *, bins: int = NUMBER_BINS) -> NumberBins:
        """Equal-mass bins of training values (any numeric dtype, shape (n,)); nulls and non-finite values are left out.

        Up to `bins` different values have a bin each. Of more, those that are a quantile more than once have: a column that is
        mostly zero would otherwise have one bin for zero and everything above it.
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
        """Count values of shape (n,) into the cells; `mask` is True where a value is null. NaN counts as missing."""
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
    """Bins of a column with distinct values: the most frequent ones of training.

    Attributes:
        categories: most frequent first; equally frequent ones by their text.

    Cells: one a category, then one for every other value. When training filled that last cell with 0, whatever falls into it
    later was never seen.
    """

    categories: tuple[Category, ...]

    @classmethod
    def of(cls, values: Array, mask: Array | None = None, *, top: int = TOP_CATEGORIES) -> CategoryBins:
        """The `top` most frequent of the values (strings, whole numbers or bools, shape (n,)); nulls are left out."""
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
        """Count values of shape (n,) into the cells; `mask` is True where a value is null. None and NaN count as missing."""
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
    """A column of which only presence is counted: nested values, tensors, and what must not be kept."""

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
    """Bins of a numeric column of shape (n,): few whole numbers that come again and again are labels, whatever their dtype."""
    present = _present(values, mask)
    present = present[~np.isnan(present)]
    known = np.unique(present)
    few = 0 < len(known) <= FEW_DISTINCT and len(present) >= _LEAST_REPEATED * len(known)
    if few and bool(np.all((known == np.floor(known)) & (np.abs(known) < _WHOLE))):
        return CategoryBins.of(present.astype(np.int64))
    return NumberBins.of(values, mask)


def bins_from_document(document: dict[str, Any]) -> Bins:
    """The bins that `to_document` described.

    Raises:
        ValueError: the document describes no bins that are known here.
    """
    kind = document.get("kind")
    if kind == "number":
        return NumberBins(tuple(float(edge) for edge in _texts(document["edges"])))
    if kind == "category":
        return CategoryBins(tuple(document["categories"]))
    if kind == "presence":
        return NoBins()
    raise ValueError(f"{kind!r} is no kind of bins; known are number, category, presence")


def _texts(edges: Sequence[object]) -> list[str]:
    if not all(isinstance(edge, str) for edge in edges):
        raise ValueError("edges of bins are exact text")
    return [str(edge) for edge in edges]


def _present(values: Array, mask: Array | None) -> npt.NDArray[np.float64]:
    return (values if mask is None else values[~mask]).astype(np.float64)


def _present_objects(values: Array, mask: Array | None) -> list[Any]:
    present = (values if mask is None else values[~mask]).tolist()
    return [value for value in present if value is not None and not (isinstance(value, float) and math.isnan(value))]


def _around(often: Array, known: Array) -> Array:
    """Edges halfway between each of these values and its neighbours among all that are known, which are sorted."""
    places = np.searchsorted(known, often)
    above, below = places[places < len(known) - 1], places[places > 0] - 1
    lower = np.concatenate([known[above], known[below]])
    upper = np.concatenate([known[above + 1], known[below + 1]])
    middle = 0.5 * lower + 0.5 * upper
    return np.where(middle > lower, middle, upper)


def _tally(places: Array, cells: int) -> tuple[int, ...]:
    return tuple(int(count) for count in np.bincount(places, minlength=cells))
