"""The messages between a worker (`client.py`) and a runner (`server.py`) over a Unix socket.

A message has a head of 16 bytes (length of the payload, kind, number), then its payload. One RUN carries the requests that waited
in one worker at one moment, joined to one batch, with the rows and the deadline of each; one ANSWER carries the outcome of each.
Large arrays travel in the connection's shared memory, others in the message; texts and nested values always in the message.
An answer in parts is PARTs, each with the payload of an ANSWER, and an ANSWER without rows as their end. The runner may be some
parts ahead (`ahead.py`); CREDIT says how many more were taken, CANCEL that the rest is not wanted.
Nothing is pickled, and both ends check what they read, because a model's own code runs in one of them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from types import NoneType
from typing import Any

import msgspec
import numpy as np

from roadworthy.contract.runners import PROCESS
from roadworthy.foundation.errors import ModelFault, model_fault
from roadworthy.runtime.runners.isolated.memory import SHARE_FROM_BYTES, Ring
from roadworthy.schema.batch import Array, Batch, Block, BlockForm, Layout
from roadworthy.schema.dtypes import DType

HELLO, RUN, ANSWER, GOODBYE, HUNG, RETRY, PART, CREDIT, CANCEL = range(1, 10)
PROTOCOL = 1
MAX_MESSAGE_BYTES = 256 << 20
MOST_STREAMS = 64
"""Most streams of one connection that are under way, or about to begin."""

_HEAD = struct.Struct("<IIQ")
_COUNT = struct.Struct("<I")
_RESULT = struct.Struct("<IIIId")  # requests, bytes of faults, rows answered, rows and seconds of the run
_ARRAY = struct.Struct("<BBHIQ")  # form, dimensions, unused, bytes in the message, position in the shared memory
_NOTHING, _HERE, _SHARED, _TEXTS, _NESTED = range(5)
_NO_ARRAY = _ARRAY.pack(_NOTHING, 0, 0, 0, 0)
_MAX_DIMENSIONS = 32
_SHAPES = [struct.Struct(f"<{n}I") for n in range(_MAX_DIMENSIONS + 1)]
_BOOL = np.dtype(bool)
_NO_BATCH = 0xFFFFFFFF

ANSWERED = 0
NOT_RUN = 0xFFFF

_json_encode = msgspec.json.Encoder().encode
_json_decode = msgspec.json.Decoder(list).decode
_texts_encode = msgspec.msgpack.Encoder().encode
_texts_decode = msgspec.msgpack.Decoder(list[str | None]).decode


class FaultNote(msgspec.Struct, frozen=True):
    """A ModelFault in a message."""

    message: str
    code: str
    hint: str | None = None
    facts: dict[str, Any] = {}


class Opening(msgspec.Struct, frozen=True):
    """A worker's first message; it carries the descriptor of the shared memory.

    Attributes:
        ring_bytes: size of each ring in the shared memory; 0 without shared memory.
    """

    protocol: int = PROTOCOL
    ring_bytes: int = 0


class Greeting(msgspec.Struct, frozen=True):
    """A runner's first message.

    Attributes:
        digest, pid: of the version, and of the runner.
        runtime, signature: of a version that is loaded and proved.
        code, reason: why the version could not be loaded; then no answer will come.
        runner: the name of its kind of runner.
    """

    digest: str
    pid: int
    runtime: str = ""
    signature: dict[str, Any] = {}
    code: str | None = None
    reason: str | None = None
    runner: str = PROCESS


_notes = msgspec.json.Decoder(list[FaultNote])


@dataclass(slots=True)  # not frozen: that takes three times as long to make, once for each part of a stream
class Outcomes:
    """The outcomes of the requests of one RUN.

    Attributes:
        statuses: for each request ANSWERED, NOT_RUN (its deadline had passed) or 1 + the index of its fault.
        faults: the faults that occurred.
        batch: the rows of the answered requests, in order; None without any.
        rows, seconds: of the run, which may have included requests of other workers.
    """

    statuses: Sequence[int]
    faults: Sequence[ModelFault]
    batch: Batch | None
    rows: int = 0
    seconds: float = 0.0


def encode_message(kind: int, number: int = 0, payload: bytes = b"") -> bytes:
    """Encode one message.

    Raises:
        ValueError: the payload is longer than MAX_MESSAGE_BYTES.
    """
    if len(payload) > MAX_MESSAGE_BYTES:
        raise ValueError("message too long")
    return _HEAD.pack(len(payload), kind, number) + payload


class MessageReader:
    """Splits the received bytes into messages."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, int, memoryview]]:
        """Kind, number and payload of each message that is complete now.

        Raises:
            ValueError: a length over MAX_MESSAGE_BYTES.
        """
        if self._kept:
            self._kept += data
            if len(self._kept) < _HEAD.size or len(self._kept) < _HEAD.size + _HEAD.unpack_from(self._kept)[0]:
                return
            data = bytes(self._kept)
            self._kept = bytearray()
        view, start, end = memoryview(data), 0, len(data)
        while end - start >= _HEAD.size:
            length, kind, number = _HEAD.unpack_from(data, start)
            if length > MAX_MESSAGE_BYTES:
                raise ValueError("message too long")
            stop = start + _HEAD.size + length
            if stop > end:
                break
            yield kind, number, view[start + _HEAD.size : stop]
            start = stop
        if start < end:
            self._kept += view[start:]


