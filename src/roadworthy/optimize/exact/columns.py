"""The raw columns of a signature one by one: columns of a table or elements of one tensor.

`folding.py` searches along them, `rows.py` sets them to thresholds, `graph.py` reads them. Every value of a dtype has an integer
key, and neighbouring floats have neighbouring keys.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from roadworthy.optimize.candidates.candidate import NotConvertible
from roadworthy.schema.batch import Array, Batch, Block, Layout
from roadworthy.schema.dtypes import DType
from roadworthy.schema.signature import Container, Field, Signature

_SIGN = np.uint64(1 << 63)
_SIGN_32 = np.uint32(1 << 31)


@dataclass(frozen=True, slots=True)
class RawColumn:
    """One scalar in each row of a request.

    Attributes:
        field: the signature's field that holds it.
        block, column: its place in a Batch of the input layout.
    """

    field: Field
    block: int
    column: int

    @property
    def dtype(self) -> DType:
        return self.field.dtype

    @property
    def label(self) -> str:
        """For messages: the column's name, or the tensor's name with the element."""
        return f"{self.field.name}[{self.column}]" if self.field.shape else self.field.name


def raw_columns(signature: Signature) -> tuple[RawColumn, ...]:
    """The columns of the model's input table, in order.

    Raises:
        NotConvertible: the model's input is not a table (records, tensors of other shapes).
    """
    layout = Layout(signature.inputs)
    if signature.container is Container.RECORDS:
        raise NotConvertible("the model takes records, not a table")
    if signature.container in (Container.ARRAY, Container.LISTS):
        (field,) = signature.inputs
        if len(field.shape) != 1 or field.shape[0] < 1:
            raise NotConvertible("the model takes an array that does not have two dimensions")
        return tuple(RawColumn(field, 0, column) for column in range(field.shape[0]))
    if any(field.shape for field in signature.inputs):
        raise NotConvertible("a column holds arrays")
    return tuple(RawColumn(field, *place) for field, place in zip(signature.inputs, layout.places, strict=True))


def with_values(template: Batch, values: Mapping[RawColumn, Array]) -> Batch:
    """The rows of `template` with some columns replaced and without nulls in them. Arrays: (rows,), in the column's dtype."""
    matrices = [block.values.copy() for block in template.blocks]
    masks = [None if block.mask is None else block.mask.copy() for block in template.blocks]
    for raw, column in values.items():
        matrices[raw.block][:, raw.column] = column
        mask = masks[raw.block]
        if mask is not None:
            mask[:, raw.column] = False
    blocks = tuple(Block(matrix, mask) for matrix, mask in zip(matrices, masks, strict=True))
    return Batch(template.layout, template.rows, blocks)


def lowest_key(dtype: DType) -> int:
    """Key of the smallest finite value."""
    if dtype.is_float:
        return -highest_key(dtype)
    return 0 if dtype is DType.BOOL else int(np.iinfo(dtype.value).min)


def highest_key(dtype: DType) -> int:
    """Key of the largest finite value."""
    if dtype is DType.FLOAT64:
        return int(np.array(np.finfo(np.float64).max).view(np.int64))
    if dtype is DType.FLOAT32:
        return int(np.array(np.finfo(np.float32).max).view(np.int32))
    return 1 if dtype is DType.BOOL else int(np.iinfo(dtype.value).max)


def values_of(keys: Array, dtype: DType) -> Array:
    """The values of int64 `keys`. Keys are ordered as values are; neighbours differ by one; both zeros have the key 0."""
    if dtype is DType.FLOAT64:
        magnitudes = np.abs(keys).astype(np.uint64)
        return np.where(keys < 0, magnitudes | _SIGN, magnitudes).view(np.float64)
    if dtype is DType.FLOAT32:
        narrow = np.abs(keys).astype(np.uint32)
        return np.where(keys < 0, narrow | _SIGN_32, narrow).view(np.float32)
    return keys.astype(dtype.numpy)


def keys_of(values: Array, dtype: DType) -> Array:
    """int64 keys of values, the inverse of `values_of`."""
    if dtype is DType.FLOAT64:
        bits = values.astype(np.float64).view(np.int64)
        return np.where(bits < 0, -(bits & np.int64(2**63 - 1)), bits)
    if dtype is DType.FLOAT32:
        wide = values.astype(np.float32).view(np.int32).astype(np.int64)
        return np.where(wide < 0, -(wide & (2**31 - 1)), wide)
    return values.astype(np.int64)
