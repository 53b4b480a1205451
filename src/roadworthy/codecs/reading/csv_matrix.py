"""Reads CSV that has only numbers into one array: its lines become JSON lists, which simdjson reads.

As in `matrix.py`, None means that the exact reader must read the body.
"""

from __future__ import annotations

import numpy as np

from roadworthy.codecs.reading.bounds import SPARE_NAMES
from roadworthy.codecs.reading.matrix import LEAST_BYTES, REFUSALS, Numbers, parse
from roadworthy.foundation.errors import InvalidInput
from roadworthy.schema.batch import Batch, Block, Layout
from roadworthy.schema.columns import Plans

_LONGEST_LINE = 100_000
"""Bytes; the exact reader bounds the length of a cell."""


class CsvMatrix:
    """A reader for a layout that `Matrix.reads` accepts."""

    def __init__(self, layout: Layout, plans: Plans, max_rows: int) -> None:
        form = layout.blocks[0]
        self._layout = layout
        self._shape = layout.fields[0].shape if form.tensor else (len(form.fields),)
        self._numbers = Numbers(form.dtype)
        self._plans = plans
        self._max_rows = max_rows
        self._most_columns = int(np.prod(self._shape)) + SPARE_NAMES

    def read(self, body: bytes) -> tuple[Batch, int] | None:
        """The rows and the number of ignored columns, or None."""
        header, _, lines = body.partition(b"\n")
        header, lines = header.removesuffix(b"\r"), lines.removesuffix(b"\n")
        # Without brackets and quotes, the lists are exactly the lines, and their elements exactly the cells. A carriage return
        # before a line feed is white space in JSON too.
        if (
            header.count(b",") > self._most_columns
            or len(body) < LEAST_BYTES
            or b"[" in lines
            or b'"' in body
            or not _ends_lines_only(body)
        ):
            return None
        names = header.decode("latin-1").split(",")
        if not header.isascii() or b"\0" in header or len(set(names)) != len(names):
            return None
        try:
            plan = self._plans.plan(names)
            rows = parse(b"[[" + lines.replace(b"\n", b"],[") + b"]]")
            count = len(rows)
            if not 0 < count <= self._max_rows or set(map(len, rows)) != {len(names)} or not _short(lines):
                return None
            values = self._numbers.flatten(rows)
        except (*REFUSALS, InvalidInput):
            return None
        if values is None or len(plan.fields) != int(np.prod(self._shape)):
            return None
        order = [names.index(field.name) for field in plan.fields]
        matrix = values.reshape(count, len(names))
        if order != list(range(len(names))):
            matrix = matrix[:, order]
        return Batch(self._layout, count, (Block(matrix.reshape(count, *self._shape)),)), plan.ignored


def _short(lines: bytes) -> bool:
    """Whether no line is longer than _LONGEST_LINE."""
    ends = np.flatnonzero(np.frombuffer(lines, dtype=np.uint8) == ord("\n"))
    return bool(np.diff(ends, prepend=-1, append=len(lines)).max() <= _LONGEST_LINE)


def _ends_lines_only(body: bytes) -> bool:
    """Whether a line feed follows every carriage return."""
    if b"\r" not in body:
        return True
    characters = np.frombuffer(body, dtype=np.uint8)
    places = np.flatnonzero(characters == ord("\r"))
    return bool(places[-1] + 1 < len(body) and (characters[places + 1] == ord("\n")).all())