def encode_run(number: int, batch: Batch, counts: Sequence[int], deadlines: Sequence[float], ring: Ring | None) -> bytes:
    """Encode the RUN of requests with `counts` rows each, in the order of `batch`.

    Raises:
        ValueError: the message would be too long.
    """
    n = len(counts)
    parts = [_COUNT.pack(n), struct.pack(f"<{n}I{n}d", *counts, *deadlines)]
    _put_batch(parts, batch, ring)
    return encode_message(RUN, number, b"".join(parts))


def decode_run(payload: memoryview, layout: Layout, ring: Ring | None) -> tuple[Batch, tuple[int, ...], tuple[float, ...]]:
    """Decode a RUN: the joined batch, the rows of each request, the deadline of each.

    Raises:
        ValueError: the payload is not a RUN of this layout.
    """
    try:
        (n,) = _COUNT.unpack_from(payload)
        numbers = struct.unpack_from(f"<{n}I{n}d", payload, _COUNT.size)
        counts = numbers[:n]
        batch, _ = _take_batch(payload, _COUNT.size + 12 * n, layout, (sum(counts), ring))
    except (struct.error, msgspec.DecodeError, RecursionError) as error:
        raise ValueError("unreadable RUN message") from error
    return batch, counts, numbers[n:]


def encode_answer(number: int, outcomes: Outcomes, ring: Ring | None) -> bytes:
    """Encode the ANSWER to the RUN with that number; its batch must have passed `check_answer`.

    Raises:
        ValueError: the message would be too long.
    """
    statuses, batch = outcomes.statuses, outcomes.batch
    rows = _NO_BATCH if batch is None else batch.rows
    notes = b""
    if outcomes.faults or batch is None or any(statuses):
        notes = _json_encode([FaultNote(f.message, f.code, f.hint, _plain(f.facts)) for f in outcomes.faults])
    head = _RESULT.pack(len(statuses), len(notes), rows, outcomes.rows, outcomes.seconds)
    parts = [head] if not notes else [head, notes, struct.pack(f"<{len(statuses)}H", *statuses)]
    if batch is not None:
        _put_answer(parts, batch, ring)
    return encode_message(ANSWER, number, b"".join(parts))


def encode_part(number: int, part: Batch, seconds: float) -> bytes:
    """Encode a PART of the answer to the RUN with that number, which took the model so many seconds; it must have passed
    `check_answer`.

    Raises:
        ValueError: the message would be too long.
    """
    parts = [_RESULT.pack(1, 0, part.rows, part.rows, seconds)]
    _put_answer(parts, part, None)
    return encode_message(PART, number, b"".join(parts))


