"""Reproduces scikit-learn's per-column arithmetic in single operations, in scikit-learn's order, each rounded once.

A scaled value then equals scikit-learn's to the bit. Merging two operations, such as multiplying by 1/scale instead of dividing,
would round differently. Called by the exact linear candidate.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Any

import numpy as np

from roadworthy.optimize.candidates.candidate import NotConvertible
from roadworthy.optimize.exact.graph import Writer
from roadworthy.optimize.exact.pipeline import Origin


class Operation(Enum):
    """An operation on a value x of a column with a number n. With the number `neutral` it changes no value."""

    FILL = "Where"  # n if x is missing
    SUBTRACT = "Sub"
    DIVIDE = "Div"
    MULTIPLY = "Mul"
    ADD = "Add"
    AT_LEAST = "Max"
    AT_MOST = "Min"

    @property
    def neutral(self) -> float:
        return _NEUTRAL[self]


_NEUTRAL = {
    Operation.FILL: np.nan,
    Operation.SUBTRACT: 0.0,
    Operation.DIVIDE: 1.0,
    Operation.MULTIPLY: 1.0,
    Operation.ADD: 0.0,
    Operation.AT_LEAST: -np.inf,
    Operation.AT_MOST: np.inf,
}
ARITHMETIC = {
    "SimpleImputer": "a missing value becomes the imputer's value of its column",
    "StandardScaler": "(x - mean) / scale, each operation rounded once",
    "RobustScaler": "(x - center) / scale, each operation rounded once",
    "MaxAbsScaler": "x / scale",
    "MinMaxScaler": "x * scale + min, each operation rounded once; then clipped where the scaler clips",
}
"""The computation of each supported transformer, in float64."""

Step = tuple[Operation, float]


def operations(origin: Origin) -> list[Step]:
    """The operations of the chain of transformers on one raw column, in order.

    Raises:
        NotConvertible: a transformer, named in the text, is not supported.
    """
    return [step for transformer, column in origin.chain for step in _of(transformer, column)]


def _of(transformer: Any, column: int) -> list[Step]:
    kind = type(transformer).__name__
    if kind == "SimpleImputer":
        return [(Operation.FILL, float(transformer.statistics_[column]))]
    if kind == "StandardScaler":
        centred = [(Operation.SUBTRACT, float(transformer.mean_[column]))] if transformer.with_mean else []
        return [*centred, *_divided(transformer.scale_, column)]
    if kind == "RobustScaler":
        centred = [(Operation.SUBTRACT, float(transformer.center_[column]))] if transformer.with_centering else []
        return [*centred, *_divided(transformer.scale_, column)]
    if kind == "MaxAbsScaler":
        return [*_divided(transformer.scale_, column), *_clipped(transformer, (-1.0, 1.0))]
    if kind == "MinMaxScaler":
        scaled = [
            (Operation.MULTIPLY, float(transformer.scale_[column])),
            (Operation.ADD, float(transformer.min_[column])),
        ]
        return [*scaled, *_clipped(transformer, transformer.feature_range)]
    raise NotConvertible(f"{kind} before a linear model")


def _divided(scale: Any, column: int) -> list[Step]:
    return [] if scale is None else [(Operation.DIVIDE, float(scale[column]))]


def _clipped(transformer: Any, limits: Sequence[float]) -> list[Step]:
    if not getattr(transformer, "clip", False):
        return []
    return [(Operation.AT_LEAST, float(limits[0])), (Operation.AT_MOST, float(limits[1]))]


def write_operations(writer: Writer, matrix: str, columns: Sequence[Sequence[Step]]) -> str:
    """Apply to each column of `matrix`, double (rows, columns), its own operations in order; returns the result.

    One operator serves all columns whose next operation is of its kind; the other columns get its neutral number.
    """
    waiting = [list(steps) for steps in columns]
    while any(waiting):
        heads = [steps[0][0] for steps in waiting if steps]
        kind = max(Operation, key=heads.count)
        numbers = [steps.pop(0)[1] if steps and steps[0][0] is kind else kind.neutral for steps in waiting]
        vector = writer.constant(np.array(numbers, dtype=np.float64))
        if kind is Operation.FILL:
            matrix = writer.add(kind.value, writer.add("IsNaN", matrix), vector, matrix)
        else:
            matrix = writer.add(kind.value, matrix, vector)
    return matrix
