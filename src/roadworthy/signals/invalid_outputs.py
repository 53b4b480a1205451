"""The signal `invalid_outputs`: answers that the signature does not allow."""

from __future__ import annotations

from roadworthy.signals.signal import Judge, OutcomeSignal, Seen, Use

_INVALID = frozenset({"non-finite-output", "wrong-output-count", "wrong-output-type"})


class InvalidOutputs(OutcomeSignal):
    """Counts answers that the worker refused. The minimum and maximum of the signature are those of training, not limits."""

    name = "invalid_outputs"
    interface = 1
    event = "an answer that is not finite, or lacks outputs that the signature names"

    def bind(self, use: Use) -> Judge:  # noqa: ARG002  (the interface)
        """Every outcome but a late one is a sample."""
        return _invalid


def _invalid(seen: Seen) -> bool | None:
    return None if seen.late else seen.error is not None and seen.error.code in _INVALID


SIGNAL = InvalidOutputs()
