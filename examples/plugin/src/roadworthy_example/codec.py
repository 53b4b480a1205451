"""A codec: JSON Lines. A body has one JSON object a line, and so has an answer to callers that accept it."""

from __future__ import annotations

import json

from roadworthy.codecs.answers import Accepting, Answers
from roadworthy.codecs.codec import Decoded, Form, Headers, too_many_rows
from roadworthy.codecs.openapi import Described, Fragment, with_example
from roadworthy.codecs.reading.bounds import EXACT_BYTES, NeedsReader
from roadworthy.codecs.reading.strict_json import read_document
from roadworthy.contract.policy import Policy
from roadworthy.foundation.errors import MalformedBody, UnsupportedMediaType
from roadworthy.schema.batch import Batch, Layout
from roadworthy.schema.rows import decode_rows, encode_rows
from roadworthy.schema.signature import Signature

MEDIA_TYPE = b"application/x-ndjson"


def write_lines(batch: Batch) -> bytes:
    """One JSON value a line: an object by column, or the bare value of a single column."""
    return b"".join(json.dumps(row, allow_nan=False).encode() + b"\n" for row in encode_rows(batch))


class JsonLines(Accepting):
    """The codec, bound to one endpoint."""

    name = "json-lines"
    interface = 2
    media_types = (MEDIA_TYPE,)
    form = Form("json-lines", MEDIA_TYPE, [(b"content-type", MEDIA_TYPE)], write_lines)
    takes_views = False

    def __init__(self, signature: Signature, policy: Policy, answers: Answers, *, on_loop: bool = False) -> None:
        super().__init__(answers)
        self.layout = Layout(signature.inputs, policy.timestamps.integers)
        self._policy = policy
        self._on_loop = on_loop

    @staticmethod
    def openapi(about: Described) -> Fragment:
        """The body as OpenAPI describes it, with golden rows as an example."""
        example = "" if about.inputs is None else write_lines(about.inputs).decode()
        return with_example({"type": "string"}, example, there=example)

    def check_headers(self, headers: Headers) -> None:
        """Refuse other content types, and parameters."""
        if headers.get(b"content-type", b"").strip().lower() != MEDIA_TYPE:
            raise UnsupportedMediaType("the body must be JSON Lines", hint="send Content-Type: application/x-ndjson")

    def decode(self, headers: Headers, body: bytes) -> Decoded:
        """One row a line. A long body is left to a reading process, so that it does not hold the event loop up."""
        if self._on_loop and len(body) > EXACT_BYTES:
            raise NeedsReader
        lines = body.removesuffix(b"\n").split(b"\n")
        if len(lines) > self._policy.max_rows:
            raise too_many_rows(self._policy.max_rows)
        read = [read_document(line) for line in lines]
        if any(not_finite for _, not_finite in read):
            raise MalformedBody("a number is not finite", code="malformed-json", hint="NaN is not JSON")
        rows = [row for row, _ in read]
        batch, ignored = decode_rows(self.layout, rows, extra=self._policy.extra)
        return Decoded(batch, ignored=ignored, reply=self._answers.choose(headers))