def _put_answer(parts: list[bytes], batch: Batch, ring: Ring | None) -> None:
    try:
        _put_batch(parts, batch, ring)
    except (TypeError, ValueError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        raise _wrong_type() from error


def check_answer(batch: Batch) -> None:
    """Check that an answer can be sent.

    Raises:
        ModelFault: code "wrong-output-type": the values do not have the types of the package's signature.
    """
    try:
        for form, block in zip(batch.layout.blocks, batch.blocks, strict=True):
            if not _fits(block.values.shape[1:], form, batch.layout):
                raise ValueError("a block of another form")
            if form.dtype.numpy.kind == "O":
                _check_objects(block.values.reshape(-1).tolist(), form)
            elif block.values.dtype != form.dtype.numpy:
                raise TypeError("values of another type")
    except (TypeError, ValueError, AttributeError, OverflowError, RecursionError) as error:
        raise _wrong_type() from error


def _wrong_type() -> ModelFault:
    return ModelFault("the model's answer does not have the types of its signature", code="wrong-output-type")


def decode_answer(payload: memoryview, layout: Layout, ring: Ring | None) -> Outcomes:
    """Decode an ANSWER or a PART.

    Raises:
        ValueError: the payload is not an ANSWER of this layout.
    """
    try:
        n, length, rows, run_rows, seconds = _RESULT.unpack_from(payload)
        at = _RESULT.size
        statuses: Sequence[int] = ()
        faults: Sequence[ModelFault] = ()
        if length:
            notes = _notes.decode(payload[at : at + length])
            faults = [model_fault(note.message, note.code, note.hint, note.facts) for note in notes]
            statuses = struct.unpack_from(f"<{n}H", payload, at + length)
            at += length + 2 * n
        batch = None if rows == _NO_BATCH else _take_batch(payload, at, layout, (rows, ring))[0]
    except (struct.error, msgspec.DecodeError, RecursionError) as error:
        raise ValueError("unreadable ANSWER message") from error
    return Outcomes(statuses or (ANSWERED,) * n, faults, batch, run_rows, seconds)


def encode_credit(number: int, parts: int) -> bytes:
    """Encode that `parts` more parts of the stream with that number were taken."""
    return encode_message(CREDIT, number, _COUNT.pack(parts))


def decode_credit(payload: memoryview) -> int:
    """The number of parts in a CREDIT.

    Raises:
        ValueError: the payload is not one.
    """
    if len(payload) != _COUNT.size:
        raise ValueError("unreadable CREDIT message")
    return int(_COUNT.unpack(payload)[0])


def encode_batch(batch: Batch) -> bytes:
    """Encode a batch alone, without shared memory; it must have passed `check_answer`.

    Raises:
        TypeError, ValueError, OverflowError, RecursionError: a text or a nested value that cannot be written.
    """
    parts: list[bytes] = []
    _put_batch(parts, batch, None)
    return b"".join(parts)


def decode_batch(payload: memoryview, layout: Layout, rows: int) -> Batch:
    """Decode a batch from `encode_batch`. Arrays may be views of `payload`; do not write into them.

    Raises:
        ValueError: the payload is unreadable, or has another layout.
    """
    try:
        batch, end = _take_batch(payload, 0, layout, (rows, None))
    except (struct.error, msgspec.DecodeError, RecursionError) as error:
        raise ValueError("unreadable batch") from error
    if end != len(payload):
        raise ValueError("extra bytes after a batch")
    return batch


def _check_objects(flat: list[Any], form: BlockForm) -> None:
    if form.dtype is DType.JSON:
        _json_decode(_json_encode(flat))
    elif set(map(type, flat)) <= {str, NoneType}:
        _texts_encode(flat)
    else:
        raise TypeError("values that are not texts")


def _plain(facts: dict[str, object]) -> dict[str, Any]:
    try:
        _json_encode(facts)
    except (TypeError, ValueError, RecursionError):
        return {}
    return facts


def _put_batch(parts: list[bytes], batch: Batch, ring: Ring | None) -> None:
    for number, form in enumerate(batch.layout.blocks):
        block = batch.blocks[number]
        if form.dtype.numpy.kind == "O":
            _put_objects(parts, block.values, form)
        else:
            _put_array(parts, block.values, ring)
        if block.mask is None:
            parts.append(_NO_ARRAY)
        else:
            _put_array(parts, block.mask, ring)


def _put_array(parts: list[bytes], values: Array, ring: Ring | None) -> None:
    dimensions = values.shape[1:]
    shape = _SHAPES[len(dimensions)].pack(*dimensions)
    if ring is not None and values.nbytes >= SHARE_FROM_BYTES:
        position = ring.put(values)
        if position is not None:
            parts.append(_ARRAY.pack(_SHARED, len(dimensions), 0, 0, position) + shape)
            return
    data = values.tobytes()
    parts.append(_ARRAY.pack(_HERE, len(dimensions), 0, len(data), 0) + shape)
    parts.append(data)


def _put_objects(parts: list[bytes], values: Array, form: BlockForm) -> None:
    dimensions = values.shape[1:]
    flat = values.reshape(-1).tolist()
    how, data = (_NESTED, _json_encode(flat)) if form.dtype is DType.JSON else (_TEXTS, _texts_encode(flat))
    parts.append(_ARRAY.pack(how, len(dimensions), 0, len(data), 0))
    parts.append(_SHAPES[len(dimensions)].pack(*dimensions))
    parts.append(data)


def _take_batch(payload: memoryview, at: int, layout: Layout, source: tuple[int, Ring | None]) -> tuple[Batch, int]:
    rows = source[0]
    blocks: list[Block] = []
    for form in layout.blocks:
        values, at = _take_array(payload, at, form.dtype.numpy, source)
        if values is None or not _fits(values.shape[1:], form, layout):
            raise ValueError("a block of another form")
        mask, at = _take_array(payload, at, _BOOL, source)
        if mask is not None and mask.shape != values.shape:
            raise ValueError("a mask of another form")
        blocks.append(Block(values, mask))
    return Batch(layout, rows, tuple(blocks)), at


def _fits(dimensions: tuple[int, ...], form: BlockForm, layout: Layout) -> bool:
    wanted = layout.fields[form.fields[0]].shape if form.tensor else (len(form.fields),)
    if wanted == dimensions:
        return True
    return len(wanted) == len(dimensions) and all(w in (-1, d) for w, d in zip(wanted, dimensions, strict=True))


def _take_array(
    payload: memoryview, at: int, dtype: np.dtype[np.generic], source: tuple[int, Ring | None]
) -> tuple[Array | None, int]:
    rows, ring = source
    how, n, _, length, position = _ARRAY.unpack_from(payload, at)
    at += _ARRAY.size
    if how == _NOTHING:
        return None, at
    if n > _MAX_DIMENSIONS:
        raise ValueError("an array with too many dimensions")
    shape = (rows, *_SHAPES[n].unpack_from(payload, at))
    at += 4 * n
    stop = at + length
    if stop > len(payload):
        raise ValueError("a truncated array")
    if how == _SHARED and ring is not None and dtype.kind != "O":
        return ring.take(position, dtype, shape), stop
    if how == _HERE and dtype.kind != "O" and length == prod(shape) * dtype.itemsize:
        return np.ndarray(shape, dtype, payload, at).copy(), stop
    if how in (_TEXTS, _NESTED) and dtype.kind == "O":
        flat = (_texts_decode if how == _TEXTS else _json_decode)(payload[at:stop])
        if len(flat) != prod(shape):
            raise ValueError(f"expected {prod(shape)} values, got {len(flat)}")
        values = np.empty(len(flat), dtype=object)
        values[:] = flat
        return values.reshape(shape), stop
    raise ValueError("an array of another form")
