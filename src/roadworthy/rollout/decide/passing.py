"""What a criterion must see before a step may end: enough samples, and evidence that the canary is well. Pure.

`verdict.py` asks once nothing speaks against the canary. The absence of an accusation is no evidence: a canary with 16 % slow
requests against the stable's 6 % is not yet accused after 100 requests, and not well either. So a step passes with enough samples
and one of two proofs. A version that is too bad gives either proof with a probability of at most beta, at any number of looks:

- the mirrored E-process: over all segments, the canary's rate is below margin x ratio times the stable's. It needs hundreds of
  bad events, so it decides where there are many.
- the bound: in this step, the canary's own rate is below the allowed one (`Criterion.allowed`), whatever the stable's is. It
  decides where bad events are rare.

Where the canary has all traffic, only the bound can decide. A criterion that waits for no evidence needs no proof, nor does
`feedback`, which arrives after the step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from roadworthy.rollout.evidence.counts import Tally
from roadworthy.rollout.facts import Why, fact
from roadworthy.rollout.plan.plan import Criterion, Plan
from roadworthy.statistics.e_process import Split, log_e_not_worse_of
from roadworthy.statistics.intervals import upper_sequence

_MOST_E = 700.0


class Shown(msgspec.Struct, frozen=True):
    """What a step has shown for a criterion, and what it must show.

    Attributes:
        samples, bad: the canary's in this step; for shadowed requests, pairs and those in which only the canary was bad.
        needed: samples that the step requires.
        upper: upper bound of the canary's rate at every look, with probability 1 - beta. allowed: the rate it must stay below.
        under: whether it does.
        log_e: ln E that the rate is below `times` times the stable's. threshold: the required ln E. Both None where no stable is
            left to compare with.
        times: margin x ratio.
        exempt: the step requires only the samples.
    """

    samples: int
    bad: int
    needed: int
    upper: float = 1.0
    allowed: float = 1.0
    under: bool = False
    log_e: float | None = None
    threshold: float | None = None
    times: float = 0.0
    exempt: bool = False

    @property
    def not_worse(self) -> bool:
        """Whether the comparison shows it."""
        return self.log_e is not None and self.threshold is not None and self.log_e >= self.threshold


class Step(msgspec.Struct, frozen=True):
    """A criterion's counts in the present step.

    Attributes:
        total: of the whole step. lately: of the part that limits are judged by.
        shadowed, whole: whether its requests are copies, and whether the canary gets all of them.
        needed: samples that the step requires.
    """

    total: Tally
    lately: Tally
    shadowed: bool
    whole: bool
    needed: int


def shown(plan: Plan, criterion: Criterion, splits: Sequence[Split], step: Step) -> Shown:
    """What the step has shown so far for the criterion."""
    samples, bad = _own(step.total, step.shadowed)
    needed = step.needed if criterion.evidence is None else criterion.evidence
    compares = criterion.kind.compares
    if not needed or not criterion.kind.waits or not (compares or step.shadowed):
        return Shown(samples, bad, needed if compares or step.shadowed else 0, exempt=True)
    recent, recent_bad = _own(step.lately, step.shadowed)
    upper, allowed = upper_sequence(recent_bad, recent, plan.beta), criterion.allowed
    mirrored = compares and not step.whole
    return Shown(
        samples,
        bad,
        needed,
        upper,
        allowed,
        upper < allowed,
        log_e_not_worse_of(splits, criterion.margin * criterion.ratio) if mirrored else None,
        -math.log(plan.beta) if mirrored else None,
        criterion.margin * criterion.ratio,
    )


def _own(tally: Tally, shadowed: bool) -> tuple[int, int]:
    return (tally.pairs, tally.pairs_canary_bad) if shadowed else (tally.canary_samples, tally.canary_bad)


def explain(found: Shown, other: tuple[int, int]) -> tuple[bool, str, Why]:
    """Whether the step may end as far as this criterion is concerned, the code, and why.

    Args:
        other: the stable's bad events and samples in this step.
    """
    counts = {"bad": found.bad, "samples": found.samples}
    bound = {"upper": found.upper, "allowed": found.allowed}
    if found.samples == 0 < found.needed:
        return False, "no-evidence", fact("no-samples", needed=found.needed)
    if found.samples < found.needed:
        return False, "too-little-evidence", fact("too-few", samples=found.samples, needed=found.needed)
    if found.exempt or found.under:
        return True, "enough", fact("enough", **counts) if found.exempt else fact("under", **counts, **bound)
    if found.not_worse:
        return True, "shown-better", fact("not-worse", **counts, times=found.times)
    unshown = {**counts, **bound, "stable_bad": other[0], "stable_samples": other[1]}
    if found.log_e is None or found.threshold is None:
        return False, "not-shown", fact("not-shown", **unshown)
    e, enough = (math.exp(min(each, _MOST_E)) for each in (found.log_e, found.threshold))
    return False, "not-shown", fact("not-shown-either", **unshown, e=e, enough=enough, times=found.times)
