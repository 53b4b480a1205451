"""Writes answers as `{"predictions": [...]}`: one value per row, or one object by name where there are several outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from roadworthy.codecs.codec import Encoded, HeaderList, Writing
from roadworthy.codecs.reading.typed_rows import is_plain_name
from roadworthy.codecs.steps import few_rows, is_long, row_parts, step_rows
from roadworthy.runtime.pending import Answer
from roadworthy.schema.batch import Batch, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.rows import encode_column, encode_rows
from roadworthy.schema.signature import Field

JSON_HEADERS: HeaderList = [(b"content-type", b"application/json")]
_BEGIN, _END = b'{"predictions":[', b"]}"


class _Predictions(msgspec.Struct, gc=False):
    predictions: list[Any]


_encoder = msgspec.json.Encoder()
_encode, _encode_lines = _encoder.encode, _encoder.encode_lines


class JsonAnswers:
    """Writes the answers of one endpoint. The rows of a run are encoded once for all its requests, then cut for each: a short run
    as a whole, a long one part by part, as its requests need them. A request whose own rows are long gets them written in steps.
    """

    def __init__(self, outputs: Sequence[Field]) -> None:
        self._to_rows = _row_maker(outputs)
        self._few_rows = few_rows(outputs)
        self._joined: Batch | None = None
        self._part_rows = 0
        self._lines: list[bytes] = []

    def write(self, answer: Answer) -> Encoded | Writing:
        """The answer, a long one in steps."""
        joined, start, stop = answer.joined, answer.start, answer.stop
        if stop - start == joined.rows:
            if joined.rows > self._few_rows and is_long(joined):
                return self._write_in_steps(joined)
            return Encoded(self._whole(joined), JSON_HEADERS)
        if joined is not self._joined:
            self._joined, self._part_rows, self._lines = joined, step_rows(joined), [b""] * joined.rows
        if stop - start > self._part_rows:
            return self._write_in_steps(answer.batch())
        lines = self._lines
        if not (lines[start] and lines[stop - 1]):  # the rows lie in one part or in two
            self._encode_parts(joined, start, stop)
        if stop - start == 1:
            return Encoded(_BEGIN + lines[start] + _END, JSON_HEADERS)
        return Encoded(_BEGIN + b",".join(lines[start:stop]) + _END, JSON_HEADERS)

    def write_rows(self, joined: Batch) -> Sequence[bytes] | None:
        """A body for each row of a run, with the headers `JSON_HEADERS`. None if the run is long."""
        if joined.rows > self._few_rows and is_long(joined):
            return None
        return [_BEGIN + line + _END for line in _encode_lines(self._to_rows(joined)).split(b"\n")[:-1]]

    def _encode_parts(self, joined: Batch, start: int, stop: int) -> None:
        """Encode the lines of those parts of a run that hold these rows, unless they are encoded already."""
        rows = self._part_rows
        for begin in range(start // rows * rows, stop, rows):
            if not self._lines[begin]:
                end = min(begin + rows, joined.rows)
                part = joined if end - begin == joined.rows else joined.slice(begin, end)
                # No JSON value holds a line break of its own. The last line ends with one too.
                self._lines[begin:end] = _encode_lines(self._to_rows(part)).split(b"\n")[:-1]

    def _write_in_steps(self, batch: Batch) -> Writing:
        parts: list[bytes] = []
        for part in row_parts(batch):
            parts.append(self._whole(part)[len(_BEGIN) : -len(_END)])
            yield
        return Encoded(_BEGIN + b",".join(parts) + _END, JSON_HEADERS)

    def _whole(self, batch: Batch) -> bytes:
        return _encode(_Predictions(self._to_rows(batch)))


def _row_maker(fields: Sequence[Field]) -> Callable[[Batch], list[Any]]:
    """A function that converts a batch of these fields to JSON values, one per row: the bare value of a single field, else an
    object.

    It gives the same values as `encode_rows`. Objects are structs, which are made and encoded several times faster than dicts.
    """
    if not all(is_plain_name(field.name) for field in fields):
        return encode_rows
    columns = [_column_maker(Layout(tuple(fields)), position) for position in range(len(fields))]
    if len(columns) == 1:
        return columns[0]
    names = [f"f{number}" for number in range(len(fields))]
    rename = {name: field.name for name, field in zip(names, fields, strict=True)}
    row = msgspec.defstruct("Prediction", [(name, Any) for name in names], rename=rename, gc=False)
    return lambda batch: list(map(row, *[column(batch) for column in columns]))


def _column_maker(layout: Layout, position: int) -> Callable[[Batch], list[Any]]:
    """A function that converts one field of a batch to JSON values."""
    number, place = layout.places[position]
    tensor = layout.blocks[number].tensor
    as_they_are = layout.fields[position].dtype is not DType.TIMESTAMP

    def column(batch: Batch) -> list[Any]:
        block = batch.blocks[number]
        if block.mask is not None or not as_they_are:
            return encode_column(batch, position)
        values: list[Any] = block.values.tolist() if tensor else block.values[:, place].tolist()
        return values

    return column
