"""The interface of every protocol, and checks and errors that the protocols share. One protocol object serves one endpoint."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from roadworthy.codecs.openapi import Described, Fragment
from roadworthy.contract.policy import Policy
from roadworthy.foundation.errors import BodyTooLarge
from roadworthy.runtime.pending import Answer
from roadworthy.schema.batch import Batch, Layout
from roadworthy.schema.signature import Signature

Headers = Mapping[bytes, bytes]
"""Request headers, names in lower case."""
HeaderList = list[tuple[bytes, bytes]]
_JSON_TYPES = frozenset({b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8"})


class Decoded(msgspec.Struct, eq=False):
    """A request's rows, checked against the endpoint's signature.

    Attributes:
        batch: the rows.
        json_bytes: length of the JSON head if binary tensors follow it in the body, else -1.
        ignored: number of columns that the signature does not name and the policy ignores.
        reply: the protocol's own state for the answer.
    """

    batch: Batch
    json_bytes: int = -1
    ignored: int = 0
    reply: Any = None


class Encoded(msgspec.Struct, eq=False):
    """An answer as bytes. `headers` always has the content type; `json_bytes`: see `Decoded`; `form` is the record's
    `output_format`."""

    body: bytes
    headers: HeaderList
    json_bytes: int = -1
    form: str = "json"


Writing = Generator[None, None, Encoded]
"""A long answer while it is written. Each step takes about a millisecond, and the event loop serves others after it. Closing it
gives the answer up."""


@dataclass(frozen=True, slots=True, eq=False)
class Form:
    """A form of answers besides JSON, which a caller asks for by Accept.

    Attributes:
        name: the record's `output_format`.
        media_type, headers: see Accept and the answer; the headers always have the content type.
        write: the bytes of a whole answer.
        append: the bytes of further rows after those of `write`. With it, long answers are written in steps; None: at once.
    """

    name: str
    media_type: bytes
    headers: HeaderList
    write: Callable[[Batch], bytes]
    append: Callable[[Batch], bytes] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class StreamForm:
    """A form of answers in parts. Its functions take JSON without line breaks and give the bytes to send.

    Attributes:
        media_type, headers: as in Accept and in the answer.
        part: a part of the answer. end: the good end, after so many parts. error: the end by an error, from its problem document.
        comment: bytes that mean nothing and show that the stream lives; empty if the form has none.
    """

    media_type: bytes
    headers: HeaderList
    part: Callable[[bytes], bytes]
    end: Callable[[int], bytes]
    error: Callable[[bytes], bytes]
    comment: bytes = b""


class AnswerWriter(Protocol):
    """Writes an endpoint's answers in the form that each caller accepts: `answers.py`."""

    def choose(self, headers: Headers) -> Form | None:
        """The form that the caller prefers to JSON, or None. Goes into Decoded.reply."""
        ...

    def encode(self, answer: Answer, decoded: Decoded) -> Encoded:
        """The whole answer in the form that was chosen."""
        ...

    def encode_in_steps(self, answer: Answer, decoded: Decoded) -> Encoded | Writing:
        """The same answer, a long one in steps."""
        ...


class Codec(Protocol):
    """A format of `:predict` bodies, named by an entry point of the group `roadworthy.codecs`; usually a class. Calling it binds
    it to one endpoint."""

    @property
    def name(self) -> str:
        """The name of its entry point, and `input_format` in records."""
        ...

    @property
    def interface(self) -> int:
        """The version of this interface that it was written for: 2."""
        ...

    @property
    def media_types(self) -> Sequence[bytes]:
        """The content types that it reads, in lower case and without parameters. No other codec may have one of them."""
        ...

    @property
    def form(self) -> Form | None:
        """The form of answers that it adds, or None."""
        ...

    @property
    def limits(self) -> Mapping[str, int]:
        """Its own limits by name, besides those of the endpoint's policy, such as {"columns": 10000}."""
        ...

    @property
    def streams(self) -> bool:
        """Whether an answer to its bodies can be sent in parts while the model still runs; `BoundProtocol.streams` once bound."""
        ...

    def openapi(self, about: Described) -> Fragment:
        """The OpenAPI media type object of a body: its schema, and an example where `about` has golden rows."""
        ...

    def __call__(self, signature: Signature, policy: Policy, answers: AnswerWriter, *, on_loop: bool = False) -> BoundProtocol:
        """Bind it to an endpoint. `answers` writes what callers ask for by Accept; `on_loop`: `decode` runs on the event loop."""
        ...


