"""Converts between tensors of the Open Inference Protocol and fields of a batch, as JSON values or as raw bytes.

A plain field is a tensor of shape [n] or [n, 1]; a tensor field of shape S is [n, *S]. Nested values are sent as BYTES with JSON
text, timestamps as BYTES with ISO 8601 text (`open_inference_times.py` reads them), nulls as JSON null or, in raw floats, as NaN.
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from roadworthy.codecs.reading.bounds import EXACT_BYTES, NeedsReader, outside, tally
from roadworthy.codecs.reading.matrix import LEAST_BYTES, Numbers
from roadworthy.codecs.reading.strict_json import read_document
from roadworthy.codecs.reading.typed_rows import scalar_type
from roadworthy.foundation.errors import InvalidInput, MalformedBody
from roadworthy.schema.batch import Array, Batch, Block, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.rows import decode_rows, hint_of
from roadworthy.schema.signature import Field
from roadworthy.schema.time_units import texts_of

_LENGTH = struct.Struct("<I")
_MOST_ELEMENTS, _MOST_DIMENSIONS = 2**63 - 1, 64
_LITTLE = sys.byteorder == "little"
_encode_json = msgspec.json.Encoder().encode
Column = tuple[Array, Array | None]


_METADATA_HINT = "the endpoint's metadata lists names, datatypes and shapes"


class FieldReader:
    """Reads the tensors of one field.

    Attributes:
        expects: the datatype that callers have to send.
        slow: whether raw bytes are read value by value.
    """

    def __init__(self, field: Field) -> None:
        self.field = field
        self.slow = field.categorical or field.dtype in (DType.STRING, DType.JSON)
        wire = {DType.TIMESTAMP: DType.INT64, DType.JSON: DType.STRING}.get(field.dtype, field.dtype)
        self.expects = wire.open_inference
        self._wire = replace(field, dtype=wire, privacy=field.privacy)
        self._layout = Layout((self._wire,))
        self._dtype = wire.numpy
        self._sent = self._dtype.newbyteorder("<")
        plain = wire is not DType.STRING and not field.nullable and not field.categorical
        self._flat = msgspec.json.Decoder(list[scalar_type(wire)]) if plain else None  # type: ignore[misc]
        self._numbers = Numbers(wire) if plain and wire is not DType.BOOL else None

    def reading(self, datatype: str) -> FieldReader:  # noqa: ARG002 - for fields that have several
        """The reader for tensors of that datatype."""
        return self

    def rows(self, shape: Sequence[int], datatype: str) -> int:
        """How many rows a tensor of that shape holds.

        Raises:
            MalformedBody: "invalid-shape": a dimension is negative, or there are no dimensions, too many, or too many elements.
            InvalidInput: "wrong-type" or "wrong-shape": the datatype or shape is not the signature's.
        """
        if not shape or len(shape) > _MOST_DIMENSIONS or min(shape) < 0 or math.prod(shape) > _MOST_ELEMENTS:
            raise MalformedBody(
                f"the shape of input {self.field.name!r} is invalid",
                code="invalid-shape",
                hint="send the number of rows as the first dimension, and no negative dimension",
                facts={"input": self.field.name},
            )
        if datatype != self._wire.dtype.open_inference:
            raise self._misfit("wrong-type", "has another datatype", self.expects)
        if not self._fits(tuple(shape[1:])):
            raise self._misfit("wrong-shape", "has another shape", str([-1, *self.field.shape]))
        return shape[0]

    def _fits(self, shape: tuple[int, ...]) -> bool:
        known = self.field.shape
        if shape == known:
            return True
        if not known:
            return shape == (1,)
        return len(shape) == len(known) and all(size in (found, -1) for size, found in zip(known, shape, strict=True))

    def from_json(self, data: bytes, shape: Sequence[int], *, exactly: bool = True) -> Column:
        """Values from JSON, flat or nested.

        Raises:
            MalformedBody: "wrong-data-count": the number of values does not match the shape.
            InvalidInput: values do not fit the field.
            NeedsReader: the values must be read one by one, but `exactly` is False.
        """
        if self._numbers is not None and len(data) >= LEAST_BYTES and (large := self._numbers.read(data)) is not None:
            self._check_count(len(large), shape)
            return large.reshape(shape[0], *self._shape(shape)), None
        if not exactly and len(data) > EXACT_BYTES:
            raise NeedsReader
        self._check_most(data, shape)
        if self._flat is not None:
            try:
                values = self._flat.decode(data)
                self._check_count(len(values), shape)
                return np.array(values, dtype=self._dtype).reshape(shape[0], *self._shape(shape)), None
            except (ValueError, OverflowError, RecursionError):
                pass  # nested, or not clearly valid: read it exactly
        if not exactly:
            raise NeedsReader
        document, _ = read_document(data)
        flat = list(_leaves(document))
        self._check_count(len(flat), shape)
        nested = np.empty(len(flat), dtype=object)
        nested[:] = flat
        rows = [{self._wire.name: value} for value in nested.reshape(shape[0], *self._shape(shape)).tolist()]
        batch, _ = decode_rows(self._layout, rows)
        values, mask = batch.column_at(0)
        return self._parsed(values, mask)

    def from_raw(self, data: memoryview, shape: Sequence[int]) -> Column:
        """Values from bytes: little-endian, row-major.

        Raises:
            MalformedBody: "wrong-data-count" or "malformed-bytes".
            InvalidInput: "not-finite", "unknown-category".
        """
        count = math.prod(shape)
        whole = (shape[0], *self._shape(shape))
        if self._wire.dtype is DType.STRING:
            texts = self._texts(data, count)
            values = np.empty(count, dtype=object)
            values[:] = texts
            self._check_categories(values)
            return self._parsed(values.reshape(whole), None)
        dtype = self._dtype
        if len(data) != count * dtype.itemsize:
            raise self._wrong_count()
        if dtype.kind == "b" and data and np.frombuffer(data, np.uint8).max() > 1:
            raise MalformedBody(
                f"a BOOL of input {self.field.name!r} is neither 0 nor 1",
                code="malformed-bytes",
                facts={"input": self.field.name},
            )
        values = (
            np.frombuffer(data, dtype=self._sent).astype(dtype, copy=False).reshape(whole)
        )  # a view if both byte orders are the same
        if dtype.kind == "f":
            return self._checked_floats(values)
        if self.field.categorical:
            self._check_categories(values)
        return values, None

    def _checked_floats(self, values: Array) -> Column:
        finite = np.isfinite(values)
        if finite.all():
            return values, None
        mask: Array | None = None
        if self.field.nullable:
            mask = np.isnan(values)
            values = np.where(mask, values.dtype.type(0), values)
        if mask is None or not np.isfinite(values).all():
            raise self._misfit("not-finite", "holds a value that is not a finite number", "finite numbers")
        return values, mask

    def _check_categories(self, values: Array) -> None:
        if self.field.categorical and not set(values.ravel().tolist()) <= set(self.field.categories or ()):
            raise self._misfit("unknown-category", "holds a category that was not seen in training", "known categories")

    def _parsed(self, values: Array, mask: Array | None) -> Column:
        """The values, decoded from JSON text where the field holds nested values."""
        if self.field.dtype is not DType.JSON:
            return values, mask
        parsed = np.empty(values.size, dtype=object)
        for number, text in enumerate(values.ravel().tolist()):
            value, not_finite = read_document(text.encode()) if text else (None, 0)
            if not_finite:
                raise self._misfit("not-finite", "holds a value that is not a finite number", "finite numbers")
            parsed[number] = value
        return parsed.reshape(values.shape), mask

    def _texts(self, data: memoryview, count: int) -> list[str]:
        texts: list[str] = []
        offset = 0
        while offset + _LENGTH.size <= len(data) and len(texts) < count:
            (length,) = _LENGTH.unpack_from(data, offset)
            offset += _LENGTH.size + length
            if offset > len(data):
                break
            try:
                text = str(data[offset - length : offset], "utf-8")
            except UnicodeDecodeError:
                text = "\0"
            if "\0" in text:
                raise MalformedBody(
                    f"input {self.field.name!r} holds text that is not UTF-8 or contains a NUL character",
                    code="malformed-bytes",
                    facts={"input": self.field.name},
                )
            texts.append(text)
        if offset != len(data) or len(texts) != count:
            raise self._wrong_count()
        return texts

    def _shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        return tuple(shape[1:]) if self.field.shape else ()

    def _check_count(self, found: float, shape: Sequence[int]) -> None:
        if found != math.prod(shape):
            raise self._wrong_count()

    def _check_most(self, data: bytes, shape: Sequence[int]) -> None:
        """Refuse far more values than the shape has, before they are built."""
        most = 2 * math.prod(shape) + EXACT_BYTES
        if len(data) > most and tally(data, b",")[0] > most and tally(outside(data), b",")[0] > most:
            raise self._wrong_count()

    def _wrong_count(self) -> MalformedBody:
        return MalformedBody(
            f"the number of values of input {self.field.name!r} does not match its shape",
            code="wrong-data-count",
            facts={"input": self.field.name},
        )

    def _misfit(self, problem: str, words: str, expected: str) -> InvalidInput:
        name = self.field.name
        return InvalidInput(
            f"input {name!r} {words}; expected {expected}",
            code=problem,
            hint=hint_of(problem) if problem == "unknown-category" else _METADATA_HINT,
            facts={"fields": [{"name": name, "row": None, "problem": problem, "expected": expected}]},
        )


class ColumnBlock:
    """Reads raw columns of one number type together, where they follow each other in the order of the signature, as clients send
    them. That takes less than half the time that the columns take one by one, most of which goes into their transposition."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._names = [field.name for field in layout.fields]
        form = layout.blocks[0]
        numbers = form.dtype.is_float or form.dtype.is_integer
        self._possible = len(layout.blocks) == 1 and not form.tensor and numbers
        self._possible = self._possible and not any(field.categorical for field in layout.fields)
        self._dtype = form.dtype.numpy

    def place(self, cuts: Mapping[str, slice], rows: int) -> slice | None:
        """The bytes of all columns, or None if they must be read one by one.

        Args:
            cuts: the place of each binary input's bytes, by its name.
            rows: of each column.
        """
        if not self._possible or not cuts.keys() >= set(self._names):
            return None
        size = rows * self._dtype.itemsize
        start = end = int(cuts[self._names[0]].start)
        for name in self._names:
            if cuts[name] != slice(end, end + size):
                return None
            end += size
        return slice(start, end)

    def read(self, data: memoryview, rows: int) -> Batch | None:
        """The rows; None if a value is not finite, so that the columns must be read one by one."""
        values = np.frombuffer(data, dtype=self._dtype.newbyteorder("<")).reshape(len(self._names), rows)
        if self._dtype.kind == "f" and not np.isfinite(values).all():
            return None
        return Batch(self._layout, rows, (Block(values.T.astype(self._dtype, order="C")),))


