"""One prediction, as a worker hands it to its agent. Travels as MessagePack arrays, many in a frame."""

from __future__ import annotations

import msgspec


class PredictionRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What was asked, what was answered, by which exact bytes.

    Attributes:
        id: prediction id; row i of the request is `id:i`.
        at_us: when the request was admitted, microseconds since 1970 UTC.
        endpoint, generation, model, version, digest, runtime: what answered; digest "" when no version was reached.
        caller: key id, or "".
        request_id: the caller's or ours.
        status: HTTP status. code: "ok" or the error's code.
        latency_us: from admission to the encoded answer.
        rows: rows in the request; 0 when it could not be decoded.
        input_format: "json", "csv", "arrow-stream", "arrow-file", "parquet" or "open-inference"; in files also "withheld":
            inputs or outputs could not be cleared of private fields, or came to no known endpoint, and are empty.
        json_bytes: for open-inference with binary tensors, the length of the JSON head; -1 otherwise.
        inputs: the request body, decompressed. outputs: the response body before any compression.
        output_json_bytes: as json_bytes, for outputs.
        output_format: "json" (errors too), "csv", "arrow-stream" or "open-inference".
        source: what gave the answer: "" the chosen version, "cache", or a fallback ("version", "rule", "cached", "static").
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


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[PredictionRecord])


def encode_records(records: list[PredictionRecord]) -> bytes:
    """Many records as one payload."""
    return _encoder.encode(records)


def decode_records(data: bytes) -> list[PredictionRecord]:
    """Read `encode_records`' bytes.

    Raises:
        msgspec.DecodeError: they are not records.
    """
    return _decoder.decode(data)
