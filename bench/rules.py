"""The nine rules of evidence, each simulated with an equal version: how often it is rolled back with the rule, and without it.

Alpha is 1 % and, unless stated otherwise, the canary's share is 10 %. docs/rollouts.md explains the rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bench.simulated import Bools, accused, accused_of, boundary_of_limit, table
from roadworthy.rollout.decide.machine import advance, begin
from roadworthy.rollout.decide.state import READY, ROLLED_BACK, Moment, Observation, SignalAlert
from roadworthy.rollout.evidence.counts import Evidence
from roadworthy.rollout.plan.plan import Plan, Stage, Watch

SHARE, ALPHA = 0.1, 0.01
EVENTS = 1_000


@dataclass(frozen=True, slots=True)
class Rates:
    """Of `runs` equal versions, the fraction accused with the rule, and with the naive method."""

    rule: float
    naive: float
    runs: int


def cached(rng: np.random.Generator, runs: int) -> Rates:
    """1. The stable's cache answers half of its requests, the canary's younger one 40 %. Naive: count executed requests. Rule:
    count only requests that neither cache would have answered."""
    shape = (runs, 2 * EVENTS)
    canary = rng.random(shape) < SHARE
    old, young = rng.random(shape) < 0.5, rng.random(shape) < 0.4
    executed = ~np.where(canary, young, old)
    return _rates(accused_of(canary, ~(old | young), SHARE), accused_of(canary, executed, SHARE))


def refused(rng: np.random.Generator, runs: int) -> Rates:
    """2. Both fail 1 % of their requests; the canary has one copy, so its queue sheds 2 % more. Naive: shed requests are bad."""
    real = rng.random((runs, EVENTS)) < SHARE
    part = SHARE * 0.03 / (SHARE * 0.03 + (1 - SHARE) * 0.01)
    return _rates(accused(real, SHARE), accused(rng.random((runs, EVENTS)) < part, SHARE))


def batches(rng: np.random.Generator, runs: int) -> Rates:
    """3. 60 joined runs fail for transient reasons; a tick has 50 requests, joined by version. Naive: each request of a failed
    run is bad. Rule: each is repeated alone, and is bad if it fails again (1 % of requests)."""
    sizes = np.stack([rng.binomial(50, 1 - SHARE, (runs, 60)), rng.binomial(50, SHARE, (runs, 60))], axis=2)
    mine = rng.random((runs, 60)) < 0.5
    failed = np.take_along_axis(sizes, mine[..., None].astype(np.int64), axis=2)[..., 0]
    n, k = failed.cumsum(axis=1), (failed * mine).cumsum(axis=1)
    log_es = table(4_096, SHARE, 1.0)
    naive = (log_es[n, k] >= -math.log(ALPHA)).any(axis=1)
    return _rates(accused(rng.random((runs, EVENTS)) < SHARE, SHARE), naive)


def late(rng: np.random.Generator, runs: int) -> Rates:
    """4. A share of 25 % is lowered to 5 %, with 300 bad events each; 30 % of the first arrive late. Naive: they count at 5 %."""
    early, after = rng.random((runs, 300)) < 0.25, rng.random((runs, 300)) < 0.05
    at_25, at_5 = table(512, 0.25, 1.0), table(512, 0.05, 1.0)
    n = np.arange(1, 301)
    rule = at_25[n, early.cumsum(axis=1)]
    joined = rule[:, -1:] + at_5[n, after.cumsum(axis=1)]
    mixed = np.concatenate([early[:, :90], after], axis=1)
    order = rng.permuted(np.broadcast_to(np.arange(390), mixed.shape), axis=1)
    mixed = np.take_along_axis(mixed, order, axis=1)
    before = at_25[np.arange(1, 211), early[:, 90:].cumsum(axis=1)]
    naive = before[:, -1:] + at_5[np.arange(1, 391), mixed.cumsum(axis=1)]
    rule_peak, naive_peak = (np.maximum(one.max(axis=1), other.max(axis=1)) for one, other in ((rule, joined), (before, naive)))
    return _rates(rule_peak >= -math.log(ALPHA), naive_peak >= -math.log(ALPHA))


def sticky(rng: np.random.Generator, runs: int) -> Rates:
    """5. Users keep their version, and all errors come from 150 of them, 1 to 40 each. Naive: each error is an event. Rule: each
    user is one event, at the first error."""
    users = 150
    mine = rng.random((runs, users)) < SHARE
    errors = rng.geometric(0.1, (runs, users)).clip(max=40)
    naive = np.zeros(runs, dtype=bool)
    for run in range(runs):
        events = rng.permutation(np.repeat(mine[run], errors[run]))[None, :]
        padded = np.zeros((1, users * 40), dtype=bool)
        counted = np.arange(users * 40)[None, :] < events.shape[1]
        padded[:, : events.shape[1]] = events
        naive[run] = accused_of(padded, counted, SHARE)[0]
    return _rates(accused(mine, SHARE), naive)


def pooled(rng: np.random.Generator, runs: int) -> Rates:
    """6. Some inputs fail in both versions; a fifth of the stable's requests is shadowed. Naive: failures of shadowed requests
    count as the canary's. Rule: pairs count separately, if exactly one side is bad, one to one."""
    pairs = rng.random((runs, EVENTS)) < 0.5  # of 1,000 pairs that differ, chance decides which side failed
    copies = (1 - SHARE) * 0.2
    naive = rng.random((runs, EVENTS)) < (SHARE + copies) / (1 + copies)
    return _rates(accused(pairs, 0.5), accused(naive, SHARE))


