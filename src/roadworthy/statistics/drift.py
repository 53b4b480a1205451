"""Evidence that two versions answer differently, valid at any time and after any number of looks; and the difference's size.

`alerts.py` calls it with counts of answers by class or bin. As in `e_process.py`, it uses which version gave each answer.
Requests are assigned at random. If both versions answer alike, each answer is the canary's with one probability q, whatever
its class. That holds even if the mix of classes changes by the hour, or one version is counted a little less than its share.
Otherwise an answer of class c is the canary's with a probability q_c of its own. A Beta prior for each of them (together the
Dirichlet-multinomial that Lindon and Malek 2022 use for counts) against the best single q has the ratio

    ln E = sum over c of [ln B(a + k_c, b + s_c) - ln B(a, b)] - max over q of [k ln q + s ln(1 - q)]

with k_c answers of the canary and s_c of the stable in class c, k and s in all classes, a = m rho and b = m (1 - rho). The
maximum is at least the true coin's, so E is never more than a likelihood ratio that starts at 1, and P(E ever reaches 1/alpha) <=
alpha (Ville 1939; universal inference, Wasserman, Ramdas and Balakrishnan 2020). Not relying on the share costs about half the
logarithm of the number of answers. E is the mean over several m, the weight of the prior: a small m detects large shifts soon,
only a large m detects small shifts. Segments multiply.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from roadworthy.statistics.beta import log_beta

WEIGHTS = (10.0, 100.0, 1_000.0)
"""m: the weights of the prior, in answers of a class."""


class Answers(NamedTuple):
    """Answers of both versions in a period with a constant share.

    Attributes:
        stable, canary: counts by class or bin, in the same order.
        share: the probability that a request was assigned to the canary, above 0 and below 1; 1/2 if both versions answer each
            request. It centres the prior; the null hypothesis does not use it.
    """

    stable: tuple[int, ...]
    canary: tuple[int, ...]
    share: float


def log_e_different(segments: Iterable[Answers], weight: float = 1.0) -> float:
    """ln E that the versions' answers differ, over all segments.

    Args:
        weight: weight of each answer; 1/m if up to m of them may depend on each other (see `mean_sequence`).

    Raises:
        ValueError: impossible counts, or counts of different bins.
    """
    return math.fsum(_log_e(each, weight) for each in segments)


def _log_e(answers: Answers, part: float) -> float:
    if min(*answers.stable, *answers.canary, 0) < 0 or not 0.0 < answers.share < 1.0:
        raise ValueError(f"impossible counts: {answers}")
    pairs = [(part * k, part * s) for k, s in zip(answers.canary, answers.stable, strict=True)]
    one = _log_best_coin(part * sum(answers.canary), part * sum(answers.stable))
    ratios = []
    for weight in WEIGHTS:
        a, b = weight * answers.share, weight * (1.0 - answers.share)
        prior = log_beta(a, b)
        ratios.append(math.fsum(log_beta(a + k, b + s) - prior for k, s in pairs if k or s) - one)
    most = max(ratios)
    return most + math.log(math.fsum(math.exp(each - most) for each in ratios) / len(ratios))


def _log_best_coin(k: float, s: float) -> float:
    """max over q of k ln q + s ln(1 - q)."""
    return sum(count * math.log(count / (k + s)) for count in (k, s) if count)


def total_variation(segments: Iterable[Answers]) -> float:
    """The size of the difference, 0 to 1: the part of the canary's answers that would need another class for both versions to
    answer alike. 0 if one of them has no answers.

    Segments are compared separately and weighted by the canary's answers, so that a share that grows while the mix of requests
    changes does not count as a difference. A few answers always differ by chance; the evidence tells whether the difference is
    real.
    """
    shifts = shifts_of(segments)
    return 0.5 * math.fsum(abs(each) for each in shifts)


def shifts_of(segments: Iterable[Answers]) -> Sequence[float]:
    """By class, the canary's fraction of answers minus the stable's, weighted as in `total_variation`; they add up to 0."""
    compared = [each for each in segments if sum(each.stable) and sum(each.canary)]
    whole = sum(sum(each.canary) for each in compared)
    if not whole:
        return ()
    shifts = [0.0] * len(compared[0].canary)
    for each in compared:
        k, s = sum(each.canary), sum(each.stable)
        for place, (canary, stable) in enumerate(zip(each.canary, each.stable, strict=True)):
            shifts[place] += (canary / k - stable / s) * k / whole
    return shifts
