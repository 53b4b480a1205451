"""Reads large JSON arrays of numbers into one numpy array, by simdjson: the rows of `{"instances": [[…], …]}`, or the data of a
tensor.

It returns None for a body that it is not sure of; the exact reader (`strict_json.py`, `schema/rows.py`) then reads the body.
simdjson follows RFC 8259: no NaN, no infinities, no leading zeros, nothing after the document, valid UTF-8. It finds the float
nearest to each number, and refuses a boolean, null, text or object where a number is expected. The rest is checked here:

- It flattens nested arrays; where the shape matters, the lengths and the number of all arrays are checked.
- Integers become floats; numbers from 2^53 on are left to the exact reader.
- It keeps both of two equal keys and accepts a byte order mark; there must be one key, and no mark.
"""

from __future__ import annotations

import contextlib
from typing import Any, Literal

import numpy as np
from simdjson import Parser

from roadworthy.codecs.reading.bounds import tally
from roadworthy.schema.batch import Array, Batch, Block, Layout
from roadworthy.schema.dtypes import DType

LEAST_BYTES = 6 << 10
"""For shorter bodies the typed decoder is just as fast."""
_EXACT = 2.0**53
_BOM = b"\xef\xbb\xbf"
_WIRE = {"d": np.dtype(np.float64), "i": np.dtype(np.int64), "u": np.dtype(np.uint64)}
REFUSALS = (ValueError, TypeError, KeyError, RuntimeError, AttributeError)
"""The exceptions of simdjson for a document that it cannot read, or that has another form."""

_KEPT_BYTES = 1 << 20
"""Bodies up to this length share a parser, which keeps its memory: allocating it anew would take as long as parsing."""
_parser = Parser()


def parse(body: bytes) -> Any:
    """The parsed document. While objects of it are alive, further calls must each make a parser of their own.

    Raises:
        REFUSALS: the body is not JSON.
    """
    if len(body) <= _KEPT_BYTES:
        with contextlib.suppress(RuntimeError):  # in use by another thread
            return _parser.parse(body)
    return Parser().parse(body)


class Numbers:
    """Reads arrays of one dtype, which must be a float or an integer type."""

    def __init__(self, dtype: DType) -> None:
        self._dtype = dtype.numpy
        # For an integer type, simdjson refuses 1.0 and 1e3.
        self._of_type: Literal["d", "i", "u"] = "d" if dtype.is_float else "u" if dtype is DType.UINT64 else "i"
        self._limits: tuple[int, int] | None = None
        if dtype.is_integer and self._dtype.itemsize < 8:
            limits = np.iinfo(dtype.value)
            self._limits = (int(limits.min), int(limits.max))

    def read(self, data: bytes) -> Array | None:
        """All numbers of a JSON array, however nested, in order; None if the exact reader must read it."""
        try:
            return self.flatten(parse(data))
        except REFUSALS:
            return None

    def flatten(self, array: Any) -> Array | None:
        """All numbers of a parsed array, or None.

        Raises:
            REFUSALS: it holds something other than numbers.
        """
        values = np.frombuffer(array.as_buffer(of_type=self._of_type), dtype=_WIRE[self._of_type])
        if not values.size:
            return None
        if self._of_type == "d":
            if max(values.max(), -values.min()) >= _EXACT:
                return None
        elif self._limits is not None and not (self._limits[0] <= values.min() and values.max() <= self._limits[1]):
            return None
        return values.astype(self._dtype, copy=False)


class Matrix:
    """A reader of whole bodies for a layout of one block of numbers without nulls.

    Args:
        layout: the endpoint's inputs.
        max_rows: the policy's limit; a body of more rows is left to other readers before any row is built.
    """

    def __init__(self, layout: Layout, max_rows: int) -> None:
        form = layout.blocks[0]
        self._layout = layout
        self._max_rows = max_rows
        self._numbers = Numbers(form.dtype)
        self._shape = layout.fields[0].shape if form.tensor else (len(form.fields),)
        self._bare = not form.tensor and len(form.fields) == 1

    @staticmethod
    def reads(layout: Layout) -> bool:
        """Whether rows of this layout are a matrix: one block of numbers, not nullable, without categories."""
        return len(layout.blocks) == 1 and all(
            (field.dtype.is_float or field.dtype.is_integer) and not field.nullable and not field.categorical
            for field in layout.fields
        )

    def read(self, body: bytes) -> Batch | None:
        """The rows, or None if another reader must read the body."""
        if body.startswith(_BOM):
            return None
        try:
            document = parse(body)
            if len(document) != 1:
                return None
            rows = document["instances"]
            count = len(rows)
            shape = _shape(rows, () if self._bare else self._shape, body) if 0 < count <= self._max_rows else None
            values = None if shape is None else self._numbers.flatten(rows)
            if shape is None or values is None:
                return None
            return Batch(self._layout, count, (Block(values.reshape(count, *(shape or (1,)))),))
        except REFUSALS:
            return None


def _shape(rows: Any, wanted: tuple[int, ...], body: bytes) -> tuple[int, ...] | None:
    """The shape of one row if all rows have it and it matches `wanted` (-1: any length), else None.

    Raises:
        TypeError: there is a number where an array is expected.
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
    # The leaves were not checked: an array among them shows as an extra bracket. The one key has no bracket in it.
    return tuple(shape) if tally(body, b"[") == [arrays] else None
