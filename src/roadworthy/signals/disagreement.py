"""The signal `disagreement`: mirrored requests that the two versions answer differently."""

from __future__ import annotations

from roadworthy.optimize.equal import Tolerance, compare
from roadworthy.schema.batch import Batch
from roadworthy.signals.signal import PairJudge, PairSignal, Use


class Disagreement(PairSignal):
    """Compares answers as golden examples are compared: labels exactly, numbers within a tolerance."""

    name = "disagreement"
    interface = 1
    event = "a shadowed request that the two versions answer differently"
    limit = 0.01

    def bind(self, use: Use) -> PairJudge:  # noqa: ARG002  (the interface)
        """Works for every signature."""
        return _differ


def _differ(served: Batch, copied: Batch) -> bool:
    return compare(served, copied, Tolerance()) is not None


SIGNAL = Disagreement()
