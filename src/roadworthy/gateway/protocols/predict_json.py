"""`POST /v1/models/{endpoint}:predict`: `{"instances": [...]}`, rows as lists or as objects, gives `{"predictions": [...]}`.

Called by `gateway/predict.py`. The fast reader answers most bodies; what it doubts is read exactly.
"""

from __future__ import annotations

import msgspec

from roadworthy.contract.policy import Policy
from roadworthy.foundation.errors import InvalidRequest, MalformedBody, UnsupportedMediaType
from roadworthy.gateway.protocols.answers import JSON_HEADERS, Answers
from roadworthy.gateway.protocols.protocol import ALWAYS_INLINE, Decoded, Encoded, Headers, is_json, too_many_rows
from roadworthy.gateway.protocols.strict_json import read_document
from roadworthy.gateway.protocols.typed_rows import TypedRows
from roadworthy.runtime.ticket import Answer
from roadworthy.schema.batch import Batch, Layout
from roadworthy.schema.rows import decode_rows
from roadworthy.schema.signature import Signature

_SHAPE_HINT = 'send {"instances": [row, …]}; a row is a list in field order or an object by field name'


class _Counted(msgspec.Struct):
    instances: list[msgspec.Raw]


_count = msgspec.json.Decoder(_Counted)


class PredictJson:
    """The protocol bound to one endpoint."""

    name = "json"
    media_types = (b"application/json",)
    inline_bytes = ALWAYS_INLINE
    takes_views = False

    def __init__(self, signature: Signature, policy: Policy, answers: Answers | None = None) -> None:
        self._layout = layout = Layout(signature.inputs, policy.timestamps.integers)
        self._answers = answers or Answers(signature.outputs)
        self._write = self._answers.write_json
        self._max_rows = policy.max_rows
        self._extra = policy.extra
        self._fast = TypedRows(layout, policy.max_rows)

    def check_headers(self, headers: Headers) -> None:
        """JSON in UTF-8 only; the body is never sniffed.

        Raises:
            UnsupportedMediaType: anything else, or no content type.
        """
        kind = headers.get(b"content-type")
        if not is_json(kind):
            raise UnsupportedMediaType(
                "the body must be JSON in UTF-8",
                hint="send the header Content-Type: application/json",
            )

    def decode(self, headers: Headers, body: bytes) -> Decoded:
        """The rows of `instances`.

        Raises:
            MalformedBody: not JSON, or not an object with a list of instances.
            BodyTooLarge: more rows than the policy allows.
            InvalidInput: the rows do not fit.
        """
        reply = self._answers.choose(headers) if b"accept" in headers else None
        batch = self._fast.read(body)
        if batch is None:
            batch, ignored = self._decode_exactly(body)
            return Decoded(batch, ignored=ignored, reply=reply)
        if batch.rows > self._max_rows:
            raise too_many_rows(self._max_rows)
        return Decoded(batch, reply=reply)

    def encode(self, answer: Answer, decoded: Decoded, version: int) -> Encoded:  # noqa: ARG002 - the interface
        """One prediction a row, as the caller accepts it."""
        if decoded.reply is None:
            return Encoded(self._write(answer), JSON_HEADERS)
        return self._answers.encode(answer, decoded)

    def _decode_exactly(self, body: bytes) -> tuple[Batch, int]:
        if len(body) > 2 * self._max_rows:
            self._refuse_too_many(body)
        document, not_finite = read_document(body)
        if not isinstance(document, dict) or not isinstance(document.get("instances"), list):
            raise MalformedBody(
                "the body is not an object with a list of instances", code="no-instances", hint=_SHAPE_HINT
            )
        if len(document) > 1:
            raise InvalidRequest(
                "the body has keys beside instances",
                code="unknown-body-key",
                hint=_SHAPE_HINT,
                facts={"known": ["instances"]},
            )
        rows = document["instances"]
        if len(rows) > self._max_rows:
            raise too_many_rows(self._max_rows)
        batch, ignored = decode_rows(self._layout, rows, extra=self._extra)
        if not_finite:
            raise MalformedBody(
                "the body holds a number that is not finite",
                code="malformed-json",
                hint="NaN and Infinity are not JSON",
            )
        return batch, ignored

    def _refuse_too_many(self, body: bytes) -> None:
        """Count the rows without building them."""
        try:
            rows = len(_count.decode(body).instances)
        except (ValueError, RecursionError):
            return
        if rows > self._max_rows:
            raise too_many_rows(self._max_rows)
