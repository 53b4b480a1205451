"""The catalogue of signals that a rollout can be judged by: what each counts, and whether it can roll back or only hold.

`parse.py` checks a plan against this catalogue and `verdict.py` follows it. A criterion counts bad events, and its false
accusations have a bounded probability. An observer compares distributions, money or machines, where "different" is not
"worse", so it can only hold and alert.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

CRITERION = "criterion"
OBSERVER = "observer"
CUSTOM = "custom."
SLOW = "slow"
SLOW_RATE = 0.05
"""The share of the stable's runs that are slow: those over its 95th percentile."""
USUAL_LIMIT = 0.05
"""The default limit of errors, and the rate that any other criterion without a limit must be shown to stay below."""
_CUSTOM = re.compile(r"custom\.[a-z][a-z0-9_]{0,62}")


@dataclass(frozen=True, slots=True)
class Signal:
    """One entry of the catalogue.

    Attributes:
        name: as plans write it. kind: CRITERION or OBSERVER.
        event: what is counted, at most once for an eligible request unless it says otherwise.
        ratio: how many times the stable's rate is tolerated, by default. "slow" tolerates some, because a canary's batches are
            smaller and its caches colder.
        limit: the default rate of a criterion that compares with a fixed rate instead of the stable's; None for all others.
        waits: whether a step waits for its evidence by default; events that become known days later do not delay a step.
        usual: typical rate of bad events of a good version, for estimates of how long a step takes.
        tolerance: for an observer, how far the versions may differ by default; see `Watch`.
    """

    name: str
    kind: str
    event: str
    ratio: float = 1.0
    limit: float | None = None
    waits: bool = True
    usual: float = 0.0
    tolerance: float = 0.0

    @property
    def compares(self) -> bool:
        """Whether it compares the versions. Otherwise it compares the rate with `limit`."""
        return self.limit is None


CATALOGUE: dict[str, Signal] = {
    signal.name: signal
    for signal in (
        Signal(
            "errors",
            CRITERION,
            "a failure of the version itself that persists when the requests of a joined run are repeated one by one",
            usual=0.01,
        ),
        Signal("invalid_outputs", CRITERION, "an answer that is not finite, or lacks outputs that the signature names"),
        Signal(
            SLOW,
            CRITERION,
            "a run, after warm-up, that takes longer than 95 % of the stable's runs did before, and longer than 1 ms",
            ratio=1.25,
            usual=SLOW_RATE,
        ),
        Signal("guard_hits", CRITERION, "an input or output that a guard of the endpoint stopped"),
        Signal("feedback", CRITERION, "feedback that calls the prediction wrong", waits=False),
        Signal("disagreement", CRITERION, "a shadowed request that the two versions answer differently", limit=0.01),
        Signal(
            "confidence", OBSERVER, "confidence of a classifier's answers: the mean largest probability", tolerance=0.05
        ),
        Signal("drift", OBSERVER, "distribution of the answers over classes, or over bins of numbers", tolerance=0.1),
        Signal("resources", OBSERVER, "memory of the largest runner process", tolerance=1.5),
        Signal("business", OBSERVER, "the plan's metrics, such as revenue, that users report"),
    )
}
"""Every signal except custom counters, by name."""
DEFAULT_CRITERIA = ("errors", "invalid_outputs", "slow")


def signal_named(name: str) -> Signal | None:
    """The signal of this name, or None. "custom." and a name in snake case is a custom counter."""
    if _CUSTOM.fullmatch(name):
        return Signal(name, CRITERION, f"a bad event counted as {name.removeprefix(CUSTOM)}", usual=0.01)
    return CATALOGUE.get(name)


def names_of(kind: str) -> tuple[str, ...]:
    """The names of all signals of a kind; "custom.NAME" represents the custom counters."""
    names = tuple(signal.name for signal in CATALOGUE.values() if signal.kind == kind)
    return (*names, f"{CUSTOM}NAME") if kind == CRITERION else names
