"""What a compiled runtime refuses before it runs, because the original refuses it.

A graph has no opinion on its inputs: a forest answers 1e39, which scikit-learn refuses since float32 cannot hold it. So a
runtime's entry declares which values the original takes, and why it takes no others. Options:
    guards   [{"block": number, "column": number, "low": text, "high": text}]: the smallest and the largest accepted value of one
             column of a block of the batch; columns without a guard take every value that the signature admits
    refusal  what the original says about other values
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from roadworthy.foundation.errors import InputRefused
from roadworthy.schema.batch import Array, Batch, Layout


class Guard:
    """The declared limits of one runtime, compared block by block."""

    def __init__(self, options: Mapping[str, Any], inputs: Layout) -> None:
        """Reads `options`.

        Raises:
            KeyError, TypeError, ValueError: they do not fit the inputs.
        """
        self._reason = str(options["refusal"])
        self._inputs = inputs
        limits: dict[int, tuple[Array, Array]] = {}
        for guard in options["guards"]:
            number, column = int(guard["block"]), int(guard["column"])
            form = inputs.blocks[number]
            if not form.dtype.is_float:
                raise ValueError("only columns of floats have limits")
            if number not in limits:
                width = inputs.fields[form.fields[0]].shape[0] if form.tensor else len(form.fields)
                limits[number] = np.full(width, -np.inf, form.dtype.numpy), np.full(width, np.inf, form.dtype.numpy)
            low, high = limits[number]
            low[column], high[column] = float(guard["low"]), float(guard["high"])
        self._limits = tuple((number, low, high) for number, (low, high) in sorted(limits.items()))

    def check(self, batch: Batch) -> None:
        """Pass rows that the original takes.

        Raises:
            InputRefused: it does not take one of them; the first is named.
        """
        for number, low, high in self._limits:
            values = batch.blocks[number].values
            if (values < low).any() or (values > high).any():
                self._refuse(batch, number, (values < low) | (values > high), low, high)

    def _refuse(self, batch: Batch, number: int, outside: Array, low: Array, high: Array) -> None:
        """Name the first value outside. The filler under a null does not count."""
        block, form = batch.blocks[number], self._inputs.blocks[number]
        if block.mask is not None:
            outside = outside & ~block.mask
        places = np.argwhere(outside)
        if not len(places):
            return
        row, column = places[0].tolist()
        name = self._inputs.fields[form.fields[0 if form.tensor else column]].name
        label = f"{name}[{column}]" if form.tensor else name
        value = block.values[row, column].item()
        expected = f"from {low[column].item():g} to {high[column].item():g}"
        raise InputRefused(
            f"the model refuses {value!r} in column {label!r}, row {row}: expected a value {expected}",
            hint=f"the original model says: {self._reason}",
            facts={"fields": [{"name": name, "row": row, "code": InputRefused.code, "expected": expected}]},
        )
