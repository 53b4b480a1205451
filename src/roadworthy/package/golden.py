"""Golden examples: sample inputs with their answers from training, chosen to cover the training data."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, chain, islice
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from roadworthy.foundation.canonical import canonical_json
from roadworthy.foundation.errors import PackageInvalid
from roadworthy.schema.arrow import arrow_to_batch, batch_to_arrow
from roadworthy.schema.batch import Array, Batch, Block, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field, Privacy, Signature

INPUTS = "golden/inputs.arrow"
OUTPUTS = "golden/outputs.arrow"
PARTS = "golden/parts.json"
"""How many parts each example has, for a model that answers in parts; the outputs have all parts, one below the other."""
DEFAULT_EXAMPLES = 64
MOST_PARTS = 10_000
"""Most parts of one example."""
_SEED = 20_130_101


def choose_rows(batch: Batch, limit: int = DEFAULT_EXAMPLES) -> Array:
    """Choose up to `limit` row numbers, ascending, the same for equal batches.

    The rows together have a null wherever the batch has one, the extremes and a null of every column, each category once as
    far as there is room; random rows fill the rest.
    """
    chosen: dict[int, None] = {}
    for row in chain(islice(_covering_rows(batch), limit // 2), _telling_rows(batch)):
        if len(chosen) >= max(1, limit * 3 // 4):
            break
        chosen.setdefault(row)
    for row in np.random.default_rng(_SEED).permutation(batch.rows).tolist():
        if len(chosen) >= limit:
            break
        chosen.setdefault(row)
    return np.array(sorted(chosen), dtype=np.intp)


def _covering_rows(batch: Batch) -> Iterator[int]:
    """A few rows that together have a null wherever the batch has one; each adds as many new nulls as possible."""
    masks = [batch.column_at(position)[1] for position in range(len(batch.layout.fields))]
    flat = [mask.reshape(batch.rows, -1) for mask in masks if mask is not None]
    if not flat:
        return
    cells = np.concatenate(flat, axis=1)
    cells = cells[:, cells.any(axis=0)]
    while cells.shape[1]:
        row = int(cells.sum(axis=1).argmax())
        yield row
        cells = cells[:, ~cells[row]]


def _telling_rows(batch: Batch) -> Iterator[int]:
    """Rows worth keeping, most informative first: one from each column in every round, so that all columns are represented."""
    queues = [_rows_of_column(batch, position) for position in range(len(batch.layout.fields))]
    depth = 0
    while any(depth < len(queue) for queue in queues):
        for queue in queues:
            if depth < len(queue):
                yield queue[depth]
        depth += 1


def _rows_of_column(batch: Batch, position: int) -> list[int]:
    field = batch.layout.fields[position]
    values, mask = batch.column_at(position)
    if field.shape or field.dtype is DType.JSON:
        return []
    rows = [] if mask is None or not mask.any() else [int(np.argmax(mask))]
    present = np.arange(batch.rows) if mask is None else np.flatnonzero(~mask)
    if not len(present):
        return rows
    if field.dtype in (DType.STRING, DType.BOOL):
        seen: dict[Any, int] = {}
        for row in present.tolist():
            seen.setdefault(values[row], row)
        return [*rows, *(seen[key] for key in sorted(seen))]
    there = values[present]
    return [*rows, int(present[np.argmin(there)]), int(present[np.argmax(there)])]


def without_private(batch: Batch) -> Batch:
    """The batch with every private field's values replaced by one constant."""
    blocks = list(batch.blocks)
    for position, field in enumerate(batch.layout.fields):
        if field.privacy is Privacy.KEEP:
            continue
        number, column = batch.layout.places[position]
        place = (...,) if field.shape else (slice(None), column)
        values, mask = blocks[number].values.copy(), blocks[number].mask
        values[place] = _constant(field)
        if mask is not None:
            mask = mask.copy()
            mask[place] = False
        blocks[number] = Block(values, mask)
    return Batch(batch.layout, batch.rows, tuple(blocks))


def _constant(field: Field) -> Any:
    if field.categorical and field.categories:
        return field.categories[0]
    return {DType.STRING: "private", DType.JSON: None, DType.BOOL: False}.get(field.dtype, 0)


def write_golden(folder: Path, inputs: Batch, outputs: Batch, parts: Sequence[int] | None = None) -> None:
    """Write two Arrow files into `folder`/golden, and with `parts` how many parts each example has."""
    (folder / INPUTS).parent.mkdir(exist_ok=True)
    (folder / INPUTS).write_bytes(_to_bytes(inputs))
    (folder / OUTPUTS).write_bytes(_to_bytes(outputs))
    if parts is not None:
        (folder / PARTS).write_bytes(canonical_json(list(parts)))


def _to_bytes(batch: Batch) -> bytes:
    import pyarrow as pa

    table = batch_to_arrow(batch)
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def read_golden(signature: Signature, read: Callable[[str], bytes]) -> tuple[Batch, Batch]:
    """Read inputs and outputs, in the layouts of the signature.

    Raises:
        PackageInvalid: they are unreadable, or their columns are not those of the signature.
    """
    inputs = _from_bytes(Layout(signature.inputs), read(INPUTS))
    outputs = _from_bytes(Layout(signature.outputs), read(OUTPUTS))
    spans = golden_spans(read) if signature.parts else [(0, inputs.rows)]
    if not inputs.rows or spans[-1][1] != outputs.rows or (signature.parts and len(spans) != inputs.rows):
        raise PackageInvalid(f"the golden examples hold {inputs.rows} inputs and {outputs.rows} answers", code="golden-invalid")
    return inputs, outputs


def golden_spans(read: Callable[[str], bytes]) -> list[tuple[int, int]]:
    """For each example of a model that answers in parts, the first of its rows in the outputs, and the end of these rows.

    Raises:
        PackageInvalid: "golden-invalid".
    """
    try:
        counts = msgspec.json.decode(read(PARTS), type=list[Annotated[int, msgspec.Meta(ge=1, le=MOST_PARTS)]])
    except msgspec.DecodeError as error:
        raise PackageInvalid("the numbers of parts of the golden examples cannot be read", code="golden-invalid") from error
    ends = list(accumulate(counts))
    return list(zip([0, *ends], ends, strict=False)) or [(0, 0)]


def _from_bytes(layout: Layout, data: bytes) -> Batch:
    import pyarrow as pa

    try:
        table = pa.ipc.open_file(pa.BufferReader(data)).read_all()
    except (pa.ArrowException, OSError) as error:  # Arrow raises an OSError for bytes that are no Arrow file
        raise PackageInvalid("the golden examples are not a readable Arrow file", code="golden-invalid") from error
    return arrow_to_batch(layout, table)
