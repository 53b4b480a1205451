"""Turns frames of records into tables with the columns of a record file, without a step for each record."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from roadworthy.contract.record import Pieces, PredictionRecord, RecordColumns, RecordKind

if TYPE_CHECKING:
    import pyarrow as pa

_NAMES = PredictionRecord.__struct_fields__
_NUMBERS = ("at_us", "latency_us", "rows", "json_bytes", "output_json_bytes", "unit")


def to_table(groups: Sequence[RecordColumns]) -> pa.Table:
    """The records as a table with the columns of PredictionRecord, those of one kind together: text as string, numbers as int64,
    bodies as binary."""
    import pyarrow as pa

    kinds: dict[RecordKind, list[RecordColumns]] = {}
    for group in groups:
        kinds.setdefault(group.kind, []).append(group)
    return pa.concat_tables([_table(kind, members) for kind, members in kinds.items()])


def _table(kind: RecordKind, groups: Sequence[RecordColumns]) -> pa.Table:
    import pyarrow as pa

    count = sum(group.count for group in groups)
    columns = {name: column.slice(0, count) for name, column in _shared(kind, 1 << (count - 1).bit_length()).items()}
    for name in _NUMBERS:
        numbers = b"".join(getattr(group, name) for group in groups)
        columns[name] = pa.Array.from_buffers(pa.int64(), count, [None, pa.py_buffer(numbers)])
    columns["id"] = columns["request_id"] = _joined([group.ids for group in groups], pa.string())
    if any(group.request_ids is not None for group in groups):
        columns["request_id"] = _joined([group.request_ids or group.ids for group in groups], pa.string())
    for name in ("inputs", "outputs"):
        columns[name] = _joined([getattr(group, name) for group in groups], pa.binary())
    return pa.table([columns[name] for name in _NAMES], names=list(_NAMES))


@lru_cache(maxsize=16)
def _shared(kind: RecordKind, count: int) -> dict[str, pa.Array]:
    """The columns of the values that `count` records of a kind share."""
    import pyarrow as pa

    return {name: pa.repeat(getattr(kind, name), count) for name in kind.__struct_fields__}


def _joined(pieces: Sequence[Pieces], kind: pa.DataType) -> pa.Array:
    import pyarrow as pa

    lengths = np.frombuffer(b"".join(each.lengths for each in pieces), dtype=np.uint32)
    ends = np.zeros(len(lengths) + 1, dtype=np.int32)
    np.cumsum(lengths, dtype=np.int32, out=ends[1:])
    data = b"".join(each.data for each in pieces)
    return pa.Array.from_buffers(kind, len(lengths), [None, pa.py_buffer(ends), pa.py_buffer(data)])
