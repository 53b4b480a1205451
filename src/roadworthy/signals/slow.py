"""The signal `slow`: runs that take longer than nearly all of the stable's did before the rollout."""

from __future__ import annotations

from roadworthy.signals.signal import MOST_ALLOWED, Judge, OutcomeSignal, Seen, Use

SLOW_RATE = 0.05
"""The share of the stable's runs that are slow: those over its 95th percentile."""


class Slow(OutcomeSignal):
    """Counts runs over one threshold, which is fixed when the rollout begins. It tolerates some, because a canary's batches are
    smaller and its caches colder."""

    name = "slow"
    interface = 1
    event = "a run, after warm-up, that takes longer than 95 % of the stable's runs did before, and longer than 1 ms"
    ratio = 1.25
    usual = SLOW_RATE
    needs_run_times = True

    def allowed(self, ratio: float, margin: float) -> float:
        """A multiple of the stable's rate, which is known: one of twenty runs."""
        return min(SLOW_RATE * ratio * margin, MOST_ALLOWED)

    def bind(self, use: Use) -> Judge:
        """Answers are samples, failures are not. A run that used up all the time is a bad one if it ran for longer."""
        slow_us = use.slow_us

        def slow(seen: Seen) -> bool | None:
            if slow_us is None or seen.ran_us < 0:
                return None
            if seen.error is None:
                return seen.ran_us > slow_us
            return True if seen.late and seen.ran_us > slow_us else None

        return slow


SIGNAL = Slow()
