"""The footer and the pages of a Parquet file, looked at before Arrow reads any of them. `predict_arrow.py` calls.

A few bytes of Parquet can stand for gigabytes: a page says itself how long it is after decompression, run lengths repeat a value
a billion times, DELTA_BYTE_ARRAY repeats a long prefix in every value. And pyarrow must not be asked about the columns of a
damaged footer: some C++ exceptions end the process there. Footer and page headers are Thrift structs in the compact protocol; the
fields that are read here have the numbers of parquet.thrift.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from roadworthy.foundation.errors import MalformedBody
from roadworthy.gateway.protocols.arrow_messages import too_many_bytes, too_many_parts

_MAGIC = b"PAR1"
_MOST_FOOTER_BYTES = 512 << 10
_MOST_PAGES = 10_000
_DEEPEST = 8
_LONG_LIST = 15
_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
_TYPE, _OPENED_BYTES, _STORED_BYTES, _DATA, _DICTIONARY, _DATA_V2 = 1, 2, 3, 5, 7, 8
_FILE_PATH, _COLUMN, _CHUNK_VALUES, _CHUNK_BYTES, _FIRST_PAGE, _FIRST_DICTIONARY = 1, 3, 5, 7, 9, 11
_DATA_PAGE, _DICTIONARY_PAGE, _DATA_PAGE_V2 = 0, 2, 3
_DELTA_BYTE_ARRAY = 7
_KNOWN_ENCODINGS = frozenset({0, 2, 3, 5, 6, 8, 9})


@dataclass(frozen=True, slots=True)
class Chunk:
    """Where a column's values of one row group are: `start` and `length` in the file, and how many values there are."""

    start: int
    length: int
    values: int


@dataclass(frozen=True, slots=True)
class Footer:
    """What a file says it holds: rows, and the chunks of all columns by row group."""

    rows: int
    groups: list[list[Chunk]]


def read_footer(body: bytes) -> Footer:
    """The footer of a file.

    Raises:
        BodyTooLarge: "too-many-parts": it is longer than anybody needs.
        MalformedBody: "malformed-parquet".
    """
    if len(body) < 2 * len(_MAGIC) + 4 or not body.startswith(_MAGIC) or not body.endswith(_MAGIC):
        raise malformed()
    end = len(body) - len(_MAGIC) - 4
    length = int.from_bytes(body[end : end + 4], "little")
    if length > end - len(_MAGIC):
        raise malformed()
    if length > _MOST_FOOTER_BYTES:
        raise too_many_parts(_MOST_PAGES)
    try:
        about = _Thrift(body, end - length, end).struct(0)
        groups = [[_chunk(column) for column in group[1]] for group in about[4]]
        rows = [group[3] for group in about[4]]
    except (IndexError, KeyError, TypeError) as error:
        raise malformed() from error
    if min(rows, default=0) < 0 or sum(rows) != about[3]:
        raise malformed()
    return Footer(about[3], groups)


def _chunk(column: dict[int, Any]) -> Chunk:
    if _FILE_PATH in column:
        raise malformed()  # its values are in another file
    about = column[_COLUMN]
    start, dictionary = about[_FIRST_PAGE], about.get(_FIRST_DICTIONARY)
    if dictionary is not None and 0 < dictionary < start:
        start = dictionary
    return Chunk(start, about[_CHUNK_BYTES], about[_CHUNK_VALUES])


@dataclass(slots=True)
class Budget:
    """What may still be read: bytes after decompression, values, and pages."""

    bytes: int
    values: int
    pages: int = _MOST_PAGES


