"""The reference profile: training data as fixed bins and counts, one column at a time.

`pack.py` builds it; drift monitors count live traffic in the same bins and compare. It holds no row, and of private fields no
value.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from roadworthy.foundation.canonical import canonical_json
from roadworthy.package.privacy import hashed
from roadworthy.schema.batch import Array, Batch
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field, Privacy
from roadworthy.statistics.bins import Bins, CategoryBins, Counts, NoBins, NumberBins, bins_from_document

PROFILE = "profile.json"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class ColumnProfile:
    """One column's bins and how training filled them. `name` is the field's; of a vector of few numbers, `field[i]`."""

    name: str
    bins: Bins
    counts: Counts

    def to_document(self) -> dict[str, Any]:
        """Plain JSON values without floats."""
        cells = list(self.counts.cells)
        return {"name": self.name, **self.bins.to_document(), "counts": cells, "missing": self.counts.missing}

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> ColumnProfile:
        """Raises KeyError, TypeError or ValueError when the document is none of ours."""
        bins = bins_from_document(document)
        counts = Counts(tuple(int(n) for n in document["counts"]), int(document["missing"]))
        if len(counts.cells) != bins.cells:
            raise ValueError("counts do not fit their bins")
        return cls(str(document["name"]), bins, counts)


@dataclass(frozen=True, slots=True)
class Profile:
    """What training looked like.

    Attributes:
        rows: training rows that were counted.
        inputs: raw inputs. outputs: the model's answers to them. labels: the true labels, when they were given.
    """

    rows: int
    inputs: tuple[ColumnProfile, ...]
    outputs: tuple[ColumnProfile, ...]
    labels: tuple[ColumnProfile, ...] = ()

    def encode(self) -> bytes:
        """Canonical bytes: the same for equal profiles."""
        return canonical_json(
            {
                "format": _FORMAT,
                "rows": self.rows,
                "inputs": [column.to_document() for column in self.inputs],
                "outputs": [column.to_document() for column in self.outputs],
                "labels": [column.to_document() for column in self.labels],
            }
        )

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> Profile:
        """Raises KeyError, TypeError or ValueError when the document is none of ours."""
        if document["format"] != _FORMAT:
            raise ValueError("a profile of another format")
        sides = (document[side] for side in ("inputs", "outputs", "labels"))
        inputs, outputs, labels = (tuple(ColumnProfile.from_document(item) for item in side) for side in sides)
        return cls(int(document["rows"]), inputs, outputs, labels)


def build_profile(inputs: Batch, outputs: Batch, labels: Array | None) -> Profile:
    """Bin and count training rows, the model's answers to them and the true labels (rows,), or None."""
    told = () if labels is None else tuple(_label_columns(labels))
    return Profile(inputs.rows, tuple(_columns(inputs)), tuple(_columns(outputs)), told)


def _columns(batch: Batch) -> Iterable[ColumnProfile]:
    for position, field in enumerate(batch.layout.fields):
        values, mask = batch.column_at(position)
        if field.dtype.is_numeric and field.privacy is Privacy.KEEP and len(field.shape) == 1 and 0 < field.shape[0]:
            for place in range(field.shape[0]):
                part = None if mask is None else mask[:, place]
                yield _counted(f"{field.name}[{place}]", NumberBins.of(values[:, place], part), values[:, place], part)
            continue
        if field.privacy is Privacy.HASH and field.dtype in (DType.STRING, DType.BOOL) and not field.shape:
            values = _pseudonyms(field, values, mask)
        yield _counted(field.name, _bins_for(field, values, mask), values, mask)


def _bins_for(field: Field, values: Array, mask: Array | None) -> Bins:
    if field.shape or field.dtype is DType.JSON or field.privacy is Privacy.DROP:
        return NoBins()
    if field.dtype in (DType.STRING, DType.BOOL):
        return CategoryBins.of(values, mask)
    # A bin's edges are values of training, and numbers have no pseudonym that could be binned.
    if field.privacy is Privacy.HASH:
        return NoBins()
    if field.dtype.is_integer and field.categories is not None:
        return CategoryBins.of(values, mask)
    return NumberBins.of(values, mask)


def _label_columns(labels: Array) -> Iterable[ColumnProfile]:
    if labels.dtype.kind == "f":
        yield _counted("label", NumberBins.of(labels), labels, None)
        return
    scalars = labels.astype(str).astype(object) if labels.dtype.kind in "OU" else labels
    if labels.dtype.kind in "iu" and len(np.unique(labels)) > CATEGORY_LABELS:
        yield _counted("label", NumberBins.of(labels), labels, None)
    else:
        yield _counted("label", CategoryBins.of(scalars), scalars, None)


CATEGORY_LABELS = 64


def _counted(name: str, bins: Bins, values: Array, mask: Array | None) -> ColumnProfile:
    return ColumnProfile(name, bins, bins.count(values, mask))


def _pseudonyms(field: Field, values: Array, mask: Array | None) -> Array:
    out = np.empty(len(values), dtype=object)
    for row, value in enumerate(values.tolist()):
        if value is not None and (mask is None or not mask[row]):
            out[row] = hashed(field, value)
    return out
