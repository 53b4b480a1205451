"""Two signals. `out_of_range` can roll a version back, `sign` holds a rollout while the versions answer differently."""

from __future__ import annotations

from typing import Annotated, TypedDict

from roadworthy.foundation.documents import Bounds
from roadworthy.schema.batch import Batch
from roadworthy.schema.signature import Signature
from roadworthy.signals.signal import BinJudge, BinSignal, Judge, OutcomeSignal, Seen, Use


class Range(TypedDict):
    """What a plan says: criteria: {out_of_range: {low: 0, high: 500}}."""

    low: Annotated[float, Bounds(-1e300, 1e300)]
    high: Annotated[float, Bounds(-1e300, 1e300)]


class OutOfRange(OutcomeSignal):
    """Counts answers with a number that the plan does not allow."""

    name = "out_of_range"
    interface = 1
    event = "an answer with a number outside the range in the plan"
    usual = 0.001
    parameters = Range

    def bind(self, use: Use) -> Judge:
        """A failure is no answer, so it is not a sample: the signal `errors` counts it."""
        low, high = use.parameters["low"], use.parameters["high"]
        names = _numbers(use.signature)

        def outside(seen: Seen) -> bool | None:
            outputs = seen.outputs
            if outputs is None:
                return None
            for name in names:
                values, nulls = outputs.column(name)
                wrong = (values < low) | (values > high)
                if (wrong if nulls is None else wrong & ~nulls).any():
                    return True
            return False

        return outside


class Sign(BinSignal):
    """Sorts answers by the sign of their first number."""

    name = "sign"
    interface = 1
    event = "sign of the first number of an answer"
    bins = ("negative", "zero", "positive", "none")

    def bind(self, use: Use) -> BinJudge:
        """The first row counts."""
        name = _numbers(use.signature)[0]

        def sort(outputs: Batch) -> int:
            values, nulls = outputs.column(name)
            if not outputs.rows or (nulls is not None and nulls[0]):
                return 3
            return 1 + int(values[0] > 0) - int(values[0] < 0)

        return sort


def _numbers(signature: Signature) -> list[str]:
    names = [field.name for field in signature.outputs if not field.shape and field.dtype.is_float]
    if not names:
        raise ValueError("the endpoint has no output that is a number")
    return names


OUT_OF_RANGE = OutOfRange()
SIGN = Sign()
