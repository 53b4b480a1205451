"""The frames in which a worker sends predictions to its agent: many records in one frame, by column, with shared values once.

Workers have little time, so a frame is encoded and decoded without touching single values: whole columns are copied. The first
four bytes are the number of records, so that records of a damaged frame are counted too; MessagePack follows.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Sequence
from itertools import starmap

import msgspec


class PredictionRecord(msgspec.Struct, frozen=True, gc=False):
    """One request, its answer, and the exact package that answered: one row of a record file, with these columns.

    Attributes:
        id: prediction id; row i of the request is `id:i`.
        at_us: when the request was admitted, microseconds since 1970 UTC.
        endpoint, generation, model, version, digest, runtime: what answered; digest "" when no version was reached.
        caller: key id, or "".
        request_id: the caller's, or one that the gateway made.
        status: HTTP status. code: "ok" or the error's code.
        latency_us: from admission to the encoded answer.
        rows: rows in the request; 0 when it could not be decoded.
        input_format: "json", "csv", "arrow-stream", "arrow-file", "open-inference" or "mlflow"; in files also "withheld":
            inputs or outputs could not be cleared of private fields, or the endpoint was unknown, and both are empty.
        json_bytes: for open-inference with binary tensors, the length of the JSON head; -1 otherwise.
        inputs: the request body, decompressed; empty if the request was refused and its body is long.
        outputs: the response body before any compression.
        output_json_bytes: like json_bytes, for outputs.
        output_format: "json" (errors too), "csv", "arrow-stream" or "open-inference".
        source: origin of the answer: "" the chosen version, "cache", or a fallback ("version", "rule", "cached", "static").
        rollout: the rollout that assigned the version, where the request can be evidence; "" without a rollout, for a retry, and
            where the caller named the version.
        unit: the user that a sticky rollout assigned by, as a hash (`serving/split.py`); 0 in others.
    """

    id: str
    at_us: int
    endpoint: str
    generation: int
    model: str
    version: int
    digest: str
    runtime: str
    caller: str
    request_id: str
    status: int
    code: str
    latency_us: int
    rows: int
    input_format: str
    json_bytes: int
    inputs: bytes
    outputs: bytes
    output_json_bytes: int
    output_format: str = "json"
    source: str = ""
    rollout: str = ""
    unit: int = 0


class RecordKind(msgspec.Struct, frozen=True, array_like=True):
    """The shared values of many records; fields as in PredictionRecord."""

    endpoint: str
    generation: int
    model: str
    version: int
    digest: str
    runtime: str
    caller: str
    status: int
    code: str
    input_format: str
    output_format: str = "json"
    source: str = ""
    rollout: str = ""


RecordRow = tuple[str, int, str, int, int, int, int, bytes, bytes, int]
"""A record's own values: id, at_us, request_id, latency_us, rows, json_bytes, output_json_bytes, inputs, outputs, unit."""


class Pieces(msgspec.Struct, frozen=True, array_like=True):
    """Texts or bodies, concatenated. `lengths`: of each in bytes, as uint32."""

    lengths: memoryview
    data: memoryview


class RecordColumns(msgspec.Struct, frozen=True, array_like=True):
    """Records of one kind, by column; numbers as int64 in this machine's byte order, since no frame leaves the machine.

    Attributes:
        request_ids: None when they equal the ids.
    """

    kind: RecordKind
    ids: Pieces
    request_ids: Pieces | None
    at_us: memoryview
    latency_us: memoryview
    rows: memoryview
    json_bytes: memoryview
    output_json_bytes: memoryview
    inputs: Pieces
    outputs: Pieces
    unit: memoryview

    @property
    def count(self) -> int:
        """Number of records."""
        return self.at_us.nbytes // 8


_COUNT_BYTES = 4
_BYTES_HEAD = struct.Struct(">BI")
"""The head of bytes in MessagePack: their type and length."""
_ONE_GROUP, _ANY_LENGTH = b"\x91", 0xC6
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[RecordColumns])


