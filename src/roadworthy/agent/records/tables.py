"""Turns frames of records into tables with the columns of a record file, without a step for each record.

Bodies with private values are the exception: they are cleared one by one.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from roadworthy.agent.records.privacy import WITHHELD, Scrubber
from roadworthy.contract.record import Pieces, PredictionRecord, RecordColumns, RecordKind

if TYPE_CHECKING:
    import pyarrow as pa

_NAMES = PredictionRecord.__struct_fields__
_NUMBERS = ("at_us", "latency_us", "rows", "json_bytes", "output_json_bytes", "unit")


def to_table(group: RecordColumns, scrubber: Scrubber | None) -> pa.Table:
    """The group's records as a table with the columns of PredictionRecord: text as string, numbers as int64, bodies as binary.

    Args:
        group: the records.
        scrubber: of their endpoint; without a scrubber no body is kept.
    """
    import pyarrow as pa

    count, kind = group.count, group.kind
    columns = {name: column.slice(0, count) for name, column in _shared(kind, 1 << (count - 1).bit_length()).items()}
    for name in _NUMBERS:
        columns[name] = pa.Array.from_buffers(pa.int64(), count, [None, pa.py_buffer(getattr(group, name))])
    columns["id"] = _pieces(group.ids, count, pa.string())
    columns["request_id"] = columns["id"] if group.request_ids is None else _pieces(group.request_ids, count, pa.string())
    if scrubber is None or scrubber.inputs_private or scrubber.outputs_private:
        columns.update(_scrubbed(group, scrubber))
    else:
        columns["inputs"] = _pieces(group.inputs, count, pa.binary())
        columns["outputs"] = _pieces(group.outputs, count, pa.binary())
    return pa.table([columns[name] for name in _NAMES], names=list(_NAMES))


@lru_cache(maxsize=16)
def _shared(kind: RecordKind, count: int) -> dict[str, pa.Array]:
    """The columns of the values that `count` records of a kind share."""
    import pyarrow as pa

    return {name: pa.repeat(getattr(kind, name), count) for name in kind.__struct_fields__}


def _pieces(pieces: Pieces, count: int, kind: pa.DataType) -> pa.Array:
    import pyarrow as pa

    ends = np.zeros(count + 1, dtype=np.int32)
    np.cumsum(np.frombuffer(pieces.lengths, dtype=np.uint32), dtype=np.int32, out=ends[1:])
    return pa.Array.from_buffers(kind, count, [None, pa.py_buffer(ends), pa.py_buffer(pieces.data)])


def _scrubbed(group: RecordColumns, scrubber: Scrubber | None) -> dict[str, pa.Array]:
    """The columns that change where values are private: a body that cannot be cleared is empty and marked WITHHELD."""
    import pyarrow as pa

    kind, formats = group.kind, [group.kind.input_format] * group.count
    sides = []
    for pieces, lengths, form in (
        (group.inputs, group.json_bytes, kind.input_format),
        (group.outputs, group.output_json_bytes, kind.output_format),
    ):
        clear = None if scrubber is None else scrubber.inputs if pieces is group.inputs else scrubber.outputs
        json_bytes = lengths.cast("q").tolist()
        kept: list[bytes] = []
        start = 0
        for number, length in enumerate(pieces.lengths.cast("I").tolist()):
            body = None if clear is None else clear(bytes(pieces.data[start : start + length]), form, json_bytes[number])
            start += length
            kept.append(body or b"")
            if body is None:
                formats[number], json_bytes[number] = WITHHELD, -1
        sides.append((pa.array(kept, pa.binary()), pa.array(json_bytes, pa.int64())))
    (inputs, input_lengths), (outputs, output_lengths) = sides
    return {
        "inputs": inputs,
        "json_bytes": input_lengths,
        "outputs": outputs,
        "output_json_bytes": output_lengths,
        "input_format": pa.array(formats, pa.string()),
    }
