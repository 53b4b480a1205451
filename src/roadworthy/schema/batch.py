"""Batches, the form of rows inside the system: one contiguous matrix per dtype, with a mask for nulls.

Codecs decode requests into a Batch, the queue joins requests as one, and frameworks take and return one. A Layout, computed once
per signature, fixes its form.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import msgspec
import numpy as np

from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Field

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True, slots=True)
class BlockForm:
    """The fields that share one array: all plain columns of a dtype, in order, or a single tensor field.

    Attributes:
        dtype: element type of all of them.
        fields: positions in Layout.fields.
        tensor: True for a single field with a trailing shape, whose array is (rows, *shape); otherwise it is (rows, k).
    """

    dtype: DType
    fields: tuple[int, ...]
    tensor: bool


@dataclass(frozen=True)
class Layout:
    """The placement of a signature's inputs or outputs in blocks. Equal fields give equal layouts.

    Attributes:
        integers: the unit of integers sent as timestamps: "s", "ms", "us" or "ns"; None refuses such integers.
    """

    fields: tuple[Field, ...]
    integers: str | None = dataclasses.field(default=None, compare=False)

    @cached_property
    def blocks(self) -> tuple[BlockForm, ...]:
        """Blocks, in the order of their first fields."""
        plain: dict[DType, list[int]] = {}
        forms: list[tuple[int, BlockForm]] = []
        for position, field in enumerate(self.fields):
            if field.shape:
                forms.append((position, BlockForm(field.dtype, (position,), tensor=True)))
            else:
                plain.setdefault(field.dtype, []).append(position)
        forms.extend((members[0], BlockForm(dtype, tuple(members), tensor=False)) for dtype, members in plain.items())
        return tuple(form for _, form in sorted(forms, key=lambda pair: pair[0]))

    @cached_property
    def places(self) -> tuple[tuple[int, int], ...]:
        """For each field, its block number and its column in that block (0 for a tensor)."""
        places: list[tuple[int, int]] = [(0, 0)] * len(self.fields)
        for number, form in enumerate(self.blocks):
            for column, position in enumerate(form.fields):
                places[position] = (number, column)
        return tuple(places)

    @cached_property
    def positions(self) -> dict[str, int]:
        """Field name to position."""
        return {field.name: position for position, field in enumerate(self.fields)}


class Block(msgspec.Struct, eq=False):  # several are made per request; a struct takes half the time of a dataclass
    """One array of a batch. Immutable by agreement.

    Attributes:
        values: (rows, k) for plain columns, (rows, *shape) for a tensor. A null is stored as an unspecified filler of the right
            type (0, "" or None), never as NaN.
        mask: bool, shape (rows, k) or for a tensor (rows, *shape), True for a null; None when there are no nulls.
    """

    values: Array
    mask: Array | None = None


class PackedRow(msgspec.Struct, eq=False):
    """The blocks of one row of plain columns in one block, as the bytes of its array. Requests that are joined need no arrays of
    their own, and making them takes longer than joining them."""

    data: bytes
    dtype: np.dtype[Any]
    made: tuple[Block, ...] | None = None

    def __len__(self) -> int:
        return 1

    def __getitem__(self, number: int) -> Block:
        return self._blocks()[number]

    def __iter__(self) -> Iterator[Block]:
        return iter(self._blocks())

    def _blocks(self) -> tuple[Block, ...]:
        if self.made is None:
            self.made = (Block(np.frombuffer(bytearray(self.data), self.dtype).reshape(1, -1)),)
        return self.made


class Batch(msgspec.Struct, eq=False):
    """Rows in the form of a layout. Immutable by agreement: no code writes to it or its arrays after construction."""

    layout: Layout
    rows: int
    blocks: tuple[Block, ...] | PackedRow

    def column(self, name: str) -> tuple[Array, Array | None]:
        """Values and mask of one field: (rows,) for a plain column, (rows, *shape) for a tensor. Views, not copies.

        Raises:
            KeyError: no such field.
        """
        return self.column_at(self.layout.positions[name])

    def column_at(self, position: int) -> tuple[Array, Array | None]:
        """As `column`, by the field's position in the layout."""
        number, column = self.layout.places[position]
        block = self.blocks[number]
        if self.layout.blocks[number].tensor:
            return block.values, block.mask
        mask = block.mask
        return block.values[:, column], None if mask is None else mask[:, column]

    def slice(self, start: int, stop: int) -> Batch:
        """Rows from start to stop (exclusive), as views."""
        blocks = tuple(
            Block(block.values[start:stop], None if block.mask is None else block.mask[start:stop]) for block in self.blocks
        )
        return Batch(self.layout, stop - start, blocks)

    def take(self, rows: Array | Sequence[int]) -> Batch:
        """The given rows, copied, in the given order."""
        index = np.asarray(rows, dtype=np.intp)
        blocks = tuple(Block(block.values[index], None if block.mask is None else block.mask[index]) for block in self.blocks)
        return Batch(self.layout, len(index), blocks)

    @staticmethod
    def concatenate(batches: Sequence[Batch]) -> Batch:
        """Join all rows of one or more batches of equal layout, in order, with one concatenation per block."""
        first = batches[0]
        if len(batches) == 1:
            return first
        packed = [blocks.data for blocks in [batch.blocks for batch in batches] if isinstance(blocks, PackedRow)]
        if isinstance(first.blocks, PackedRow) and len(packed) == len(batches):
            joined = np.frombuffer(bytearray().join(packed), first.blocks.dtype).reshape(len(packed), -1)
            return Batch(first.layout, len(packed), (Block(joined),))
        blocks: list[Block] = []
        for number in range(len(first.blocks)):
            parts = [batch.blocks[number] for batch in batches]
            values = np.concatenate([part.values for part in parts])
            mask = None
            if [part for part in parts if part.mask is not None]:
                mask = np.concatenate(
                    [np.zeros(part.values.shape, dtype=bool) if part.mask is None else part.mask for part in parts]
                )
            blocks.append(Block(values, mask))
        return Batch(first.layout, sum([batch.rows for batch in batches]), tuple(blocks))

    @classmethod
    def from_columns(cls, layout: Layout, columns: Iterable[tuple[Array, Array | None]], rows: int) -> Batch:
        """Build from one (values, mask) pair per field, in the layout's order. Values must have the field's numpy dtype and the
        shape (rows, *field.shape). Plain columns are copied into their block."""
        pairs = list(columns)
        blocks: list[Block] = []
        for form in layout.blocks:
            if form.tensor:
                values, mask = pairs[form.fields[0]]
                blocks.append(Block(np.ascontiguousarray(values), mask))
                continue
            matrix = np.empty((rows, len(form.fields)), dtype=form.dtype.numpy)
            nulls: Array | None = None
            for number, position in enumerate(form.fields):
                values, mask = pairs[position]
                matrix[:, number] = values
                if mask is not None and mask.any():
                    nulls = np.zeros((rows, len(form.fields)), dtype=bool) if nulls is None else nulls
                    nulls[:, number] = mask
            blocks.append(Block(matrix, nulls))
        return cls(layout, rows, tuple(blocks))


def least_bytes(batch: Batch) -> int:
    """The bytes of a batch; of texts and nested values at least so many."""
    return sum(
        sum(map(len, map(str, block.values.reshape(-1).tolist()))) if block.values.dtype.kind == "O" else block.values.nbytes
        for block in batch.blocks
    )
