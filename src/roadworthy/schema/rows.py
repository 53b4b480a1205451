"""Converts rows parsed from JSON to a Batch exactly, or refuses them and names every problem; and converts them back.

Codecs call this when their fast readers are in doubt, `tables.py` for lists of records. Nothing is coerced: "12" is not a number,
true is not 1, 1.5 is not an integer. A message does not contain a caller's values, except numbers sent as timestamps, because
they show which unit was meant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from roadworthy.foundation.errors import InvalidInput
from roadworthy.schema.batch import Array, Batch, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.problem import ProblemError
from roadworthy.schema.signature import Field, Missing
from roadworthy.schema.time_units import texts_of
from roadworthy.schema.timestamps import read_timestamp

MAX_PROBLEMS, MOST_COUNTED = 20, 1_000
_EXACT_FLOAT_LIMIT = 2**53
_FLOAT32_MAX = float(np.finfo(np.float32).max)
_Decode = Callable[[object], Any]

_HINTS = {
    "missing-columns": "send every column of the signature",
    "unknown-columns": "omit columns that are not in the signature",
    "wrong-type": "send the type that the signature states; values are not converted",
    "out-of-range": "send a value that the column's type can represent exactly",
    "not-finite": "send a finite number, or null if the column allows it",
    "null-not-allowed": "send a value: this column had no nulls in training",
    "unknown-category": "send one of the categories in the signature; training treated any other value as missing, so send null "
    "instead if the column allows it",
    "wrong-shape": "send rows of the shape that the signature states",
    "empty-batch": "send at least one row",
    "integer-for-timestamp": "send ISO 8601 text, or set the endpoint's policy timestamps.integers to s, ms, us or ns",
    "timestamp-far-from-training": "send the unit of the policy timestamps.integers, or ISO 8601 text",
}


class _Problems:
    """Collects up to MAX_PROBLEMS problems and raises them together; stops counting at MOST_COUNTED."""

    def __init__(self) -> None:
        self.found: list[dict[str, Any]] = []
        self.missing: list[str] = []
        self.total = 0

    def add(self, code: str, field: str | None, row: int | None, problem: str, expected: str | None = None) -> None:
        self.total += 1
        if self.total >= MOST_COUNTED:
            raise self.error()
        if len(self.found) >= MAX_PROBLEMS:
            return
        entry: dict[str, Any] = {"name": field, "code": code, "problem": problem}
        if row is not None:
            entry["row"] = row
        if expected is not None:
            entry["expected"] = expected
        self.found.append(entry)

    def raise_if_any(self) -> None:
        if self.found:
            raise self.error()

    def error(self) -> InvalidInput:
        codes = {entry["code"] for entry in self.found}
        code = codes.pop() if len(codes) == 1 else "invalid-input"
        first = self.found[0]
        where = "" if first["name"] is None else f"column {first['name']!r}"
        if "row" in first:
            where = f"{where}, row {first['row']}" if where else f"row {first['row']}"
        message = f"{where}: {first['problem']}" if where else str(first["problem"])
        if self.total > 1:
            message = f"{message} (and {'at least ' if self.total >= MOST_COUNTED else ''}{self.total - 1} more)"
        facts: dict[str, Any] = {"fields": self.found}
        if self.missing:
            facts["missing"] = self.missing[:MAX_PROBLEMS]
            if len(self.missing) > 1:
                message = f"columns {', '.join(map(repr, facts['missing']))}{_more(len(self.missing))} are missing"
        if self.total > len(self.found):
            facts["more"] = self.total - len(self.found)
        return InvalidInput(message, code=code, hint=_HINTS.get(first["code"]), facts=facts)


def _more(total: int) -> str:
    return f" and {total - MAX_PROBLEMS} more" if total > MAX_PROBLEMS else ""


def decode_rows(layout: Layout, rows: Sequence[object], *, extra: str = "refuse") -> tuple[Batch, int]:
    """Convert rows parsed from JSON to a Batch; also returns the number of extra values that were ignored.

    A row is a list of values in the layout's order, a dict by name, or the bare value when the layout has one field. A dict may
    omit a field if the training records omitted it when it was missing.
    `extra` is "refuse" or "ignore". Timestamps are ISO 8601 text, or integers in the layout's unit.

    Raises:
        InvalidInput: one of the codes above, or "invalid-input" when several kinds occur. facts["fields"] lists up to
            MAX_PROBLEMS problems, each with name, code, problem, and row and expected if they apply; facts["more"] is the
            number of further problems.
    """
    problems = _Problems()
    if not rows:
        problems.add("empty-batch", None, None, "there are no rows")
        problems.raise_if_any()
    columns, ignored = _by_column(layout, rows, extra, problems)
    problems.raise_if_any()
    pairs = [
        _decode_column(field, values, problems, layout.integers) for field, values in zip(layout.fields, columns, strict=True)
    ]
    problems.raise_if_any()
    return Batch.from_columns(layout, pairs, len(rows)), ignored


def decode_columns(
    fields: Sequence[Field], columns: Sequence[list[object]], integers: str | None = None
) -> list[tuple[Array, Array | None]]:
    """As `decode_rows`, from columns of equal length; returns values and mask of each field. `integers` as in Layout.

    Raises:
        InvalidInput: as `decode_rows`.
    """
    problems = _Problems()
    pairs = [_decode_column(field, values, problems, integers) for field, values in zip(fields, columns, strict=True)]
    problems.raise_if_any()
    return pairs


def match_columns(wanted: Sequence[str], names: Sequence[str], extra: str) -> int:
    """Check a table's column `names`; return the number that is not `wanted`. `extra` as in `decode_rows`.

    Raises:
        InvalidInput: "missing-columns", "unknown-columns".
    """
    problems = _Problems()
    sent, known = set(names), set(wanted)
    problems.missing = [name for name in wanted if name not in sent]
    unknown = [name for name in names if name not in known]
    for name in problems.missing:
        problems.add("missing-columns", name, None, "is missing")
    for name in unknown if extra != "ignore" else ():
        problems.add("unknown-columns", name[:100], None, "is not in the signature")
    problems.raise_if_any()
    return len(unknown)


def hint_of(code: str) -> str | None:
    """The hint for a refusal with that code."""
    return _HINTS.get(code)


def misfit(field: Field, code: str, problem: str, row: int | None = None) -> InvalidInput:
    """The error for a column, or for one row of a table, that is not checked value by value."""
    problems = _Problems()
    problems.add(code, field.name, row, problem, f"{field.dtype.value} {list(field.shape)}" if field.shape else field.dtype.value)
    return problems.error()


def no_rows() -> InvalidInput:
    """The error for a request without rows."""
    return InvalidInput("there are no rows", code="empty-batch", hint=_HINTS["empty-batch"], facts={"fields": []})


def _by_column(layout: Layout, rows: Sequence[object], extra: str, problems: _Problems) -> tuple[list[list[object]], int]:
    """Transpose rows of any accepted form into one list of values per field."""
    if isinstance(rows[0], dict):
        return _from_records(layout, rows, extra, problems)
    width = len(layout.fields)
    bare = width == 1
    columns: list[list[object]] = [[] for _ in range(width)]
    for number, row in enumerate(rows):
        if bare:
            columns[0].append(_bare_value(layout.fields[0], row))
        elif isinstance(row, dict):
            problems.add("wrong-type", None, number, "expected a list, as in the previous rows, got an object")
        elif not isinstance(row, (list, tuple)):
            expected = "a list of values, or an object by column name"
            problems.add("wrong-type", None, number, f"expected {expected}, got {_kind(row)}", expected)
        elif len(row) != width:
            problems.add("wrong-shape", None, number, f"expected {width} values, got {len(row)}", f"{width} values")
        else:
            for column, value in zip(columns, row, strict=True):
                column.append(value)
    return columns, 0


def _bare_value(field: Field, row: object) -> object:
    """The value of a row with one field. For a plain field both `v` and `[v]` are rows; a tensor's row is the nested list."""
    if not field.shape and field.dtype is not DType.JSON and isinstance(row, (list, tuple)) and len(row) == 1:
        return row[0]
    return row


