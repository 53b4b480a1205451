"""Evidence that two versions answer differently, at any moment and after any number of looks, and by how much they do.

`alerts.py` calls it with counts of answers by class or bin. As in `e_process.py` the question is whose the answers are:
requests are drawn at random, so if both versions answer alike, each answer is the canary's with one probability q, whatever its
class. That holds while the mix of classes changes by the hour, and when one version is counted a little less than its share.
Otherwise an answer of class c is the canary's with a probability q_c of its own. A Beta prior for each of them (together the
Dirichlet-multinomial that Lindon and Malek 2022 use for counts) against the best single q has the ratio

    ln E = sum over c of [ln B(a + k_c, b + s_c) - ln B(a, b)] - max over q of [k ln q + s ln(1 - q)]

with k_c answers of the canary and s_c of the stable in class c, k and s of all classes, a = m rho and b = m (1 - rho). The
maximum is at least the true coin's, so E is never more than a likelihood ratio that starts at 1, and P(E ever reaches 1/alpha) <=
alpha (Ville 1939; universal inference, Wasserman, Ramdas and Balakrishnan 2020). Not to rely on the share costs about half the
logarithm of the number of answers. E is the mean over several m, the weight of the prior: small ones see large shifts soon, large
ones see small shifts at all. Segments multiply.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from roadworthy.statistics.beta import log_beta

WEIGHTS = (10.0, 100.0, 1_000.0)
"""m: so many answers of a class the prior is worth."""


class Answers(NamedTuple):
    """Answers of both versions in a stretch of time with one share.

    Attributes:
        stable, canary: counts by class or bin, in the same order.
        share: the probability with which a request was drawn for the canary, over 0 and under 1; 1/2 where both versions answer
            each request. It says where the evidence is looked for and not what it is compared with.
    """

    stable: tuple[int, ...]
    canary: tuple[int, ...]
    share: float


def log_e_different(segments: Iterable[Answers], weight: float = 1.0) -> float:
    """ln E that the versions do not answer alike, over all segments.

    Args:
        weight: what each answer counts for; 1/m where up to m of them may depend on each other (see `mean_sequence`).

    Raises:
        ValueError: counts that cannot be, or of different bins.
    """
    return math.fsum(_log_e(each, weight) for each in segments)


def _log_e(answers: Answers, part: float) -> float:
    if min(*answers.stable, *answers.canary, 0) < 0 or not 0.0 < answers.share < 1.0:
        raise ValueError(f"{answers} cannot be")
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
    """By how much the answers differ, 0 to 1: the part of the canary's answers that would have to be of another class for both
    versions to answer alike. 0 where one of them has none.

    Compared segment by segment and weighted by the canary's answers, so that a share that grows while the mix of requests changes
    is no difference. A few answers always differ somewhat; evidence says whether it is more than that.
    """
    shifts = shifts_of(segments)
    return 0.5 * math.fsum(abs(each) for each in shifts)


def shifts_of(segments: Iterable[Answers]) -> Sequence[float]:
    """By class, the canary's part of its answers less the stable's, as `total_variation` weights them; they add up to 0."""
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
