"""What a worker and a reading process say to each other. `pool.py` is the one end, `__main__.py` the other.

A message is one byte on a Unix socket, with the descriptor of an anonymous file: a head in JSON and the bytes that it tells of.
The file is sealed before it is sent, so that nobody can shrink it under who reads it. Nothing is pickled, and the worker checks
what it reads: should a body take a reading process over, what that process sends is a batch of the endpoint's layout or nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import mmap
import os
import socket
import struct
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from roadworthy.codecs.codec import BoundProtocol, Chooser, Decoded, Headers
from roadworthy.codecs.formats import Formats
from roadworthy.codecs.open_inference import HEAD_LENGTH, OpenInference
from roadworthy.codecs.reading.bounds import Bounds
from roadworthy.contract.policy import Policy
from roadworthy.foundation.errors import (
    BodyTooLarge,
    InvalidInput,
    InvalidRequest,
    MalformedBody,
    RoadworthyError,
    UnsupportedMediaType,
)
from roadworthy.runtime.runners.isolated.frames import decode_batch, encode_batch
from roadworthy.schema.batch import Batch
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Signature

_READ_HEADERS = (b"content-type", b"accept", HEAD_LENGTH)
"""What protocols read of a request's head. Nothing else of it, no key above all, leaves the worker."""
_MOST_BYTES = 1 << 42
_PART_OBJECTS = 16_000
"""Texts and nested values in one part of a batch: making them holds the interpreter for about a millisecond."""
_MOST_ROW_OBJECTS, _LEAST_NESTED_BYTES = 256_000, 4
"""No part is smaller than a row. Nested values are counted by the length of their JSON."""
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE if sys.platform.startswith("linux") else 0
_LENGTH = struct.Struct("<Q")
_ERRORS = {
    kind.__name__: kind for kind in (BodyTooLarge, InvalidInput, InvalidRequest, MalformedBody, UnsupportedMediaType)
}
_encode = msgspec.json.Encoder().encode


class Spec(msgspec.Struct):
    """`Chooser.spec`, read."""

    kind: str
    signature: dict[str, Any]
    policy: Policy

    def make(self) -> Chooser:
        """The protocols of that endpoint."""
        signature = Signature.from_document(self.signature)
        return Formats(signature, self.policy) if self.kind == "predict" else OpenInference("", signature, self.policy)


class Job(msgspec.Struct):
    """The head of a body that is to be read; `spec_bytes` of the spec and then the body follow it."""

    headers: dict[str, str]
    spec_bytes: int


class Refusal(msgspec.Struct):
    """An error of the body's."""

    kind: str
    message: str
    code: str
    hint: str | None
    facts: dict[str, Any]


class Result(msgspec.Struct):
    """The head of an answer, which the parts of the batch follow.

    Attributes:
        parts: rows and bytes of each.
        refusal: why there is no batch. fault: the name of an exception that nobody foresaw.
        ignored, json_bytes, note: of Decoded and of the protocol.
    """

    parts: list[tuple[int, int]] = []
    refusal: Refusal | None = None
    fault: str | None = None
    ignored: int = 0
    json_bytes: int = -1
    note: str = ""


_jobs, _results = msgspec.json.Decoder(Job), msgspec.json.Decoder(Result)
read_spec = msgspec.json.Decoder(Spec).decode


def send(end: socket.socket, head: Any, parts: Sequence[bytes | memoryview]) -> None:
    """Send one message.

    Raises:
        OSError: the other end is gone, or there is no memory for it.
    """
    with _anonymous_file() as descriptor:
        told = _encode(head)
        for part in (_LENGTH.pack(len(told)), told, *parts):
            rest = memoryview(part)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        _seal(descriptor)
        socket.send_fds(end, [b"m"], [descriptor])


def receive(end: socket.socket) -> tuple[bytes, mmap.mmap, int] | None:
    """The next message: its head, the whole of it, and where what follows the head begins; None when the other end is gone.

    Raises:
        OSError: nothing came in time, or the other end is gone.
        ValueError: it is no message.
    """
    data, descriptors, _, _ = socket.recv_fds(end, 1, 1)
    if not data:
        return None
    if not descriptors:
        raise ValueError("a message without its file")
    try:
        size = os.fstat(descriptors[0]).st_size
        if not _LENGTH.size <= size <= _MOST_BYTES or not _is_sealed(descriptors[0]):
            raise ValueError("a file that is none of ours")
        whole = mmap.mmap(descriptors[0], size, access=mmap.ACCESS_READ)
    finally:
        os.close(descriptors[0])
    begin = _LENGTH.size + _LENGTH.unpack_from(whole)[0]
    if begin > size:
        raise ValueError("a message that is cut short")
    return whole[_LENGTH.size : begin], whole, begin


