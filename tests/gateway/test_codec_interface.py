"""Codecs of plug-ins and long answers: `encode` returns the whole answer; `encode_in_steps`, which a codec may lack, writes in
steps."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import pytest

from roadworthy.codecs.answers import Answers
from roadworthy.codecs.codec import BoundProtocol, Decoded, Encoded, Writing
from roadworthy.codecs.predict_json import PredictJson
from roadworthy.contract.policy import Policy
from roadworthy.runtime.parts import Parts
from roadworthy.runtime.pending import Answer
from roadworthy.schema.batch import Batch
from roadworthy.schema.rows import encode_rows
from roadworthy.schema.signature import Signature
from roadworthy.testing.codecs import CodecCase, check_long_answers_are_written, check_parts_are_written
from tests.gateway.test_long_answers import ROWS, SIGNATURE, Edge, numbers, play
from tests.runtime.test_parts import Source
from tests.waiting import soon

STAMP = (b"x-model-version", b"1")


def stamped(encoded: Encoded) -> Encoded:
    """The answer with a header."""
    assert isinstance(encoded, Encoded)
    encoded.headers = [*encoded.headers, STAMP]
    return encoded


class Stamped(PredictJson):
    """Adds a header to what its base writes, as the interface has always allowed."""

    def encode(self, answer: Answer, decoded: Decoded, version: int) -> Encoded:
        """With the header."""
        return stamped(super().encode(answer, decoded, version))


class StampedBelow(Stamped):
    """Inherits an `encode` that adds to the base."""


class StampedInSteps(Stamped):
    """Adds the header in steps too."""

    def encode_in_steps(self, answer: Answer, decoded: Decoded, version: int) -> Encoded | Writing:
        """With the header."""
        found = self._answers.encode_in_steps(answer, decoded)
        return stamped(found) if isinstance(found, Encoded) else self._stamp(found)

    def _stamp(self, writing: Writing) -> Generator[None, None, Encoded]:
        return stamped((yield from writing))


class Alone:
    """Has no base of ours, and no `encode_in_steps`."""

    name = "json"

    def __init__(self, signature: Signature, policy: Policy, answers: Answers) -> None:
        self._base = PredictJson(signature, policy, answers)
        self.layout = self._base.layout
        self.decode = self._base.decode

    def encode(self, answer: Answer, decoded: Decoded, version: int) -> Encoded:
        """With the header."""
        return stamped(self._base.encode(answer, decoded, version))


WHOLE: tuple[Any, ...] = (Stamped, StampedBelow, Alone)


def bind(codec: Any, signature: Signature = SIGNATURE) -> Any:
    """The codec bound to an endpoint."""
    return codec(signature, Policy(), Answers(signature.outputs))


@pytest.mark.parametrize("codec", [*WHOLE, StampedInSteps])
@pytest.mark.parametrize("rows", [1, ROWS])
def test_g6_a_codec_adds_to_answers_of_any_length(codec: Any, rows: int) -> None:
    """The edge sends what the codec's own methods write, a short answer as well as a long one."""

    async def scene(edge: Edge) -> None:
        call = edge.begin()
        call.protocol = bind(codec)
        edge.settle(Answer(numbers(rows), 0, rows))
        await soon(lambda: edge.replies, "it is answered")
        ((_, reply),) = edge.replies
        assert reply.status == 200
        assert STAMP in reply.headers
        assert json.loads(reply.body) == {"predictions": list(range(rows))}
        assert edge.rest() == (0, 0, 0, 0)

    play(scene)


@pytest.mark.parametrize(("codec", "steps"), [*((codec, False) for codec in WHOLE), (StampedInSteps, True), (PredictJson, True)])
def test_g6_which_codecs_write_in_steps(codec: Any, steps: bool) -> None:
    """`encode` returns the whole answer in any case."""
    protocol = bind(codec)
    answer, decoded = Answer(numbers(ROWS), 0, ROWS), Decoded(numbers(1))
    assert isinstance(protocol.encode(answer, decoded, 1), Encoded)
    encode = getattr(protocol, "encode_in_steps", protocol.encode)
    assert isinstance(encode(answer, decoded, 1), Encoded) != steps


class Case(CodecCase):
    """A codec that no entry point names."""

    def bound(self, *, max_rows: int = 10_000, on_loop: bool = False) -> BoundProtocol:
        """Bound directly."""
        protocol: BoundProtocol = bind(self.codec, self.signature)
        return protocol


class Unready(PredictJson):
    """Returns steps from `encode`."""

    def encode(self, answer: Answer, decoded: Decoded, version: int) -> Any:
        """The fault that the suite finds."""
        return self._answers.encode_in_steps(answer, decoded)


class Different(Stamped):
    """Forgets the header in steps."""

    def encode_in_steps(self, answer: Answer, decoded: Decoded, version: int) -> Encoded | Writing:
        """Without it."""
        return self._answers.encode_in_steps(answer, decoded)


def case(codec: Any) -> CodecCase:
    """The codec in the suite."""
    return Case(codec, lambda batch: json.dumps({"instances": encode_rows(batch)}).encode())


def test_the_suite_has_a_long_answer() -> None:
    """Codecs that keep the interface pass; one whose `encode` returns steps, and one whose steps give another answer, do not."""
    for codec in (PredictJson, Stamped, StampedInSteps):
        check_long_answers_are_written(case(codec))
    with pytest.raises(AssertionError, match="not Encoded"):
        check_long_answers_are_written(case(Unready))
    with pytest.raises(AssertionError, match="another answer"):
        check_long_answers_are_written(case(Different))


class Whole(PredictJson):
    """Sends no parts, though it could."""

    streams = False


class Silent(Alone):
    """Says that it streams, and cannot."""

    media_types, form = (b"application/json",), None
    streams = True


class Broken(PredictJson):
    """Breaks its parts into lines."""

    def encode_part(self, part: Batch) -> bytes:
        """As the record cannot join it."""
        return super().encode_part(part).replace(b",", b",\n")


def test_the_suite_has_parts() -> None:
    """What a codec says of parts is what it does."""
    for codec in (PredictJson, Stamped, Whole):
        check_parts_are_written(case(codec))
    with pytest.raises(AssertionError, match="no choose_stream"):
        check_parts_are_written(case(Silent))
    with pytest.raises(AssertionError, match="line break"):
        check_parts_are_written(case(Broken))


def test_a_codec_that_does_not_stream_gets_the_parts_together() -> None:
    """Whatever the caller accepts."""

    async def scene(edge: Edge) -> None:
        edge.predict.in_parts = True
        call, rest = edge.begin(), Parts(Source())
        call.protocol, call.headers[b"accept"] = bind(Whole), b"text/event-stream"
        edge.settle(Answer(numbers(1), 0, 1, rest=rest))
        rest.push([(numbers(1, 1.0), 1)])
        rest.end()
        ((_, reply),) = edge.replies
        assert json.loads(reply.body) == {"predictions": [0.0, 1.0]}
        assert edge.rest() == (0, 0, 0, 0)

    play(scene)
