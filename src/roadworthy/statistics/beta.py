"""The Beta distribution in logarithms: its normaliser and both tails, accurate where the plain values underflow.

Uses the standard library only; called by `e_process.py` and `intervals.py`. scipy is not a dependency of a plain install, and its
`betainc` rounds to 0 the small tails on which evidence depends. tests/statistics compares these functions with scipy and with
exact fractions.
"""

from __future__ import annotations

import math
from collections.abc import Callable

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)
_STIRLING_FROM = 10.0
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
_TINY = 1e-300
_MOST_ROUNDS = 1_000_000
_HALVINGS = 200


def log_beta(a: float, b: float) -> float:
    """ln B(a, b) for a, b > 0.

    From 10 on it uses Stirling's series, in which the large terms cancel before they are rounded (DiDonato and Morris, TOMS 708,
    1992); the difference of three `lgamma` would lose the digits that log E needs.
    """
    p, q = min(a, b), max(a, b)
    if q < _STIRLING_FROM:
        return math.lgamma(p) + math.lgamma(q) - math.lgamma(p + q)
    part = p / (p + q)
    tail = _stirling_error(q) - _stirling_error(p + q)
    if p < _STIRLING_FROM:
        return math.lgamma(p) + tail + p - p * math.log(p + q) + (q - 0.5) * math.log1p(-part)
    tail += _stirling_error(p)
    return -0.5 * math.log(q) + _HALF_LOG_2PI + tail + (p - 0.5) * math.log(part) + q * math.log1p(-part)


def _stirling_error(x: float) -> float:
    """ln Gamma(x) minus Stirling's formula, for x >= 10."""
    square, total = 1.0 / (x * x), 0.0
    for coefficient in reversed(_STIRLING):
        total = total * square + coefficient
    return total / x


def log_beta_cdf(x: float, a: float, b: float) -> float:
    """ln I_x(a, b): the logarithm of the probability that a Beta(a, b) variable is at most x.

    Args:
        x: from 0 to 1. a, b: above 0.
    """
    if not 0.0 < x < 1.0:
        return 0.0 if x >= 1.0 else -math.inf
    if left_of_the_middle(x, a, b):
        return _log_tail(x, a, b)
    return _log_complement(_log_tail(1.0 - x, b, a))


def left_of_the_middle(x: float, a: float, b: float) -> bool:
    """Whether `beta_fraction` converges quickly for (x, a, b); if not, it does for (1 - x, b, a)."""
    return x < (a + 1.0) / (a + b + 2.0)


def _log_tail(x: float, a: float, b: float) -> float:
    return a * math.log(x) + b * math.log1p(-x) - log_beta(a, b) - math.log(a) + math.log(beta_fraction(x, a, b))


def _log_complement(log_p: float) -> float:
    """ln(1 - p); minus infinity if rounding made p exceed 1."""
    if log_p >= 0.0:
        return -math.inf
    return math.log(-math.expm1(log_p)) if log_p > -math.log(2.0) else math.log1p(-math.exp(log_p))


def beta_fraction(x: float, a: float, b: float) -> float:
    """F in I_x(a, b) = x^a (1 - x)^b F / (a B(a, b)): the continued fraction DLMF 8.17.22 by Lentz's method, as in Numerical
    Recipes 6.4.

    Raises:
        ArithmeticError: no convergence within a million iterations, which a and b below 10^11 never need.
    """
    c, d = 1.0, 1.0 / _not_zero(1.0 - (a + b) * x / (a + 1.0))
    value = d
    for m in range(1, _MOST_ROUNDS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d, c = 1.0 / _not_zero(1.0 + even * d), _not_zero(1.0 + even / c)
        value *= d * c
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        d, c = 1.0 / _not_zero(1.0 + odd * d), _not_zero(1.0 + odd / c)
        value *= d * c
        if abs(d * c - 1.0) < 1e-16:
            return value
    raise ArithmeticError(f"the continued fraction of I_{x}({a}, {b}) did not converge")


def _not_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY


def root(function: Callable[[float], float], low: float, high: float) -> float:
    """The zero of an increasing function between low and high, by bisection to the last digit; else the nearer end."""
    if function(low) >= 0.0:
        return low
    if function(high) <= 0.0:
        return high
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        low, high = (middle, high) if function(middle) < 0.0 else (low, middle)
    return 0.5 * (low + high)