def encode_records(groups: Iterable[tuple[RecordKind, Sequence[RecordRow]]]) -> bytearray:
    """Encode many records as one payload; no group may be empty."""
    return encode_columns(list(starmap(to_columns, groups)))


def encode_columns(columns: Sequence[RecordColumns]) -> bytearray:
    """Encode records that are columns already as one payload."""
    count = sum(group.count for group in columns)
    payload = bytearray(count.to_bytes(_COUNT_BYTES, "little"))
    _encoder.encode_into(columns, payload, _COUNT_BYTES)
    return payload


def encode_long_record(kind: RecordKind, row: RecordRow) -> list[bytes | memoryview]:
    """Encode one record as the parts of a payload. Its bodies are parts themselves: copying long ones would take milliseconds."""
    columns = msgspec.structs.astuple(to_columns(kind, [row]))
    parts: list[bytes | memoryview] = [(1).to_bytes(_COUNT_BYTES, "little"), _ONE_GROUP, bytes([0x90 + len(columns)])]
    for column in columns:
        if isinstance(column, Pieces):
            head = b"\x92" + _encoder.encode(column.lengths) + _BYTES_HEAD.pack(_ANY_LENGTH, len(column.data))
            parts += (head, column.data)
        else:
            parts.append(_encoder.encode(column))
    return parts


def decode_records(payload: bytes | bytearray | memoryview) -> list[RecordColumns]:
    """Decode `encode_records`' bytes. The columns are views of them.

    Raises:
        ValueError: the bytes are not records.
    """
    groups = _decoder.decode(memoryview(payload)[_COUNT_BYTES:])
    if not all(map(_is_whole, groups)):
        raise ValueError("columns of different lengths")
    return groups


def count_records(payload: bytes | bytearray | memoryview) -> int:
    """The number of records in `encode_records`' bytes, read from the first four bytes only."""
    return int.from_bytes(payload[:_COUNT_BYTES], "little") if len(payload) > _COUNT_BYTES else 0


def to_columns(kind: RecordKind, rows: Sequence[RecordRow]) -> RecordColumns:
    """Records of one kind, at least one, as columns."""
    ids, at_us, request_ids, latency_us, counts, json_bytes, output_json_bytes, inputs, outputs, units = zip(*rows, strict=True)
    return RecordColumns(
        kind,
        _texts(ids),
        None if request_ids == ids else _texts(request_ids),
        _numbers(at_us),
        _numbers(latency_us),
        _numbers(counts),
        _numbers(json_bytes),
        _numbers(output_json_bytes),
        _pieces(inputs),
        _pieces(outputs),
        _numbers(units),
    )


def _numbers(numbers: Sequence[int]) -> memoryview:
    return memoryview(array("q", numbers))


def _texts(texts: Sequence[str]) -> Pieces:
    joined = "".join(texts)
    if joined.isascii():
        return Pieces(memoryview(array("I", map(len, texts))), memoryview(joined.encode("ascii")))
    return _pieces([text.encode("utf-8") for text in texts])


def _pieces(pieces: Sequence[bytes]) -> Pieces:
    lengths = memoryview(array("I", map(len, pieces)))
    return Pieces(lengths, memoryview(pieces[0] if len(pieces) == 1 else b"".join(pieces)))


def _is_whole(group: RecordColumns) -> bool:
    numbers = (group.at_us, group.latency_us, group.rows, group.json_bytes, group.output_json_bytes, group.unit)
    pieces = [each for each in (group.ids, group.request_ids, group.inputs, group.outputs) if each is not None]
    return (
        all(len(column) == 8 * group.count for column in numbers)
        and all(len(each.lengths) == 4 * group.count for each in pieces)
        and all(sum(each.lengths.cast("I")) == len(each.data) for each in pieces)
    )
