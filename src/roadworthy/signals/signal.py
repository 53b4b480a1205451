"""The interface of signals: what a rollout counts of each version, and how a plan judges by it.

A signal of kind CRITERION counts bad events of eligible requests. Its false accusations have a bounded probability, so it can
roll back. A signal of kind OBSERVER compares distributions, money or machines. There "different" is not "worse", so it can only
hold and alert.

The same object works on both sides. Workers `bind` it to an endpoint in a rollout and ask it about each outcome. The control
plane binds it once, before the rollout begins, to learn whether it can be measured there. Its counts travel under its name.
Plans, estimates, verdicts and texts take everything else from its attributes.

`discovery.py` finds the signals of this process by the entry points in the group `roadworthy.signals`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import msgspec

from roadworthy.foundation.errors import RoadworthyError
from roadworthy.schema.batch import Batch
from roadworthy.schema.signature import Signature

CRITERION, OBSERVER = _KINDS = "criterion", "observer"
USUAL_LIMIT = 0.05
"""The rate that a criterion without a limit must be shown to stay below."""
MOST_ALLOWED = 0.99
"""The largest limit."""


class Rows(Protocol):
    """Rows of an answer."""

    def batch(self) -> Batch:
        """The rows of one request."""
        ...


class Seen(msgspec.Struct, eq=False, gc=False):
    """What a version did with one eligible request.

    Attributes:
        error: the version's own failure, that of a plug-in's layer around it, or DeadlineExceeded; None when it answered. A
            fallback may have answered the caller.
        late: its outcome is unknown: the deadline passed without an answer of the version, or the caller gave up an answer in
            parts after its first one.
        ran_us: duration of the run, microseconds, shared by all requests of the run; of a run that was given up, the time until
            then. -1 when it is unknown, or in the first runs of a process.
        answer: the version's answer; None when it has none.
        inputs: the request's rows, where a signal of the rollout has `needs_inputs`; else None.
    """

    error: RoadworthyError | None
    ran_us: int = -1
    answer: Rows | None = None
    inputs: Batch | None = None
    late: bool = False

    @property
    def outputs(self) -> Batch | None:
        """The rows of the version's answer; None when it has none."""
        return None if self.answer is None else self.answer.batch()


class Use(NamedTuple):
    """Where a signal is counted.

    Attributes:
        signature: of the endpoint.
        parameters: what the plan says of the signal's own `parameters`.
        slow_us: the 95th percentile of the stable's runs when the rollout began, microseconds; None while it is unknown.
    """

    signature: Signature
    parameters: Mapping[str, Any] = {}
    slow_us: int | None = None


Judge = Callable[[Seen], bool | None]
"""Whether an outcome is a bad event; None when it says nothing and is no sample."""
PairJudge = Callable[[Batch, Batch], bool]
"""Whether the stable's and the canary's answer to the same request are a bad pair."""
BinJudge = Callable[[Batch], int | None]
"""The number of the bin that an answer falls into; None when it is no sample."""
MOST_BINS = 31
"""Workers have cells for so many bins of a signal."""


class Signal:
    """What every signal has. One of the classes below says where it is counted.

    Attributes:
        name: as plans write it: lower-case letters, digits and underscores.
        interface: the version of this interface that it was written for.
        kind: CRITERION or OBSERVER.
        event: what is counted, in words; at most once for an eligible request unless it says otherwise.
        ratio: how many times the stable's rate is tolerated, by default.
        limit: the highest rate that is allowed, by default; None for no limit.
        compares: whether the versions are compared; otherwise their pairs are compared with `limit`.
        waits: whether a step waits for its evidence by default; events that become known days later do not delay a step.
        usual: typical rate of bad events of a good version, for estimates of how long a step takes.
        tolerance: of an observer: how far the versions may differ, by default; see `Watch`.
        parameters: a TypedDict of the keys that a plan may have besides `ratio`, `limit` and the like; None for no further key.
            Its values are JSON values, and `foundation/documents.py` says how bounds are declared.
        later: whether its events arrive as feedback.
        needs_run_times: whether it needs `Use.slow_us`; a rollout does not begin before that is known.
        unmeasurable: why no endpoint can count it in this release; None when some can.
    """

    name: str
    interface: int
    event: str
    kind: str = CRITERION
    ratio: float = 1.0
    limit: float | None = None
    compares: bool = True
    waits: bool = True
    usual: float = 0.0
    tolerance: float = 0.0
    parameters: type | None = None
    later: bool = False
    needs_run_times: bool = False
    unmeasurable: str | None = None

    def allowed(self, ratio: float, margin: float) -> float:  # noqa: ARG002  (for signals whose usual rate is known)
        """The rate that a version must be shown to stay below where the plan has no limit.

        Args:
            ratio, margin: of the plan.
        """
        return self.limit or USUAL_LIMIT

    def check_itself(self) -> None:
        """Check the attributes when the plug-in is loaded.

        Raises:
            ValueError: some do not fit its class.
        """
        kinds = (CRITERION,) if isinstance(self, _CRITERIA) else (OBSERVER,) if isinstance(self, BinSignal) else _KINDS
        if self.kind not in kinds:
            raise ValueError(f"its kind must be {' or '.join(kinds)}, not {self.kind!r:.60}")
        if self.kind == CRITERION and not 0.0 < self.allowed(self.ratio, 1.5) < 1.0:
            raise ValueError("the rate that it allows must be between 0 and 1")


class OutcomeSignal(Signal):
    """A criterion that workers count when a request has its outcome; of mirrored requests, once for each version.

    Attributes:
        needs_inputs: whether `Seen.inputs` is needed: the rows are then kept until the outcome.
    """

    needs_inputs: bool = False

    def bind(self, use: Use) -> Judge:
        """What judges the outcomes of an endpoint in a rollout, on a worker's event loop: it should take microseconds.

        Raises:
            ValueError: the signal cannot be measured there; the text says why.
        """
        raise NotImplementedError


class PairSignal(Signal):
    """A criterion that workers count when both versions have answered a mirrored request."""

    compares = False

    def bind(self, use: Use) -> PairJudge:
        """What judges pairs of answers.

        Raises:
            ValueError: the signal cannot be measured there; the text says why.
        """
        raise NotImplementedError


class EventSignal(Signal):
    """A criterion whose samples are the requests with an outcome, and whose bad events are counted elsewhere."""


class BinSignal(Signal):
    """An observer whose answers workers count by bin, once for each request. It raises an alarm when there is evidence that the
    versions' answers differ, and the part that differs exceeds the tolerance.

    Attributes:
        bins: what each bin holds, in words; 2 to MOST_BINS.
    """

    kind = OBSERVER
    tolerance = 0.1
    bins: tuple[str, ...]

    def bind(self, use: Use) -> BinJudge:
        """What chooses the bin of an answer, on a worker's event loop: it should take microseconds.

        Raises:
            ValueError: the signal cannot be measured there; the text says why.
        """
        raise NotImplementedError

    def check_itself(self) -> None:
        """See `Signal`."""
        super().check_itself()
        bins = getattr(self, "bins", None)
        if not isinstance(bins, tuple) or not 2 <= len(bins) <= MOST_BINS or not all(isinstance(each, str) for each in bins):
            raise ValueError(f"its bins must be a tuple of 2 to {MOST_BINS} texts, not {bins!r:.60}")


_CRITERIA = (OutcomeSignal, PairSignal, EventSignal)
COUNTED = (OutcomeSignal, PairSignal, BinSignal)
"""The kinds of signals that a worker counts by what `bind` returns."""