def _from_records(layout: Layout, rows: Sequence[object], extra: str, problems: _Problems) -> tuple[list[list[object]], int]:
    names = [field.name for field in layout.fields]
    known = set(names)
    optional = {field.name for field in layout.fields if field.missing is Missing.ABSENT}
    columns: list[list[object]] = [[] for _ in names]
    missing: dict[str, int] = {}
    unknown: dict[str, int] = {}
    ignored = 0
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            problems.add("wrong-type", None, number, f"expected an object, as in the previous rows, got {_kind(row)}")
            continue
        if len(row) != len(names) or not known.issuperset(row):
            surplus = [str(key) for key in row if key not in known]
            ignored += len(surplus)
            for name in surplus if extra != "ignore" else ():
                unknown.setdefault(name, number)
            for name in names:
                if name not in row and name not in optional:
                    missing.setdefault(name, number)
            if missing:
                continue
        for column, name in zip(columns, names, strict=True):
            column.append(row.get(name))
    problems.missing = sorted(missing, key=layout.positions.__getitem__)
    for name in problems.missing:
        problems.add("missing-columns", name, missing[name], "is missing")
    for name, number in unknown.items():
        problems.add("unknown-columns", name[:100], number, "is not in the signature")
    return columns, ignored


def _decode_column(field: Field, values: list[object], problems: _Problems, integers: str | None) -> tuple[Array, Array | None]:
    decode = _decoder(field, integers)
    if field.shape:
        return _decode_tensor(field, values, problems, decode)
    quick = _quick_numbers(field, values)
    if quick is not None:
        return quick, None
    allowed = set(field.categories or ()) if field.categorical else None
    filler = _FILLERS.get(field.dtype, 0)
    decoded: list[Any] = []
    nulls: list[int] = []
    for number, value in enumerate(values):
        try:
            if value is None:
                _check_nullable(field)
                nulls.append(number)
                decoded.append(filler)
                continue
            plain = decode(value)
            if allowed is not None and plain not in allowed:
                raise ProblemError("unknown-category", "expected one of the categories of training, got another value")
            decoded.append(plain)
        except ProblemError as problem:
            problems.add(problem.code, field.name, number, problem.problem, field.dtype.value)
            decoded.append(filler)
    return _as_array(field.dtype, decoded), _mask(len(values), nulls)


