"""Evidence that one of two versions is worse, valid at any time and after any number of looks: a conditional-binomial E-process.

`verdict.py` calls it with counts. Requests are assigned at random, a share rho of them to the canary. Of the bad events (such as
errors) of both versions, only the version of each is used: if the canary has at most r times the stable's rate, each event is the
canary's with probability at most

    rho' = r rho / (r rho + 1 - rho),

whatever effect the load, the time of day or a shared outage had on the number of events. With k canary events of n, a uniform
mixture of the alternatives q in (rho', 1) has the likelihood ratio

    E = 1/(1 - rho') * integral from rho' to 1 of (q/rho')^k ((1 - q)/(1 - rho'))^(n - k) dq
    ln E = ln B(k+1, n-k+1) + ln(1 - I_rho'(k+1, n-k+1)) - k ln rho' - (n-k+1) ln(1 - rho').

While the canary is no worse, E is a supermartingale that starts at 1, so P(E ever reaches 1/alpha) <= alpha (Ville 1939). E may
be read after every event, and the test stopped at any time. The mixture is Robbins's (1970) method with a truncated prior;
conditioning on the sum of two Poisson streams is Przyborowski and Wilenski's (1940) test. Segments of different rho multiply,
since each is a supermartingale given the previous ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from roadworthy.statistics.beta import beta_fraction, left_of_the_middle, log_beta, log_beta_cdf


class Split(NamedTuple):
    """The bad events of a period with a constant share.

    Attributes:
        bad: number of the canary's bad events.
        events: number of both versions' bad events.
        share: the probability that a request was assigned to the canary; at 0 and 1 nothing can be compared.
    """

    bad: int
    events: int
    share: float


def tolerated_share(share: float, ratio: float = 1.0) -> float:
    """rho': the canary's fraction of bad events when its rate is `ratio` times the stable's; share above 0 and below 1."""
    return ratio * share / (ratio * share + 1.0 - share)


def log_e(bad: int, events: int, share: float, ratio: float = 1.0) -> float:
    """ln E against "the canary's rate of bad events is at most `ratio` times the stable's".

    Args:
        bad: the canary's bad events, k. events: those of both versions, n.
        share: the share of requests assigned to the canary, above 0 and below 1.
        ratio: the tolerated ratio of the rates, above 0.

    Raises:
        ValueError: impossible counts or share.
    """
    _check(bad, events, share, ratio)
    return _log_mixture(bad, events, tolerated_share(share, ratio))


def log_e_not_worse(bad: float, events: float, share: float, ratio: float) -> float:
    """ln E against "the canary's rate is at least `ratio` times the stable's": the mirror image with the stable's
    events. At ln(1/beta) the canary may be promoted early; the probability of a wrong promotion is at most beta."""
    _check(bad, events, share, ratio)
    return _log_mixture(events - bad, events, 1.0 - tolerated_share(share, ratio))


def log_e_over(bad: int, samples: int, limit: float) -> float:
    """ln E against "at most `limit` of the samples are bad": the same mixture, for one version alone.

    It holds when each sample is bad with probability at most `limit` given the previous ones.

    Args:
        bad: number of bad `samples`. limit: above 0 and below 1.
    """
    _check(bad, samples, limit, 1.0)
    return _log_mixture(bad, samples, limit)


def log_e_under(bad: float, samples: float, limit: float) -> float:
    """ln E against "at least `limit` of the samples are bad": the mirror image of `log_e_over`, a mixture over (0, limit).

    It holds when each sample is bad with probability at least `limit` given the previous ones. `upper_sequence` in intervals.py
    derives a bound from it.

    Args:
        bad: number of bad `samples`. limit: above 0 and below 1.
    """
    _check(bad, samples, limit, 1.0)
    return _log_mixture(samples - bad, samples, 1.0 - limit)


def log_e_other_share(drawn: int, requests: int, share: float) -> float:
    """ln E against "each request is assigned to the canary with probability `share`", two-sided: the likelihood ratio of a
    uniform mixture of all probabilities. Like the others it is valid at every look (Lindon and Malek 2022 call it a sequential
    test of the sample ratio).

    Args:
        drawn: number of `requests` assigned to the canary. share: above 0 and below 1.
    """
    _check(drawn, requests, share, 1.0)
    others = requests - drawn
    return log_beta(drawn + 1.0, others + 1.0) - drawn * math.log(share) - others * math.log1p(-share)


def log_e_of(splits: Iterable[Split], ratio: float = 1.0) -> float:
    """ln of the product of E over segments; a segment with nothing to compare (share 0 or 1) counts as 1."""
    return math.fsum(log_e(each.bad, each.events, each.share, ratio) for each in splits if 0.0 < each.share < 1.0)


def log_e_not_worse_of(splits: Iterable[Split], ratio: float) -> float:
    """As `log_e_of`, for the mirror image `log_e_not_worse`."""
    return math.fsum(log_e_not_worse(each.bad, each.events, each.share, ratio) for each in splits if 0.0 < each.share < 1.0)


def always_valid_p(peak_log_e: float) -> float:
    """The p-value that is valid after any number of looks: 1 / the largest E so far (Johari et al. 2022), at most 1."""
    return math.exp(-max(0.0, peak_log_e))


@lru_cache(maxsize=4_096)  # a rollout evaluates its finished segments again at every look
def _log_mixture(k: float, n: float, rho: float) -> float:
    a, b = k + 1.0, n - k + 1.0
    if not left_of_the_middle(rho, a, b):  # the upper tail's own fraction: the large terms of the formula cancel
        return math.log(rho) - math.log(b) + math.log(beta_fraction(1.0 - rho, b, a))
    upper = math.log1p(-math.exp(log_beta_cdf(rho, a, b)))
    return log_beta(a, b) + upper - k * math.log(rho) - b * math.log1p(-rho)


def _check(bad: float, events: float, share: float, ratio: float) -> None:
    if not 0 <= bad <= events:
        raise ValueError(f"impossible counts: {bad} of {events} events")
    if not (0.0 < share < 1.0 and 0.0 < ratio < math.inf):
        raise ValueError(f"expected a share above 0 and below 1 and a ratio above 0, got share {share}, ratio {ratio}")
