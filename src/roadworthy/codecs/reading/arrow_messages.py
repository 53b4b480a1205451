"""Bounds the rows and bytes of an Arrow stream, before Arrow reads any of its messages.

Arrow trusts what a stream declares: a compressed buffer names its own decompressed length, and a thousand columns may refer to
the same bytes. Only the fields that matter are read here, from FlatBuffers messages as in Arrow's Message.fbs.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from roadworthy.codecs.codec import too_many_rows
from roadworthy.foundation.errors import BodyTooLarge, MalformedBody

MOST_MESSAGES, _MOST_BUFFERS = 1_000, 100_000
_MOST_SCHEMA_BYTES = 1 << 20
_CONTINUATION = 0xFFFFFFFF
_SCHEMA, _DICTIONARY, _RECORDS = 1, 2, 3
_BUFFER_BYTES = 16


@dataclass(frozen=True, slots=True)
class Bounds:
    """The limits of a request.

    Attributes:
        rows: the most rows. bytes: the most bytes of all buffers together, after decompression.
    """

    rows: int
    bytes: int


def check_stream(body: bytes, bounds: Bounds, start: int = 0) -> int:
    """The offset at which the stream that begins at `start` ends, if all of it is within the bounds.

    Raises:
        BodyTooLarge: "too-many-rows", "body-too-large", "too-many-parts".
        MalformedBody: "malformed-arrow": it is not a stream, or is cut short.
    """
    try:
        return _walk(body, bounds, start)
    except (struct.error, IndexError) as error:
        raise cut_short() from error


def cut_short() -> MalformedBody:
    """The error for bytes that are not complete Arrow data."""
    return MalformedBody(
        "the body is not Arrow data, or is cut short",
        code="malformed-arrow",
        hint="send the complete output of an Arrow stream or file writer",
    )


def too_many_parts(limit: int) -> BodyTooLarge:
    """The error for a body in absurdly many parts."""
    return BodyTooLarge(
        "the body has too many record batches, dictionaries or columns",
        code="too-many-parts",
        hint="write all rows as one record batch",
        facts={"max_parts": limit},
    )


def too_many_bytes(limit: int) -> BodyTooLarge:
    """The error for data that is larger than a body may be."""
    return BodyTooLarge(
        f"the body holds more than {limit} bytes of data",
        code="body-too-large",
        hint="send fewer rows at a time",
        facts={"max_body_bytes": limit},
    )


def _walk(body: bytes, bounds: Bounds, place: int) -> int:
    rows = size = buffers = 0
    for number in range(MOST_MESSAGES):
        continuation, length = struct.unpack_from("<Ii", body, place)
        place += 8
        if continuation != _CONTINUATION or length < 0 or (number == 0 and length == 0):
            raise cut_short()
        if length == 0:
            return place
        if length > _MOST_SCHEMA_BYTES:
            raise too_many_parts(MOST_MESSAGES)
        message = _Message(body[place : place + length], length)
        place += length
        if message.length < 0 or place + message.length > len(body) or (message.kind == _SCHEMA) != (number == 0):
            raise cut_short()
        buffers += len(message.buffers)
        if buffers > _MOST_BUFFERS:
            raise too_many_parts(MOST_MESSAGES)
        content = body[place : place + message.length] if message.compressed else b""
        for offset, stored in message.buffers:
            if offset < 0 or stored < 0 or offset + stored > message.length:
                raise cut_short()
            size += _opened(content, offset, stored) if message.compressed and stored else stored
        rows += message.rows
        if message.rows < 0 or rows > bounds.rows:
            raise too_many_rows(bounds.rows)
        if size > bounds.bytes:
            raise too_many_bytes(bounds.bytes)
        place += message.length
    raise too_many_parts(MOST_MESSAGES)


def _opened(content: bytes, offset: int, stored: int) -> int:
    """The decompressed length that a buffer declares; -1 means that it is not compressed."""
    (length,) = struct.unpack_from("<q", content, offset)
    if length < -1:
        raise cut_short()
    return int(length) if length >= 0 else stored


class _Message:
    """The relevant fields of one message.

    Attributes:
        kind: schema, dictionary or records. length: bytes of its body. rows: of records.
        compressed: whether its buffers are compressed. buffers: offset and length of each in its body.
    """

    __slots__ = ("buffers", "compressed", "kind", "length", "rows")

    def __init__(self, data: bytes, length: int) -> None:
        if len(data) != length:
            raise cut_short()
        table = _Table(data, _offset(data, 0))
        self.kind = table.number("<B", 1)
        self.length = table.number("<q", 3)
        self.rows = 0
        self.compressed = False
        self.buffers: list[tuple[int, int]] = []
        if self.kind == _SCHEMA:
            return
        if self.kind not in (_DICTIONARY, _RECORDS):
            raise cut_short()
        head = table.inner(2)
        records = head.inner(1) if self.kind == _DICTIONARY else head
        self.rows = records.number("<q", 0) if self.kind == _RECORDS else 0
        self.compressed = records.place(3) is not None
        self.buffers = records.pairs(2)


class _Table:
    """A FlatBuffers table."""

    __slots__ = ("_at", "_data", "_fields", "_size")

    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at
        (back,) = struct.unpack_from("<i", data, at)
        self._fields = at - back
        if self._fields < 0:
            raise cut_short()
        (self._size,) = struct.unpack_from("<H", data, self._fields)

    def place(self, field: int) -> int | None:
        """The offset of a field's value; None if the field has its default."""
        entry = 4 + 2 * field
        if entry + 2 > self._size:
            return None
        (offset,) = struct.unpack_from("<H", self._data, self._fields + entry)
        return self._at + offset if offset else None

    def number(self, form: str, field: int) -> int:
        """The value of a scalar field."""
        place = self.place(field)
        return 0 if place is None else int(struct.unpack_from(form, self._data, place)[0])

    def inner(self, field: int) -> _Table:
        """The value of a field that is a table."""
        place = self.place(field)
        if place is None:
            raise cut_short()
        return _Table(self._data, _offset(self._data, place))

    def pairs(self, field: int) -> list[tuple[int, int]]:
        """The value of a field that is a vector of pairs of int64."""
        place = self.place(field)
        if place is None:
            return []
        start = _offset(self._data, place)
        (count,) = struct.unpack_from("<I", self._data, start)
        end = start + 4 + count * _BUFFER_BYTES
        if end > len(self._data):
            raise cut_short()
        return [(first, second) for first, second in struct.iter_unpack("<qq", self._data[start + 4 : end])]


def _offset(data: bytes, place: int) -> int:
    """The offset that the reference at a place points to."""
    return place + int(struct.unpack_from("<I", data, place)[0])
