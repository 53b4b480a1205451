"""The conformance suite for codecs, as checks that run on one codec and a function that writes request bodies for it.

    @pytest.mark.parametrize("check", CHECKS, ids=check_name)
    def test_my_codec(check):
        check(CodecCase(MyCodec, write_rows))

A check raises AssertionError with a sentence. `tests/conformance` runs all of them on every codec that ships with Roadworthy.
"""

# ruff: noqa: S101  (a check reports by an assertion, as the tests that call it do)

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from roadworthy.codecs.codec import BoundProtocol, Codec, Encoded, Headers
from roadworthy.codecs.discovery import codecs
from roadworthy.codecs.formats import Formats
from roadworthy.codecs.openapi import described
from roadworthy.codecs.reading.bounds import NeedsReader
from roadworthy.codecs.steps import STEP_VALUES, written
from roadworthy.codecs.streams import STREAM_FORMS
from roadworthy.contract.policy import Policy
from roadworthy.foundation.errors import BodyTooLarge, InvalidInput, InvalidRequest, UnsupportedMediaType
from roadworthy.optimize.equal import Tolerance, compare
from roadworthy.runtime.pending import Answer
from roadworthy.schema.batch import Batch, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.rows import decode_rows
from roadworthy.schema.signature import Field, Signature

_FIELDS = (
    Field("x", DType.FLOAT64),
    Field("n", DType.INT64),
    Field("s", DType.STRING),
    Field("b", DType.BOOL),
    Field("gap", DType.FLOAT64, nullable=True),
)
_ROWS: list[object] = [
    {"x": 0.5, "n": 1, "s": "plain", "b": True, "gap": None},
    {"x": -1e-3, "n": -(2**53), "s": 'comma, quote " and line\nbreak', "b": False, "gap": 2.5},
    {"x": 1e300, "n": 0, "s": "žluťoučký 駅", "b": True, "gap": -0.25},
    {"x": 3.0, "n": 7, "s": " spaces ", "b": False, "gap": None},
]
SIGNATURE = Signature(_FIELDS, _FIELDS)
"""An endpoint that answers what it is asked, with the usual kinds of columns."""
_EXACT = Tolerance(rtol=0.0, atol=0.0)
_LONG, _MOST_OPENAPI_BYTES = 2_000, 256 << 10


@dataclass(frozen=True)
class CodecCase:
    """A codec under test.

    Attributes:
        codec: what its entry point names.
        write: a request body with these rows.
        signature: an endpoint that answers what it is asked.
    """

    codec: Codec
    write: Callable[[Batch], bytes]
    signature: Signature = field(default_factory=lambda: SIGNATURE)

    @property
    def rows(self) -> Batch:
        """Four rows of the usual kinds of columns."""
        return rows_of(Layout(self.signature.inputs), _ROWS)

    @property
    def headers(self) -> dict[bytes, bytes]:
        """The head of a request in the codec's first media type that accepts the codec's own form of answers, if it has one."""
        form = self.codec.form
        return {b"content-type": self.codec.media_types[0]} | ({} if form is None else {b"accept": form.media_type})

    def bound(self, *, max_rows: int = 10_000, on_loop: bool = False) -> BoundProtocol:
        """The codec bound to the endpoint, chosen by its content type."""
        formats = Formats(self.signature, Policy(max_rows=max_rows), on_loop=on_loop)
        return formats.choose({b"content-type": self.codec.media_types[0]})


Check = Callable[[CodecCase], None]


def rows_of(layout: Layout, rows: list[object]) -> Batch:
    """Rows of JSON values as a batch."""
    return decode_rows(layout, rows)[0]


def sample() -> list[object]:
    """Four rows of SIGNATURE as JSON values."""
    return list(_ROWS)


def damaged(body: bytes) -> list[bytes]:
    """Bodies that are empty, cut short, doubled or changed in one byte: the same at each call."""
    chance = random.Random(7)  # noqa: S311  (not for secrets)
    found = [b"", b"\0", b"\xff\xfe", b"[" * 10_000, b"null", body + body]
    found += [body[: chance.randrange(len(body))] for _ in range(50)]
    for _ in range(200):
        place = chance.randrange(len(body))
        found.append(body[:place] + bytes([chance.randrange(256)]) + body[place + 1 :])
    return found


def assert_same(expected: Batch, found: Batch) -> None:
    """Raise AssertionError unless both have the same rows."""
    assert found.rows == expected.rows, f"{found.rows} rows instead of {expected.rows}"
    difference = compare(expected, found, _EXACT)
    assert difference is None, str(difference)


