"""Large bodies of plain numbers, `{"instances": [[…], …]}`, straight from JSON to one array by simdjson. `typed_rows.py` calls.

It answers None for whatever it cannot vouch for, and the exact way (`strict_json.py`, `schema/rows.py`) then judges the body.
simdjson reads by RFC 8259: no NaN, no infinities, no leading zeros, nothing after the document, valid UTF-8; it finds the float
nearest to each number, and refuses a boolean, a null, text or an object where a number is asked for. The rest is checked here:

- it flattens nested arrays, so the lengths of all arrays are looked at, and that there are no more of them than there should be;
- integers become floats, so numbers from 2^53 on are left to the exact way;
- it keeps both of two equal keys and takes a byte order mark, so there must be one key, and no mark.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from simdjson import Parser

from roadworthy.schema.batch import Array, Batch, Block, Layout

LEAST_BYTES = 6 << 10
"""Below this the typed decoder is as fast."""
_EXACT = 2.0**53
_BOM = b"\xef\xbb\xbf"
_OPENING = ord("[")


class Matrix:
    """A reader for a layout of one block of numbers without nulls.

    Args:
        layout: the endpoint's inputs.
        max_rows: the policy's limit; a body of more rows is left to others before anything is made of them.
    """

    def __init__(self, layout: Layout, max_rows: int) -> None:
        form = layout.blocks[0]
        self._layout = layout
        self._max_rows = max_rows
        self._dtype = form.dtype.numpy
        self._shape = layout.fields[0].shape if form.tensor else (len(form.fields),)
        # Integers are asked for as such: 1.0 and 1e3 are none.
        self._of_type = "d" if form.dtype.is_float else "u" if self._dtype == np.uint64 else "i"
        self._bare = not form.tensor and len(form.fields) == 1
        self._limits: tuple[int, int] | None = None
        if form.dtype.is_integer and self._dtype.itemsize < 8:
            limits = np.iinfo(form.dtype.value)
            self._limits = (int(limits.min), int(limits.max))

    @staticmethod
    def reads(layout: Layout) -> bool:
        """Whether such rows are a matrix: one block of numbers, nothing nullable, nothing with categories to look up."""
        return len(layout.blocks) == 1 and all(
            (field.dtype.is_float or field.dtype.is_integer) and not field.nullable and not field.categorical
            for field in layout.fields
        )

    def read(self, body: bytes) -> Batch | None:
        """The rows, or None when another way has to look at the body."""
        if body.startswith(_BOM):
            return None
        try:
            # A parser each time costs nothing that can be measured, and keeps no memory of the largest body ever seen.
            document: Any = Parser().parse(body)
            if len(document) != 1:
                return None
            rows = document["instances"]
            count = len(rows)
            if not 0 < count <= self._max_rows:
                return None
            shape = _shape(rows, () if self._bare else self._shape, body)
            if shape is None:
                return None
            values = np.frombuffer(rows.as_buffer(of_type=self._of_type), dtype=_WIRE[self._of_type])
            return self._batch(values.reshape(count, *(shape or (1,))))
        except (ValueError, TypeError, KeyError, RuntimeError, AttributeError):
            return None

    def _batch(self, values: Array) -> Batch | None:
        if not values.size:
            return None
        if self._of_type == "d":
            if max(values.max(), -values.min()) >= _EXACT:
                return None
        elif self._limits is not None and not (self._limits[0] <= values.min() and values.max() <= self._limits[1]):
            return None
        return Batch(self._layout, len(values), (Block(values.astype(self._dtype, copy=False)),))


_WIRE = {"d": np.dtype(np.float64), "i": np.dtype(np.int64), "u": np.dtype(np.uint64)}


def _shape(rows: Any, wanted: tuple[int, ...], body: bytes) -> tuple[int, ...] | None:
    """The shape of one row when all rows have it and it is as `wanted` (-1: any length), else None.

    Raises:
        TypeError: a number stands where an array should.
    """
    shape: list[int] = []
    level, arrays = [rows], 1
    for size in wanted:
        level = [inner for outer in level for inner in outer]
        lengths = set(map(len, level))
        arrays += len(level)
        if len(lengths) != 1:
            return None
        length = lengths.pop()
        if size not in (length, -1):
            return None
        shape.append(length)
    # The leaves were not looked at: an array among them shows as a bracket too many. The one key has none in it.
    brackets = np.count_nonzero(np.frombuffer(body, dtype=np.uint8) == _OPENING)
    return tuple(shape) if brackets == arrays else None
