"""How JSON bodies become rows, the same for every protocol with JSON: a fast reader takes those that it is sure of, and the
others are read exactly.
"""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Callable

from roadworthy.codecs.answers import Accepting, Answers
from roadworthy.codecs.codec import Decoded, Headers, too_many_rows
from roadworthy.codecs.reading.bounds import EXACT_BYTES, FAST_BYTES, TYPED_BYTES, Bounds, NeedsReader
from roadworthy.codecs.reading.typed_rows import TypedRows
from roadworthy.contract.policy import Policy
from roadworthy.schema.batch import Batch, Layout
from roadworthy.schema.signature import Signature


class JsonBodies(Accepting):
    """The common base of protocols with JSON, bound to one endpoint. `on_loop`: whether it runs on the event loop, which long
    reading would hold. `by_column`: see `Bounds`."""

    def __init__(
        self,
        signature: Signature,
        policy: Policy,
        answers: Answers | None = None,
        *,
        on_loop: bool = False,
        by_column: bool = False,
    ) -> None:
        super().__init__(answers or Answers(signature.outputs))
        self.layout = layout = Layout(signature.inputs, policy.timestamps.integers)
        self._max_rows = policy.max_rows
        self._extra = policy.extra
        self._on_loop = on_loop
        self._bounds = Bounds(signature.inputs, policy, by_column=by_column)
        fast = TypedRows(layout, self._bounds, TYPED_BYTES if on_loop else sys.maxsize)
        self._read_fast: Callable[[bytes], Batch | None] = fast.read

    def decode(self, headers: Headers, body: bytes) -> Decoded:
        """The rows of the body.

        Raises:
            MalformedBody: the body is not JSON, or not of the protocol's form.
            BodyTooLarge: it has more rows than the policy allows, or more values than its rows can have.
            InvalidInput: the rows do not fit the signature.
            InvalidRequest: see the protocol.
            NeedsReader: see `BoundProtocol`.
        """
        if self._on_loop and len(body) > FAST_BYTES:
            raise NeedsReader
        reply = self._answers.choose(headers) if b"accept" in headers else None
        batch = self._read_fast(body)
        if batch is None:
            if self._on_loop and len(body) > EXACT_BYTES:
                raise NeedsReader
            batch, ignored = self._read_exactly(body)
            return Decoded(batch, ignored=ignored, reply=reply)
        if batch.rows > self._max_rows:
            raise too_many_rows(self._max_rows)
        return Decoded(batch, reply=reply)

    @abstractmethod
    def _read_exactly(self, body: bytes) -> tuple[Batch, int]:
        """The rows, and how many columns were ignored."""
