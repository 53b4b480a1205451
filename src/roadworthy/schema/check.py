"""Checks on a batch that was decoded without looking at each value: binary tensors. Called by protocols."""

from __future__ import annotations

import numpy as np

from roadworthy.foundation.errors import InvalidInput
from roadworthy.schema.batch import Batch


def check_finite(batch: Batch) -> None:
    """Refuse NaN and infinities in float fields; nulls under the mask do not count.

    Raises:
        InvalidInput: "not-finite", naming every field that holds one and its first row.
    """
    if all(form.dtype.numpy.kind != "f" for form in batch.layout.blocks):
        return
    if all(
        np.isfinite(block.values).all()
        for form, block in zip(batch.layout.blocks, batch.blocks, strict=True)
        if form.dtype.is_float and block.mask is None
    ) and all(block.mask is None for block in batch.blocks):
        return
    faults = []
    for position, field in enumerate(batch.layout.fields):
        values, mask = batch.column_at(position)
        if not field.dtype.is_float:
            continue
        bad = ~np.isfinite(values) if mask is None else ~np.isfinite(values) & ~mask
        if bad.any():
            row = int(np.argwhere(bad)[0][0])
            faults.append({"name": field.name, "code": "not-finite", "problem": "is not a finite number", "row": row})
    if faults:
        first = faults[0]
        raise InvalidInput(
            f"column {first['name']!r}, row {first['row']}: is not a finite number",
            code="not-finite",
            hint="send a finite number, or null where the column allows it",
            facts={"fields": faults[:20]},
        )
