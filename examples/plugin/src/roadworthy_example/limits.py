"""A layer: keeps an output of numbers within limits, and says so in a header."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated

import msgspec
import numpy as np

from roadworthy.foundation.documents import Bounds
from roadworthy.runtime.layers.layer import ChangedAnswers, LayerContext
from roadworthy.runtime.pending import Answer, Submitter
from roadworthy.schema.batch import Batch
from roadworthy.schema.signature import Signature

_LARGEST = 1e300


@dataclass(frozen=True)
class Limits:
    """The parameters.

    Attributes:
        output: the name of the output.
        low, high: the smallest and the largest value that callers get; None for no limit.
    """

    output: str
    low: Annotated[float, Bounds(-_LARGEST, _LARGEST)] | None = None
    high: Annotated[float, Bounds(-_LARGEST, _LARGEST)] | None = None

    def __post_init__(self) -> None:
        if self.low is None and self.high is None:
            raise ValueError("expected low, high, or both")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low ({self.low:g}) is greater than high ({self.high:g})")


class LimitsLayer:
    """The layer. It is outside the fallback, so that every answer is within the limits, whatever gave it."""

    name = "limits"
    interface = 1
    order = 50
    parameters = Limits

    def check(self, parameters: Limits, signature: Signature) -> None:
        """Refuse an output that the endpoint does not have, or that is not a number."""
        field = next((field for field in signature.outputs if field.name == parameters.output), None)
        if field is None or field.dtype.numpy.kind != "f":
            numbers = [field.name for field in signature.outputs if field.dtype.numpy.kind == "f"]
            raise ValueError(f"no output {parameters.output!r} of floating-point numbers; there are {numbers}")

    def wrap(self, below: Submitter, parameters: Limits, context: LayerContext) -> Submitter:
        """Change the answers of `below`."""
        return ChangedAnswers(below, partial(limited, parameters))


def limited(limits: Limits, answer: Answer) -> Answer:
    """The same answer if all values are within the limits, else a copy with the others moved to the nearest limit."""
    batch = answer.batch()
    columns = [batch.column_at(position) for position in range(len(batch.layout.fields))]
    position = batch.layout.positions[limits.output]
    values, nulls = columns[position]
    within = np.clip(values, limits.low, limits.high)
    moved = within != values if nulls is None else (within != values) & ~nulls
    if not moved.any():
        return answer
    columns[position] = (within, nulls)
    changed = Batch.from_columns(batch.layout, columns, batch.rows)
    note = (b"x-limited", b"%d" % np.count_nonzero(moved))
    return msgspec.structs.replace(answer, joined=changed, start=0, stop=batch.rows, notes=(*answer.notes, note))


LAYER = LimitsLayer()
