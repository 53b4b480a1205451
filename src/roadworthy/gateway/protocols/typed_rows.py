"""Fast reading of `{"instances": [...]}`: decoders built once from an endpoint's layout, straight to blocks.

`predict_json.py` asks `TypedRows.read` first and takes the exact way (`strict_json.py`, `schema/rows.py`) when it answers None,
which means "not plainly right": the exact way then accepts the body or says what is wrong. So everything that is accepted here
must be accepted there with the same values; a property test holds the two together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import attrgetter, itemgetter
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta

from roadworthy.schema.batch import Array, Batch, Block, BlockForm, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field

_EXACT = 2.0**53
"""Numbers from here on are left to the exact way: as integers they may not fit into a float."""
_LARGE_BYTES = 64 << 10
_SURE_SIGNS = (b"\\u0000", b"\\ud", b"\\uD")

Pick = Callable[[Any], Any]


class TypedRows:
    """Readers for one layout. `read` never raises.

    Args:
        layout: the endpoint's inputs.
        max_rows: the policy's limit, to turn away bodies that hold many more before their rows are built.
    """

    def __init__(self, layout: Layout, max_rows: int) -> None:
        self._layout = layout
        self._forms = layout.blocks
        types = [_field_type(field) for field in layout.fields]
        self._possible = bool(types) and all(kind is not None for kind in types)
        if not self._possible:
            return
        self._has_text = any(field.dtype is DType.STRING for field in layout.fields)
        self._texts = [number for number, field in enumerate(layout.fields) if field.dtype is DType.STRING]
        self._most_brackets = 2 + max_rows * (1 + max(_inner_lists(field) for field in layout.fields))
        self._most_commas = max_rows if len(layout.fields) == 1 else 0
        self._lists, self._list_picks = self._list_reader(types)
        self._records, self._record_picks = self._record_reader(types)
        self._name_colons = sum(field.name.count(":") for field in layout.fields)

    def read(self, body: bytes) -> Batch | None:
        """The rows, or None when the exact way has to look at the body."""
        if not self._possible or (len(body) > _LARGE_BYTES and self._looks_too_long(body)):
            return None
        first = body.find(b"[") + 1
        records = body[first : first + 1] == b"{"
        try:
            rows = (self._records if records else self._lists).decode(body).instances
            keys = 1 + len(rows) * len(self._layout.fields) if records else 1
            if not rows or (body.count(b":") != keys and not self._colons_add_up(body, rows, keys, records=records)):
                return None
            if self._has_text and any(sign in body for sign in _SURE_SIGNS):
                return None
            return self._to_batch(rows, self._record_picks if records else self._list_picks)
        except (ValueError, OverflowError, RecursionError, TypeError):
            return None

    def _looks_too_long(self, body: bytes) -> bool:
        if self._most_commas and body.count(b",") > self._most_commas * max(1, _cells(self._layout.fields[0])):
            return True
        return body.count(b"[") + body.count(b"{") > self._most_brackets

    def _colons_add_up(self, body: bytes, rows: Sequence[Any], keys: int, *, records: bool) -> bool:
        """Whether no object has a key twice. Decoders keep the last of two silently, so colons are counted: those outside of
        strings are as many as keys. Without a backslash in the body its strings are as they were sent: theirs are taken off.
        """
        if b"\\" in body:
            return False
        inside = self._name_colons * len(rows) if records else 0
        for number in self._texts:
            pick = attrgetter(f"f{number}") if records else _item(number, len(self._layout.fields))
            inside += sum(text.count(":") for text in map(pick, rows) if text)
        return body.count(b":") == keys + inside

    def _list_reader(self, types: Sequence[Any]) -> tuple[msgspec.json.Decoder[Any], list[Pick | None]]:
        """Rows as lists in field order; bare values when there is one field; one list type when all columns are alike."""
        if len(types) == 1:
            return _envelope(types[0]), [None if self._forms[0].tensor else _single]
        if len(self._forms) == 1 and all(kind == types[0] for kind in types) and not self._nullable(self._forms[0]):
            return _envelope(list[types[0]]), [None]  # type: ignore[valid-type]
        row = tuple[tuple(types)]  # type: ignore[misc,valid-type]
        return _envelope(row), [itemgetter(*form.fields) if form.tensor else _tuple_of(form) for form in self._forms]

    def _record_reader(self, types: Sequence[Any]) -> tuple[msgspec.json.Decoder[Any], list[Pick | None]]:
        """Rows as objects by field name; every field once, no other."""
        names = [f"f{number}" for number in range(len(types))]
        row = msgspec.defstruct(
            "Row",
            list(zip(names, types, strict=True)),
            rename={name: field.name for name, field in zip(names, self._layout.fields, strict=True)},
            forbid_unknown_fields=True,
            gc=False,
        )
        return _envelope(row), [_attributes(form) for form in self._forms]

    def _nullable(self, form: BlockForm) -> bool:
        return any(self._layout.fields[position].nullable for position in form.fields)

    def _to_batch(self, rows: Sequence[Any], picks: Sequence[Pick | None]) -> Batch | None:
        blocks = []
        for form, pick in zip(self._forms, picks, strict=True):
            block = self._to_block(form, rows if pick is None else list(map(pick, rows)))
            if block is None:
                return None
            blocks.append(block)
        return Batch(self._layout, len(rows), tuple(blocks))

    def _to_block(self, form: BlockForm, values: Sequence[Any]) -> Block | None:
        mask: Array | None = None
        if not form.tensor and self._nullable(form):
            values, mask = _split_nulls(form.dtype, values)
        array = np.array(values, dtype=form.dtype.numpy)
        if not form.tensor:
            return Block(array, mask) if array.shape == (len(values), len(form.fields)) else None
        wanted = self._layout.fields[form.fields[0]].shape
        fits = len(array.shape) == len(wanted) + 1 and all(
            size in (found, -1) for size, found in zip(wanted, array.shape[1:], strict=True)
        )
        return Block(array) if fits else None


def _envelope(row: Any) -> msgspec.json.Decoder[Any]:
    kind = msgspec.defstruct("Body", [("instances", list[row])], forbid_unknown_fields=True, gc=False)
    return msgspec.json.Decoder(kind)


def _field_type(field: Field) -> Any:
    """The type that accepts no more than the exact way does, or None when only that one can tell."""
    if field.categorical and field.categories is not None:
        if field.shape or not all(isinstance(category, str) for category in field.categories) or not field.categories:
            return None
        kind: Any = Literal[tuple(field.categories)]
    else:
        kind = scalar_type(field.dtype)
    if kind is None or (field.nullable and field.shape):
        return None
    for _ in field.shape:
        kind = list[kind]
    return kind | None if field.nullable else kind


def scalar_type(dtype: DType) -> Any:
    """The type of one JSON value of a dtype, no wider than what the exact way accepts; None when there is none."""
    if dtype.is_float:
        return Annotated[float, Meta(gt=-_EXACT, lt=_EXACT)]
    if dtype.is_integer:
        limits = np.iinfo(dtype.value)
        return Annotated[int, Meta(ge=int(limits.min), le=min(int(limits.max), 2**63 - 1))]
    return {DType.BOOL: bool, DType.STRING: str}.get(dtype)


def _inner_lists(field: Field) -> int:
    """Lists inside one value of the field; those of unknown length count as if there were very many."""
    lists = total = 1
    for size in field.shape[:-1]:
        lists *= size if size >= 0 else 1 << 16
        total += lists
    return total if field.shape else 0


def _cells(field: Field) -> int:
    cells = 1
    for size in field.shape:
        cells *= size if size >= 0 else 1 << 16
    return cells


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
    """Fillers in place of nulls, and where they were."""
    if not any(None in row for row in rows):
        return rows, None
    filler: Any = "" if dtype is DType.STRING else 0
    mask = np.array([[value is None for value in row] for row in rows], dtype=bool)
    return [tuple(filler if value is None else value for value in row) for row in rows], mask