def assert_parts(protocol: BoundProtocol, headers: Headers, rows: Batch, *, streams: bool) -> None:
    """Raise AssertionError unless the protocol writes answers in parts exactly when `streams` says so."""
    assert protocol.streams is streams, f"bound to an endpoint its streams is {protocol.streams!r}, not {streams}"
    if not protocol.streams:
        return
    choose, encode = (getattr(protocol, name, None) for name in ("choose_stream", "encode_part"))
    assert choose is not None, "it streams, and has no choose_stream"
    assert encode is not None, "it streams, and has no encode_part"
    for form in STREAM_FORMS:
        found = choose({**headers, b"accept": form.media_type})
        assert found is not None, f"a caller that accepts {form.media_type!r} gets the parts together"
        assert dict(found.headers).get(b"content-type"), "parts have no content type"
    for accept in ({b"accept": b"*/*"}, {b"accept": b"application/json"}):
        assert choose({**headers, **accept}) is None, f"a caller that accepts {accept[b'accept']!r} gets the parts one by one"
    part = encode(rows)
    assert b"\n" not in part, "a part has a line break"
    assert part.startswith(b'{"predictions":['), f"a part is {part[:40]!r}"
    assert len(msgspec.json.decode(part)["predictions"]) == rows.rows, "a part has not one answer for each row"


def check_name(check: Check) -> str:
    """A readable id for a check."""
    return check.__name__.removeprefix("check_")


def check_found_by_name(case: CodecCase) -> None:
    """The process has the codec under its own name, and its records have that name."""
    names = {codec.name: codec for codec in codecs()}
    assert names.get(case.codec.name) is case.codec, f"{case.codec.name} is not among {sorted(names)}"
    assert case.bound().name == case.codec.name, "bound to an endpoint it has another name"


def check_media_types_are_plain_and_its_own(case: CodecCase) -> None:
    """Media types are lower-case bytes without parameters, and no other codec has one of them."""
    assert case.codec.media_types, "it has no media type"
    others = {media for codec in codecs() if codec is not case.codec for media in codec.media_types}
    for media in case.codec.media_types:
        assert isinstance(media, bytes), f"{media!r} is not bytes"
        assert media == media.lower().strip(), f"{media!r} is not in lower case"
        assert media.count(b"/") == 1, f"{media!r} has no slash"
        assert b";" not in media, f"{media!r} has a parameter"
        assert media not in others, f"another codec reads {media!r} too"


def check_other_content_types_are_refused(case: CodecCase) -> None:
    """The codec reads only what the Content-Type says it can read."""
    for kind in (b"", b"image/png", case.codec.media_types[0] + b"; charset=utf-16"):
        try:
            case.bound().check_headers({b"content-type": kind})
        except UnsupportedMediaType:
            continue
        raise AssertionError(f"it takes the content type {kind!r}")


def check_rows_come_back(case: CodecCase) -> None:
    """Rows that were written are read with the same values, nulls and types; one row as well as many."""
    rows = case.rows
    for batch in (rows, rows.slice(1, 2), rows.take([3, 0, 0])):
        body = case.write(batch)
        assert_same(batch, case.bound().decode(case.headers, body).batch)
    if case.bound().takes_views:
        assert_same(rows, case.bound().decode(case.headers, memoryview(case.write(rows))).batch)  # type: ignore[arg-type]  # says so


def check_too_many_rows_are_refused(case: CodecCase) -> None:
    """The policy's limit holds."""
    try:
        case.bound(max_rows=case.rows.rows - 1).decode(case.headers, case.write(case.rows))
    except BodyTooLarge:
        return
    raise AssertionError("it reads more rows than the policy allows")


def check_other_columns_are_refused(case: CodecCase) -> None:
    """Rows that lack a required column do not fit the signature."""
    fields = case.signature.inputs[1:]
    fewer = [{name: value for name, value in row.items() if name != case.signature.inputs[0].name} for row in _ROWS]  # type: ignore[attr-defined]  # they are dicts
    try:
        case.bound().decode(case.headers, case.write(rows_of(Layout(fields), list(fewer))))
    except InvalidInput:
        return
    raise AssertionError("it reads rows without a required column")


def check_damaged_bodies_are_the_callers_fault(case: CodecCase) -> None:
    """A body that is empty, cut short or changed is refused with InvalidRequest, or read; no other error escapes."""
    for each in damaged(case.write(case.rows)):
        try:
            case.bound().decode(case.headers, each)
        except InvalidRequest:
            continue
        except Exception as error:
            raise AssertionError(f"the body {each[:80]!r} raises {type(error).__name__}: {error}") from error