class BoundProtocol(Protocol):
    """A protocol bound to an endpoint's signature and policy."""

    @property
    def takes_views(self) -> bool:
        """Whether `decode` accepts a memoryview in addition to bytes."""
        ...

    @property
    def streams(self) -> bool:
        """Whether it is a `StreamingProtocol`. Of others, answers in parts are collected, then written at once."""
        ...

    @property
    def layout(self) -> Layout:
        """The layout of the rows that `decode` returns."""
        ...

    @property
    def name(self) -> str:
        """`input_format` in records, such as "json" or "open-inference"."""
        ...

    def check_headers(self, headers: Headers) -> None:
        """Refuse a body by its headers, before it is read.

        Raises:
            InvalidRequest: or a subclass; UnsupportedMediaType for a content type that the protocol does not read.
        """
        ...

    def decode(self, headers: Headers, body: bytes) -> Decoded:
        """Read the rows.

        Raises:
            InvalidRequest: a subclass; InvalidInput when the rows do not fit the signature.
            NeedsReader: the protocol was made for the event loop, and reading this body would hold the loop for too long.
        """
        ...

    def note(self, decoded: Decoded) -> bytes:
        """`Decoded.reply` as bytes, for the way from a reader process to the worker."""
        ...

    def resume(self, headers: Headers, decoded: Decoded, note: bytes) -> None:
        """Restore `Decoded.reply` of rows that were read in another process from the `note` made there.

        Raises:
            ValueError: the note cannot be read.
        """
        ...

    def encode(self, answer: Answer, decoded: Decoded, version: int) -> Encoded:
        """Write the answer of registry version `version`.

        A protocol may also have `encode_in_steps`, with the same parameters: see `StepwiseProtocol`.

        Raises:
            ModelFault: the answer has no exact form in this protocol.
        """
        ...


class StepwiseProtocol(BoundProtocol, Protocol):
    """A protocol that can write a long answer in steps. The edge then calls `encode_in_steps` instead of `encode`."""

    def encode_in_steps(self, answer: Answer, decoded: Decoded, version: int) -> Encoded | Writing:
        """The same answer as that of `encode`: a short one at once, a long one in steps.

        Raises:
            ModelFault: the answer has no exact form in this protocol.
        """
        ...


class StreamingProtocol(BoundProtocol, Protocol):
    """A protocol that can write an answer part by part. Its `streams` is True."""

    def choose_stream(self, headers: Headers) -> StreamForm | None:
        """The form in which the caller wants the parts; None if it wants them together."""
        ...

    def encode_part(self, part: Batch) -> bytes:
        """One part as JSON without line breaks, `{"predictions":[…]}` without blanks: the record joins the parts by that form.

        Raises:
            ModelFault: the part has no exact form in this protocol.
        """
        ...


class Chooser(Protocol):
    """The protocols of a path: one, or several by content type."""

    @property
    def spec(self) -> bytes:
        """A description by which a reader process makes the same object (`gateway/readers/jobs.py`)."""
        ...

    @property
    def unchosen(self) -> BoundProtocol:
        """The protocol named in the records of requests whose headers were refused."""
        ...

    def choose(self, headers: Headers) -> BoundProtocol:
        """The protocol that reads a body with these headers, which are checked.

        Raises:
            InvalidRequest: or a subclass; UnsupportedMediaType for a content type that no protocol reads.
        """
        ...


def write_spec(kind: str, signature: Signature, policy: Policy) -> bytes:
    """`Chooser.spec` for a protocol's name."""
    return msgspec.json.encode({"kind": kind, "signature": signature.to_document(), "policy": policy})


def too_large(limit: int) -> BodyTooLarge:
    """The error for a body of more than `limit` bytes."""
    return BodyTooLarge(
        f"the body is longer than {limit} bytes",
        code="body-too-large",
        hint="send fewer rows at a time",
        facts={"max_body_bytes": limit},
    )


def too_many_rows(limit: int) -> BodyTooLarge:
    """The error for a request with more rows than the policy allows."""
    return BodyTooLarge(
        f"the request has more than {limit} rows",
        code="too-many-rows",
        hint="send fewer rows at a time",
        facts={"max_rows": limit},
    )


def is_json(kind: bytes | None) -> bool:
    """Whether a content type means JSON in UTF-8."""
    if kind in _JSON_TYPES:
        return True
    if kind is None:
        return False
    media, *parameters = [part.strip().lower() for part in kind.split(b";")]
    return media == b"application/json" and all(
        parameter in (b"", b"charset=utf-8", b'charset="utf-8"') for parameter in parameters
    )
