"""The definition of equal answers.

`compile.py` compares a converted model's answers with the original's, `package/prove.py` a loaded package's answers with its
golden examples. The input is two batches of answers, the result None or the first difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from roadworthy.schema.batch import Array, Batch
from roadworthy.schema.dtypes import DType

_LONGEST_TEXT = 80


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far two floats may differ and still be equal: |expected - found| <= atol + rtol * |expected|."""

    rtol: float = 1e-5
    atol: float = 1e-6


@dataclass(frozen=True, slots=True)
class Difference:
    """The first place where answers differ, and the number of differing rows.

    Attributes:
        row: number of the first differing row, or None when the answers differ in form (number of rows, names, types).
        field: the output's name.
        expected, found: the two values as text, shortened.
        rows: number of rows that differ in that field; all rows when the form differs.
    """

    row: int | None
    field: str
    expected: str
    found: str
    rows: int

    def __str__(self) -> str:
        if self.row is None:
            return f"{self.field}: expected {self.expected}, got {self.found}"
        others = f" ({self.rows} rows differ)" if self.rows > 1 else ""
        return f"output {self.field!r}, row {self.row}: expected {self.expected}, got {self.found}{others}"

    def renumbered(self, numbers: Array | range) -> Difference:
        """The same difference with its row looked up in `numbers`, for answers to a part of the rows."""
        return self if self.row is None else replace(self, row=int(numbers[self.row]))


def compare(expected: Batch, found: Batch, tolerance: Tolerance) -> Difference | None:
    """Compare two batches of answers: None if all are equal, otherwise the earliest differing row and its first differing field.

    Labels, integers, text, booleans and timestamps must be equal, floats within `tolerance` (NaN equals NaN, an infinity equals
    itself), and nulls must be in the same places. The filler of a null is ignored. The same holds inside nested JSON values.
    """
    form = _compare_form(expected, found)
    if form is not None:
        return form
    first: Difference | None = None
    for position, field in enumerate(expected.layout.fields):
        wrong = _differing_rows(expected, found, position, tolerance)
        places = np.flatnonzero(wrong)
        if len(places) and (first is None or first.row is None or places[0] < first.row):
            row = int(places[0])
            texts = _first_pair(expected, found, position, row, tolerance)
            first = Difference(row, field.name, *texts, rows=len(places))
    return first


def _compare_form(expected: Batch, found: Batch) -> Difference | None:
    if expected.rows != found.rows:
        return Difference(None, "the number of rows", str(expected.rows), str(found.rows), max(expected.rows, found.rows))
    forms = [[(f.name, f.dtype.value, f.shape) for f in batch.layout.fields] for batch in (expected, found)]
    if forms[0] != forms[1]:
        return Difference(None, "the outputs", _shorten(forms[0]), _shorten(forms[1]), expected.rows)
    for position, field in enumerate(expected.layout.fields):
        shapes = [batch.column_at(position)[0].shape for batch in (expected, found)]
        if shapes[0] != shapes[1]:
            return Difference(None, f"the shape of {field.name!r}", str(shapes[0]), str(shapes[1]), expected.rows)
    return None


def _differing_rows(expected: Batch, found: Batch, position: int, tolerance: Tolerance) -> Array:
    """bool (rows,): whether any element of the field differs."""
    same = _same(expected, found, position, tolerance)
    return np.asarray(~same.reshape(expected.rows, -1).all(axis=1) if same.size else np.zeros(expected.rows, dtype=bool))


def _same(expected: Batch, found: Batch, position: int, tolerance: Tolerance) -> Array:
    """bool, in the field's shape with rows first: whether the two values are equal."""
    dtype = expected.layout.fields[position].dtype
    left, left_null = expected.column_at(position)
    right, right_null = found.column_at(position)
    if dtype.is_float:
        same = same_floats(left, right, tolerance)
    elif dtype in (DType.STRING, DType.JSON):
        pairs = zip(left.ravel(), right.ravel(), strict=True)
        same = np.fromiter((_same_value(a, b, tolerance) for a, b in pairs), dtype=bool, count=left.size)
        same = same.reshape(left.shape)
    else:
        same = np.asarray(left == right)
    if left_null is None and right_null is None:
        return same
    nulls = [np.zeros(left.shape, dtype=bool) if mask is None else mask for mask in (left_null, right_null)]
    return np.where(nulls[0] | nulls[1], nulls[0] == nulls[1], same)


def same_floats(expected: Array, found: Array, tolerance: Tolerance) -> Array:
    """Compare two float arrays of one shape element by element, within `tolerance`. Returns bool in their shape."""
    left, right = expected.astype(np.float64), found.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        near = np.abs(left - right) <= tolerance.atol + tolerance.rtol * np.abs(left)
    near &= np.isfinite(left) & np.isfinite(right)
    return np.asarray(near | (left == right) | (np.isnan(left) & np.isnan(right)))


def _same_value(left: Any, right: Any, tolerance: Tolerance) -> bool:
    """Whether two JSON values (or two texts) are equal: same types, same keys, floats within the tolerance."""
    if isinstance(left, float) and isinstance(right, float):
        return bool(same_floats(np.array([left]), np.array([right]), tolerance)[0])
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(_same_value(left[key], right[key], tolerance) for key in left)
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(_same_value(a, b, tolerance) for a, b in zip(left, right, strict=True))
    return type(left) is type(right) and bool(left == right)


def _first_pair(expected: Batch, found: Batch, position: int, row: int, tolerance: Tolerance) -> tuple[str, str]:
    """The two values as text; for a tensor, only the first differing element and its position."""
    same = np.atleast_1d(_same(expected, found, position, tolerance)[row])
    index = tuple(int(n) for n in np.argwhere(~same)[0])
    texts: list[str] = []
    for batch in (expected, found):
        values, mask = batch.column_at(position)
        value = np.atleast_1d(values[row])[index] if values.ndim > 1 else values[row]
        null = mask is not None and bool(np.atleast_1d(mask[row])[index])
        place = f" at {list(index)}" if values.ndim > 1 else ""
        texts.append("null" + place if null else _shorten(_plain(value)) + place)
    return texts[0], texts[1]


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_TEXT else text[: _LONGEST_TEXT - 1] + "…"