def write_job(spec: bytes, headers: Headers, body: bytes) -> tuple[Job, list[bytes]]:
    """The message that has a body read."""
    told = {name.decode(): headers[name].decode("latin-1") for name in _READ_HEADERS if name in headers}
    return Job(told, len(spec)), [spec, body]


def read_job(head: bytes, whole: mmap.mmap, begin: int) -> tuple[bytes, dict[bytes, bytes], bytes]:
    """Spec, headers and body."""
    job = _jobs.decode(head)
    headers = {name.encode(): value.encode("latin-1") for name, value in job.headers.items()}
    return whole[begin : begin + job.spec_bytes], headers, whole[begin + job.spec_bytes :]


def write_result(protocol: BoundProtocol, decoded: Decoded, bounds: Bounds) -> tuple[Result, list[bytes]]:
    """The message that tells of rows.

    Raises:
        BodyTooLarge: one row of it is so large that nobody could take it without being held up.
    """
    parts = [(part.rows, encode_batch(part)) for part in _parts(decoded.batch, bounds)]
    note = protocol.note(decoded).decode()
    told = [(rows, len(data)) for rows, data in parts]
    return Result(told, ignored=decoded.ignored, json_bytes=decoded.json_bytes, note=note), [data for _, data in parts]


def write_refusal(error: RoadworthyError) -> Result:
    """The message that tells of an error."""
    kind = next((name for name, kind in _ERRORS.items() if type(error) is kind), InvalidRequest.__name__)
    return Result(refusal=Refusal(kind, error.message, error.code, error.hint, dict(error.facts)))


def read_result(protocol: BoundProtocol, headers: Headers, message: tuple[bytes, mmap.mmap, int]) -> Decoded:
    """The rows that a message tells of.

    Raises:
        InvalidRequest: the error that it tells of.
        ValueError: it cannot be read.
    """
    head, whole, place = message
    result = _results.decode(head)
    if result.refusal is not None:
        told = result.refusal
        raise _ERRORS[told.kind](told.message, code=told.code, hint=told.hint, facts=told.facts)
    if result.fault is not None or not result.parts:
        raise RuntimeError(f"reading a body failed: {result.fault}")
    batches = []
    with memoryview(whole) as view:
        for rows, size in result.parts:
            with view[place : place + size] as part:
                batches.append(decode_batch(part, protocol.layout, rows))
            place += size
    decoded = Decoded(Batch.concatenate(batches), result.json_bytes, result.ignored)
    protocol.resume(headers, decoded, result.note.encode())
    return decoded


def _parts(batch: Batch, bounds: Bounds) -> list[Batch]:
    """The batch in pieces that take about a millisecond each to make again; in one where there are only numbers in it."""
    objects = np.zeros(batch.rows)
    for form, block in zip(batch.layout.blocks, batch.blocks, strict=True):
        if form.dtype is DType.JSON:
            cells = [len(_encode(cell)) / _LEAST_NESTED_BYTES for cell in block.values.reshape(-1).tolist()]
            objects += np.array(cells).reshape(batch.rows, -1).sum(axis=1)
        elif block.values.dtype.kind == "O":
            objects += block.values.size / batch.rows
    if objects.max() > _MOST_ROW_OBJECTS:
        raise bounds.too_many_values()
    piece = objects.cumsum() // _PART_OBJECTS
    ends = [0, *(np.flatnonzero(np.diff(piece)) + 1).tolist(), batch.rows]
    return [batch.slice(begin, end) for begin, end in itertools.pairwise(ends)]


@contextlib.contextmanager
def _anonymous_file() -> Iterator[int]:
    if sys.platform.startswith("linux"):
        descriptor = os.memfd_create("roadworthy", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _seal(descriptor: int) -> None:
    if sys.platform.startswith("linux"):
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)


def _is_sealed(descriptor: int) -> bool:
    """Whether nobody can shrink the file or write into it; where a system has no seals, the other end is believed."""
    return not sys.platform.startswith("linux") or fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS == _SEALS
