"""The signal `errors`: failures of the version itself."""

from __future__ import annotations

from roadworthy.signals.signal import USUAL_LIMIT, Judge, OutcomeSignal, Seen, Use


class Errors(OutcomeSignal):
    """Counts the failures that remain when the requests of a joined run are repeated one by one."""

    name = "errors"
    interface = 1
    event = "a failure of the version itself that persists when the requests of a joined run are repeated one by one"
    limit = USUAL_LIMIT
    usual = 0.01

    def bind(self, use: Use) -> Judge:  # noqa: ARG002  (the interface)
        """Every outcome but a late one is a sample."""
        return _failed


def _failed(seen: Seen) -> bool | None:
    return None if seen.late else seen.error is not None


SIGNAL = Errors()
