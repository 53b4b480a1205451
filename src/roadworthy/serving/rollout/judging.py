"""What an outcome says of the version that was assigned, and the counters of one rollout, which have the signals judge it."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from roadworthy.contract.evidence import DRAWN, FAILED, STABLE, VARIANTS
from roadworthy.contract.snapshot import RolloutEntry
from roadworthy.foundation.errors import DeadlineExceeded, ModelFault, RoadworthyError
from roadworthy.runtime.layers.layer import LAYER_FAILED
from roadworthy.runtime.pending import Answer, Outcome
from roadworthy.schema.batch import Batch
from roadworthy.schema.signature import Signature
from roadworthy.serving.rollout.counters import EvidenceCells
from roadworthy.serving.rollout.outputs import OutputCounters
from roadworthy.signals.discovery import signal_named
from roadworthy.signals.signal import (
    BinJudge,
    BinSignal,
    EventSignal,
    Judge,
    OutcomeSignal,
    PairJudge,
    PairSignal,
    Seen,
    Use,
)

SHED, BREAKER, FALLBACK, RETRIED, CACHED = "shed", "breaker", "fallback", "retried", "cached"
"""Why an outcome gives no evidence."""
_CLOSING = "version-closed"
_log = structlog.get_logger(__name__)

Evidence = Mapping[str, bool]
"""Whether the outcome was bad, by signal. A signal on which the outcome has no bearing is missing."""


def seen_of(outcome: Outcome, ran_us: int, inputs: Batch | None = None) -> Seen | str:
    """What signals judge of an outcome, or the reason (one of those above) why it gives no evidence about the assigned version.

    Args:
        outcome: of the request, as the version's layers settled it.
        ran_us: how long its run took, microseconds; for a run that was given up, up to that moment. -1: unknown, or warming up.
        inputs: the request's rows, where a signal needs them.
    """
    if isinstance(outcome, Answer):
        error = outcome.instead_of
        if error is None:
            return CACHED if outcome.source else Seen(None, ran_us, outcome, inputs)
    else:
        error = outcome
    if error.code == LAYER_FAILED or (isinstance(error, ModelFault) and error.code != _CLOSING):
        return Seen(error, ran_us, None, inputs)
    if isinstance(error, DeadlineExceeded):
        return Seen(error, ran_us, None, inputs, late=True)
    return BREAKER if error.code == "circuit-open" else _left_out(outcome)


def _left_out(outcome: Outcome) -> str:
    return FALLBACK if isinstance(outcome, Answer) and outcome.instead_of is not None else SHED


def seen_at_end(first: Answer, ran_us: int, inputs: Batch | None, error: RoadworthyError | None) -> Seen | str:
    """The same as `seen_of`, of an answer in parts at its end: its run is that of its first part.

    Whether the version would have failed is unknown of an answer that its caller gave up. A deadline is a failure, since those
    that are not the version's fault give the answer up (`StreamedAnswer`).
    """
    if first.rest is not None and first.rest.given_up:
        return Seen(None, ran_us, first, inputs, late=True)
    if isinstance(error, DeadlineExceeded):
        return Seen(error, ran_us, None, inputs)
    return seen_of(first if error is None else error, ran_us, inputs)


def _asked(seen: Seen) -> bool | None:
    """The judge of events that are counted elsewhere: every outcome but a late one is a sample."""
    return None if seen.late else False


class RolloutCounters:
    """The counters of one rollout in one generation.

    Attributes:
        outputs: count what answers look like; None where the plan watches no outputs.
        needs_inputs: whether a signal looks at the requests' rows.
        failed: signals that could not be bound here, or that raised an error when they were asked. They are no longer counted.
    """

    def __init__(self, cells: EvidenceCells, rollout: RolloutEntry, generation: int, signature: Signature) -> None:
        self._cells = cells
        self._rollout = rollout
        self._generation = str(generation)
        self._signals = frozenset(rollout.signals)
        self._keys = {
            label: {signal: (rollout.id, self._generation, signal, label) for signal in (DRAWN, *rollout.signals)}
            for label in VARIANTS
        }
        self._judges: list[tuple[str, Judge]] = []
        self._paired: frozenset[str] = frozenset()
        self._pair_judges: list[tuple[str, PairJudge]] = []
        self.needs_inputs = False
        self.failed: set[str] = set()
        sorts = self._bind(signature)
        watched = rollout.outputs or rollout.probabilities is not None or sorts
        self.outputs = OutputCounters(cells, rollout, generation, signature, sorts, self._fails) if watched else None

    def _bind(self, signature: Signature) -> list[tuple[str, BinJudge, int]]:
        """Bind the signals of the rollout that this release counts; the judges of those that sort answers into bins, and the
        number of their bins."""
        sorts: list[tuple[str, BinJudge, int]] = []
        for name in self._rollout.signals:
            signal = signal_named(name)
            use = Use(signature, self._rollout.parameters.get(name, {}), self._rollout.slow_us)
            try:
                if isinstance(signal, OutcomeSignal):
                    self._judges.append((name, signal.bind(use)))
                    self._paired |= {name}
                    self.needs_inputs |= signal.needs_inputs
                elif isinstance(signal, PairSignal):
                    self._pair_judges.append((name, signal.bind(use)))
                elif isinstance(signal, BinSignal):
                    sorts.append((name, signal.bind(use), len(signal.bins)))
                elif isinstance(signal, EventSignal):
                    self._judges.append((name, _asked))
            except Exception as error:  # noqa: BLE001 - another distribution's code may raise anything; the endpoint serves
                self._fails(name, error)
        return sorts

    def _fails(self, name: str, error: Exception) -> None:
        """No longer count a signal that raised an error. The failure is counted instead, which holds the rollout until it ends: a
        replacement of this worker would count the signal again, but only where it does not raise."""
        if name not in self.failed:
            self.failed.add(name)
            self._cells.sample((self._rollout.id, self._generation, f"{FAILED}{name}", STABLE), bad=True)
            _log.error("signal-failed", rollout=self._rollout.id, signal=name, error=f"{type(error).__name__}: {error}"[:500])
        self._judges = [each for each in self._judges if each[0] != name]
        self._pair_judges = [each for each in self._pair_judges if each[0] != name]

    def evidence(self, outcome: Outcome, seen: Seen | str) -> Evidence | str:
        """The evidence that an outcome gives about the assigned version, or the reason why it gives none. A late request is
        evidence only if some signal says so.

        Args:
            outcome: of the request.
            seen: what signals judge of it, from `seen_of` or `seen_at_end`.
        """
        if isinstance(seen, str):
            return seen
        evidence = {}
        for name, judge in self._judges:
            try:
                bad = judge(seen)
                if bad is not None:
                    evidence[name] = bad if bad is True or bad is False else bool(bad)
            except Exception as error:  # noqa: BLE001 - another distribution's code may raise anything; the caller gets the answer
                self._fails(name, error)
        return evidence if evidence or not seen.late else _left_out(outcome)

    def assigned(self, label: str) -> None:
        """Count a first attempt that was assigned to a variant, whatever its outcome."""
        self._cells.sample(self._keys[label][DRAWN], bad=False)

    def judged(self, label: str, evidence: Evidence, unit: int | None) -> None:
        """Count an outcome of a variant. `unit` is the hash of its user in a sticky rollout."""
        keys, cells = self._keys[label], self._cells
        for signal, bad in evidence.items():
            key = keys[signal]
            cells.sample(key, bad=bad)
            if bad and unit is not None:
                cells.unit(key, unit)

    def event(self, signal: str, label: str, unit: int | None) -> None:
        """Count a bad event of a request, "guard_hits" or "custom.NAME", at most once a request. Its outcome is the sample."""
        if signal in self._signals:
            key = (self._rollout.id, self._generation, signal, label)
            self._cells.event(key)
            if unit is not None:
                self._cells.unit(key, unit)

    def answered(self, label: str, outcome: Outcome, unit: int | None) -> None:
        """Count the outputs of an eligible answer that the version itself gave."""
        if self.outputs is not None and isinstance(outcome, Answer) and outcome.instead_of is None:
            self.outputs.answered(label, outcome, unit)

    def excluded(self, label: str, reason: str) -> None:
        """Count an outcome that gives no evidence."""
        self._cells.exclude((self._rollout.id, self._generation, reason, label))

    def paired(self, canary: Evidence, stable: Evidence) -> None:
        """Count a mirrored request for each signal on which both outcomes are evidence."""
        for signal, bad in canary.items():
            if signal in stable and signal in self._paired:
                self._pair(signal, canary_bad=bad, stable_bad=stable[signal])

    def both_answered(self, served: Answer, copied: Answer) -> None:
        """Count a mirrored request that both versions answered."""
        for signal, judge in self._pair_judges:
            try:
                bad = bool(judge(served.batch(), copied.batch()))
            except Exception as error:  # noqa: BLE001 - another distribution's code may raise anything; the mirror goes on
                self._fails(signal, error)
                continue
            self._pair(signal, canary_bad=bad, stable_bad=False)
        if self.outputs is not None:
            self.outputs.both_answered(served, copied)

    def _pair(self, signal: str, *, canary_bad: bool, stable_bad: bool) -> None:
        self._cells.pair((self._rollout.id, self._generation, signal), canary_bad=canary_bad, stable_bad=stable_bad)
