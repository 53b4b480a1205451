"""Records one by one, for tests; frames hold them by column."""

from __future__ import annotations

from collections.abc import Iterable

from roadworthy.contract.record import (
    Pieces,
    PredictionRecord,
    RecordKind,
    RecordRow,
    decode_records,
    encode_records,
)


def split(record: PredictionRecord) -> tuple[RecordKind, RecordRow]:
    """The parts of a record: shared with others of its kind, and its own."""
    kind = RecordKind(**{name: getattr(record, name) for name in RecordKind.__struct_fields__})
    own = (record.id, record.at_us, record.request_id, record.latency_us, record.rows)
    return kind, (*own, record.json_bytes, record.output_json_bytes, record.inputs, record.outputs, record.unit)


def pack(records: Iterable[PredictionRecord]) -> bytes:
    """Pack records into a payload."""
    groups: dict[RecordKind, list[RecordRow]] = {}
    for record in records:
        kind, row = split(record)
        groups.setdefault(kind, []).append(row)
    return bytes(encode_records(groups.items()))


def unpack(payload: bytes | bytearray) -> list[PredictionRecord]:
    """The records of a payload, grouped by kind."""
    records = []
    for group in decode_records(payload):
        common = {name: getattr(group.kind, name) for name in RecordKind.__struct_fields__}
        names = ("at_us", "latency_us", "rows", "json_bytes", "output_json_bytes", "unit")
        numbers = zip(*(getattr(group, name).cast("q").tolist() for name in names), strict=True)
        ids = [piece.decode() for piece in _cut(group.ids)]
        request_ids = ids if group.request_ids is None else [piece.decode() for piece in _cut(group.request_ids)]
        columns = zip(ids, request_ids, numbers, _cut(group.inputs), _cut(group.outputs), strict=True)
        for own, request_id, values, inputs, outputs in columns:
            bodies = {"inputs": inputs, "outputs": outputs}
            numbered = dict(zip(names, values, strict=True))
            records.append(PredictionRecord(id=own, request_id=request_id, **bodies, **numbered, **common))
    return records


def _cut(pieces: Pieces) -> list[bytes]:
    found, start = [], 0
    for length in pieces.lengths.cast("I"):
        found.append(bytes(pieces.data[start : start + length]))
        start += length
    return found
