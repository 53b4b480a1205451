"""Reads the JSON of an Open Inference V2 request into typed messages."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from roadworthy.codecs.reading.bounds import EXACT_BYTES, SPARE_NAMES, Bounds, NeedsReader, deepest, outside, tally
from roadworthy.codecs.reading.strict_json import MAX_DEPTH, read_document, too_deep
from roadworthy.foundation.errors import MalformedBody

Parameters = dict[str, str | int | float | bool]


class TensorIn(msgspec.Struct):
    """One input. `data` is undecoded JSON, or absent if the values follow in binary."""

    name: str
    shape: list[int]
    datatype: str
    parameters: Parameters | UnsetType | None = UNSET
    data: msgspec.Raw | UnsetType = UNSET


class OutputIn(msgspec.Struct):
    """One output that the caller asks for."""

    name: str
    parameters: Parameters | UnsetType | None = UNSET


class InferRequest(msgspec.Struct):
    """The whole head. Keys outside of the protocol are ignored."""

    inputs: list[TensorIn]
    id: str | UnsetType = UNSET
    parameters: Parameters | UnsetType | None = UNSET
    outputs: list[OutputIn] | UnsetType | None = UNSET


_decoder = msgspec.json.Decoder(InferRequest)
_MANY = 64
"""With more opening brackets than this the depth is checked; typed reading bounds it everywhere but inside `data`."""
_MOST_MEMBERS = 16
"""Bound for the average number of keys of a tensor, including its parameters."""


class HeadReader:
    """Reads the JSON part of bodies for one endpoint. `bounds`: of its inputs; `inputs`, `outputs`: how many it has."""

    def __init__(self, bounds: Bounds, inputs: int, outputs: int) -> None:
        tensors = inputs + outputs + SPARE_NAMES
        self._bounds = bounds
        self._most_lists = bounds.lists + bounds.rows * inputs + 2 * tensors
        self._most_objects = 2 + 2 * tensors
        self._most_colons = _MOST_MEMBERS * tensors
        self._most_commas = bounds.values + self._most_lists + self._most_colons

    def read(self, head: bytes, *, exactly: bool = True) -> InferRequest:
        """Read the JSON part of a body.

        Args:
            head: the JSON part.
            exactly: whether it is short enough to be read value by value here.

        Raises:
            MalformedBody: it is not JSON (codes of `strict_json.py`), or JSON of another form: "malformed-request".
            BodyTooLarge: "too-many-values".
            NeedsReader: it must be read value by value, but `exactly` is False.
        """
        lists, objects, colons = tally(head, b"[{:")
        if lists > self._most_lists or objects > self._most_objects or colons > self._most_colons:
            self._check(outside(head))
        try:
            request = _decoder.decode(head)
        except (ValueError, RecursionError) as error:
            self._read_exactly(head, exactly=exactly)
            raise _of_another_form(error) from None
        if colons != _keys(request) or (b"\\" in head and b"\\u" in head):
            self._read_exactly(head, exactly=exactly)
        elif lists > _MANY and deepest(outside(head)) > MAX_DEPTH:
            raise too_deep()
        return request

    def _read_exactly(self, head: bytes, *, exactly: bool) -> None:
        if not exactly:
            raise NeedsReader
        if len(head) > EXACT_BYTES and tally(head, b",")[0] > self._most_commas:
            plain = outside(head)
            if tally(plain, b",")[0] > self._most_commas:
                raise self._bounds.too_many_values()
        read_document(head)

    def _check(self, plain: bytes) -> None:
        lists, objects, colons = tally(plain, b"[{:")
        if deepest(plain) > MAX_DEPTH:
            raise too_deep()
        if lists > self._most_lists or objects > self._most_objects or colons > self._most_colons:
            raise self._bounds.too_many_values()


def _of_another_form(error: Exception) -> MalformedBody:
    words = str(error) if isinstance(error, msgspec.DecodeError) else "it cannot be read"
    return MalformedBody(
        f"the body is not an inference request: {words}",
        code="malformed-request",
        hint='send {"inputs": [{"name", "shape", "datatype", "data"}, …]} as in the Open Inference Protocol',
    )


def _keys(request: InferRequest) -> int:
    """The number of keys in the decoded head; smaller than the number of colons in its bytes if a key was sent twice."""
    keys = 1 + (request.id is not UNSET) + (request.parameters is not UNSET) + (request.outputs is not UNSET)
    keys += _members(request.parameters)
    for tensor in request.inputs:
        keys += 3 + (tensor.data is not UNSET) + (tensor.parameters is not UNSET) + _members(tensor.parameters)
    for output in request.outputs or ():
        keys += 1 + (output.parameters is not UNSET) + _members(output.parameters)
    return keys


def _members(parameters: Any) -> int:
    return len(parameters) if parameters else 0


def parameter(parameters: Parameters | UnsetType | None, name: str) -> str | int | float | bool | None:
    """The value of one parameter, or None."""
    return parameters.get(name) if parameters else None