def absolute(rng: np.random.Generator, runs: int) -> Rates:
    """7. Both fail 2 %, with a limit of 1 %, in 10,000 requests of the canary. Naive: being over the limit rolls back. Rule: it
    holds the rollout, and only being worse than the stable rolls back."""
    requests = 10_000
    limits = boundary_of_limit(requests, 0.01, -math.log(ALPHA))[1:]
    naive = np.zeros(runs, dtype=bool)
    for first in range(0, runs, 500):
        bad = rng.random((min(500, runs - first), requests), dtype=np.float32) < 0.02
        naive[first : first + 500] = (bad.cumsum(axis=1, dtype=np.int32) >= limits).any(axis=1)
    return _rates(accused(rng.random((runs, 2_000)) < SHARE, SHARE), naive)


def colder(rng: np.random.Generator, runs: int) -> Rates:
    """8. The canary's smaller, colder batches are slow 1.2 times as often, 6,000 slow requests in all. Naive: no tolerance. Rule:
    1.25 times is tolerated."""
    part = SHARE * 1.2 / (SHARE * 1.2 + 1 - SHARE)
    naive, rule = np.zeros(runs, dtype=bool), np.zeros(runs, dtype=bool)
    for first in range(0, runs, 500):
        slow = rng.random((min(500, runs - first), 6_000), dtype=np.float32) < part
        rule[first : first + 500] = accused(slow, SHARE, 1.25)
        naive[first : first + 500] = accused(slow, SHARE, 1.0)
    return _rates(rule, naive)


def drifting(rng: np.random.Generator, runs: int) -> Rates:
    """9. The mean confidence of both is compared by a z-test at 5 % at 50 looks. Naive: a difference rolls back. Rule: it holds
    the rollout; a tenth of the runs goes through the state machine."""
    moves = rng.normal(size=(runs, 50)).cumsum(axis=1) / np.sqrt(np.arange(1, 51))
    raised = np.abs(moves) > 1.96
    plan = Plan("canary", (Stage(1_000),), watches=(Watch("drift"),), deadline_s=None)
    ended = np.array([_ends(plan, looks) for looks in raised[: max(runs // 10, 1)]])
    return Rates(float(ended.mean()), float(raised.any(axis=1).mean()), runs)


def _ends(plan: Plan, looks: Bools) -> bool:
    """Whether the state machine rolls back on these alarms."""
    state = begin("r", 1)
    for second, alarm in enumerate([False, *looks.tolist()]):
        alarms = (SignalAlert("drift", 100, alarm),)
        seen = Observation(Moment("b", float(second)), state.generation, state.generation, READY, READY, alerts=alarms)
        state = advance(plan, state, seen, Evidence()).state
    return state.ends_as == ROLLED_BACK


def _rates(rule: Bools, naive: Bools) -> Rates:
    return Rates(float(rule.mean()), float(naive.mean()), len(rule))


RULES: dict[str, Callable[[np.random.Generator, int], Rates]] = {
    "1 eligible before the variant is drawn": cached,
    "2 shed, refused and fallback answers separate": refused,
    "3 only failures that persist alone": batches,
    "4 counts join the segment that drew them": late,
    "5 a sticky user counts once": sticky,
    "6 shadow pairs separate from live requests": pooled,
    "7 over the limit holds": absolute,
    "8 slowness is tolerated in part": colder,
    "9 drift holds": drifting,
}
"""By name."""
