"""The reference profile: training data, answers and labels counted in fixed bins. Live traffic is counted in the same bins."""

from __future__ import annotations

from typing import Any

from roadworthy.schema.batch import Array, Batch
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field, Privacy
from roadworthy.statistics.bins import Bins, CategoryBins, NoBins, NumberBins, bins_of_numbers

EDITION = 2
"""The rule by which bins were chosen. Since edition 2, a value that fills a bin by itself has its own bin; in profiles of earlier
releases, which state no edition, one bin may hold several labels."""


def bins_for(field: Field, values: Array, mask: Array | None) -> Bins:
    """Bins for one column of shape (rows,): equal-mass for numbers and times, one per frequent value for text, booleans and
    columns with few whole numbers, presence only for nested values and private fields."""
    if field.shape or field.dtype is DType.JSON or field.privacy is not Privacy.KEEP:
        return NoBins()
    if field.dtype in (DType.STRING, DType.BOOL) or field.categories is not None:
        return CategoryBins.of(values, mask)
    return bins_of_numbers(values, mask) if field.dtype.is_numeric else NumberBins.of(values, mask)


def profile_batch(batch: Batch) -> list[dict[str, Any]]:
    """One document per field: name, bins, counts of the cells, and of missing values. A one-dimensional tensor of fixed length
    has one per element, named `field[place]`. Plain JSON without floats."""
    documents = []
    for position, field in enumerate(batch.layout.fields):
        values, mask = batch.column_at(position)
        if len(field.shape) == 1 and field.shape[0] > 0 and field.dtype.is_numeric and field.privacy is Privacy.KEEP:
            plain = Field(field.name, field.dtype)
            for place in range(field.shape[0]):
                part = None if mask is None else mask[:, place]
                documents.append(_document(f"{field.name}[{place}]", plain, values[:, place], part))
        else:
            documents.append(_document(field.name, field, values, mask))
    return documents


def _document(name: str, field: Field, values: Array, mask: Array | None) -> dict[str, Any]:
    bins = bins_for(field, values, mask)
    counts = bins.count(values, mask)
    return {"name": name, "bins": bins.to_document(), "cells": list(counts.cells), "missing": counts.missing}


def build_profile(inputs: Batch, outputs: Batch, labels: Batch | None) -> dict[str, Any]:
    """The whole profile as a plain JSON document without floats."""
    return {
        "edition": EDITION,
        "rows": inputs.rows,
        "inputs": profile_batch(inputs),
        "outputs": profile_batch(outputs),
        "labels": None if labels is None else profile_batch(labels)[0],
    }
