"""The error rates and the speed of rollouts judged by evidence: the simulated part of `make bench-rollout`.

False alarms: 10,000 rollouts of an equal version through the default plan, evaluated after every bad event. Detection: the number
of requests that a worse canary got. Rules: each of the nine rules of evidence, compared with the naive method. Whole: the state
machine itself. Passing: the number of requests that an equal version needs to pass a step. Decided: the outcomes of equal and
worse versions with little and much traffic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from statistics import NormalDist

import numpy as np
from scipy.stats import beta

from bench.report import Measure
from bench.rules import RULES
from bench.simulated import Counts, Floats, Stretch, canary_requests_until_accused, peaks, requests_until_shown, table
from bench.whole import Ending, Rates, Traffic, endings
from roadworthy.rollout.plan.parse import read_plan
from roadworthy.rollout.plan.plan import Plan

STEPS = (0.05, 0.25, 0.5)
"""Shares of the default plan's comparing steps; at 100 % no stable traffic is left to compare with."""
TRAFFIC = (400, 4_000, 40_000)
"""Requests of a step: 10 minutes at 0.7, 7 and 67 per second."""
ERROR_RATES = (0.001, 0.01, 0.05)
ALPHAS = (0.01, 0.05)
_SPREAD = 0.5
"""Standard deviation of the logarithm of a run's time."""


def slow_part(factor: float) -> float:
    """The fraction of runs over the 95th percentile of a version `factor` times as fast, for log-normal times."""
    normal = NormalDist()
    return 1.0 - normal.cdf(normal.inv_cdf(0.95) - math.log(factor) / _SPREAD)


def equal_rollouts(rng: np.random.Generator, runs: int, requests: int, error_rate: float) -> dict[str, Floats]:
    """The largest ln E of each criterion of the default plan over a rollout of an equal version, each of shape (runs,)."""
    rates = {"errors": error_rate, "invalid_outputs": error_rate / 10, "slow": 0.05}
    plan = default_plan(0.01)
    found = {}
    for criterion in plan.criteria:
        stretches = [
            Stretch(share, rng.binomial(requests, rates[criterion.signal], runs).astype(np.int64), share) for share in STEPS
        ]
        found[criterion.signal] = peaks(rng, stretches, criterion.ratio)
    return found


def default_plan(alpha: float) -> Plan:
    """The plan of `strategy: canary`."""
    return read_plan(f"strategy: canary\nalpha: {alpha}")


def accused_by(plan: Plan, highest: dict[str, Floats]) -> float:
    """The fraction of rollouts that any criterion failed at any look."""
    alphas = plan.alphas()
    hits = [highest[criterion.signal] >= -math.log(alphas[criterion.signal]) for criterion in plan.criteria]
    return float(np.logical_or.reduce(hits).mean())


def sticky_rollouts(rng: np.random.Generator, runs: int, hazards: tuple[float, float]) -> Floats:
    """The largest ln E of rollouts in which users keep their version and 150 of them have all errors; each user counts once.

    Args:
        hazards: the probabilities that such a user has an error in a step, at the stable and at the canary.
    """
    users = 150
    bucket, left = rng.random((runs, users)), np.ones((runs, users), dtype=bool)
    stretches: list[tuple[float, Counts, Counts]] = []
    for share in STEPS:
        mine = bucket < share
        first = left & (rng.random((runs, users)) < np.where(mine, hazards[1], hazards[0]))
        order = np.where(first, rng.random((runs, users)), 2.0).argsort(axis=1)  # users with errors, in order of time
        stretches.append((share, first.sum(axis=1), np.take_along_axis(mine & first, order, axis=1).cumsum(axis=1)))
        left &= ~first
    return _peaks_of(stretches, runs)


def _peaks_of(stretches: list[tuple[float, Counts, Counts]], runs: int) -> Floats:
    highest, before = np.zeros(runs), np.zeros(runs)
    for share, events, k in stretches:
        log_es = table(256, share, 1.0)
        n = np.minimum(np.arange(1, k.shape[1] + 1)[None, :], np.maximum(events, 1)[:, None])
        path = np.where(events[:, None] > 0, log_es[n, np.minimum(k, n)], 0.0)
        highest = np.maximum(highest, before + path.max(axis=1))
        before = before + path[:, -1]
    return highest