def _leaves(value: Any) -> Sequence[Any]:
    """All elements of nested lists in row-major order, without recursion."""
    level = value if isinstance(value, list) else [value]
    while any(isinstance(item, list) for item in level):
        level = [leaf for item in level for leaf in (item if isinstance(item, list) else [item])]
    return level


def to_json(field: Field, values: Array, mask: Array | None) -> list[Any]:
    """The flat JSON values of an output."""
    flat = values.ravel().tolist() if field.dtype is not DType.TIMESTAMP else texts_of(values.ravel()).tolist()
    if field.dtype is DType.JSON:
        flat = [_encode_json(value).decode() for value in flat]
    if mask is None:
        return flat
    return [None if null else value for value, null in zip(flat, mask.ravel().tolist(), strict=True)]


def to_raw(field: Field, values: Array, mask: Array | None) -> bytes:
    """The raw bytes of an output. A null is NaN in floats, and an empty or zero value elsewhere."""
    if field.dtype is DType.TIMESTAMP:
        texts = texts_of(values).astype(object)
        values = texts if mask is None else np.where(mask, "", texts)
    if values.dtype.kind == "O":
        parts: list[bytes] = []
        for value in values.ravel().tolist():
            text = _encode_json(value) if field.dtype is DType.JSON else str(value or "").encode()
            parts += (_LENGTH.pack(len(text)), text)
        return b"".join(parts)
    if mask is not None and values.dtype.kind == "f":
        values = np.where(mask, values.dtype.type("nan"), values)
    return (values if _LITTLE else values.astype(values.dtype.newbyteorder("<"))).tobytes()
