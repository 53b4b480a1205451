"""The protocol of `:predict`. The Content-Type of a request chooses a codec from a table that is made when the endpoint is bound;
`routes.py` hands the table to `predict.py`."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import msgspec

from roadworthy.codecs.answers import Answers
from roadworthy.codecs.codec import BoundProtocol, Codec, Headers, StreamForm, write_spec
from roadworthy.codecs.discovery import codecs, forms
from roadworthy.codecs.openapi import ANSWERS, Described, Fragment, json_object, operation, with_example
from roadworthy.codecs.protocol import Page
from roadworthy.codecs.streams import STREAM_FORMS
from roadworthy.contract.policy import Policy
from roadworthy.foundation.errors import UnsupportedMediaType
from roadworthy.schema.signature import Signature

_log = logging.getLogger(__name__)


class Formats:
    """The protocols of one endpoint by media type. `on_loop`: whether they run on the event loop, which long reading would hold.

    Attributes:
        unchosen: the default, JSON.
    """

    def __init__(self, signature: Signature, policy: Policy, *, on_loop: bool = False) -> None:
        answers = Answers(signature.outputs)
        self._made_of = (signature, policy)
        self._by_media: dict[bytes, BoundProtocol] = {}
        for codec in codecs():
            try:
                bound = codec(signature, policy, answers, on_loop=on_loop)
            except Exception as error:  # a plug-in of another distribution may raise anything
                if codec.__module__.startswith("roadworthy."):
                    raise
                # One plug-in must not keep an endpoint from serving in the other formats.
                _log.error("codec %s cannot be bound: %s: %s", codec.name, type(error).__name__, error)
                continue
            self._by_media.update(dict.fromkeys(codec.media_types, bound))
        self.unchosen: BoundProtocol = next(iter(self._by_media.values()))

    @cached_property
    def spec(self) -> bytes:
        """See `Chooser`."""
        return write_spec("predict", *self._made_of)

    def choose(self, headers: Headers) -> BoundProtocol:
        """The protocol that reads a body with these headers, which are checked.

        Raises:
            UnsupportedMediaType: there is no content type, or no protocol reads it.
        """
        kind = headers.get(b"content-type", b"")
        found = self._by_media.get(kind)
        if found is None:
            found = self._by_media.get(kind.partition(b";")[0].strip().lower())
            if found is None:
                raise UnsupportedMediaType(
                    "no codec here reads a body of this content type",
                    hint="send the header Content-Type: application/json, or "
                    + ", ".join(media.decode() for media in list(self._by_media)[1:]),
                )
        found.check_headers(headers)
        return found


class PredictProtocol:
    """`/v1/models/{endpoint}:predict`: KServe's V1 protocol in JSON, and every other codec by its content type."""

    name = "predict"
    interface = 1
    streams = True
    pages: tuple[Page, ...] = ()

    def paths(self, endpoint: str, version: int | None, *, only: bool) -> Sequence[str]:  # noqa: ARG002 - the interface
        """See `WireProtocol`. The colon may be sent as %3A."""
        return [f"/v1/models/{endpoint}{colon}predict" for colon in (":", "%3A", "%3a")] if version is None else ()

    def bind(self, endpoint: str, signature: Signature, policy: Policy, *, on_loop: bool = False) -> Formats:  # noqa: ARG002 - the interface
        """See `WireProtocol`."""
        return Formats(signature, policy, on_loop=on_loop)

    def error_keys(self, status: int, message: str) -> Mapping[str, Any]:  # noqa: ARG002 - the interface
        """Nothing more: V1's clients read `error`."""
        return {}

    def openapi(self, about: Described) -> Mapping[str, Fragment]:
        """See `WireProtocol`."""
        request = {media: body for codec in codecs() for media, body in described_bodies(codec, about).items()}
        return {self.paths(about.name, None, only=False)[0]: operation("predict", "Predict rows", request, answers(about))}


PROTOCOL = PredictProtocol()


def described_bodies(codec: Codec, about: Described) -> dict[str, Fragment]:
    """OpenAPI media type objects of a codec's bodies."""
    limits = {"x-limits": dict(codec.limits)} if codec.limits else {}
    return {media.decode(): {**codec.openapi(about), **limits} for media in codec.media_types}


def answers(about: Described) -> dict[str, Fragment]:
    """OpenAPI media type objects of answers: JSON, and the forms that callers ask for by Accept; those of parts too, where the
    endpoint answers in parts."""
    schema = json_object({"predictions": ANSWERS}, ["predictions"])
    json = with_example(schema, {"predictions": about.predictions}, there=about.predictions)
    others: dict[str, Fragment] = {form.media_type.decode(): {"schema": {"type": "string"}} for form in forms()}
    if about.signature.parts:
        others |= {form.media_type.decode(): _described_parts(form, about.predictions) for form in STREAM_FORMS}
    return {"application/json": json, **others}


def _described_parts(form: StreamForm, predictions: Sequence[Any]) -> Fragment:
    """The media type object of an answer in parts; in the example, each prediction is a part."""
    text = 'Each part as soon as it is there: {"predictions": […]} with one answer per row. Send this media type as Accept.'
    example = b"".join(form.part(msgspec.json.encode({"predictions": [each]})) for each in predictions)
    schema = {"type": "string", "description": text}
    return with_example(schema, (example + form.end(len(predictions))).decode(), there=predictions)