def false_alarms(runs: int, seed: int) -> Iterator[Measure]:
    """One measure for each alpha, traffic and error rate, also with sticky users."""
    for requests in TRAFFIC:
        for rate in ERROR_RATES:
            highest = equal_rollouts(np.random.default_rng([seed, requests, int(rate * 1e4)]), runs, requests, rate)
            for alpha in ALPHAS:
                part = accused_by(default_plan(alpha), highest)
                what = f"equal version, {requests:,} requests a step, {rate:.1%} errors"
                yield _false(what, part, alpha, runs)
    for what, hazards in (("equal", (0.6, 0.6)), ("better", (0.6, 0.3))):
        highest_sticky = sticky_rollouts(np.random.default_rng([seed, 5, int(hazards[1] * 10)]), runs, hazards)
        for alpha in ALPHAS:
            part = float((highest_sticky >= -math.log(alpha)).mean())
            yield _false(f"{what} version, sticky users who have all errors", part, alpha, runs)


def clopper_pearson_upper(bad: int, samples: int, confidence: float = 0.95) -> float:
    """The one-sided upper bound of a rate after a single look (Clopper and Pearson 1934)."""
    return 1.0 if bad == samples else float(beta.ppf(confidence, bad + 1, samples - bad))


def _false(what: str, part: float, alpha: float, runs: int) -> Measure:
    bound = clopper_pearson_upper(round(part * runs), runs)
    name = f"false rollbacks at alpha {alpha:.0%}: {what}; at most {bound:.2%} (95 %)"
    return _told(Measure(name, round(100 * part, 3), "%", target=f"<= {alpha:.0%}", met=part <= alpha))


def naive(runs: int, seed: int) -> Measure:
    """The same rollouts judged by a z-test with 200 looks, which the false-alarm check must catch."""
    events, share = 1_000, 0.1
    k = (np.random.default_rng([seed, 99]).random((runs, events)) < share).cumsum(axis=1)[:, 4::5]
    n = np.arange(5, events + 1, 5)
    part = float(((k - n * share) / np.sqrt(n * share * (1 - share)) > 1.645).any(axis=1).mean())
    return _told(Measure("for comparison: a z-test at 5 %, looked at 200 times", round(100 * part, 1), "%"))


DETECTION = (
    ("1 % -> 5 % errors", "errors", (0.01, 0.05), 165.0),
    ("1 % -> 50 % errors", "errors", (0.01, 0.5), 8.0),
    ("2 x slower", "slow", (0.05, slow_part(2.0)), 15.0),
    ("1 % -> 2 % errors", "errors", (0.01, 0.02), None),
    ("1 % -> 10 % errors", "errors", (0.01, 0.1), None),
    ("10 x slower", "slow", (0.05, slow_part(10.0)), None),
)
"""The change, its criterion, both rates, and the permitted median of canary requests."""


def detection(runs: int, seed: int) -> Iterator[Measure]:
    """The median of canary requests until the rollback, at a share of 10 %: for one criterion with all of alpha and no tolerance,
    and for the same criterion in the default plan, with its part of alpha and its tolerance."""
    plan = default_plan(0.01)
    for number, (what, signal, rates, target) in enumerate(DETECTION):
        ratio, part = (
            next(criterion.ratio for criterion in plan.criteria if criterion.signal == signal),
            plan.alphas()[signal],
        )
        ways = [(f"{what}, one criterion with alpha 1 %", 1.0, 0.01), (f"{what}, in the default plan", ratio, part)]
        if ratio != 1.0:
            ways.insert(1, (f"{what}, one criterion with alpha 1 % that tolerates {ratio:g} times", ratio, 0.01))
        for place, (way, tolerated, alpha) in enumerate(ways):
            rng = np.random.default_rng([seed, 7, number])
            found = canary_requests_until_accused(rng, rates, 0.1, tolerated, alpha, runs)
            median, most = (float(np.quantile(found, q, method="inverted_cdf")) for q in (0.5, 0.9))
            name = f"canary requests until rolled back, {way} (nine of ten: {most:,.0f})"
            if place == 0 and target is not None:
                yield _told(Measure(name, median, "requests", target=f"<= {target:g}", met=median <= target))
            else:
                yield _told(Measure(name, median, "requests"))


