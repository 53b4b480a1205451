"""The fast reader of `{"instances": [...]}`: decoders built once from an endpoint's layout that write into blocks. Large bodies
of plain numbers go to `matrix.py`.

`TypedRows.read` returns None for a body that is not clearly valid; the exact reader (`strict_json.py`, `schema/rows.py`) then
accepts it or says what is wrong. Whatever is accepted here must therefore be accepted there with the same values; a property test
compares the two.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Sequence
from itertools import chain
from math import hypot
from operator import attrgetter, itemgetter
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from roadworthy.codecs.reading.bounds import Bounds
from roadworthy.codecs.reading.matrix import LEAST_BYTES, Matrix
from roadworthy.schema.batch import Array, Batch, Block, BlockForm, Layout, PackedRow
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field

_EXACT = 2.0**53
"""Numbers from here on are left to the exact reader: as integers they may not fit into a float."""
_MOST_NORM = _EXACT / 2
"""A row with a smaller norm holds no number of `_EXACT`, however the norm was rounded."""
_LARGE_BYTES = 64 << 10
_LEAST_ROW_BYTES = 32
"""A body with fewer bytes per allowed row than this cannot hold so many rows that building them would take long."""
_MANY_ROWS = 16
_FLOAT64 = np.dtype(np.float64)
_DOUBTFUL_TEXT = (b"\\u0000", b"\\ud", b"\\uD")

Pick = Callable[[Any], Any]


class TypedRows:
    """Readers for one layout.

    Args:
        layout: the endpoint's inputs.
        bounds: a body that exceeds them is refused before its rows are built.
        most_typed: the longest body, in bytes, that the typed decoders may read.
    """

    def __init__(self, layout: Layout, bounds: Bounds, most_typed: int = sys.maxsize) -> None:
        self._bounds = bounds
        self._most_typed = most_typed
        self._layout = layout
        self._forms = layout.blocks
        self._possible = bool(layout.fields) and all(
            _field_type(field) is not None and is_plain_name(field.name) for field in layout.fields
        )
        if not self._possible:
            return
        self._texts = [number for number, field in enumerate(layout.fields) if field.dtype is DType.STRING]
        self._name_colons = sum(field.name.count(":") for field in layout.fields)
        self._counted_bytes = max(_LARGE_BYTES, _LEAST_ROW_BYTES * bounds.rows)
        self._nullable = [any(layout.fields[position].nullable for position in form.fields) for form in self._forms]
        first = self._forms[0]
        self._row_shape: tuple[int, ...] = layout.fields[0].shape if first.tensor else (len(first.fields),)
        self._small, self._large = self._readers(bounded=True), self._readers(bounded=False)
        self._direct = self._small[0].direct
        # Checking each number takes the decoder as long as reading it; of floats in plain rows, the norm bounds them all.
        self._by_norm = self._direct is not None and self._direct.kind == "f" and len(self._row_shape) == 1
        self._decode = (self._large if self._by_norm else self._small)[0].decode
        self._pack_row = self._row_packer()
        self._matrix = Matrix(layout, bounds.rows) if Matrix.reads(layout) else None

    def read(self, body: bytes) -> Batch | None:
        """The rows, or None if the exact reader must read the body.

        Raises:
            BodyTooLarge, MalformedBody: it holds more than a valid request can.
        """
        if not self._possible:
            return None
        try:
            if len(body) < LEAST_BYTES:
                # One colon: the rows are lists, since an object would need another.
                if self._direct is not None and body.find(b":", body.find(b":") + 1) < 0:
                    return self._read_directly(body, self._direct)
            elif self._matrix is not None and not _holds_records(body) and (batch := self._matrix.read(body)) is not None:
                return batch
            return self._read_typed(body)
        except (ValueError, OverflowError, RecursionError, TypeError):
            return None

    def _read_typed(self, body: bytes) -> Batch | None:
        size = len(body)
        if size > self._most_typed:
            return None
        if size > self._counted_bytes:
            self._bounds.check_json(body)
        as_records = _holds_records(body)
        reader = (self._small if size <= _LARGE_BYTES else self._large)[as_records]
        rows = reader.decode(body).instances
        plain = not as_records and not self._texts and _has_one_colon(body)
        if not plain and not self._is_unambiguous(body, rows, as_records=as_records):
            return None
        return self._to_batch(rows, reader)

    def _read_directly(self, body: bytes, dtype: np.dtype[Any]) -> Batch | None:
        """A few rows that are exactly the array of the only block; no key was sent twice."""
        rows = self._decode(body).instances
        if self._by_norm:
            for row in rows:
                if hypot(*row) >= _MOST_NORM:
                    return None
        if len(rows) == 1 and self._pack_row is not None:
            row = rows[0]
            return Batch(self._layout, 1, PackedRow(self._pack_row(*row), dtype)) if len(row) == self._row_shape[0] else None
        array = np.array(rows, dtype)
        return Batch(self._layout, len(rows), (Block(array),)) if array.shape[1:] == self._row_shape else None

    def _row_packer(self) -> Callable[..., bytes] | None:
        """A function that gives the bytes of a row's numbers."""
        if self._direct is None or self._direct.kind not in "fiu" or len(self._row_shape) > 1:
            return None
        return struct.Struct(f"{self._row_shape[0]}{self._direct.char}").pack

    def _is_unambiguous(self, body: bytes, rows: Sequence[Any], *, as_records: bool) -> bool:
        """Whether no object has a key twice, and no text needs the exact reader.

        Decoders silently keep the last of two equal keys, so the colons outside of strings are counted: there must be as many as
        keys. In a body without a backslash, strings are as they were sent, so their colons can be subtracted.
        """
        if self._texts and any(sign in body for sign in _DOUBTFUL_TEXT):
            return False
        keys = 1 + len(rows) * len(self._layout.fields) if as_records else 1
        colons = body.count(b":")
        if colons == keys:
            return True
        if b"\\" in body:
            return False
        inside = self._name_colons * len(rows) if as_records else 0
        for number in self._texts:
            pick = attrgetter(f"f{number}") if as_records else _item(number, len(self._layout.fields))
            inside += sum(text.count(":") for text in map(pick, rows) if text)
        return colons == keys + inside

    def _readers(self, *, bounded: bool) -> tuple[_Reader, _Reader]:
        """Readers of rows as lists and as objects. If `bounded` they check each number, else whole arrays are checked later."""
        types = [_field_type(field, bounded=bounded) for field in self._layout.fields]
        lists, records = self._list_reader(types, bounded=bounded), self._record_reader(types, bounded=bounded)
        if bounded and lists.picks == [None] and min(self._row_shape) >= 0:
            lists.direct = self._forms[0].dtype.numpy
        return lists, records

    def _list_reader(self, types: Sequence[Any], *, bounded: bool) -> _Reader:
        """A reader of rows as lists in field order: bare values for a single field, one list type if all columns are alike."""
        if len(types) == 1:
            return _Reader(types[0], [None if self._forms[0].tensor else _single], bounded=bounded)
        if len(self._forms) == 1 and all(kind == types[0] for kind in types) and not self._nullable[0]:
            return _Reader(list[types[0]], [None], bounded=bounded)  # type: ignore[valid-type]
        row = tuple[tuple(types)]  # type: ignore[misc,valid-type]
        picks = [itemgetter(*form.fields) if form.tensor else _tuple_of(form) for form in self._forms]
        return _Reader(row, picks, bounded=bounded)

    def _record_reader(self, types: Sequence[Any], *, bounded: bool) -> _Reader:
        """A reader of rows as objects by field name, with every field once and no other."""
        names = [f"f{number}" for number in range(len(types))]
        row = msgspec.defstruct(
            "Row",
            list(zip(names, types, strict=True)),
            rename={name: field.name for name, field in zip(names, self._layout.fields, strict=True)},
            forbid_unknown_fields=True,
            gc=False,
        )
        return _Reader(row, [_attributes(form) for form in self._forms], bounded=bounded)

    def _to_batch(self, rows: Sequence[Any], reader: _Reader) -> Batch | None:
        blocks = []
        for number, pick in enumerate(reader.picks):
            block = self._to_block(number, rows if pick is None else list(map(pick, rows)), bounded=reader.bounded)
            if block is None:
                return None
            blocks.append(block)
        return Batch(self._layout, len(rows), tuple(blocks))

    def _to_block(self, number: int, values: Sequence[Any], *, bounded: bool) -> Block | None:
        form = self._forms[number]
        mask: Array | None = None
        if form.tensor:
            wanted = self._layout.fields[form.fields[0]].shape
        else:
            wanted = (len(form.fields),)
            if self._nullable[number]:
                values, mask = _split_nulls(form.dtype, values)
        array = _to_array(values, wanted, form.dtype.numpy if bounded or not form.dtype.is_float else _FLOAT64)
        if not bounded and form.dtype.is_float:
            if not array.size or float(np.abs(array).max()) >= _EXACT:
                return None
            array = array.astype(form.dtype.numpy, copy=False)
        fits = len(array.shape) == len(wanted) + 1 and all(
            size in (found, -1) for size, found in zip(wanted, array.shape[1:], strict=True)
        )
        return Block(array, mask) if fits else None