def _quick_numbers(field: Field, values: list[object]) -> Array | None:
    """The whole column at once if that equals reading it value by value: all values are finite Python floats. Otherwise None."""
    if not field.dtype.is_float or field.categorical or any(type(value) is not float for value in values):
        return None
    array = np.array(values, dtype=np.float64)
    if not np.isfinite(array).all():
        return None
    with np.errstate(over="ignore"):
        narrow = array.astype(field.dtype.numpy)
    return narrow if np.isfinite(narrow).all() else None


def _decoder(field: Field, integers: str | None) -> _Decode:
    """A function that reads one value of the field."""
    if field.dtype is DType.TIMESTAMP:
        return lambda value: read_timestamp(field, value, integers)
    return partial(_DECODERS[field.dtype], field)


def _decode_tensor(field: Field, values: list[object], problems: _Problems, decode: _Decode) -> tuple[Array, Array | None]:
    flat: list[Any] = []
    nulls: list[int] = []
    shape: tuple[int, ...] | None = None
    for number, value in enumerate(values):
        try:
            found = _nested_shape(value, len(field.shape))
            if len(found) != len(field.shape) or any(want not in (-1, got) for want, got in zip(field.shape, found, strict=True)):
                raise ProblemError("wrong-shape", f"expected shape {list(field.shape)}, got {list(found)}")
            if shape is not None and found != shape:
                raise ProblemError("wrong-shape", f"expected shape {list(shape)}, as in the previous rows, got {list(found)}")
            shape = found
            _flatten(field, value, len(field.shape), (flat, nulls), decode)
        except ProblemError as problem:
            problems.add(problem.code, field.name, number, problem.problem, f"{field.dtype.value} {list(field.shape)}")
    if problems.found or shape is None:
        return np.empty((0,), dtype=field.dtype.numpy), None
    array = _as_array(field.dtype, flat).reshape((len(values), *shape))
    mask = _mask(len(flat), nulls)
    return array, None if mask is None else mask.reshape(array.shape)


def _nested_shape(value: object, depth: int) -> tuple[int, ...]:
    shape: list[int] = []
    while depth and isinstance(value, (list, tuple)):
        shape.append(len(value))
        if not value:
            break
        value = value[0]
        depth -= 1
    return tuple(shape)


def _flatten(field: Field, value: object, depth: int, into: tuple[list[Any], list[int]], decode: _Decode) -> None:
    """Append the leaves of `value`, row-major, and the positions of nulls; ragged nesting is a problem of shape."""
    if depth == 0:
        flat, nulls = into
        if value is None:
            _check_nullable(field)
            nulls.append(len(flat))
            flat.append(_FILLERS.get(field.dtype, 0))
        else:
            flat.append(decode(value))
        return
    assert isinstance(value, (list, tuple))  # noqa: S101  (the shape was read from the first leaf of each level)
    width = len(value[0]) if depth > 1 and value and isinstance(value[0], (list, tuple)) else None
    for item in value:
        if depth > 1 and (not isinstance(item, (list, tuple)) or len(item) != width):
            raise ProblemError("wrong-shape", "expected nested lists of equal length, got different lengths")
        _flatten(field, item, depth - 1, into, decode)


def _check_nullable(field: Field) -> None:
    if not field.nullable:
        raise ProblemError("null-not-allowed", f"expected {field.dtype.value}, got null")


