"""Bounds what a body may hold, by counting characters before anything is built; and how long a body may be that is read on the
event loop.

The bounds follow from the endpoint's row limit and signature. Characters inside strings do not count. Counting takes at most
about a third of a millisecond per megabyte and character, and mostly releases the interpreter's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from roadworthy.codecs.codec import Decoded, too_many_rows
from roadworthy.codecs.reading.strict_json import MAX_DEPTH, too_deep
from roadworthy.contract.policy import Policy
from roadworthy.foundation.errors import BodyTooLarge
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field

FAST_BYTES, TYPED_BYTES, EXACT_BYTES, ARROW_BYTES, RAW_BYTES = 1 << 20, 256 << 10, 8 << 10, 32 << 10, 256 << 10
"""Bodies up to these lengths are read on the event loop: plain numbers by simdjson, rows by typed decoders, anything value by
value, Arrow, and raw numbers. Each takes up to 5 ms, whatever the body holds."""
SPARE_NAMES = 1_000
"""A request may name this many columns that the endpoint does not have; the error, or a header of the answer, then reports
them."""
_SPARE_VALUES = {"ignore": 256, "refuse": 32}
"""Surplus values allowed per row in a request with the most rows."""
_MOST_OPEN = 4 << 20
"""Values allowed in nested columns, and in tensors with a dimension that the signature leaves open."""
_SMALL_BYTES, _CHUNK_BYTES, _FEW = 4 << 10, 64 << 10, 1_000
_QUOTE = ord('"')


class NeedsReader(Exception):
    """Reading this body would hold the event loop for more than a few milliseconds. Protocols made for the event loop raise it; a
    reader process then reads the same body."""


class NeedsThread(NeedsReader):
    """The same, but reading it mostly releases the interpreter's lock: another thread of this process may call `read`, which
    raises what `decode` does."""

    def __init__(self, read: Callable[[], Decoded]) -> None:
        self.read = read


class Bounds:
    """The most that a request to one endpoint can hold. `by_column`: it may have one list for each column instead of each row.

    Attributes:
        rows: the policy's limit. values: of all rows. lists: JSON arrays, including the rows. open: surplus for values that the
            signature does not bound.
    """

    def __init__(self, fields: Sequence[Field], policy: Policy, *, by_column: bool = False) -> None:
        cells, inner = sum(map(_cells, fields)), sum(map(inner_lists, fields))
        self.open = _MOST_OPEN if any(_is_open(field) for field in fields) else 0
        self.rows = policy.max_rows
        self.values = self.rows * (cells + _SPARE_VALUES.get(policy.extra, 32)) + self.open
        self.lists = 2 + self.rows * (1 + inner) + self.open
        self._objects = 1 + self.rows + (self.open if any(field.dtype is DType.JSON for field in fields) else 0)
        self._row_values = cells + SPARE_NAMES + self.open
        self._bare = by_column or len(fields) == 1
        if by_column:
            self.lists += len(fields) + SPARE_NAMES + inner

    def check_json(self, body: bytes) -> None:
        """Refuse `{"instances": [...]}` that holds more than a valid request can.

        Raises:
            BodyTooLarge: "too-many-rows", "too-many-values".
            MalformedBody: "too-deep".
        """
        if len(body) <= EXACT_BYTES or not self._beyond(*tally(body, b"[{,:")):
            return
        plain = outside(body)
        beyond = self._beyond(*tally(plain, b"[{,:"))
        if not beyond:
            return
        if deepest(plain) > MAX_DEPTH:
            raise too_deep()
        raise too_many_rows(self.rows) if beyond == "rows" else self.too_many_values()

    def check_csv(self, body: bytes) -> None:
        """Refuse CSV that holds more than a valid request can.

        Raises:
            BodyTooLarge: "too-many-rows", "too-many-values".
        """
        if len(body) <= EXACT_BYTES or not self._beyond_lines(*tally(body, b"\n\r,")):
            return
        beyond = self._beyond_lines(*tally(outside(body, escapes=False), b"\n\r,"))
        if beyond:
            raise too_many_rows(self.rows) if beyond == "rows" else self.too_many_values()

    def too_many_values(self) -> BodyTooLarge:
        """The error for a body that holds more values than its rows can have."""
        return BodyTooLarge(
            f"the request holds more values or names than {self.rows} rows of this endpoint can have",
            code="too-many-values",
            hint="send only the columns of the signature, or fewer rows at a time",
            facts={"max_rows": self.rows, "max_values": self.values},
        )

    def _beyond(self, lists: int, objects: int, commas: int, colons: int) -> str | None:
        if lists > self.lists or objects > self._objects:
            return "rows"
        rows = self.rows if self._bare else min(self.rows, lists + objects)
        most = min(self.values, rows * self._row_values) + lists + objects
        if commas <= most and colons <= most:
            return None
        return "rows" if lists <= 1 and objects <= 1 else "values"

    def _beyond_lines(self, feeds: int, returns: int, commas: int) -> str | None:
        ends = max(feeds, returns)
        if ends > self.rows + 1:
            return "rows"
        return "values" if commas > min(self.values, ends * self._row_values) + self._row_values else None


def tally(data: bytes, characters: bytes) -> list[int]:
    """The number of occurrences of each character."""
    if len(data) < _SMALL_BYTES:
        return [data.count(character) for character in characters]
    return [_count(data, character) for character in characters]


def _count(data: bytes, character: int) -> int:
    # Searching match by match is fast for few matches; comparing whole arrays takes the same time for any number.
    few = len(data) - len(data.replace(bytes((character,)), b"", _FEW + 1))
    if few <= _FEW:
        return few
    array = np.frombuffer(data, dtype=np.uint8)
    starts = range(0, len(array), _CHUNK_BYTES)
    return sum([int(np.count_nonzero(array[start : start + _CHUNK_BYTES] == character)) for start in starts])


def outside(data: bytes, *, escapes: bool = True) -> bytes:
    """The bytes outside of quotes. `escapes`: a backslash escapes a quote, as in JSON."""
    if escapes and b"\\" in data:
        data = data.replace(b"\\\\", b"__").replace(b'\\"', b"__")
    if tally(data, b'"')[0] <= _FEW:
        return b"".join(data.split(b'"')[::2])
    array = np.frombuffer(data, dtype=np.uint8)
    parts, inside = [], False
    for start in range(0, len(array), _CHUNK_BYTES):
        chunk = array[start : start + _CHUNK_BYTES]
        quotes = chunk == _QUOTE
        quoted = np.logical_xor.accumulate(quotes) ^ inside
        inside = bool(quoted[-1])
        parts.append(chunk[~(quoted | quotes)].tobytes())
    return b"".join(parts)


def deepest(plain: bytes) -> int:
    """How deep the arrays and objects of a JSON text nest. `plain`: the text without its strings."""
    array = np.frombuffer(plain, dtype=np.uint8)
    level = most = 0
    for start in range(0, len(array), _CHUNK_BYTES):
        # "[" and "{" differ in one bit, and so do "]" and "}"; no other character maps to the same values.
        chunk = array[start : start + _CHUNK_BYTES] & 0xDF
        levels = np.cumsum((chunk == 0x5B).astype(np.int32) - (chunk == 0x5D))
        most = max(most, level + int(levels.max()))
        level += int(levels[-1])
    return most


def inner_lists(field: Field) -> int:
    """The number of lists inside one value of the field, as far as the signature bounds them."""
    lists = total = 1
    for size in field.shape[:-1]:
        lists *= max(size, 1)
        total += lists
    return total if field.shape else 0


def _cells(field: Field) -> int:
    cells = 1
    for size in field.shape:
        cells *= max(size, 1)
    return cells


def _is_open(field: Field) -> bool:
    return field.dtype is DType.JSON or min(field.shape, default=0) < 0