def check_pages(body: bytes, chunk: Chunk, budget: Budget) -> None:
    """Walk the pages of one column chunk of a file, as far as a reader would, and take what they hold from the budget.

    Raises:
        BodyTooLarge: "body-too-large", "too-many-parts".
        MalformedBody: "malformed-parquet".
    """
    start, end = chunk.start, chunk.start + chunk.length
    if start < 0 or chunk.length < 0 or chunk.values < 0 or end > len(body):
        raise malformed()
    limit, seen = budget.bytes, 0
    while seen < chunk.values and start < end:
        try:
            reader = _Thrift(body, start, end)
            page = reader.struct(0)
            start = reader.place + page[_STORED_BYTES]
            seen += _check(page, budget)
        except (IndexError, KeyError, TypeError) as error:
            raise malformed() from error
        if start > end:
            raise malformed()
        budget.pages -= 1
        if budget.pages < 0:
            raise too_many_parts(_MOST_PAGES)
        if budget.bytes < 0 or budget.values < 0:
            raise too_many_bytes(limit)


def malformed() -> MalformedBody:
    """The error for bytes that are no Parquet file that is read here."""
    return MalformedBody(
        "the body is no Parquet file, is cut short, or is written in a way that is not read here",
        code="malformed-parquet",
        hint="write it again with default settings, without encryption",
    )


def _check(page: dict[int, Any], budget: Budget) -> int:
    """How many values the column gets from a page."""
    opened, kind = page[_OPENED_BYTES], page[_TYPE]
    if opened < 0 or page[_STORED_BYTES] < 0:
        raise malformed()
    budget.bytes -= opened
    if kind == _DATA_PAGE:
        count, encoding = page[_DATA][1], page[_DATA][2]
    elif kind == _DATA_PAGE_V2:
        count, encoding = page[_DATA_V2][1], page[_DATA_V2][4]
    elif kind == _DICTIONARY_PAGE:
        count, encoding = page[_DICTIONARY][1], page[_DICTIONARY][2]
    else:
        return 0
    if count < 0 or encoding == _DELTA_BYTE_ARRAY or encoding not in _KNOWN_ENCODINGS:
        raise malformed()
    budget.values -= count
    return 0 if kind == _DICTIONARY_PAGE else int(count)


class _Thrift:
    """Reads Thrift's compact protocol.

    Attributes:
        place: the next byte.
    """

    __slots__ = ("_data", "_end", "place")

    def __init__(self, data: bytes, start: int, end: int) -> None:
        self._data, self.place, self._end = data, start, end

    def struct(self, depth: int) -> dict[int, Any]:
        """A struct's fields by number.

        Raises:
            IndexError: it goes on beyond the end, or is nested too deeply.
        """
        if depth > _DEEPEST:
            raise IndexError
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            number = number + (head >> 4) if head >> 4 else self._signed()
            fields[number] = self._value(head & 0x0F, depth)
        return fields

    def _byte(self) -> int:
        if self.place >= self._end:
            raise IndexError
        self.place += 1
        return self._data[self.place - 1]

    def _varint(self) -> int:
        value = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
        raise IndexError

    def _signed(self) -> int:
        value = self._varint()
        return (value >> 1) ^ -(value & 1)

    def _skip(self, length: int) -> None:
        if length > self._end - self.place:
            raise IndexError
        self.place += length

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (_TRUE, _FALSE):
            return kind == _TRUE
        if kind in (_I16, _I32, _I64):
            return self._signed()
        if kind == _STRUCT:
            return self.struct(depth + 1)
        if kind in (_LIST, _SET):
            return self._list(depth)
        if kind not in (_BYTE, _DOUBLE, _BINARY):
            raise IndexError  # Parquet has no maps here
        self._skip(self._varint() if kind == _BINARY else 1 if kind == _BYTE else 8)
        return None

    def _list(self, depth: int) -> list[Any]:
        head = self._byte()
        count, kind = head >> 4, head & 0x0F
        if count == _LONG_LIST:
            count = self._varint()
        if count > self._end - self.place:
            raise IndexError
        if kind in (_TRUE, _FALSE):
            self._skip(count)
            return []
        return [self._value(kind, depth) for _ in range(count)]