class _Reader:
    """A decoder for one form of rows, and functions that take each block's values out of a row; None takes the whole row.
    `direct` is the dtype of the only block if the rows are its array and every number is checked."""

    __slots__ = ("bounded", "decode", "direct", "picks")

    def __init__(self, row: Any, picks: Sequence[Pick | None], *, bounded: bool) -> None:
        kind = msgspec.defstruct("Body", [("instances", list[row])], forbid_unknown_fields=True, gc=False)
        self.decode: Callable[[bytes], Any] = msgspec.json.Decoder(kind).decode
        self.picks = picks
        self.bounded = bounded
        self.direct: np.dtype[Any] | None = None


def _has_one_colon(body: bytes) -> bool:
    """Whether the only colon is the one after the body's single key, so that no key can have been sent twice."""
    return body.find(b":", body.find(b":") + 1) < 0


def _to_array(values: Sequence[Any], wanted: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """The block's array. For many rows of plain numbers, their nesting is not inspected.

    Raises:
        ValueError, OverflowError, TypeError: the values have no common shape, or a number does not fit the dtype.
    """
    width = wanted[0]
    if len(values) >= _MANY_ROWS and len(wanted) == 1 and width > 0 and dtype.kind == "f":
        if set(map(len, values)) != {width}:
            raise ValueError("rows of different lengths")
        return np.fromiter(chain.from_iterable(values), dtype, len(values) * width).reshape(len(values), width)
    return np.array(values, dtype=dtype)


def _field_type(field: Field, *, bounded: bool = True) -> Any:
    """A type that accepts no more than the exact reader does, or None if only the exact reader can decide."""
    if field.categorical and field.categories is not None:
        if field.shape or not all(isinstance(category, str) for category in field.categories) or not field.categories:
            return None
        kind: Any = Literal[tuple(field.categories)]
    else:
        kind = float if field.dtype.is_float and not bounded else scalar_type(field.dtype)
    if kind is None or (field.nullable and field.shape):
        return None
    for _ in field.shape:
        kind = list[kind]
    return kind | None if field.nullable else kind


def is_plain_name(name: str) -> bool:
    """Whether a field's name needs no escapes in JSON: structs can only be made for such names."""
    return name.isprintable() and '"' not in name and "\\" not in name


def scalar_type(dtype: DType) -> Any:
    """The type of one JSON value of a dtype, no wider than the exact reader accepts; None for dtypes without one."""
    if dtype.is_float:
        return Annotated[float, Meta(gt=-_EXACT, lt=_EXACT)]
    if dtype.is_integer:
        limits = np.iinfo(dtype.value)
        return Annotated[int, Meta(ge=int(limits.min), le=min(int(limits.max), 2**63 - 1))]
    return {DType.BOOL: bool, DType.STRING: str}.get(dtype)


def _holds_records(body: bytes) -> bool:
    """Whether the rows seem to be objects."""
    first = body.find(b"[") + 1
    return body[first : first + 1] == b"{"


def _single(value: Any) -> tuple[Any]:
    return (value,)


def _item(number: int, fields: int) -> Pick:
    return itemgetter(number) if fields > 1 else lambda row: row


def _tuple_of(form: BlockForm) -> Pick:
    if len(form.fields) > 1:
        return itemgetter(*form.fields)
    position = form.fields[0]
    return lambda row: (row[position],)


def _attributes(form: BlockForm) -> Pick:
    names = [f"f{position}" for position in form.fields]
    pick = attrgetter(*names)
    if form.tensor or len(names) > 1:
        return pick
    return lambda row: (pick(row),)


def _split_nulls(dtype: DType, rows: Sequence[Any]) -> tuple[Sequence[Any], Array | None]:
    """The rows with fillers instead of nulls, and a mask of the nulls."""
    if not any(None in row for row in rows):
        return rows, None
    filler: Any = "" if dtype is DType.STRING else 0
    mask = np.array([[value is None for value in row] for row in rows], dtype=bool)
    return [tuple(filler if value is None else value for value in row) for row in rows], mask
