"""The JSON of an Open Inference V2 request as typed messages. `open_inference.py` is the caller."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET, UnsetType

from roadworthy.foundation.errors import MalformedBody
from roadworthy.gateway.protocols.strict_json import read_document

Parameters = dict[str, str | int | float | bool]


class TensorIn(msgspec.Struct):
    """One input; `data` is still JSON text, or absent when the values follow in binary."""

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
    """The whole head. Keys that the protocol does not know are passed over."""

    inputs: list[TensorIn]
    id: str | UnsetType = UNSET
    parameters: Parameters | UnsetType | None = UNSET
    outputs: list[OutputIn] | UnsetType | None = UNSET


_decoder = msgspec.json.Decoder(InferRequest)


def read_head(head: bytes) -> InferRequest:
    """Read the JSON part of a body.

    Raises:
        MalformedBody: not JSON (codes of `strict_json.py`), or JSON of another form: "malformed-request".
    """
    try:
        request = _decoder.decode(head)
    except (ValueError, RecursionError) as error:
        read_document(head)
        raise MalformedBody(
            f"the body is not an inference request: {_shown(error)}",
            code="malformed-request",
            hint='send {"inputs": [{"name", "shape", "datatype", "data"}, …]} as the Open Inference Protocol says',
        ) from None
    if _count(head, b":") != _keys(request) or (b"\\" in head and b"\\u" in head) or _count(head, b"[") > _MANY:
        read_document(head)
    return request


def _count(head: bytes, character: bytes) -> int:
    # bytes.count is for few matches in short texts; the comparison of a whole array is ten times as fast on a large one.
    if len(head) < _LARGE_BYTES:
        return head.count(character)
    return int(np.count_nonzero(np.frombuffer(head, dtype=np.uint8) == character[0]))


_LARGE_BYTES = 4 << 10
_MANY = 64
"""Opening brackets from which the depth is checked; typed reading bounds it everywhere but inside `data`."""


def _shown(error: Exception) -> str:
    return str(error) if isinstance(error, msgspec.DecodeError) else "it cannot be read"


def _keys(request: InferRequest) -> int:
    """How many keys the decoded head has: fewer than colons in its bytes when a key was sent twice."""
    keys = 1 + sum(value is not UNSET for value in (request.id, request.parameters, request.outputs))
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
