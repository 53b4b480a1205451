"""The codecs of one endpoint. The Content-Type of a `:predict` request chooses from a table that is made when the endpoint is
bound; `routes.py` hands the table to `predict.py`."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property

from roadworthy.codecs.answers import Answers
from roadworthy.codecs.codec import BoundProtocol, Headers, write_spec
from roadworthy.codecs.discovery import codecs
from roadworthy.codecs.open_inference import OpenInference
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


@dataclass(frozen=True, slots=True)
class Codecs:
    """The codecs of one endpoint: the formats of `:predict`, and the Open Inference Protocol."""

    formats: Formats
    open_inference: OpenInference


def bind_codecs(name: str, signature: Signature, policy: Policy) -> Codecs:
    """The codecs of an endpoint, for the event loop: a body that would hold it for too long raises NeedsReader."""
    return Codecs(Formats(signature, policy, on_loop=True), OpenInference(name, signature, policy, on_loop=True))
