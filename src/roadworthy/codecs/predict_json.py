"""`POST /v1/models/{endpoint}:predict` with JSON: `{"instances": [...]}`, rows as lists or as objects, gives `{"predictions":
[...]}`.

The fast reader handles most bodies; a body that it is not sure of is read exactly.
"""

from __future__ import annotations

from roadworthy.codecs.codec import Decoded, Headers, is_json, too_many_rows
from roadworthy.codecs.json_bodies import JsonBodies
from roadworthy.codecs.openapi import ROWS, Described, Fragment, json_object, with_example
from roadworthy.codecs.reading.strict_json import read_document
from roadworthy.contract.policy import Policy
from roadworthy.foundation.errors import InvalidRequest, MalformedBody, UnsupportedMediaType
from roadworthy.runtime.pending import Answer
from roadworthy.schema.batch import Batch
from roadworthy.schema.rows import decode_rows
from roadworthy.schema.signature import Signature

_SHAPE_HINT = 'send {"instances": [row, …]}; a row is a list in field order or an object by field name'


class PredictJson(JsonBodies):
    """The protocol bound to one endpoint. `on_loop`: whether it runs on the event loop, which long reading would hold."""

    name = "json"
    interface = 2
    form = None
    media_types = (b"application/json",)
    takes_views = False

    @staticmethod
    def openapi(about: Described) -> Fragment:
        """See `Codec`."""
        schema = json_object({"instances": ROWS}, ["instances"])
        return with_example(schema, {"instances": about.rows}, there=about.rows)

    def check_headers(self, headers: Headers) -> None:
        """Accept only JSON in UTF-8; the content type is never guessed from the body.

        Raises:
            UnsupportedMediaType: there is another content type, or none.
        """
        kind = headers.get(b"content-type")
        if not is_json(kind):
            raise UnsupportedMediaType(
                "the body must be JSON in UTF-8",
                hint="send the header Content-Type: application/json",
            )

    def _read_exactly(self, body: bytes) -> tuple[Batch, int]:
        self._bounds.check_json(body)
        document, not_finite = read_document(body)
        if not isinstance(document, dict) or not isinstance(document.get("instances"), list):
            raise MalformedBody(
                'the body must be an object with the key "instances" and a list of rows',
                code="no-instances",
                hint=_SHAPE_HINT,
            )
        if len(document) > 1:
            raise InvalidRequest(
                'the body has other keys than "instances"',
                code="unknown-body-key",
                hint=_SHAPE_HINT,
                facts={"known": ["instances"]},
            )
        rows = document["instances"]
        if len(rows) > self._max_rows:
            raise too_many_rows(self._max_rows)
        batch, ignored = decode_rows(self.layout, rows, extra=self._extra)
        if not_finite:
            raise MalformedBody(
                "the body holds a number that is not finite",
                code="malformed-json",
                hint="send a finite number, or null in a nullable column; NaN and Infinity are not JSON",
            )
        return batch, ignored


class JsonProbe:
    """Reads a golden example as a caller would send it, and writes its answer. Bound to a version's own signature."""

    def __init__(self, signature: Signature) -> None:
        self._codec = PredictJson(signature, Policy())

    def read(self, body: bytes) -> Batch:
        """The rows of a body. Raises the errors of `PredictJson.decode`."""
        return self._codec.decode({}, body).batch

    def write(self, answer: Answer, version: int) -> bytes:
        """The body of an answer. Raises the errors of `PredictJson.encode`."""
        return self._codec.encode(answer, Decoded(answer.batch()), version).body
