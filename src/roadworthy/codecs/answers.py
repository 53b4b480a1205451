"""Writes answers of `:predict` as JSON, or as CSV or an Arrow stream when the caller's Accept prefers one. The `:predict`
protocols of an endpoint share one `Answers`, whatever the format of their requests."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

import msgspec

from roadworthy.codecs.codec import Decoded, Encoded, Form, Headers, StreamForm, Writing
from roadworthy.codecs.discovery import forms
from roadworthy.codecs.json_answers import JsonAnswers
from roadworthy.codecs.steps import is_long, row_parts, written
from roadworthy.codecs.streams import STREAM_FORMS
from roadworthy.runtime.pending import Answer
from roadworthy.schema.batch import Batch
from roadworthy.schema.columns import spread
from roadworthy.schema.dtypes import DType
from roadworthy.schema.rows import encode_column
from roadworthy.schema.signature import Field

_MOST_ACCEPT_BYTES = 1_024
_QUALITY = re.compile(rb"q=(0(?:\.\d{0,3})?|1(?:\.0{0,3})?)")
AnyForm = TypeVar("AnyForm", Form, StreamForm)
_encode = msgspec.json.Encoder().encode


class Answers:
    """Writes one endpoint's answers.

    Attributes:
        write_json: the answer as JSON, a long one in steps.
        write_rows: see `JsonAnswers.write_rows`.
    """

    def __init__(self, outputs: Sequence[Field]) -> None:
        answers = JsonAnswers(outputs)
        self.write_json, self.write_rows = answers.write, answers.write_rows
        self._forms = forms()

    def choose(self, headers: Headers) -> Form | None:
        """The form that the caller prefers to JSON, or None. It goes into `Decoded.reply`."""
        accept = headers.get(b"accept")
        if accept is None or accept == b"*/*" or len(accept) > _MOST_ACCEPT_BYTES:
            return None
        return _preferred(accept, self._forms)

    def choose_stream(self, headers: Headers) -> StreamForm | None:
        """The form in which the caller wants an answer part by part, or None."""
        accept = headers.get(b"accept")
        if accept is None or len(accept) > _MOST_ACCEPT_BYTES:
            return None
        return _preferred(accept, STREAM_FORMS)

    def encode_part(self, part: Batch) -> bytes:
        """One part of an answer as JSON, the same as a whole answer."""
        return written(self.write_json(Answer(part, 0, part.rows))).body

    def encode(self, answer: Answer, decoded: Decoded) -> Encoded:
        """The whole answer in the form that was chosen."""
        return written(self.encode_in_steps(answer, decoded))

    def encode_in_steps(self, answer: Answer, decoded: Decoded) -> Encoded | Writing:
        """The answer in the form that was chosen, a long one in steps."""
        form: Form | None = decoded.reply
        if form is None:
            return self.write_json(answer)
        batch = answer.batch()
        if form.append is not None and is_long(batch):
            return _write_in_steps(form, form.append, batch)
        return Encoded(form.write(batch), form.headers, form=form.name)


class Accepting:
    """The common base of the `:predict` protocols: the caller's Accept decides the form of their answers."""

    limits: ClassVar[Mapping[str, int]] = MappingProxyType({})
    streams = True

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._own_encode = type(self).encode is not Accepting.encode
        self._own_steps = type(self).encode_in_steps is not Accepting.encode_in_steps

    def note(self, decoded: Decoded) -> bytes:  # noqa: ARG002 - the interface
        """Empty: the headers have everything that the answer depends on."""
        return b""

    def resume(self, headers: Headers, decoded: Decoded, note: bytes) -> None:  # noqa: ARG002 - the interface
        """Choose the form of the answer by the caller's Accept."""
        decoded.reply = self._answers.choose(headers)

    def choose_stream(self, headers: Headers) -> StreamForm | None:
        """See `StreamingProtocol`."""
        return self._answers.choose_stream(headers)

    def encode_part(self, part: Batch) -> bytes:
        """See `StreamingProtocol`."""
        return self._answers.encode_part(part)

    def encode(self, answer: Answer, decoded: Decoded, version: int) -> Encoded:  # noqa: ARG002 - the interface
        """The whole answer in the form that was chosen."""
        return self._answers.encode(answer, decoded)

    def encode_in_steps(self, answer: Answer, decoded: Decoded, version: int) -> Encoded | Writing:
        """See `StepwiseProtocol`. A subclass with an `encode` of its own has that called, and its answers are written at once."""
        if self._own_encode:
            return self.encode(answer, decoded, version)
        if decoded.reply is None:  # JSON, as nearly every answer: not by way of `Answers.encode_in_steps`
            return self._answers.write_json(answer)
        return self._answers.encode_in_steps(answer, decoded)

    def encode_rows(self, joined: Batch) -> Sequence[bytes] | None:
        """For each row of a run, the body that `encode_in_steps` writes for it alone as JSON. None if the run is long, or a
        subclass writes in its own way."""
        return None if self._own_encode or self._own_steps else self._answers.write_rows(joined)


def _write_in_steps(form: Form, append: Callable[[Batch], bytes], batch: Batch) -> Writing:
    parts: list[bytes] = []
    for part in row_parts(batch):
        parts.append(append(part) if parts else form.write(part))
        yield
    return Encoded(b"".join(parts), form.headers, form=form.name)


def write_csv(batch: Batch, *, head: bool = True) -> bytes:
    """The batch as CSV that `predict_csv.py` would read back: a header row, unless `head` is False, then one line per row. Nulls
    are empty cells."""
    names: list[str] = []
    columns: list[Sequence[Any]] = []
    for position, field in enumerate(batch.layout.fields):
        values = encode_column(batch, position)
        flat = spread(field)
        if flat:
            names += [part.name for part in flat]
            columns += map(_cells, flat, zip(*values, strict=True))
        else:
            names.append(field.name)
            columns.append(_cells(field, values))
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    if head:
        writer.writerow(names)
    writer.writerows(zip(*columns, strict=True))
    return text.getvalue().encode("utf-8")


def _cells(field: Field, values: Sequence[Any]) -> Sequence[Any]:
    """The values as the csv module writes them correctly: numbers, text and None as they are, all else as JSON text."""
    if not field.shape and field.dtype not in (DType.JSON, DType.BOOL):
        return values
    return [None if value is None else _encode(value).decode() for value in values]


@lru_cache(256)
def _preferred(accept: bytes, known: tuple[AnyForm, ...]) -> AnyForm | None:
    """The form that an Accept prefers to JSON, or None. A range such as text/* names no form."""
    qualities: dict[bytes, float] = {}
    for item in accept.lower().split(b","):
        media, *parameters = [part.strip() for part in item.split(b";")]
        found = [match for match in map(_QUALITY.fullmatch, parameters) if match]
        qualities.setdefault(media, float(found[0][1]) if found else 1.0)
    json = qualities.get(b"application/json", max(qualities.get(b"application/*", 0.0), qualities.get(b"*/*", 0.0)))
    best = max(known, key=lambda form: qualities.get(form.media_type, 0.0))
    named = qualities.get(best.media_type, 0.0)
    # A caller that names a form and merely accepts the rest by */* wants that form, though both have the quality 1.
    return best if named > json or (named == json > 0 and b"application/json" not in qualities) else None