def check_long_bodies_may_be_left_to_a_reader(case: CodecCase) -> None:
    """On the event loop a body is read, or NeedsReader says that a reading process has to; elsewhere it is always read."""
    many = case.rows.take([row % case.rows.rows for row in range(_LONG)])
    body = case.write(many)
    assert_same(many, case.bound().decode(case.headers, body).batch)
    try:
        assert_same(many, case.bound(on_loop=True).decode(case.headers, body).batch)
    except NeedsReader:
        return


def check_answers_are_written(case: CodecCase) -> None:
    """The answer has its content type and the same values, also for rows that a reading process has read."""
    protocol = case.bound()
    decoded = protocol.decode(case.headers, case.write(case.rows))
    answer = Answer(decoded.batch, 0, decoded.batch.rows)
    encoded = protocol.encode(answer, decoded, 3)
    form = case.codec.form
    assert dict(encoded.headers).get(b"content-type"), "the answer has no content type"
    assert encoded.form == ("json" if form is None else form.name), f"the answer is {encoded.form}"
    if form is not None and form.media_type in case.codec.media_types:
        assert_same(case.rows, protocol.decode(case.headers, encoded.body).batch)
    note = protocol.note(decoded)
    assert isinstance(note, bytes), "note does not give bytes"
    decoded.reply = None
    protocol.resume(case.headers, decoded, note)
    assert protocol.encode(answer, decoded, 3).body == encoded.body, "after note and resume the answer is another"


def check_long_answers_are_written(case: CodecCase) -> None:
    """`encode` returns a long answer whole, and `encode_in_steps`, if the codec has it, the same bytes and headers."""
    protocol = case.bound()
    decoded = protocol.decode(case.headers, case.write(case.rows))
    many = case.rows.take([row % case.rows.rows for row in range(STEP_VALUES + 1)])
    encoded = protocol.encode(Answer(many, 0, many.rows), decoded, 3)
    assert isinstance(encoded, Encoded), f"encode returns {type(encoded).__name__}, not Encoded, for a long answer"
    form = case.codec.form
    if form is not None and form.media_type in case.codec.media_types:
        assert_same(many, protocol.decode(case.headers, encoded.body).batch)
    encode_in_steps = getattr(protocol, "encode_in_steps", None)
    if encode_in_steps is not None:
        steps = written(encode_in_steps(Answer(many, 0, many.rows), decoded, 3))
        assert (steps.body, steps.headers, steps.json_bytes, steps.form) == (
            encoded.body, encoded.headers, encoded.json_bytes, encoded.form,
        ), "encode_in_steps gives another answer than encode"  # fmt: skip


def check_parts_are_written(case: CodecCase) -> None:
    """Part by part where `streams` is True, in the form that the caller accepts; one JSON object a part."""
    assert_parts(case.bound(), case.headers, case.rows, streams=case.codec.streams)


def check_what_it_declares(case: CodecCase) -> None:
    """Limits are whole numbers, `streams` is a bool, and OpenAPI is a short media type object, with golden rows or without."""
    assert all(type(limit) is int and limit > 0 for limit in case.codec.limits.values()), f"limits are {case.codec.limits!r}"
    assert isinstance(case.codec.streams, bool), "streams is neither True nor False"
    wide = Signature(tuple(Field(f"c{number}", DType.FLOAT64) for number in range(10_000)), _FIELDS[:1])
    abouts = [described("e", case.signature, Policy(), golden) for golden in (None, (case.rows, case.rows))]
    for about in (*abouts, described("wide", wide, Policy(), None)):
        fragment = case.codec.openapi(about)
        assert "schema" in fragment, "OpenAPI has no schema"
        assert len(msgspec.json.encode(fragment)) < _MOST_OPENAPI_BYTES, "OpenAPI is too long"


CHECKS: tuple[Check, ...] = (
    check_found_by_name,
    check_media_types_are_plain_and_its_own,
    check_other_content_types_are_refused,
    check_rows_come_back,
    check_too_many_rows_are_refused,
    check_other_columns_are_refused,
    check_damaged_bodies_are_the_callers_fault,
    check_long_bodies_may_be_left_to_a_reader,
    check_answers_are_written,
    check_long_answers_are_written,
    check_parts_are_written,
    check_what_it_declares,
)