def rules(runs: int, seed: int) -> Iterator[Measure]:
    """Each rule, with the naive method as its baseline."""
    for number, (name, simulate) in enumerate(RULES.items()):
        found = simulate(np.random.default_rng([seed, 11, number]), runs)
        yield _told(
            Measure(
                f"rule {name}: false rollbacks with it; baseline: without",
                round(100 * found.rule, 2),
                "%",
                baseline=round(100 * found.naive, 2),
                target="<= 1 %",
                met=found.rule <= 0.01,
            )
        )


def whole(runs: int, seed: int) -> Iterator[Measure]:
    """Rollouts of an equal and of a worse version, through the state machine with the default plan."""
    for what, rates, good in (
        ("equal, 0.5 % errors", Rates((0.005, 0.005)), Ending.PROMOTED),
        ("worse, 0.5 % -> 5 % errors", Rates((0.005, 0.05)), Ending.ROLLED_BACK),
    ):
        found = endings(
            np.random.default_rng([seed, 13, int(rates.errors[1] * 1e4)]),
            default_plan(0.01),
            rates,
            runs,
            Traffic(20.0, 30.0),
        )
        told = ", ".join(f"{ending.value} {count}" for ending, count in sorted(found.items()))
        part = 100 * found[good] / runs
        yield _told(Measure(f"{runs:,} whole rollouts by the state machine, {what}: {told}", round(part, 2), "%"))


PASSING = (
    ("1 % errors, limit 5 %", 0.01, 0.05, 137.0),
    ("5 % slow, limit 9.4 %", 0.05, 0.09375, 232.0),
)
"""The case, the rate, the limit below which it must be shown to be, and the median of canary requests that this takes."""


def passing(runs: int, seed: int) -> Iterator[Measure]:
    """The canary's requests until the bound lets an equal version pass a step, which requires at least 100."""
    for number, (what, rate, limit, median) in enumerate(PASSING):
        found = requests_until_shown(np.random.default_rng([seed, 17, number]), rate, limit, (100, 8_000), runs)
        middle, most = (float(np.quantile(found, q, method="inverted_cdf")) for q in (0.5, 0.9))
        name = f"canary requests until an equal version passes a step, {what} (nine of ten: {most:,.0f})"
        target, met = f"{median:g} +- 10 %", abs(middle / median - 1.0) <= 0.1
        yield _told(Measure(name, middle, "requests", target=target, met=met))


VERSIONS = (("equal", 1.0), ("1.5 x worse", 1.5), ("2 x worse", 2.0))
AT = (Traffic(0.1, 600.0), Traffic(1.0, 120.0), Traffic(100.0, 60.0))


def decided(runs: int, seed: int) -> Iterator[Measure]:
    """The endings of rollouts of equal and worse versions by the default plan, deadline one day, at several request rates.
    1 % of the stable's requests fail and 5 % are slow; a worse version has 1.5 or 2 times as many of both."""
    plan = default_plan(0.01)
    for number, traffic in enumerate(AT):
        for what, times in VERSIONS:
            rates, count = Rates((0.01, 0.01 * times), (0.05, 0.05 * times)), runs if times == 1.0 else -(-runs // 3)
            found = endings(np.random.default_rng([seed, 19, number, int(10 * times)]), plan, rates, count, traffic)
            told = ", ".join(f"{ending.value} {100 * found[ending] / count:.3g} %" for ending in Ending)
            name = f"{what} version, {traffic.per_s:g} requests/s, default plan, {count:,} rollouts: {told}"
            back = found[Ending.ROLLED_BACK] / count
            target, met = ("<= 1 %", back <= plan.alpha) if times == 1.0 else (None, None)
            yield _told(Measure(f"{name}; rolled back", round(100 * back, 2), "%", target=target, met=met))


def _told(measure: Measure) -> Measure:
    print(f"{measure.measure}: {measure.value:g} {measure.unit}", flush=True)
    return measure


def measures(runs: int, seed: int) -> list[Measure]:
    """All measures, printed when they are known; `runs` rollouts for each figure, fewer where they are expensive."""
    few = min(runs, 2_000)
    found = [*false_alarms(runs, seed), naive(few, seed), *detection(runs, seed)]
    found += [*rules(few, seed), *whole(min(runs, 500), seed)]
    return [*found, *passing(min(runs, 10_000), seed), *decided(min(runs, 300), seed)]
