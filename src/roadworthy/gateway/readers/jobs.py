"""The messages between a worker (`pool.py`) and a reader process (`__main__.py`).

A message is one byte on a Unix socket, with the descriptor of an anonymous file: a head in JSON, followed by the bytes that it
describes. The file is sealed before it is sent, so that it cannot shrink while the other process reads it. Nothing is pickled,
and the worker validates each message: even if a body took over a reader process, the worker would accept only a batch of the
endpoint's layout.
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
from roadworthy.codecs.open_inference import HEAD_LENGTH
from roadworthy.codecs.protocol import protocols
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
from roadworthy.foundation.files import write_long
from roadworthy.runtime.runners.isolated.frames import decode_batch, encode_batch
from roadworthy.schema.batch import Batch
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Signature

_READ_HEADERS = (b"content-type", b"accept", HEAD_LENGTH)
"""The headers that protocols read. No other header leaves the worker, above all no API key."""
_MOST_BYTES = 1 << 42
_PART_OBJECTS = 16_000
"""Texts and nested values in one part of a batch; building them holds the interpreter for about a millisecond."""
_MOST_ROW_OBJECTS, _LEAST_NESTED_BYTES = 256_000, 4
"""Bound for one row, the smallest part. Nested values are counted by the length of their JSON."""
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE if sys.platform.startswith("linux") else 0
_LENGTH = struct.Struct("<Q")
_ERRORS = {kind.__name__: kind for kind in (BodyTooLarge, InvalidInput, InvalidRequest, MalformedBody, UnsupportedMediaType)}
_encode = msgspec.json.Encoder().encode


class Spec(msgspec.Struct):
    """`Chooser.spec`, decoded."""

    kind: str
    signature: dict[str, Any]
    policy: Policy

    def make(self) -> Chooser:
        """The protocol for that endpoint."""
        return protocols()[self.kind].bind("", Signature.from_document(self.signature), self.policy)


class Job(msgspec.Struct):
    """The head of a body to read; `spec_bytes` of the spec and then the body follow it."""

    headers: dict[str, str]
    spec_bytes: int


class Refusal(msgspec.Struct):
    """An error of the body."""

    kind: str
    message: str
    code: str
    hint: str | None
    facts: dict[str, Any]


class Result(msgspec.Struct):
    """The head of an answer; the parts of the batch follow it.

    Attributes:
        parts: rows and bytes of each part.
        refusal: why there is no batch. fault: the class of an unexpected exception.
        ignored, json_bytes: see `Decoded`. note: see `BoundProtocol.note`.
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
        OSError: the other process is gone, or there is no memory for the message.
    """
    with _anonymous_file() as descriptor:
        encoded = _encode(head)
        for part in (_LENGTH.pack(len(encoded)), encoded, *parts):
            write_long(descriptor, part)
        _seal(descriptor)
        socket.send_fds(end, [b"m"], [descriptor])


def receive(end: socket.socket) -> tuple[bytes, mmap.mmap, int] | None:
    """The next message: its head, the whole message, and the offset of what follows the head. None when the other process is
    gone.

    Raises:
        OSError: no message came in time, or the other process is gone.
        ValueError: it is not a valid message.
    """
    data, descriptors, _, _ = socket.recv_fds(end, 1, 1)
    if not data:
        return None
    if not descriptors:
        raise ValueError("the message has no file")
    try:
        size = os.fstat(descriptors[0]).st_size
        if not _LENGTH.size <= size <= _MOST_BYTES or not _is_sealed(descriptors[0]):
            raise ValueError("the file of the message has an invalid size or is not sealed")
        whole = mmap.mmap(descriptors[0], size, access=mmap.ACCESS_READ)
    finally:
        os.close(descriptors[0])
    begin = _LENGTH.size + _LENGTH.unpack_from(whole)[0]
    if begin > size:
        raise ValueError("the message is cut short")
    return whole[_LENGTH.size : begin], whole, begin


def write_job(spec: bytes, headers: Headers, body: bytes) -> tuple[Job, list[bytes]]:
    """The message that asks for a body to be read."""
    sent = {name.decode(): headers[name].decode("latin-1") for name in _READ_HEADERS if name in headers}
    return Job(sent, len(spec)), [spec, body]


def read_job(head: bytes, whole: mmap.mmap, begin: int) -> tuple[bytes, dict[bytes, bytes], bytes]:
    """The spec, headers and body of a job."""
    job = _jobs.decode(head)
    headers = {name.encode(): value.encode("latin-1") for name, value in job.headers.items()}
    return whole[begin : begin + job.spec_bytes], headers, whole[begin + job.spec_bytes :]


def write_result(protocol: BoundProtocol, decoded: Decoded, bounds: Bounds) -> tuple[Result, list[bytes]]:
    """The message with the rows of a body.

    Raises:
        BodyTooLarge: "too-many-values": one row is so large that the event loop would take too long over it.
    """
    parts = [(part.rows, encode_batch(part)) for part in _parts(decoded.batch, bounds)]
    note = protocol.note(decoded).decode()
    sizes = [(rows, len(data)) for rows, data in parts]
    return Result(sizes, ignored=decoded.ignored, json_bytes=decoded.json_bytes, note=note), [data for _, data in parts]


def write_refusal(error: RoadworthyError) -> Result:
    """The message with an error of the body."""
    kind = next((name for name, kind in _ERRORS.items() if type(error) is kind), InvalidRequest.__name__)
    return Result(refusal=Refusal(kind, error.message, error.code, error.hint, dict(error.facts)))


def read_result(protocol: BoundProtocol, headers: Headers, message: tuple[bytes, mmap.mmap, int]) -> Decoded:
    """The rows in a message.

    Raises:
        InvalidRequest: the error in the message.
        RuntimeError: the reader process met an unexpected exception.
        ValueError: the message cannot be read.
    """
    head, whole, place = message
    result = _results.decode(head)
    if result.refusal is not None:
        refusal = result.refusal
        raise _ERRORS[refusal.kind](refusal.message, code=refusal.code, hint=refusal.hint, facts=refusal.facts)
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
    """The batch in parts that take about a millisecond each to rebuild; a batch of numbers alone is one part."""
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
    """Whether the file can neither shrink nor be written to. Where the system has no seals, the other process is trusted."""
    return not sys.platform.startswith("linux") or fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & _SEALS == _SEALS
