"""The signals that a rollout may be judged by: what each counts, and whether it can roll back or only hold.

`reading.py` checks a plan against this catalogue and `verdict.py` follows it. A guard counts bad events, about which it can be
wrong with a stated probability; an observer speaks of distributions, money or machines, where "different" is not "worse", so it
can hold and alert only.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

GUARD = "guard"
OBSERVER = "observer"
CUSTOM = "custom."
SLOW = "slow"
SLOW_RATE = 0.05
"""So many of the stable's runs are slow: those over its 95th percentile."""
USUAL_LIMIT = 0.05
"""The default limit of errors, and the rate that any other guard without a limit must be shown to be under."""
_CUSTOM = re.compile(r"custom\.[a-z][a-z0-9_]{0,62}")


@dataclass(frozen=True, slots=True)
class Signal:
    """One entry of the catalogue.

    Attributes:
        name: as plans write it. kind: GUARD or OBSERVER.
        event: what is counted; of one eligible request unless it says otherwise.
        ratio: how many times the stable's rate is tolerated, by default. "slow" tolerates some, because a canary's batches are
            smaller and its caches colder.
        limit: for a guard that compares with a fixed rate instead of the stable's: that rate by default. None for all others.
        waits: whether a step waits for its evidence by default; what is known days later does not hold a step up.
        usual: the rate of bad events of a version that is well, as a rule: what estimates of how long a step takes assume.
        tolerance: for an observer: by how much the versions may differ, by default; see `Watch`.
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
        """Whether it asks whose the bad events are. Otherwise it asks whether they are more than `limit`."""
        return self.limit is None


CATALOGUE: dict[str, Signal] = {
    signal.name: signal
    for signal in (
        Signal(
            "errors",
            GUARD,
            "the version's own failure, that persists after a joined run was repeated one by one",
            usual=0.01,
        ),
        Signal(
            "invalid_outputs", GUARD, "an answer that is not finite, or has not the outputs that the signature says"
        ),
        Signal(
            SLOW,
            GUARD,
            "a run, after warm-up, that takes longer than 95 % of the stable's did before, and than 1 ms",
            ratio=1.25,
            usual=SLOW_RATE,
        ),
        Signal("guard_hits", GUARD, "an input or output that a guard of the endpoint stopped"),
        Signal("feedback", GUARD, "feedback that calls the prediction wrong", waits=False),
        Signal("disagreement", GUARD, "a shadowed request that the two versions answer differently", limit=0.01),
        Signal(
            "confidence", OBSERVER, "how sure a classifier's answers are: the mean largest probability", tolerance=0.05
        ),
        Signal(
            "drift", OBSERVER, "how the answers are distributed over classes, or over bins of numbers", tolerance=0.1
        ),
        Signal("resources", OBSERVER, "what the largest runner process holds in memory", tolerance=1.5),
        Signal("business", OBSERVER, "the plan's metrics, such as revenue, that users report"),
    )
}
"""Every signal but the custom counters, by name."""
DEFAULT_GUARDS = ("errors", "invalid_outputs", "slow")


def signal_named(name: str) -> Signal | None:
    """The signal, also a custom one ("custom." and a name in snake case); None when there is none of that name."""
    if _CUSTOM.fullmatch(name):
        return Signal(name, GUARD, f"a bad event that was counted as {name.removeprefix(CUSTOM)}", usual=0.01)
    return CATALOGUE.get(name)


def names_of(kind: str) -> tuple[str, ...]:
    """The names of all signals of a kind; "custom.NAME" stands for the custom counters."""
    names = tuple(signal.name for signal in CATALOGUE.values() if signal.kind == kind)
    return (*names, f"{CUSTOM}NAME") if kind == GUARD else names
