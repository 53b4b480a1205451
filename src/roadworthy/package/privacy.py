"""What may be kept of values that the signature marks `hash` or `drop`.

`golden.py` and `profile.py` ask here before anything of the training data is written into a package.
A hash is a pseudonym: equal values of one field get equal text, and whoever can guess a value can recognise it. What must not be
recognised is dropped.
"""

from __future__ import annotations

import hashlib

import numpy as np

from roadworthy.schema.batch import Array, Batch
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field, Privacy, Scalar

_HASH_CHARACTERS = 16


def hashed(field: Field, value: Scalar) -> str:
    """The pseudonym of one value of a field: 16 hex digits over the field's name and the value's text."""
    text = f"roadworthy\0{field.name}\0{value}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_CHARACTERS]


def is_private(field: Field) -> bool:
    """Whether the field's own values must not be written into a package."""
    return field.privacy is not Privacy.KEEP


def without_private(batch: Batch) -> Batch:
    """The same rows with every private value replaced by one that is valid for its field and tells nothing: a pseudonym for
    hashed strings, else the dtype's zero, the empty text, or the first category where only categories are taken. What was null
    stays null."""
    fields = batch.layout.fields
    if not any(is_private(field) for field in fields):
        return batch
    columns = [batch.column_at(position) for position in range(len(fields))]
    replaced = [
        (_replaced(field, values, mask), mask) if is_private(field) else (values, mask)
        for field, (values, mask) in zip(fields, columns, strict=True)
    ]
    return Batch.from_columns(batch.layout, replaced, batch.rows)


def _replaced(field: Field, values: Array, mask: Array | None) -> Array:
    if field.dtype is DType.STRING and field.privacy is Privacy.HASH and not field.categorical and not field.shape:
        present = np.ones(len(values), dtype=bool) if mask is None else ~mask
        out = np.full(len(values), "", dtype=object)
        out[present] = [hashed(field, value) for value in values[present].tolist()]
        return out
    filler: object = "" if field.dtype is DType.STRING else None if field.dtype is DType.JSON else 0
    if field.categorical and field.categories:
        filler = field.categories[0]
    out = np.empty(values.shape, dtype=values.dtype)
    out.fill(filler)
    return out
