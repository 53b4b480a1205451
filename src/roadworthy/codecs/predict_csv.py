"""`POST /v1/models/{endpoint}:predict` with `text/csv`: a header row, then one row per line, RFC 4180, in UTF-8.

It is as strict as JSON: numbers as in JSON, `true` and `false` in upper or lower case, ISO 8601 times, and lists and nested
values as JSON text in their cell. An empty cell is a null in a nullable column, empty text in other columns of text, and refused
elsewhere.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import islice
from typing import Any

import msgspec
import numpy as np

from roadworthy.codecs.answers import Accepting, Answers, write_csv
from roadworthy.codecs.codec import Decoded, Form, Headers, too_many_rows
from roadworthy.codecs.openapi import Described, Fragment, with_example
from roadworthy.codecs.reading.bounds import EXACT_BYTES, FAST_BYTES, Bounds, NeedsReader
from roadworthy.codecs.reading.csv_matrix import CsvMatrix
from roadworthy.codecs.reading.matrix import Matrix
from roadworthy.codecs.reading.strict_json import MAX_INTEGER_DIGITS, read_document
from roadworthy.codecs.reading.typed_rows import scalar_type
from roadworthy.contract.policy import Policy
from roadworthy.foundation.errors import MalformedBody, UnsupportedMediaType
from roadworthy.schema.batch import Layout
from roadworthy.schema.columns import Column, Plans
from roadworthy.schema.dtypes import DType
from roadworthy.schema.rows import decode_columns, misfit, no_rows
from roadworthy.schema.signature import Field, Signature

_BOM = "\ufeff"
_BLANKS = " \t\r\n"
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_PARAMETERS = frozenset({b"", b"charset=utf-8", b'charset="utf-8"', b"charset=us-ascii", b"header=present"})
_HINT = "send a header row with the column names, then one row per line, separated by commas, in UTF-8"


class PredictCsv(Accepting):
    """The protocol bound to one endpoint. `on_loop`: whether it runs on the event loop, which long reading would hold."""

    name = "csv"
    interface = 2
    media_types = (b"text/csv",)
    form = Form(
        "csv",
        b"text/csv",
        [(b"content-type", b"text/csv; charset=utf-8; header=present")],
        write_csv,
        partial(write_csv, head=False),
    )
    takes_views = False

    def __init__(self, signature: Signature, policy: Policy, answers: Answers, *, on_loop: bool = False) -> None:
        super().__init__(answers)
        self.layout = Layout(signature.inputs, policy.timestamps.integers)
        self._max_rows = policy.max_rows
        self._on_loop = on_loop
        self._bounds = Bounds(signature.inputs, policy)
        self._plans = Plans(self.layout, policy.extra)
        self._matrix = CsvMatrix(self.layout, self._plans, policy.max_rows) if Matrix.reads(self.layout) else None

    @staticmethod
    def openapi(about: Described) -> Fragment:
        """See `Codec`."""
        example = "" if about.inputs is None else write_csv(about.inputs).decode()
        return with_example({"type": "string"}, example, there=example)

    def check_headers(self, headers: Headers) -> None:
        """Accept only CSV in UTF-8 with a header row.

        Raises:
            UnsupportedMediaType: the content type is another.
        """
        media, *parameters = [part.strip().lower() for part in headers.get(b"content-type", b"").split(b";")]
        if media not in self.media_types or not _PARAMETERS.issuperset(parameters):
            raise UnsupportedMediaType(
                "the body must be CSV in UTF-8 with a header row", hint="send the header Content-Type: text/csv"
            )

    def decode(self, headers: Headers, body: bytes) -> Decoded:
        """The rows.

        Raises:
            MalformedBody: "empty-body", "invalid-utf-8", "malformed-csv", "duplicate-column".
            BodyTooLarge: it has more rows than the policy allows, or more values than its rows can have.
            InvalidInput: the rows do not fit the signature.
            NeedsReader: see `BoundProtocol`.
        """
        if self._on_loop and len(body) > FAST_BYTES:
            raise NeedsReader
        if self._matrix is not None and (found := self._matrix.read(body)) is not None:
            return Decoded(found[0], ignored=found[1], reply=self._answers.choose(headers))
        if self._on_loop and len(body) > EXACT_BYTES:
            raise NeedsReader
        self._bounds.check_csv(body)
        names, rows = _read(body, self._max_rows)
        plan = self._plans.plan(names)
        if not rows:
            raise no_rows()
        sent = dict(zip(names, zip(*rows, strict=True), strict=True))
        columns = [_column(field, sent[field.name], self.layout.integers) for field in plan.fields]
        reply = self._answers.choose(headers)
        return Decoded(plan.assemble(columns, len(rows)), ignored=plan.ignored, reply=reply)


def _read(body: bytes, max_rows: int) -> tuple[list[str], list[list[str]]]:
    """The header and the rows, all of the same length."""
    text = _text(body)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        names = next(reader)
        if not any(names):
            raise _malformed("has no header row with column names", 1)
        if len(set(names)) != len(names):
            raise MalformedBody("two columns of the body have the same name", code="duplicate-column", hint=_HINT)
        rows = list(islice(reader, max_rows + 1))
    except csv.Error as error:
        raise _malformed(f"is not valid CSV: {error}", reader.line_num) from None
    if len(rows) > max_rows:
        raise too_many_rows(max_rows)
    width = len(names)
    for number, row in enumerate(rows):
        if len(row) != width:
            raise _malformed(f"has {len(row)} values in row {number}, expected {width} as in the header", None)
    return names, rows


def _text(body: bytes) -> str:
    if not body:
        raise MalformedBody("the body is empty", code="empty-body", hint=_HINT)
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedBody(
            f"the body is not valid UTF-8 at byte {error.start}", code="invalid-utf-8", facts={"byte": error.start}
        ) from None
    if text.startswith(_BOM):
        raise MalformedBody("the body starts with a byte order mark", code="invalid-utf-8", hint="send UTF-8 without a BOM")
    if "\0" in text:
        raise MalformedBody("the body contains a NUL character", code="invalid-text", hint="remove it")
    return text


def _malformed(words: str, line: int | None) -> MalformedBody:
    return MalformedBody(f"the body {words}", code="malformed-csv", hint=_HINT, facts={} if line is None else {"line": line})


def _column(field: Field, cells: Sequence[str], integers: str | None) -> Column:
    """One column: in one step where every cell is clearly valid, else cell by cell."""
    if not field.shape and not field.categorical and (quick := _quickly(field, cells)) is not None:
        return quick
    (pair,) = decode_columns([field], [[_value(field, cell, row) for row, cell in enumerate(cells)]], integers)
    return pair


def _quickly(field: Field, cells: Sequence[str]) -> Column | None:
    """A column of numbers or booleans, read as one JSON list; None for another column, or where a cell is in doubt."""
    decode = _decoder(field.dtype)
    if decode is None:
        return None
    text = ",".join(cells)
    mask = None
    if field.nullable and "" in cells:
        if "n" in text:
            return None  # "null" does not mean null in CSV
        mask = np.array([cell == "" for cell in cells], dtype=bool)
        text = ",".join([cell or "0" if field.dtype is not DType.BOOL else cell or "false" for cell in cells])
    if field.dtype is DType.BOOL:
        text = text.lower()  # pandas writes True and False
    try:
        values = decode(f"[{text}]")
    except (ValueError, RecursionError):
        return None
    if len(values) != len(cells):
        return None
    return np.array(values, dtype=field.dtype.numpy), mask


@cache
def _decoder(dtype: DType) -> Callable[[str], list[Any]] | None:
    """A decoder of lists of numbers or booleans of this dtype; None for other dtypes."""
    kind = None if dtype is DType.STRING else scalar_type(dtype)
    return None if kind is None else msgspec.json.Decoder(list[kind]).decode  # type: ignore[valid-type]  # made at run time


def _value(field: Field, cell: str, row: int) -> Any:
    """The JSON value of a cell. Text that is no value of the field's type stays text, so that it is refused as text."""
    if cell == "" and (field.nullable or field.dtype is not DType.STRING or field.shape):
        return None
    if field.shape or field.dtype is DType.JSON:
        try:
            return read_document(cell.encode())[0]
        except MalformedBody as error:
            raise misfit(field, "wrong-type", "is not valid JSON", row) from error
    if field.dtype is DType.STRING:
        return cell
    plain = cell.strip(_BLANKS)
    if field.dtype is DType.BOOL:
        return {"true": True, "false": False}.get(plain.lower(), cell)
    number = _NUMBER.fullmatch(plain)
    if number is None or len(plain) > MAX_INTEGER_DIGITS:
        return plain if field.dtype is DType.TIMESTAMP else cell
    return float(plain) if number[1] or number[2] else int(plain)