def _wrong_type(field: Field, value: object) -> ProblemError:
    return ProblemError("wrong-type", f"expected {field.dtype.value}, got {_kind(value)}")


def _not_finite(value: float) -> ProblemError:
    return ProblemError("not-finite", f"expected a finite number, got {'NaN' if math.isnan(value) else 'infinity'}")


def _decode_float(field: Field, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong_type(field, value)
    if isinstance(value, int):
        if abs(value) > _EXACT_FLOAT_LIMIT:
            raise ProblemError("out-of-range", f"expected {field.dtype.value}, got an integer that it cannot represent exactly")
        return float(value)
    if not math.isfinite(value):
        raise _not_finite(value)
    if field.dtype is DType.FLOAT32 and abs(value) > _FLOAT32_MAX:
        raise ProblemError("out-of-range", "expected float32, got a number outside its range")
    return value


def _decode_integer(field: Field, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        if isinstance(value, float) and not math.isfinite(value):
            raise _not_finite(value)
        raise _wrong_type(field, value)
    bounds = np.iinfo(field.dtype.value)
    if not bounds.min <= value <= bounds.max:
        raise ProblemError("out-of-range", f"expected {field.dtype.value}, got a number outside its range")
    return value


def _decode_bool(field: Field, value: object) -> bool:
    if not isinstance(value, bool):
        raise _wrong_type(field, value)
    return value


def _decode_string(field: Field, value: object) -> str:
    if not isinstance(value, str):
        raise _wrong_type(field, value)
    _check_unicode(value)
    return value


def _check_unicode(text: str) -> None:
    """Refuse half a surrogate pair, which no later step could encode."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ProblemError("wrong-type", "expected valid Unicode text, got half a surrogate pair") from None


def _decode_json(_field: Field, value: object) -> object:
    """Any value whose numbers are finite and whose text is valid, at any depth."""
    waiting: list[object] = [value]
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            waiting.extend(part)
            waiting.extend(part.values())
        elif isinstance(part, (list, tuple)):
            waiting.extend(part)
        elif isinstance(part, float) and not math.isfinite(part):
            raise _not_finite(part)
        elif isinstance(part, str):
            _check_unicode(part)
    return value


_DECODERS: Mapping[DType, Callable[[Field, object], Any]] = {
    **{dtype: _decode_integer for dtype in DType if dtype.is_integer},
    DType.FLOAT32: _decode_float,
    DType.FLOAT64: _decode_float,
    DType.BOOL: _decode_bool,
    DType.STRING: _decode_string,
    DType.JSON: _decode_json,
}
_FILLERS: Mapping[DType, Any] = {DType.STRING: "", DType.JSON: None, DType.BOOL: False}


def _as_array(dtype: DType, values: list[Any]) -> Array:
    if dtype.numpy != np.dtype(object):
        return np.array(values, dtype=dtype.numpy)
    array = np.empty(len(values), dtype=object)
    array[:] = values  # np.array(values, dtype=object) would unpack nested lists
    return array


def _mask(length: int, nulls: list[int]) -> Array | None:
    if not nulls:
        return None
    mask = np.zeros(length, dtype=bool)
    mask[nulls] = True
    return mask


def _kind(value: object) -> str:
    """JSON's name for the type of `value`, with an article; never the value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, (int, float)):
        return "a number" if isinstance(value, int) else "a number with a fraction"
    if isinstance(value, str):
        return "a string"
    return "an object" if isinstance(value, dict) else "a list"


def encode_rows(batch: Batch) -> list[Any]:
    """One JSON-ready value per row: the bare value when the layout has one field, otherwise a dict by name. Nulls are None,
    timestamps RFC 3339 text in UTC with microseconds. Non-finite floats are not changed: the caller must refuse them first."""
    columns = [encode_column(batch, position) for position in range(len(batch.layout.fields))]
    if len(columns) == 1:
        return columns[0]
    names = [field.name for field in batch.layout.fields]
    return [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]


def encode_column(batch: Batch, position: int) -> list[Any]:
    """One JSON-ready value per row of one field, as in `encode_rows`."""
    values, mask = batch.column_at(position)
    if batch.layout.fields[position].dtype is DType.TIMESTAMP:
        plain: Any = texts_of(values).tolist()
    else:
        plain = values.tolist()
    return plain if mask is None else _with_nulls(plain, mask.tolist())


def _with_nulls(values: list[Any], mask: list[Any]) -> list[Any]:
    return [
        _with_nulls(value, null) if isinstance(null, list) else (None if null else value)
        for value, null in zip(values, mask, strict=True)
    ]
